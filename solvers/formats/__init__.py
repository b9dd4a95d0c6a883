"""Public instance formats: files of the literature, read into MappingProblems."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solvers.formats.best_known import read_best_known
    from solvers.formats.instance import Instance, InstanceFormat, Reading
    from solvers.formats.read import instance_formats, read_instance, read_instances

__all__ = [
    "Instance",
    "InstanceFormat",
    "Reading",
    "instance_formats",
    "read_best_known",
    "read_instance",
    "read_instances",
]

_HOME = {
    "Instance": "instance",
    "InstanceFormat": "instance",
    "Reading": "instance",
    "instance_formats": "read",
    "read_best_known": "best_known",
    "read_instance": "read",
    "read_instances": "read",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
