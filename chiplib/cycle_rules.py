"""CycleRules: what the cycle rules of a CNN accelerator of microcontrollers need to know of it and of its CPU."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf
from typing import Annotated, ClassVar

from annotated_types import Gt

from chiplib.errors import ChipError

PositiveNumber = Annotated[float, Gt(0)]
PositiveCount = Annotated[int, Gt(0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleRules:
    """An accelerator that computes one output value a cycle, over as many input channels as it has processors.

    A processor multiplies up to nine taps of one channel a cycle; more channels than processors take several passes.
    What the accelerator cannot do at all (Fourier transforms) runs on the CPU of the same chip. Powers are those of the
    whole chip while the one or the other is at work.

    Raises ChipError where a number is not above zero and finite.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}  # unknown keys are errors

    clock_hz: PositiveNumber
    processors: PositiveCount  # input channels a pass
    channel_bytes: PositiveCount  # data memory of one processor: a larger image of a channel has to be streamed
    active_w: PositiveNumber
    weight_load_bytes_s: PositiveNumber  # at which the CPU writes weights into the accelerator
    cpu_hz: PositiveNumber
    cpu_w: PositiveNumber
    cpu_cycles_per_butterfly: PositiveNumber  # of a Fourier transform, radix 2

    def __post_init__(self) -> None:
        for known in fields(self):
            if not 0 < getattr(self, known.name) < inf:
                raise ChipError(f"{known.name} of cycle_rules is {getattr(self, known.name)}", "a number above zero")
