"""Chains of segments on heterogeneous slots in a mesh, memory nearly full: what latency solvers are measured on."""

from __future__ import annotations

import numpy as np

from solvers.mapping.problem import MappingProblem


def chain(segments: int, slots: int, *, seed: int = 0, full: float = 0.85) -> MappingProblem:
    """Return a serial chain of `segments` on `slots` of a near-square mesh; `full` is all bytes / all memory
    (less where a slot would hold no segment at all).

    Segments take 1 to 3 ms, a chip is up to 4 times as fast as another, and within 30 % of that for a segment; a hop of
    the mesh takes 0.02 ms, and 1 MB crosses it in 0.1 ms.
    """
    rng = np.random.default_rng([segments, slots, seed])
    speed = rng.uniform(1.0, 4.0, slots)
    compute_ms = rng.uniform(1.0, 3.0, (segments, 1)) * 2 / speed * rng.uniform(0.7, 1.3, (segments, slots))
    columns = int(np.ceil(np.sqrt(slots)))
    row, column = np.divmod(np.arange(slots), columns)
    hops = np.abs(row[:, None] - row) + np.abs(column[:, None] - column)
    resident = np.round(rng.lognormal(0.0, 0.6, segments) * 1e6)
    share = rng.uniform(0.5, 1.5, slots)
    return MappingProblem(
        compute_ms=compute_ms,
        energy_mj=np.zeros_like(compute_ms),
        edges=np.stack([np.arange(segments - 1), np.arange(1, segments)], axis=1),
        edge_bytes=np.round(rng.uniform(0.1e6, 2e6, segments - 1)),
        route_latency_ms=0.02 * hops,
        route_ms_per_byte=1e-7 * hops.astype(float),
        route_mj_per_byte=np.zeros((slots, slots)),
        route_links=np.zeros((slots, slots, 0)),
        resident_bytes=resident,
        workspace_bytes=np.zeros(segments),
        capacity_bytes=np.maximum(np.ceil(share / share.sum() * resident.sum() / full), resident.max()),
        allowed=np.ones((segments, slots), dtype=np.bool_),
    )
