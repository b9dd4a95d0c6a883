"""What a layer costs on a chip: cost models, and the learned layer proxy from measured rows to predictions."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dse.proxy.dataset import read_rows
    from dse.proxy.devices import read_devices
    from dse.proxy.ensemble import fit_proxy
    from dse.proxy.predict import LayerProxy, predict_frame

__all__ = ["LayerProxy", "fit_proxy", "predict_frame", "read_devices", "read_rows"]

_HOMES = {
    "LayerProxy": "predict",
    "fit_proxy": "ensemble",
    "predict_frame": "predict",
    "read_devices": "devices",
    "read_rows": "dataset",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
