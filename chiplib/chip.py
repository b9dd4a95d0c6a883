"""ChipType: one datasheet. Precision: what it is computed in. Rule: what a chip cannot run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from math import inf
from typing import Annotated, ClassVar

from annotated_types import Gt, Interval, MinLen

from chiplib.cycle_rules import CycleRules
from chiplib.errors import ChipError
from chiplib.pe_array import PeArray
from chiplib.validation import did_you_mean

PositiveNumber = Annotated[float, Gt(0)]
Fraction = Annotated[float, Interval(gt=0, le=1)]


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


AREA_TOLERANCE = 0.05
"""Largest relative difference between area_mm2 and width_mm x height_mm of a die."""

PEAK_TOLERANCE = 0.05
"""Largest relative difference between the highest peak of a datasheet and that of its array."""


OPERATORS = (
    *("conv", "linear", "matmul", "attention", "recurrent", "norm", "softmax", "elementwise", "reduction", "pool"),
    *("fft", "embedding", "copy", "other"),
)
"""Operator kinds of workload graphs, by which rules and missing operators are named."""

POSITIVE = (
    *("peak_bw", "mem_gb", "area_mm2", "width_mm", "height_mm", "tdp_w"),
    *("dies", "vector_flops", "idle_w", "node_nm", "sram_mb", "price_usd"),
)
"""Fields of a datasheet that are above zero and finite where they are given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One deployability rule: layers of `operator` must have `parameter` <= `limit` (or among `allowed` or `names`).

    A parameter means itself and its parts by axis: "kernel" holds for "kernel_d", "kernel_h" and "kernel_w" too.

    Raises ChipError for an unknown operator, where nothing is forbidden, and where `names` are of no "operation".
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}  # unknown keys are errors

    operator: str  # one of OPERATORS, or "*"
    parameter: str  # a shape parameter of the layer, such as "kernel" or "groups"
    limit: float | None = None
    allowed: tuple[int, ...] = ()
    names: tuple[str, ...] = ()  # of a parameter "operation": what it may be, such as "add" of aten.add.Tensor
    when: Mapping[str, int | tuple[int, ...]] = field(
        default_factory=dict
    )  # only for layers with (one of) these values
    source: str = ""

    def __post_init__(self) -> None:
        if self.operator != "*" and self.operator not in OPERATORS:
            raise ChipError(f"a rule is for operator {self.operator!r}", did_you_mean(self.operator, OPERATORS))
        if self.limit is None and not self.allowed and not self.names:
            raise ChipError(
                f"the rule on {self.parameter!r} of {self.operator!r} forbids nothing",
                "a limit or allowed values, or names",
            )
        if bool(self.names) != (self.parameter == "operation"):
            raise ChipError(
                f"the rule on {self.parameter!r} of {self.operator!r} has names {list(self.names)}",
                "names go with the parameter `operation`, and only with that",
            )


MEASURES = ("layers", "weight_bytes", "bias_bytes", "streaming_layers")
"""What a chip may hold only so much of, over all layers that it runs: layers whose image of a channel is larger than
`channel_bytes` of the chip's cycle_rules have to be streamed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRule:
    """A rule for all layers together that one chip runs: at most `limit` of `measure`, of the named operators.

    Raises ChipError for an unknown measure or operator.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}  # unknown keys are errors

    measure: str  # one of MEASURES
    limit: PositiveNumber
    operators: tuple[str, ...] = ()  # of OPERATORS; none: all
    source: str = ""

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ChipError(f"a network rule measures {self.measure!r}", did_you_mean(self.measure, MEASURES))
        for unknown in [name for name in self.operators if name not in OPERATORS]:
            raise ChipError(f"a network rule is for operator {unknown!r}", did_you_mean(unknown, OPERATORS))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipType:
    """One chip's datasheet. Field names of the owner's `gpu_data.yaml` are kept; SI prefixes are decimal.

    `peak_flops` are dense operations per second (2 x MACs) by precision; one number in YAML means the same peak in
    every precision. `vector_flops` is the peak of what the matrix units cannot do (None: the fp32 peak, else the
    lowest one). `achievable` is the measured fraction of the peak that the best kernels reach, `achievable_bw` that of
    the bandwidth; 1.0 where nothing was measured, which the report says.

    Width and height are those of the die, or of the footprint where a part has several dies; width x height of a
    single die agrees with its area within AREA_TOLERANCE unless either is listed in `assumed`.

    Raises ChipError where a number is not positive and finite, a fraction above one, the chip draws no less idle than
    its TDP, an operator or field is named that does not exist, the outline contradicts the area, or the array the peak.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}  # unknown keys are errors

    name: Annotated[str, MinLen(1)]
    peak_flops: Mapping[Precision, PositiveNumber]  # op/s
    peak_bw: PositiveNumber  # B/s between the chip and its memory
    mem_gb: PositiveNumber  # GB, decimal
    area_mm2: PositiveNumber  # silicon, all dies
    width_mm: PositiveNumber
    height_mm: PositiveNumber
    tdp_w: PositiveNumber
    dies: Annotated[int, Gt(0)] = 1  # that the area is made of
    vector_flops: PositiveNumber | None = None  # op/s
    achievable: Fraction = 1.0
    achievable_bw: Fraction = 1.0
    idle_w: PositiveNumber | None = None  # None: assumed share of tdp_w, see energy.py
    node_nm: PositiveNumber | None = None
    memory_type: str = ""  # "HBM3", "GDDR6", "SRAM", ...: energy and price of memory go by it
    sram_mb: PositiveNumber | None = None
    vendor: str = ""
    year: int | None = None
    kind: str = ""  # "gpu", "asic", "chiplet", "edge-npu", ...
    family: str = ""  # microarchitecture: "Hopper"
    die: str = ""  # "GH100"
    measured_as: str = ""  # its name in tables of measured operators, by which the layer proxy knows it
    price_usd: PositiveNumber | None = (
        None  # market price of a finished part; None: built up from area, yield and memory
    )
    pe_array: PeArray | None = None  # of an NPU: what the cost model `systolic` reads
    cycle_rules: CycleRules | None = None  # of an accelerator of convolutions: what the model `cycle_table` reads
    missing_operators: tuple[str, ...] = ()  # those of OPERATORS that it cannot run
    rules: tuple[Rule, ...] = ()
    network_rules: tuple[NetworkRule, ...] = ()
    assumed: tuple[str, ...] = ()  # names of the fields that are assumptions of ours, not published
    source: Mapping[str, str] = field(default_factory=dict)  # field name (or "*") -> where the number is from

    def __post_init__(self) -> None:
        for key in POSITIVE:
            value = getattr(self, key)
            if value is not None and not 0 < value < inf:
                raise ChipError(f"{key} of chip {self.name!r} is {value}", "a number above zero")
        for key in ("achievable", "achievable_bw"):
            if not 0 < getattr(self, key) <= 1:
                raise ChipError(f"{key} of chip {self.name!r} is {getattr(self, key)}", "a fraction above 0, at most 1")
        if not self.peak_flops or not all(0 < peak < inf for peak in self.peak_flops.values()):
            raise ChipError(
                f"peak_flops of chip {self.name!r} is {dict(self.peak_flops)}", "a number above zero for each precision"
            )
        if self.idle_w is not None and self.idle_w >= self.tdp_w:
            raise ChipError(f"idle_w {self.idle_w:g} is not below tdp_w {self.tdp_w:g}", "the power drawn while idle")
        names = [known.name for known in fields(self)]
        names += [f"pe_array.{known.name}" for known in fields(PeArray)]
        names += [f"cycle_rules.{known.name}" for known in fields(CycleRules)]
        named = {"missing_operators": OPERATORS, "assumed": names, "source": [*names, "*"]}
        for key, known in named.items():
            for unknown in [name for name in getattr(self, key) if name not in known]:
                raise ChipError(f"{key} of chip {self.name!r} names {unknown!r}", did_you_mean(unknown, known))
        best = max(self.peak_flops.values())
        if self.pe_array and abs(self.pe_array.peak_flops - best) > PEAK_TOLERANCE * best:
            raise ChipError(
                f"pe_array of chip {self.name!r} peaks at {self.pe_array.peak_flops:.4g} op/s (2 x arrays x rows x "
                f"columns x clock_hz), but the highest of peak_flops is {best:.4g}",
                f"they agree within {PEAK_TOLERANCE:.0%}",
            )
        outline = self.width_mm * self.height_mm
        published = self.dies == 1 and not {"width_mm", "height_mm"} & set(self.assumed)
        if published and abs(outline - self.area_mm2) > AREA_TOLERANCE * self.area_mm2:
            raise ChipError(
                f"width_mm {self.width_mm:g} x height_mm {self.height_mm:g} = {outline:g} mm2, "
                f"but area_mm2 is {self.area_mm2:g}",
                f"they agree within {AREA_TOLERANCE:.0%}; list an assumed width_mm or height_mm in `assumed`, "
                "or give the number of `dies` of a part with several",
            )

    def __hash__(self) -> int:
        return hash((self.name, self.peak_bw, self.area_mm2))  # cheap: chips key the caches of energy and cost

    def supports(self, precision: Precision) -> bool:
        """Whether the datasheet gives a peak in this precision."""
        return precision in self.peak_flops
