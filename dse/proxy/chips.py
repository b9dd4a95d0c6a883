"""Datasheets of the chip library as a device table, for which the layer proxy predicts."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from chiplib.chip import ChipType, Precision
from chiplib.features import vector_flops
from dse.proxy.devices import read_devices

PEAK_COLUMNS = {
    Precision.FP32: "peak_fp32_matrix_tflops",
    Precision.FP16: "peak_fp16_tensor_tflops",
    Precision.FP8: "peak_fp8_tflops",
    Precision.INT8: "peak_int8_tops",
}
"""Where the device table holds the peak of each precision; it has none for tf32."""


def device_table(chips: Sequence[ChipType]) -> pd.DataFrame:
    """Return the device table [C] of chips, one row each, in order and indexed by what the proxy calls them.

    That is `measured_as`, else the chip's name. All SRAM of a chip stands for its last-level cache.
    """
    rows = []
    for chip in chips:
        row: dict[str, object] = {
            "device": chip.measured_as or chip.name,
            "vendor": chip.vendor.lower() or "unknown",
            "kind": chip.kind or None,
            "family": chip.family or chip.name,
            "chip": chip.die or None,
            "peak_fp32_tflops": vector_flops(chip) / 1e12,
            "peak_bw_gbs": chip.peak_bw / 1e9,
            "mem_gb": chip.mem_gb,
            "tdp_w": chip.tdp_w,
            "idle_w": chip.idle_w,
            "die_mm2": chip.area_mm2,
            "process_nm": chip.node_nm,
            "l2_mb": chip.sram_mb,
        }
        row |= {PEAK_COLUMNS[each]: peak / 1e12 for each, peak in chip.peak_flops.items() if each in PEAK_COLUMNS}
        rows.append(row)
    return read_devices(pd.DataFrame(rows))
