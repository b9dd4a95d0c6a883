"""PeArray: the processing elements of an NPU, what stays in them, and the buffers round them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from math import inf
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from chiplib.errors import ChipError
from chiplib.validation import did_you_mean

PositiveNumber = Annotated[float, Gt(0)]
PositiveCount = Annotated[int, Gt(0)]

POSITIVE = (
    *("rows", "columns", "arrays", "clock_hz", "vector_lanes"),
    *("input_sram_kb", "weight_sram_kb", "output_sram_kb"),
)
"""Fields of an array that are above zero and finite."""


class Dataflow(StrEnum):
    """Which operand a processing element keeps while the others stream by (Chen et al., ISCA 2016; SCALE-Sim)."""

    OUTPUT = "output_stationary"
    WEIGHT = "weight_stationary"
    INPUT = "input_stationary"


class DataflowCode(IntEnum):
    """Dataflow in array seams."""

    OUTPUT = 0
    WEIGHT = 1
    INPUT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PeArray:
    """A chip's systolic arrays and what feeds them; kB are 1000 bytes, each buffer is that of all arrays together.

    A processing element does one multiply-accumulate a cycle at the chip's fastest precision; at a slower one the array
    is as much slower as the datasheet's peak. Each buffer is double: one half feeds the array, the other is filled.

    Raises ChipError where a number is not above zero and finite, `butterflies` is negative, or the dataflow unknown.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}  # unknown keys are errors

    rows: PositiveCount
    columns: PositiveCount
    dataflow: Dataflow
    clock_hz: PositiveNumber
    input_sram_kb: PositiveNumber
    weight_sram_kb: PositiveNumber
    output_sram_kb: PositiveNumber
    vector_lanes: PositiveCount  # operations a cycle of the vector unit beside it
    butterflies: Annotated[int, Ge(0)] = 0  # radix-2 butterflies a cycle; 0: the vector unit computes transforms
    arrays: PositiveCount = 1  # of rows x columns each

    def __post_init__(self) -> None:
        for key in POSITIVE:
            if not 0 < getattr(self, key) < inf:
                raise ChipError(f"{key} of a pe_array is {getattr(self, key)}", "a number above zero")
        if self.dataflow not in list(Dataflow):
            raise ChipError(f"dataflow of a pe_array is {self.dataflow!r}", did_you_mean(self.dataflow, Dataflow))
        if self.butterflies < 0:
            raise ChipError(f"butterflies of a pe_array is {self.butterflies}", "0, or butterflies a cycle")

    @property
    def peak_flops(self) -> float:
        """Operations a second with every element at work, two a multiply-accumulate."""
        return 2.0 * self.arrays * self.rows * self.columns * self.clock_hz

    @property
    def code(self) -> DataflowCode:
        """Its dataflow, as a number."""
        return DataflowCode[Dataflow(self.dataflow).name]
