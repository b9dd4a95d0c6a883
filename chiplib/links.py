"""LinkType: one kind of connection between two neighbouring slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkType:
    """A die-to-die or board-level link. Bandwidth is of one link in one direction."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}  # unknown keys are errors

    name: str
    bandwidth_gb_s: Annotated[float, Gt(0)]
    latency_ns: Annotated[float, Ge(0)]  # of one hop, router and PHY included
    pj_per_bit: Annotated[float, Ge(0)]  # of one hop
    reach_mm: Annotated[float, Gt(0)] | None = None
    source: str = ""
    assumed: tuple[str, ...] = ()
