"""What every placement solver is: one class in one file of this folder, found by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping as Dict
from functools import cache
from typing import ClassVar

from solvers.placement.problem import Placement, PlacementProblem
from solvers.registry import NamedSolver, create, discover


class PlacementSolver(NamedSolver, ABC):
    """A way to solve a PlacementProblem.

    What it returns with status "optimal" or "feasible" has passed the checker (`evaluate.violations`). "infeasible"
    means that it found no legal placement; `violations` then say what is in the way and by how many mm.
    """

    exact: ClassVar[bool] = False  # proves optimality on small problems

    @abstractmethod
    def solve(self, problem: PlacementProblem, *, deadline_s: float = 10.0, seed: int = 0) -> Placement:
        """Return the best placement found until the deadline, with a lower bound on its wirelength."""


@cache
def placement_solvers() -> Dict[str, type[PlacementSolver]]:
    """Every placement solver by name: those in this folder, then those of the entry points `chipfront.solvers`."""
    return discover(PlacementSolver, "solvers.placement")  # type: ignore[type-abstract]


def placement_solver(name: str) -> PlacementSolver:
    """Return the solver of that name.

    Raises SolverError where there is none, or where a module that it needs is not installed.
    """
    return create(placement_solvers(), name, "placement")
