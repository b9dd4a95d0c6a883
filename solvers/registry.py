"""How solvers are found: every class of a folder's files, and of the entry points, by its name."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping as Dict
from importlib.metadata import entry_points
from inspect import isabstract
from typing import ClassVar, TypeVar
from warnings import warn

import numpy as np

from solvers.errors import SolverError

ENTRY_POINTS = "chipfront.solvers"


class NamedSolver:
    """A class that is found by its name, and that says which modules it needs."""

    name: ClassVar[str]
    required_modules: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def missing_modules(cls) -> tuple[str, ...]:
        """Modules that it needs and that are not installed (asked without importing them)."""
        return tuple(name for name in cls.required_modules if importlib.util.find_spec(name) is None)


Solver = TypeVar("Solver", bound=NamedSolver)


def discover(base: type[Solver], package: str) -> dict[str, type[Solver]]:
    """Every concrete subclass of `base` by name: those in the files of `package`, then those of the entry points.

    Files whose name starts with an underscore hold no solver and are left unloaded (compiled inner loops, mostly).
    An entry point that does not load warns, and takes nothing else down.
    """
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package}.{module.name}")
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:
            warn(f"solver plug-in {point.name} of {point.value} does not load: {error}", stacklevel=2)
    found: dict[str, type[Solver]] = {}
    todo = list(base.__subclasses__())
    while todo:
        solver = todo.pop()
        todo.extend(solver.__subclasses__())
        if isinstance(getattr(solver, "name", None), str) and not isabstract(solver):
            found[solver.name] = solver
    return dict(sorted(found.items()))


def check_limits(deadline_s: float, seed: int) -> None:
    """Raise SolverError for a deadline that is not positive, or a seed that not every solver's generator takes."""
    if not deadline_s > 0:
        raise SolverError(f"deadline_s is {deadline_s}", "a positive number of seconds")
    if not (isinstance(seed, int | np.integer) and 0 <= seed < 2**32):
        raise SolverError(f"seed is {seed!r}", "a whole number from 0 to 2**32 - 1")


def create(solvers: Dict[str, type[Solver]], name: str, kind: str) -> Solver:
    """Return an instance of the `kind` solver of that name.

    Raises SolverError where there is none, or where a module that it needs is not installed.
    """
    if name not in solvers:
        raise SolverError(f"no {kind} solver is called {name!r}", f"one of {', '.join(solvers)}")
    if missing := solvers[name].missing_modules():
        raise SolverError(f"{kind} solver {name!r} needs {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return solvers[name]()
