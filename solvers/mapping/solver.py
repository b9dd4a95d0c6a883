"""What every mapping solver is: one class in one file of this folder, found by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping as Dict
from functools import cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.problem import Mapping, MappingProblem, Regime
from solvers.registry import NamedSolver, create, discover


class MappingSolver(NamedSolver, ABC):
    """A way to solve a MappingProblem.

    A solver states what it can do in class attributes. It never returns less than its warm start, never loses its
    incumbent at the deadline, and with the same seed and `deterministic` limits gives the same answer.
    """

    regimes: ClassVar[tuple[Regime, ...]] = ("serial", "pipelined")
    exact: ClassVar[bool] = False  # proves optimality on small problems, given time
    contiguous_only: ClassVar[bool] = False  # what it proves, it proves of contiguous mappings only

    @abstractmethod
    def solve(
        self,
        problem: MappingProblem,
        *,
        deadline_s: float = 10.0,
        seed: int = 0,
        warm_start: NDArray[np.int64] | None = None,
    ) -> Mapping:
        """Return the best mapping found until the deadline, with a lower bound on the objective."""


@cache
def mapping_solvers() -> Dict[str, type[MappingSolver]]:
    """Every mapping solver by name: those in this folder, then those of the entry points `chipfront.solvers`."""
    return discover(MappingSolver, "solvers.mapping")  # type: ignore[type-abstract]


def mapping_solver(name: str) -> MappingSolver:
    """Return the solver of that name.

    Raises SolverError where there is none, or where a module that it needs is not installed.
    """
    return create(mapping_solvers(), name, "mapping")
