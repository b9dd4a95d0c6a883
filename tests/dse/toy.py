"""Small workloads and systems with costs of one's choice, in the shape that dse reads the real ones in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from chiplib.chip import Precision
from dse.cost_table import CostTable, SegmentCosts


@dataclass(kw_only=True, eq=False)
class ToySegments:
    """K segments with given bytes."""

    edges: np.ndarray
    edge_bytes: np.ndarray
    weight_bytes: np.ndarray
    output_bytes: np.ndarray
    workspace_bytes: np.ndarray
    batch: int = 1
    float_bytes: int = 2
    shares_weights: bool = False  # each segment has its own
    graph: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(mode="inference"))

    def __len__(self) -> int:
        return len(self.weight_bytes)

    def __iter__(self) -> Iterator[SimpleNamespace]:
        return iter([SimpleNamespace(id=k, name="") for k in range(len(self))])


@dataclass(kw_only=True, eq=False)
class ToySystem:
    """Chips in a row, joined by a chain of links in both directions (or by one shared bus)."""

    chips: tuple
    routes: SimpleNamespace
    capacity_bytes: np.ndarray
    static_w: float = 10.0
    area_mm2: float = 100.0
    cost_usd: float = 50.0
    package: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(name="toy"))

    @property
    def slots(self) -> int:
        return len(self.chips)

    @property
    def occupied(self) -> np.ndarray:
        return np.flatnonzero([chip is not None for chip in self.chips])


def chain_routes(slots: int, *, latency_ms: float, ms_per_byte: float, mj_per_byte: float) -> SimpleNamespace:
    """Slots in a row; link 2i joins i to i + 1, link 2i + 1 the other way."""
    hops = np.abs(np.arange(slots)[:, None] - np.arange(slots)[None, :])
    links = [(i, i + 1) for i in range(slots - 1)]
    links = [pair for i, j in links for pair in ((i, j), (j, i))]
    uses = np.zeros((slots, slots, len(links)), bool)
    for p in range(slots):
        for q in range(slots):
            for number, (i, j) in enumerate(links):
                uses[p, q, number] = (p <= i and j <= q and j > i) or (q <= j and i <= p and j < i)
    return SimpleNamespace(
        hops=hops,
        latency_ms=hops * latency_ms,
        ms_per_byte=np.where(hops > 0, ms_per_byte, 0.0),
        mj_per_byte=hops * mj_per_byte,
        uses_link=uses,
        links=np.array(links, np.int64).reshape(-1, 2),
    )


def toy_table(
    compute_ms,
    edges,
    edge_bytes,
    *,
    energy_mj=None,
    latency_ms: float = 0.25,
    ms_per_byte: float = 1e-3,
    mj_per_byte: float = 1e-4,
    weight_bytes=None,
    output_bytes=None,
    workspace_bytes=None,
    static_w: float = 10.0,
    batch: int = 1,
) -> CostTable:
    """Cost table of given times [K, S] on a row of S chips."""
    compute_ms = np.asarray(compute_ms, float)
    count, slots = compute_ms.shape
    edges = np.asarray(edges, np.int64).reshape(-1, 2)
    edge_bytes = np.asarray(edge_bytes, float)
    if output_bytes is None:
        output_bytes = np.zeros(count)
        np.maximum.at(output_bytes, edges[:, 0], edge_bytes)
    read = np.bincount(edges[:, 1], weights=edge_bytes, minlength=count)
    segments = ToySegments(
        edges=edges,
        edge_bytes=edge_bytes,
        weight_bytes=np.zeros(count) if weight_bytes is None else np.asarray(weight_bytes, float),
        output_bytes=np.asarray(output_bytes, float),
        workspace_bytes=output_bytes + read if workspace_bytes is None else np.asarray(workspace_bytes, float),
        batch=batch,
    )
    system = ToySystem(
        chips=tuple(SimpleNamespace(name=f"chip{s}", network_rules=()) for s in range(slots)),
        routes=chain_routes(slots, latency_ms=latency_ms, ms_per_byte=ms_per_byte, mj_per_byte=mj_per_byte),
        capacity_bytes=np.full(slots, 1e12),
        static_w=static_w,
    )
    allowed = np.isfinite(compute_ms)
    costs = SegmentCosts(
        segments=segments,
        chips=system.chips,
        precision=Precision.FP16,
        model="toy",
        features=None,
        layers=None,
        latency_ms=compute_ms,
        energy_mj=np.ones_like(compute_ms) if energy_mj is None else np.asarray(energy_mj, float),
        allowed=allowed,
        refusals=(),
    )
    return CostTable.of(costs, system)
