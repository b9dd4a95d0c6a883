"""How good a design is, and which is best: cost table, simulation, study."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dse.cost_table import CostTable, cost_table
    from dse.errors import DseError
    from dse.metrics import Metrics
    from dse.simulate import simulate
    from dse.space import DesignSpace
    from dse.study import Progress, Study, StudyResult
    from dse.timeline import Timeline

__all__ = [
    "CostTable",
    "DesignSpace",
    "DseError",
    "Metrics",
    "Progress",
    "Study",
    "StudyResult",
    "Timeline",
    "cost_table",
    "simulate",
]

_HOMES = {
    "CostTable": "cost_table",
    "DesignSpace": "space",
    "DseError": "errors",
    "Metrics": "metrics",
    "Progress": "study",
    "Study": "study",
    "StudyResult": "study",
    "Timeline": "timeline",
    "cost_table": "cost_table",
    "simulate": "simulate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # the function, where it shares its name with the file that it lives in
    return value
