"""How to decide: mapping and placement problems stated as arrays, and solvers for them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solvers.errors import SolverError
    from solvers.mapping.bounds import lower_bound, lower_bounds
    from solvers.mapping.evaluate import evaluate
    from solvers.mapping.problem import Infeasibility, Mapping, MappingProblem
    from solvers.mapping.solve import solve_mapping
    from solvers.mapping.solver import MappingSolver, mapping_solvers
    from solvers.placement.problem import Placement, PlacementProblem
    from solvers.placement.solve import solve_placement

__all__ = [
    "Infeasibility",
    "Mapping",
    "MappingProblem",
    "MappingSolver",
    "Placement",
    "PlacementProblem",
    "SolverError",
    "evaluate",
    "lower_bound",
    "lower_bounds",
    "mapping_solvers",
    "solve_mapping",
    "solve_placement",
]

_HOME = {
    "Infeasibility": "mapping.problem",
    "Mapping": "mapping.problem",
    "MappingProblem": "mapping.problem",
    "MappingSolver": "mapping.solver",
    "Placement": "placement.problem",
    "PlacementProblem": "placement.problem",
    "SolverError": "errors",
    "evaluate": "mapping.evaluate",
    "lower_bound": "mapping.bounds",
    "lower_bounds": "mapping.bounds",
    "mapping_solvers": "mapping.solver",
    "solve_mapping": "mapping.solve",
    "solve_placement": "placement.solve",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
