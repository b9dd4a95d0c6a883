"""Prove a mapping on the model: the pieces run as separate processes, and answer as the whole model does."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dse.mapped_model.exchange import Exchange
    from dse.mapped_model.run import MappedRun, run_mapped

__all__ = ["Exchange", "MappedRun", "run_mapped"]

_HOMES = {"Exchange": "exchange", "MappedRun": "run", "run_mapped": "run"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
