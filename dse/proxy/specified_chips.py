"""Chips as the specification (gpu_data.yaml, version C, 8.1) describes them: rates by name, of one chip or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from chiplib.chip import ChipType, Precision
from chiplib.energy import STATIC_SHARE
from chiplib.validation import did_you_mean
from dse.errors import DseError
from dse.proxy.chips import PEAK_COLUMNS, device_table
from dse.proxy.devices import read_devices
from dse.proxy.features import USUAL_KIND
from dse.proxy.specified import Config, real, require

NUMBERS = ("peak_bw", "tdp_w", "vector_flops", "sram_mb", "idle_w")
NAMES = ("vendor", "kind", "family", "chip", "device")
UNREAD = ("name", "mem_gb", "area_mm2", "width_mm", "height_mm")
"""Keys of a datasheet that say nothing of a layer's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TidyDevices:
    """S chips; numbers are float64 tensors that carry gradients."""

    peaks: dict[str, Tensor]  # number type of the arithmetic -> FLOP/s [S]
    bandwidth: Tensor  # [S] B/s
    vector: Tensor  # [S] FLOP/s
    tdp_w: Tensor  # [S]
    idle_w: Tensor  # [S]
    cache_bytes: Tensor  # [S]
    names: NDArray[np.object_]  # [S, CHIP_NAMES]
    single: bool  # no quantity had an axis of chips

    @property
    def count(self) -> int:
        """Number of chips."""
        return len(self.bandwidth)

    def rates(self, compute_dtype: NDArray[np.object_]) -> Tensor:
        """Return FLOP/ms, B/ms, W and FLOP/ms of the vector units [N, S, RATES] for what N layers compute in."""
        peak = torch.stack([self.peaks.get(name, self.peaks["fp32"]) for name in compute_dtype])
        others = [each.expand(peak.shape) for each in (self.bandwidth, 1e3 * self.tdp_w, self.vector)]
        return torch.stack([peak, *others], dim=2) / 1e3


def device_cfg(chips: Sequence[ChipType]) -> dict[str, object]:
    """Return the device_cfg of C chips of the library, as LayerHwProxy takes it: rates, names and arrays [C]."""
    table = device_table(chips)
    config: dict[str, object] = {
        "peak_flops": {str(kind): table[column].to_numpy() * 1e12 for kind, column in PEAK_COLUMNS.items()},
        "vector_flops": table["peak_fp32_tflops"].to_numpy() * 1e12,
        "peak_bw": table["peak_bw_gbs"].to_numpy() * 1e9,
        "sram_mb": table["l2_mb"].fillna(0.0).to_numpy(),
        "tdp_w": table["tdp_w"].to_numpy(),
        "idle_w": table["idle_w"].to_numpy(),
        "vendor": table["vendor"].to_numpy(object),
        "kind": table["kind"].fillna(USUAL_KIND).to_numpy(object),
        "family": table["family"].to_numpy(object),
        "chip": table["chip"].fillna(table.index.to_series()).to_numpy(object),
        "device": table.index.to_numpy(object),
    }
    return config


def tidy_devices(config: Config) -> TidyDevices:
    """Return S chips from a device_cfg.

    `peak_flops` is one peak for every precision, or a mapping by precision. `vector_flops` is the fp32 peak unless
    given, else the lowest; `idle_w` a share of `tdp_w`; `sram_mb` (the last-level cache) none. A chip without `vendor`,
    `family`, `chip` (die) and `device` is one that the proxy does not know by name. NaN stands for what is not given.

    Raises DseError for an unknown key, without peak_flops, peak_bw or tdp_w, or where a number is not positive.
    """
    for key in config:
        if key not in (known := ("peak_flops", *NUMBERS, *NAMES, *UNREAD)):
            raise DseError(f"device_cfg has a key {key!r}, which no chip has", did_you_mean(key, known))
    for key in ("peak_flops", "peak_bw", "tdp_w"):
        require(config, key)
    given = config["peak_flops"]
    peaks = {str(kind): given for kind in Precision} if not isinstance(given, Mapping) else dict(given)
    if unknown := sorted(set(map(str, peaks)) - set(map(str, Precision))):
        raise DseError(f"peak_flops has a precision {unknown[0]!r}", did_you_mean(unknown[0], [*map(str, Precision)]))
    numbers = {f"peak_flops.{kind}": real(peak) for kind, peak in peaks.items()}
    numbers |= {name: real(config[name]) for name in NUMBERS if name in config}
    texts = {name: np.array(config[name], object) for name in NAMES if name in config}
    shapes = {tuple(value.shape) for value in numbers.values() if value.ndim}
    shapes |= {value.shape for value in texts.values() if value.ndim}
    if len(shapes) > 1 or any(len(shape) > 1 for shape in shapes):
        raise DseError("quantities of device_cfg differ in size", "one number, or one a chip")
    for name, value in numbers.items():
        if bool(((value <= 0) | torch.isinf(value)).any()) and name != "sram_mb":
            raise DseError(f"{name} of a device_cfg is not positive and finite", "a number above zero")
    count = next(iter(shapes))[0] if shapes else 1
    column = {name: value.expand(count) for name, value in numbers.items()}
    return _tidy(column, {name: np.broadcast_to(value, count) for name, value in texts.items()}, count, not shapes)


def _tidy(
    column: Mapping[str, Tensor], texts: Mapping[str, NDArray[np.object_]], count: int, single: bool
) -> TidyDevices:
    unknown = torch.full((count,), torch.nan, dtype=torch.float64)
    peak = {str(kind): column.get(f"peak_flops.{kind}", unknown) for kind in Precision}
    lowest = unknown
    for value in peak.values():
        lowest = torch.fmin(lowest, value)
    vector = _first(column.get("vector_flops", unknown), peak["fp32"], lowest)
    fp32, fp16 = torch.fmax(peak["fp32"], vector), torch.fmax(peak["fp16"], vector)
    narrow = {name: _first(peak[name], fp16) for name in ("fp8", "int8")}
    own = [f"slot {number}" for number in range(count)]
    device = texts.get("device", np.array(own, object))
    maker = texts.get("vendor", np.full(count, "unknown", object)) + " " + texts.get("kind", np.full(count, USUAL_KIND))
    return TidyDevices(
        peaks={"fp32": fp32, "tf32": _first(peak["fp16"], fp32), "fp16": fp16, "bf16": fp16, **narrow}
        | {"nvfp4": narrow["fp8"]},
        bandwidth=column["peak_bw"],
        vector=vector,
        tdp_w=column["tdp_w"],
        idle_w=torch.fmin(_first(column.get("idle_w", unknown), STATIC_SHARE * column["tdp_w"]), column["tdp_w"]),
        cache_bytes=torch.nan_to_num(column.get("sram_mb", unknown), nan=0.0) * 1e6,
        names=np.stack([maker, texts.get("family", device), texts.get("chip", device), device], axis=1),
        single=single,
    )


def anywhere(name: str) -> pd.DataFrame:
    """Return a device table of one made-up chip, for features that do not depend on the chip."""
    row = {"device": name, "vendor": "none", "family": "none", "peak_bw_gbs": 1.0, "tdp_w": 1.0}
    return read_devices(pd.DataFrame([row | dict.fromkeys(("peak_fp32_tflops", "peak_fp16_tensor_tflops"), 1.0)]))


def _first(*candidates: Tensor) -> Tensor:
    """Return the first of the candidates [S] that is known."""
    found = candidates[-1]
    for candidate in reversed(candidates[:-1]):
        found = torch.where(torch.isnan(candidate), found, candidate)
    return found
