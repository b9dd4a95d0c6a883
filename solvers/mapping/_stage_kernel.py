"""The compiled dynamic programmes over stages of a sequence of items. Loaded only when used.

The sequence runs from the pipeline's end to its start, so that the stages that a stage is followed by are known when it
is added: they say how many inputs it holds in flight.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray


class Stages(NamedTuple):
    """What stages [a, b) of I items on G kinds of slots cost. Of two kinds [G, G], the first runs after the other."""

    step: NDArray[np.int64]  # [N, G] state of used slots after one more of kind s, -1 where none is left
    depth: NDArray[np.int64]  # [N] stages in a state, most_in_flight at most
    allowed: NDArray[np.bool_]  # [G, I]
    load: NDArray[np.float64]  # [G, I] of an item, ms
    weight: NDArray[np.float64]  # [G, I] additive cost of an item
    held: NDArray[np.float64]  # [G, I] bytes
    stash: NDArray[np.float64]  # [I] bytes an input in flight
    workspace: NDArray[np.float64]  # [I] bytes
    capacity: NDArray[np.float64]  # [G] bytes
    widest: NDArray[np.bool_]  # [G] the load of a stage is its largest item's, not their sum
    port_bytes: NDArray[np.float64]  # [2, I, I + 1] into and out of stage [a, b), or [2, 0, 0]
    port_rate: NDArray[np.float64]  # [2, G] ms a byte
    fixed: NDArray[np.float64]  # [G, G] additive cost of a crossing
    time_bytes: NDArray[np.float64]  # [I, I + 1] between stage [a, b) and the one after: load of the route, or wait
    load_rate: NDArray[np.float64]  # [G, G] ms a byte
    wait_rate: NDArray[np.float64]  # [G, G] additive cost a byte
    near_bytes: NDArray[np.float64]  # [I, I + 1] between stage [a, b) and item a - 1
    near_rate: NDArray[np.float64]  # [G, G] additive cost a byte
    far_bytes: NDArray[np.float64]  # [I, I + 1] between stage [a, b) and items before a - 1
    far_rate: NDArray[np.float64]  # [G, G] additive cost a byte


@njit(cache=True)
def _grow(stages, s, q, a, so_far, depth, additive, most_load, cost):  # type: ignore[no-untyped-def]
    """Fill cost [I + 1] at b with that of the stages so far and stage [a, b) of kind s after kind q (-1: none).

    Inf where it is too large. Returns the first b that cannot be reached.
    """
    items = stages.load.shape[1]
    computing, added, held, largest = 0.0, so_far, 0.0, 0.0
    if q >= 0:
        added += stages.fixed[q, s]
    ports = stages.port_bytes.shape[1] > 0
    for b in range(a + 1, items + 1):
        i = b - 1
        if not stages.allowed[s, i]:
            return b
        computing = max(computing, stages.load[s, i]) if stages.widest[s] else computing + stages.load[s, i]
        added += stages.weight[s, i]
        held += stages.held[s, i] + depth * stages.stash[i]
        largest = max(largest, stages.workspace[i])
        if computing > most_load or held + largest > stages.capacity[s]:
            return b
        load, total = computing, added
        if ports and not stages.widest[s]:
            load += stages.port_bytes[0, a, b] * stages.port_rate[0, s]
            load += stages.port_bytes[1, a, b] * stages.port_rate[1, s]
        if q >= 0:
            load = max(load, stages.time_bytes[a, b] * stages.load_rate[q, s])
            total += stages.time_bytes[a, b] * stages.wait_rate[q, s]
            total += stages.near_bytes[a, b] * stages.near_rate[q, s]
            total += stages.far_bytes[a, b] * stages.far_rate[q, s]
        if load > most_load:
            cost[b] = np.inf
        else:
            cost[b] = total if additive else max(so_far, load)
    return items + 1


@njit(cache=True)
def best_stages(stages, additive, most_load):  # type: ignore[no-untyped-def]
    """Return the least cost, its stages' first items and their kinds (both empty where there are none).

    additive   cost is the sum over stages; the load of each is at most `most_load`.
    otherwise  cost is the largest load (and at most `most_load`).
    """
    kinds, items = stages.load.shape
    states = len(stages.step)
    best = np.full((items + 1, states, kinds), np.inf)
    from_start = np.full((items + 1, states, kinds), -1, dtype=np.int32)
    from_state = np.zeros((items + 1, states, kinds), dtype=np.int32)
    from_kind = np.zeros((items + 1, states, kinds), dtype=np.int32)
    cost = np.empty(items + 1)
    for a in range(items):
        for m in range(states if a else 1):
            for q in range(kinds if a else 1):
                so_far = best[a, m, q] if a else 0.0
                if so_far == np.inf:
                    continue
                for s in range(kinds):
                    after = stages.step[m, s]
                    if after < 0:
                        continue
                    end = _grow(stages, s, q if a else -1, a, so_far, stages.depth[after], additive, most_load, cost)
                    for b in range(a + 1, end):
                        if cost[b] < best[b, after, s]:
                            best[b, after, s] = cost[b]
                            from_start[b, after, s] = a
                            from_state[b, after, s] = m
                            from_kind[b, after, s] = q
    value, m, s = np.inf, -1, -1
    for state in range(states):
        for kind in range(kinds):
            if best[items, state, kind] < value:
                value, m, s = best[items, state, kind], state, kind
    starts, chosen = np.zeros(items, dtype=np.int64), np.zeros(items, dtype=np.int64)
    count, b = 0, items
    while m >= 0 and b > 0:
        starts[count], chosen[count] = from_start[b, m, s], s
        count += 1
        a, before, kind = from_start[b, m, s], from_state[b, m, s], from_kind[b, m, s]
        b, m, s = a, before, kind
    return value, starts[:count][::-1].copy(), chosen[:count][::-1].copy()


@njit(cache=True)
def stages_in_order(stages, order, additive, most_load):  # type: ignore[no-untyped-def]
    """Return the same as `best_stages` where slots are used in the order [N] of their kinds given, any of them skipped.

    A skipped slot counts as one in flight, and as the stage before for what crosses: an approximation.
    """
    items = stages.load.shape[1]
    slots = order.shape[0]
    best = np.full((slots + 1, items + 1), np.inf)
    start = np.full((slots + 1, items + 1), -1, dtype=np.int32)
    best[0, 0] = 0.0
    cost = np.empty(items + 1)
    for j in range(slots):
        best[j + 1] = best[j]
        s, depth = order[j], stages.depth[min(j + 1, stages.depth.shape[0] - 1)]
        for a in range(items):
            so_far = best[j, a]
            if so_far == np.inf:
                continue
            q = order[j - 1] if a > 0 else -1
            end = _grow(stages, s, q, a, so_far, depth, additive, most_load, cost)
            for b in range(a + 1, end):
                if cost[b] < best[j + 1, b]:
                    best[j + 1, b] = cost[b]
                    start[j + 1, b] = a
    starts, chosen = np.zeros(slots, dtype=np.int64), np.zeros(slots, dtype=np.int64)
    count, b, j = 0, items, slots
    if best[slots, items] < np.inf:
        while b > 0:
            if start[j, b] >= 0:
                starts[count], chosen[count] = start[j, b], order[j - 1]
                count += 1
                b = start[j, b]
            j -= 1
    return best[slots, items], starts[:count][::-1].copy(), chosen[:count][::-1].copy()


@njit(cache=True)
def largest_load(stages, starts, kinds):  # type: ignore[no-untyped-def]
    """Return the load of the busiest stage or route of stages [N] as `best_stages` returns them."""
    items = stages.load.shape[1]
    cost = np.empty(items + 1)
    largest = 0.0
    for i in range(len(starts)):
        end = starts[i + 1] if i + 1 < len(starts) else items
        before = kinds[i - 1] if i else -1
        _grow(stages, kinds[i], before, starts[i], 0.0, 1, False, np.inf, cost)
        largest = max(largest, cost[end])
    return largest


@njit(cache=True)
def port_bytes(items, producer, first, consumer, size):  # type: ignore[no-untyped-def]
    """Return the bytes [2, I, I + 1] that enter and leave stages [a, b) of a sequence of items, each tensor once.

    Tensor t of `size` [T] comes from place `producer` [T] and goes to the places consumer[first[t]:first[t + 1]], which
    are sorted, each once, and others than its own.
    """
    tensors = len(size)
    table = np.zeros((2, items, items + 1))
    made_first = np.zeros(items + 1, np.int64)
    read_first = np.zeros(items + 1, np.int64)
    for t in range(tensors):
        made_first[producer[t] + 1] += 1
        for i in range(first[t], first[t + 1]):
            read_first[consumer[i] + 1] += 1
    made_first, read_first = np.cumsum(made_first), np.cumsum(read_first)
    made, read = np.empty(tensors, np.int64), np.empty(len(consumer), np.int64)
    made_at, read_at = made_first.copy(), read_first.copy()
    for t in range(tensors):
        made[made_at[producer[t]]] = t
        made_at[producer[t]] += 1
        for i in range(first[t], first[t + 1]):
            read[read_at[consumer[i]]] = t
            read_at[consumer[i]] += 1
    enters, leaves = np.full(tensors, -1, np.int64), np.full(tensors, -1, np.int64)  # stages that begin at this place
    for a in range(items):
        into, out = 0.0, 0.0
        for b in range(a, items):
            for i in range(read_first[b], read_first[b + 1]):
                t = read[i]
                low, high = consumer[first[t]], consumer[first[t + 1] - 1]
                if a <= producer[t] < b:
                    if leaves[t] == a and low >= a and high <= b:
                        out -= size[t]
                        leaves[t] = -1
                elif enters[t] != a:
                    into += size[t]
                    enters[t] = a
            for i in range(made_first[b], made_first[b + 1]):
                t = made[i]
                low, high = consumer[first[t]], consumer[first[t + 1] - 1]
                if enters[t] == a:
                    into -= size[t]
                if low < a or high > b:
                    out += size[t]
                    leaves[t] = a
            table[0, a, b + 1], table[1, a, b + 1] = into, out
    return table
