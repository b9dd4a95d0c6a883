"""The compiled dynamic programme over contiguous stages. Loaded only when used."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray


class Stages(NamedTuple):
    """What stages [a, b) on G kinds of slots cost. Of two kinds [G, G], the first is that of the stage before."""

    limit: NDArray[np.int64]  # [G, K] the largest b that a stage from a can have on kind s
    step: NDArray[np.int64]  # [M, G] state of used slots after one more of kind s, -1 where none is left
    load: NDArray[np.float64]  # [G, K] of a segment, ms
    weight: NDArray[np.float64]  # [G, K] additive cost of a segment
    fixed: NDArray[np.float64]  # [G, G] additive cost of a crossing
    time_bytes: NDArray[np.float64]  # [K, K + 1] into stage [a, b): load of the route, or waited for
    load_rate: NDArray[np.float64]  # [G, G] ms a byte
    wait_rate: NDArray[np.float64]  # [G, G] additive cost a byte
    near_bytes: NDArray[np.float64]  # [K, K + 1] into stage [a, b) from segment a - 1
    near_rate: NDArray[np.float64]  # [G, G] additive cost a byte
    far_bytes: NDArray[np.float64]  # [K, K + 1] into stage [a, b) from segments before a - 1
    far_rate: NDArray[np.float64]  # [G, G] additive cost a byte


@njit(cache=True)
def best_stages(stages, additive, most_load):  # type: ignore[no-untyped-def]
    """Return the least cost, its stages' first segments and their kinds (both empty where there are none).

    additive   cost is the sum over stages; the load of each is at most `most_load`.
    otherwise  cost is the largest load (and at most `most_load`).
    """
    kinds, segments = stages.limit.shape
    states = len(stages.step)
    best = np.full((segments + 1, states, kinds), np.inf)
    from_start = np.full((segments + 1, states, kinds), -1, dtype=np.int32)
    from_state = np.zeros((segments + 1, states, kinds), dtype=np.int32)
    from_kind = np.zeros((segments + 1, states, kinds), dtype=np.int32)
    for a in range(segments):
        for m in range(states if a else 1):
            for q in range(kinds if a else 1):
                so_far = best[a, m, q] if a else 0.0
                if so_far == np.inf:
                    continue
                for s in range(kinds):
                    after = stages.step[m, s]
                    if after < 0:
                        continue
                    inside, added = 0.0, so_far + (stages.fixed[q, s] if a else 0.0)
                    for b in range(a + 1, stages.limit[s, a] + 1):
                        inside += stages.load[s, b - 1]
                        added += stages.weight[s, b - 1]
                        if inside > most_load:
                            break
                        load, cost = inside, added
                        if a:
                            load = max(load, stages.time_bytes[a, b] * stages.load_rate[q, s])
                            cost += stages.time_bytes[a, b] * stages.wait_rate[q, s]
                            cost += stages.near_bytes[a, b] * stages.near_rate[q, s]
                            cost += stages.far_bytes[a, b] * stages.far_rate[q, s]
                        if load > most_load:
                            continue
                        if not additive:
                            cost = max(so_far, load)
                        if cost < best[b, after, s]:
                            best[b, after, s] = cost
                            from_start[b, after, s] = a
                            from_state[b, after, s] = m
                            from_kind[b, after, s] = q
    value, m, s = np.inf, -1, -1
    for state in range(states):
        for kind in range(kinds):
            if best[segments, state, kind] < value:
                value, m, s = best[segments, state, kind], state, kind
    starts, chosen = np.zeros(segments, dtype=np.int64), np.zeros(segments, dtype=np.int64)
    count, b = 0, segments
    while m >= 0 and b > 0:
        starts[count], chosen[count] = from_start[b, m, s], s
        count += 1
        a, before, kind = from_start[b, m, s], from_state[b, m, s], from_kind[b, m, s]
        b, m, s = a, before, kind
    return value, starts[:count][::-1].copy(), chosen[:count][::-1].copy()


@njit(cache=True)
def stage_limits(allowed, resident, workspace, capacity):  # type: ignore[no-untyped-def]
    """[G, K] the largest b for which segments [a, b) may run together on each kind of slot; a where not even one."""
    segments, kinds = allowed.shape
    limit = np.zeros((kinds, segments), dtype=np.int64)
    for s in range(kinds):
        for a in range(segments):
            held, largest, b = 0.0, 0.0, a
            while b < segments and allowed[b, s]:
                held += resident[b]
                largest = max(largest, workspace[b])
                if held + largest > capacity[s]:
                    break
                b += 1
            limit[s, a] = b
    return limit
