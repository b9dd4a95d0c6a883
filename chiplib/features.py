"""Chip features: the records that cost models read from many datasheets at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from chiplib.chip import ChipType, Precision
from chiplib.energy import pj_per_byte, pj_per_flop, static_w

_ARRAY_FEATURES = [
    ("pe_rows", "f8"),  # 0 where the chip has no array of processing elements; so are those below
    ("pe_columns", "f8"),
    ("pe_arrays", "f8"),
    ("pe_dataflow", "i8"),  # DataflowCode
    ("pe_clock_hz", "f8"),  # as many cycles a second count as the asked precision's share of the highest peak
    ("pe_input_sram_bytes", "f8"),
    ("pe_weight_sram_bytes", "f8"),
    ("pe_output_sram_bytes", "f8"),
    ("vector_lanes", "f8"),
    ("vector_clock_hz", "f8"),
    ("butterflies", "f8"),
]

_CYCLE_FEATURES = [
    ("cycle_clock_hz", "f8"),  # 0 where the chip has no cycle rules; so are those below
    ("cycle_processors", "f8"),
    ("cycle_channel_bytes", "f8"),
    ("cycle_active_w", "f8"),
    ("cycle_weight_load_bytes_s", "f8"),
    ("cycle_cpu_hz", "f8"),
    ("cycle_cpu_w", "f8"),
    ("cycle_cpu_cycles_per_butterfly", "f8"),
]

CHIP_FEATURES = np.dtype(
    [
        ("peak_flops", "f8"),  # op/s, dense, in the asked precision; 0 where the chip lacks it
        ("vector_flops", "f8"),  # op/s
        ("peak_bw", "f8"),  # B/s
        ("achievable", "f8"),
        ("achievable_bw", "f8"),
        ("memory_bytes", "f8"),
        ("sram_bytes", "f8"),  # 0 where unknown
        ("pj_per_flop", "f8"),  # dynamic, in the asked precision
        ("pj_per_byte", "f8"),  # dynamic, to and from memory
        ("static_w", "f8"),
        ("tdp_w", "f8"),
        ("area_mm2", "f8"),
        ("node_nm", "f8"),  # 0 where unknown
        ("supported", "?"),
        *_ARRAY_FEATURES,
        *_CYCLE_FEATURES,
    ]
)
"""The seam chiplib -> dse: one record a chip, in one precision."""


def chip_features(chips: Sequence[ChipType], precision: Precision) -> NDArray[np.void]:
    """Return the record array [C] of CHIP_FEATURES for `chips` at `precision`."""
    return np.array([_features(chip, precision) for chip in chips], CHIP_FEATURES)


@cache
def _features(chip: ChipType, precision: Precision) -> tuple[float, ...]:
    """Return one record of CHIP_FEATURES."""
    supported = chip.supports(precision)
    row = {
        "peak_flops": chip.peak_flops.get(precision, 0.0),
        "vector_flops": vector_flops(chip),
        "peak_bw": chip.peak_bw,
        "achievable": chip.achievable,
        "achievable_bw": chip.achievable_bw,
        "memory_bytes": chip.mem_gb * 1e9,
        "sram_bytes": (chip.sram_mb or 0.0) * 1e6,
        "pj_per_flop": pj_per_flop(chip, precision) if supported else 0.0,
        "pj_per_byte": pj_per_byte(chip),
        "static_w": static_w(chip),
        "tdp_w": chip.tdp_w,
        "area_mm2": chip.area_mm2,
        "node_nm": chip.node_nm or 0.0,
        "supported": supported,
    } | _array_features(chip, precision)
    row |= {name: getattr(chip.cycle_rules, name.removeprefix("cycle_"), 0.0) for name, _ in _CYCLE_FEATURES}
    return tuple(row[name] for name in CHIP_FEATURES.names or ())


def _array_features(chip: ChipType, precision: Precision) -> dict[str, float]:
    """Return the features of the chip's array; all 0 where it has none."""
    array = chip.pe_array
    if array is None:
        return dict.fromkeys((name for name, _ in _ARRAY_FEATURES), 0.0)
    share = chip.peak_flops.get(precision, 0.0) / max(chip.peak_flops.values())
    return {
        "pe_rows": array.rows,
        "pe_columns": array.columns,
        "pe_arrays": array.arrays,
        "pe_dataflow": array.code,
        "pe_clock_hz": array.clock_hz * share,
        "pe_input_sram_bytes": array.input_sram_kb * 1e3,
        "pe_weight_sram_bytes": array.weight_sram_kb * 1e3,
        "pe_output_sram_bytes": array.output_sram_kb * 1e3,
        "vector_lanes": array.vector_lanes,
        "vector_clock_hz": array.clock_hz,
        "butterflies": array.butterflies,
    }


def vector_flops(chip: ChipType) -> float:
    """Peak of the vector units, op/s: as given, else the fp32 peak, else the lowest peak on the datasheet."""
    if chip.vector_flops is not None:
        return chip.vector_flops
    return chip.peak_flops.get(Precision.FP32, min(chip.peak_flops.values()))
