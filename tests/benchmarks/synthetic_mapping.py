"""Mapping problems of any size that look like networks on wafers: transformer blocks, skip edges, a mesh of slots."""

from __future__ import annotations

import numpy as np

from solvers.mapping.problem import MappingProblem

MS_PER_BYTE = 1 / 64e6  # 64 GB/s a hop of the mesh
MJ_PER_BYTE = 1e-8  # 1.25 pJ a bit and hop


def synthetic(
    segments: int, slots: int, *, seed: int = 0, regime: str = "pipelined", memory: float = 0.75, links: bool = True
) -> MappingProblem:
    """Return K segments in transformer-like blocks on S slots of a mesh, 1 to 4 times as fast as the slowest.

    A block is eight segments: three projections that read the block's input, attention, output projection, sum with the
    skip edge, and two of the feed-forward net; every few blocks a long skip edge leads ahead, as in U-Nets. `memory` is
    all resident bytes / capacity of all slots. A route holds the link out of one slot's router and the one into the
    other's; without `links`, whose array grows with S**3, a slot's own port does that work instead.
    """
    rng = np.random.default_rng([segments, slots, seed])
    compute, resident, edges, sizes = _blocks(segments, rng)
    speed = rng.choice([1.0, 1.5, 2.0, 3.0, 4.0], slots)
    efficiency = rng.uniform(0.8, 1.0, (segments, slots))  # shapes suit some chips better
    side = int(np.ceil(np.sqrt(slots)))
    place = np.stack([np.arange(slots) // side, np.arange(slots) % side], axis=1)
    hops = np.abs(place[:, None] - place).sum(axis=2).astype(float)
    route_links = np.zeros((slots, slots, 2 * slots if links else 0), dtype=bool)
    if links:
        here, there = np.nonzero(hops)
        route_links[here, there, here] = True
        route_links[here, there, slots + there] = True
    share = rng.uniform(0.7, 1.3, slots)
    return MappingProblem(
        compute_ms=compute[:, None] / speed / efficiency,
        energy_mj=compute[:, None] * rng.uniform(0.5, 2.0, slots),
        edges=edges,
        edge_bytes=sizes,
        route_latency_ms=hops * 1e-4,
        route_ms_per_byte=(hops > 0) * MS_PER_BYTE,
        route_mj_per_byte=hops * MJ_PER_BYTE,
        route_links=route_links,
        resident_bytes=resident,
        workspace_bytes=np.zeros(segments),
        capacity_bytes=np.ceil(np.maximum(share / share.sum() * resident.sum() / memory, resident.max())),
        allowed=np.ones((segments, slots), dtype=np.bool_),
        port_in_ms_per_byte=np.full(slots, 0.0 if links else MS_PER_BYTE),
        port_out_ms_per_byte=np.full(slots, 0.0 if links else MS_PER_BYTE),
        regime=regime,  # type: ignore[arg-type]
    )


def _blocks(segments: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return ms on the slowest slot [K], bytes [K], edges [E, 2] and their bytes [E]."""
    inputs = ((-1,), (-1,), (-1,), (0, 1, 2), (3,), (4, -1), (5,), (6,))  # of a block; -1: the block before's end
    weight = np.array([1.0, 1.0, 1.0, 0.6, 1.0, 0.05, 4.0, 4.0])
    held = np.array([1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 4.0, 4.0])
    k = np.arange(segments)
    width = np.repeat(rng.uniform(0.5, 2.0, segments // 8 + 1), 8)[:segments]
    compute = 0.1 * weight[k % 8] * width * rng.uniform(0.9, 1.1, segments)
    resident = np.ceil(1e6 * held[k % 8] * width)
    pairs = [(8 * (i // 8) + j, i) for i in k.tolist() for j in inputs[i % 8] if 8 * (i // 8) + j >= 0]
    pairs += [(i, i + 24) for i in range(7, segments - 24, 40)]
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return compute, resident, edges, np.ceil(1e5 * width[edges[:, 0]])
