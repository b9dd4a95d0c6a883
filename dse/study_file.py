"""StudyFile: what a study says - what to vary, what matters, and how it is judged - checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dse.errors import DseError
from dse.objectives import Objectives
from dse.space import DesignSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """How layers are cut into segments: exactly one of the three (see workloads.build_segments)."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    segment_size: int | None = None
    depth: int | None = None
    count: int | None = None


@dataclass(frozen=True, kw_only=True)
class StudyFile:
    """What to vary (`space`), what matters (`objectives`), and how it is judged."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    workload: str  # of the catalogue, or package.module:factory
    library: str  # that ships, or a path
    objectives: tuple[str, ...]
    space: DesignSpace = field(default_factory=DesignSpace)
    segments: Segmentation = field(default_factory=lambda: Segmentation(segment_size=4))
    model: str = "roofline"
    regime: Literal["serial", "pipelined"] = "serial"
    inputs: int = 32  # simulated, in the pipelined regime
    epsilon: float = 0.0  # an unmapped design is closed when it cannot be better by more than this
    mapping_deadline_s: float = 10.0
    budget: int | None = None  # designs to evaluate in all
    seed: int = 0

    def __post_init__(self) -> None:
        Objectives(self.objectives, self.regime)
        for key, value, least in (("inputs", self.inputs, 1), ("epsilon", self.epsilon, 0)):
            if value < least:
                raise DseError(f"{key} is {value}", f"at least {least}")
        if self.mapping_deadline_s <= 0:
            raise DseError(f"mapping_deadline_s is {self.mapping_deadline_s}", "a time in seconds above 0")
        if self.budget is not None and self.budget < 1:
            raise DseError(f"budget is {self.budget}", "at least 1 design, or leave it out for no limit")
