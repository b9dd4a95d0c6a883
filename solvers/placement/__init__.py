"""Where each chip lies on the package: the problem, its checker, and solvers found by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solvers.placement.evaluate import violations, wirelength_byte_mm
    from solvers.placement.problem import Outline, Placement, PlacementProblem
    from solvers.placement.solve import solve_placement
    from solvers.placement.solver import PlacementSolver, placement_solver, placement_solvers

_HOME = {
    "Outline": "problem",
    "Placement": "problem",
    "PlacementProblem": "problem",
    "PlacementSolver": "solver",
    "placement_solver": "solver",
    "placement_solvers": "solver",
    "solve_placement": "solve",
    "violations": "evaluate",
    "wirelength_byte_mm": "evaluate",
}
__all__ = [
    "Outline",
    "Placement",
    "PlacementProblem",
    "PlacementSolver",
    "placement_solver",
    "placement_solvers",
    "solve_placement",
    "violations",
    "wirelength_byte_mm",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
