"""StudyFile: what a study says - what to vary, what matters, and how it is judged - checked when it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dse.errors import DseError
from dse.objectives import Objectives
from dse.proxy.model import DEFAULT
from dse.space import DesignSpace
from workloads.graph import Mode
from workloads.run_mode import Training


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """How layers are cut into segments: exactly one of the three (see workloads.build_segments)."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    segment_size: int | None = None
    depth: int | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        given = {key: value for key in self.__slots__ if (value := getattr(self, key)) is not None}
        if len(given) != 1:
            raise DseError(
                f"segments gives {' and '.join(given) or 'no way to cut the layers'}",
                "exactly one of segment_size, depth and count",
            )
        ((key, value),) = given.items()
        if value < 1:
            raise DseError(f"segments.{key} is {value}", "a whole number from 1")


MOST_INPUTS = 100_000
"""Inputs of one simulation: beyond, events fill gigabytes, and the throughput has settled long before."""


@dataclass(frozen=True, kw_only=True)
class StudyFile:
    """What to vary (`space`), what matters (`objectives`), and how it is judged."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    workload: str  # of the catalogue, package.module:factory, or a model file
    library: str  # that ships, or a path
    objectives: tuple[str, ...]
    space: DesignSpace = field(default_factory=DesignSpace)
    segments: Segmentation = field(default_factory=lambda: Segmentation(segment_size=4))
    mode: Mode = "inference"  # of the workload: a forward pass, or one training step
    training: Training | None = None  # optimiser and recomputation of the step, in mode train
    length: int | None = None  # of the workload's sequence, in its units; as in the catalogue where nothing is said
    seconds: float | None = None  # the same in seconds of signal
    model: str = DEFAULT
    framework: str | None = None  # that a model which knows software speaks for; see dse.proxy.software
    timer: str | None = None  # None: the one that the framework was measured with
    regime: Literal["serial", "pipelined"] = "serial"
    inputs: int = 32  # simulated, in the pipelined regime
    epsilon: float = 0.0  # an unmapped design is closed when it cannot be better by more than this
    mapping_deadline_s: float = 10.0
    budget: int | None = None  # designs to evaluate in all
    seed: int = 0

    def __post_init__(self) -> None:
        Objectives(self.objectives, self.regime)
        if not self.name.strip() or any(sign in self.name for sign in "/\\\0"):
            raise DseError(f"name is {self.name!r}", "a name that a folder can have, without / or \\")
        if not 1 <= self.inputs <= MOST_INPUTS:
            raise DseError(f"inputs is {self.inputs}", f"a whole number from 1 to {MOST_INPUTS:,}")
        if self.training and self.mode != "train":
            raise DseError(f"training is said of a study in mode {self.mode}", "mode: train, or leave it out")
        if self.length is not None and self.seconds is not None:
            raise DseError(f"length is {self.length} and seconds is {self.seconds}", "only one of them")
        if self.length is not None and self.length < 1:
            raise DseError(f"length is {self.length}", "a whole number from 1")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise DseError(f"seconds is {self.seconds}", "a time above 0, such as 10")
        if not 0 <= self.epsilon < math.inf:
            raise DseError(f"epsilon is {self.epsilon}", "a share of at least 0, such as 0.05 for 5 %")
        if self.seed < 0:
            raise DseError(f"seed is {self.seed}", "a whole number from 0")
        if not self.mapping_deadline_s > 0:
            raise DseError(f"mapping_deadline_s is {self.mapping_deadline_s}", "a time in seconds above 0")
        if self.budget is not None and self.budget < 1:
            raise DseError(f"budget is {self.budget}", "at least 1 design, or leave it out for no limit")
