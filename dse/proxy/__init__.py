"""What a layer costs on a chip: cost models, and the learned layer proxy from measured rows to predictions."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dse.proxy.calibration import with_stored
    from dse.proxy.chips import device_table
    from dse.proxy.dataset import read_rows
    from dse.proxy.devices import read_devices
    from dse.proxy.ensemble import fit_proxy
    from dse.proxy.fit_calibration import calibrate
    from dse.proxy.hw_proxy import LayerHwProxy
    from dse.proxy.predict import LayerProxy, predict_frame
    from dse.proxy.specified import build_layer_features, traced_layers
    from dse.proxy.specified_chips import device_cfg

__all__ = [
    "LayerHwProxy",
    "LayerProxy",
    "build_layer_features",
    "calibrate",
    "device_cfg",
    "device_table",
    "fit_proxy",
    "predict_frame",
    "read_devices",
    "read_rows",
    "traced_layers",
    "with_stored",
]

_HOMES = {
    "LayerHwProxy": "hw_proxy",
    "LayerProxy": "predict",
    "build_layer_features": "specified",
    "calibrate": "fit_calibration",
    "device_cfg": "specified_chips",
    "device_table": "chips",
    "fit_proxy": "ensemble",
    "predict_frame": "predict",
    "read_devices": "devices",
    "read_rows": "dataset",
    "traced_layers": "specified",
    "with_stored": "calibration",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
