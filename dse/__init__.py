"""How good a design is, and which is best: cost table, simulation, study."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dse.compare import Comparison, compare
    from dse.cost_table import CostTable, cost_table
    from dse.errors import DseError
    from dse.mapped_model import MappedRun, run_mapped
    from dse.metrics import Metrics
    from dse.simulate import simulate
    from dse.space import DesignPoint, DesignSpace
    from dse.study import Progress, Study, StudyResult
    from dse.teams import TeamCosts, split_teams
    from dse.timeline import Timeline

__all__ = [
    "Comparison",
    "CostTable",
    "DesignPoint",
    "DesignSpace",
    "DseError",
    "MappedRun",
    "Metrics",
    "Progress",
    "Study",
    "StudyResult",
    "TeamCosts",
    "Timeline",
    "compare",
    "cost_table",
    "run_mapped",
    "simulate",
    "split_teams",
]

_HOMES = {
    "Comparison": "compare",
    "CostTable": "cost_table",
    "DesignPoint": "space",
    "DesignSpace": "space",
    "DseError": "errors",
    "MappedRun": "mapped_model",
    "Metrics": "metrics",
    "Progress": "study",
    "Study": "study",
    "StudyResult": "study",
    "TeamCosts": "teams",
    "Timeline": "timeline",
    "compare": "compare",
    "cost_table": "cost_table",
    "run_mapped": "mapped_model",
    "simulate": "simulate",
    "split_teams": "teams",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


class _Package(ModuleType):
    """Keeps `dse.simulate` the function when Python binds the file of the same name to the package."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOMES.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
