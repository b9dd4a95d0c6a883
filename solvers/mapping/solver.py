"""What every mapping solver is: one class in one file of this folder, found by name."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping as Dict
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import ClassVar
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from solvers.errors import SolverError
from solvers.mapping.problem import Mapping, MappingProblem, Regime


class MappingSolver(ABC):
    """A way to solve a MappingProblem.

    A solver states what it can do in class attributes. It never returns less than its warm start, never loses its
    incumbent at the deadline, and with the same seed and `deterministic` limits gives the same answer.
    """

    name: ClassVar[str]
    regimes: ClassVar[tuple[Regime, ...]] = ("serial", "pipelined")
    exact: ClassVar[bool] = False  # proves optimality on small problems, given time
    contiguous_only: ClassVar[bool] = False
    required_modules: ClassVar[tuple[str, ...]] = ()

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

    @classmethod
    def missing_modules(cls) -> tuple[str, ...]:
        """Modules that it needs and that are not installed (asked without importing them)."""
        return tuple(name for name in cls.required_modules if importlib.util.find_spec(name) is None)


@cache
def mapping_solvers() -> Dict[str, type[MappingSolver]]:
    """Every mapping solver by name: those in this folder, then those of the entry points `chipfront.solvers`."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"solvers.mapping.{module.name}")
    for point in entry_points(group="chipfront.solvers"):
        try:
            point.load()
        except Exception as error:
            warn(f"solver plug-in {point.name} of {point.value} does not load: {error}", stacklevel=2)
    found: dict[str, type[MappingSolver]] = {}
    todo = list(MappingSolver.__subclasses__())
    while todo:
        solver = todo.pop()
        todo.extend(solver.__subclasses__())
        if isinstance(getattr(solver, "name", None), str):
            found[solver.name] = solver
    return dict(sorted(found.items()))


def mapping_solver(name: str) -> MappingSolver:
    """Return the solver of that name.

    Raises SolverError where there is none, or where a module that it needs is not installed.
    """
    solvers = mapping_solvers()
    if name not in solvers:
        raise SolverError(f"no mapping solver is called {name!r}", f"one of {', '.join(solvers)}")
    if missing := solvers[name].missing_modules():
        raise SolverError(f"mapping solver {name!r} needs {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return solvers[name]()
