"""ChipType: one datasheet, and the arrays that cost models read from many of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Precision(StrEnum):
    """Number format that a workload is computed in. The order is stable: it is an index in array seams."""

    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"  # bf16 has the same peak and size on every chip that ships here
    FP8 = "fp8"
    INT8 = "int8"

    @property
    def bytes(self) -> int:
        """Bytes that one number takes in memory (TF32 is stored as 32 bit)."""
        return {"fp32": 4, "tf32": 4, "fp16": 2, "fp8": 1, "int8": 1}[self.value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One deployability rule: layers of `operator` must have `parameter` <= `limit` (or among `allowed`)."""

    operator: str  # an OperatorKind value of the workload graph, or "*"
    parameter: str  # a shape parameter of the layer, such as "kernel" or "groups"
    limit: float | None = None
    allowed: tuple[int, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipType:
    """One chip's datasheet. Field names of the owner's `gpu_data.yaml` are kept; SI prefixes are decimal.

    `peak_flops` are dense operations per second (2 x MACs) by precision; one number in YAML means the same peak in
    every precision. `vector_flops` is the peak of what the matrix units cannot do (None: the fp32 peak, else the
    lowest one). `achievable` is the measured fraction of the peak that the best kernels reach, `achievable_bw` that of
    the bandwidth; 1.0 where nothing was measured, which the report says.
    """

    name: str
    peak_flops: Mapping[Precision, float]  # op/s
    peak_bw: float  # B/s between the chip and its memory
    mem_gb: float  # GB, decimal
    area_mm2: float  # silicon, all dies
    width_mm: float
    height_mm: float
    tdp_w: float
    vector_flops: float | None = None  # op/s
    achievable: float = 1.0
    achievable_bw: float = 1.0
    idle_w: float | None = None  # None: assumed share of tdp_w, see energy.py
    node_nm: float | None = None
    memory_type: str = ""  # "HBM3", "GDDR6", "SRAM", ...: energy and price of memory go by it
    sram_mb: float | None = None
    vendor: str = ""
    year: int | None = None
    kind: str = ""  # "gpu", "asic", "chiplet", "edge-npu", ...
    price_usd: float | None = None  # market price of a finished part; None: built up from area, yield and memory
    missing_operators: tuple[str, ...] = ()  # operator kinds that it cannot run
    rules: tuple[Rule, ...] = ()
    assumed: tuple[str, ...] = ()  # names of the fields that are assumptions of ours, not published
    source: Mapping[str, str] = field(default_factory=dict)  # field name (or "*") -> where the number is from

    def supports(self, precision: Precision) -> bool:
        """Whether the datasheet gives a peak in this precision."""
        return precision in self.peak_flops


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
    ]
)
"""The seam chiplib -> dse: one record a chip, in one precision."""


def chip_features(chips: Sequence[ChipType], precision: Precision) -> NDArray[np.void]:
    """Return the record array [C] of CHIP_FEATURES for `chips` at `precision`."""
    from chiplib.energy import pj_per_byte, pj_per_flop, static_w

    rows = np.zeros(len(chips), CHIP_FEATURES)
    for row, chip in zip(rows, chips, strict=True):
        supported = chip.supports(precision)
        row["peak_flops"] = chip.peak_flops.get(precision, 0.0)
        row["vector_flops"] = vector_flops(chip)
        row["peak_bw"] = chip.peak_bw
        row["achievable"] = chip.achievable
        row["achievable_bw"] = chip.achievable_bw
        row["memory_bytes"] = chip.mem_gb * 1e9
        row["sram_bytes"] = (chip.sram_mb or 0.0) * 1e6
        row["pj_per_flop"] = pj_per_flop(chip, precision) if supported else 0.0
        row["pj_per_byte"] = pj_per_byte(chip)
        row["static_w"] = static_w(chip)
        row["tdp_w"] = chip.tdp_w
        row["area_mm2"] = chip.area_mm2
        row["node_nm"] = chip.node_nm or 0.0
        row["supported"] = supported
    return rows


def vector_flops(chip: ChipType) -> float:
    """Peak of the vector units, op/s: as given, else the fp32 peak, else the lowest peak on the datasheet."""
    if chip.vector_flops is not None:
        return chip.vector_flops
    return chip.peak_flops.get(Precision.FP32, min(chip.peak_flops.values()))
