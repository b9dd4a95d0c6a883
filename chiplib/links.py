"""LinkType: one kind of connection between two neighbouring slots."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkType:
    """A die-to-die or board-level link. Bandwidth is of one link in one direction."""

    name: str
    bandwidth_gb_s: float
    latency_ns: float  # of one hop, router and PHY included
    pj_per_bit: float  # of one hop
    reach_mm: float | None = None
    source: str = ""
    assumed: tuple[str, ...] = ()
