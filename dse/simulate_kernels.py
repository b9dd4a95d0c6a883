"""The event loop of the simulator, compiled. Imported only where a simulation runs."""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Events of one instant come in this order, then by input, then by segment or edge; only then do slots start work.
FINISH, READY, ARRIVE = 0, 1, 2


@njit(cache=True)
def _push(times: Floats, codes: Ints, size: int, time: float, code: int) -> int:
    """Insert into the binary heap ordered by (time, code); return its new size."""
    child = size
    while child > 0:
        parent = (child - 1) >> 1
        if times[parent] < time or (times[parent] == time and codes[parent] < code):
            break
        times[child], codes[child] = times[parent], codes[parent]
        child = parent
    times[child], codes[child] = time, code
    return size + 1


@njit(cache=True)
def _pop(times: Floats, codes: Ints, size: int) -> int:
    """Remove the least entry (read it at index 0 before); return the new size."""
    size -= 1
    time, code = times[size], codes[size]
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            times[right] < times[child] or (times[right] == times[child] and codes[right] < codes[child])
        ):
            child = right
        if time < times[child] or (time == times[child] and code < codes[child]):
            break
        times[hole], codes[hole] = times[child], codes[child]
        hole = child
    times[hole], codes[hole] = time, code
    return size


@njit(cache=True)
def _feed(
    i: int, k: int, pending: Ints, slot: Ints, base: Ints, work_time: Floats, work: Ints, work_size: Ints
) -> None:
    """Take one off the inputs that segment k of input i waits for; queue it on its slot when it waits for none."""
    pending[i, k] -= 1
    if pending[i, k] <= 0:
        s = slot[k]
        lo, hi = base[s], base[s + 1]
        work_size[s] = _push(work_time[lo:hi], work[lo:hi], work_size[s], 0.0, i * len(slot) + k)


@njit(cache=True)
def run_events(
    compute_ms: Floats,  # [K] on its slot
    slot: Ints,  # [K]
    n_slots: int,
    producer_start: Ints,  # [K + 1] edges by producer: order[producer_start[k]:producer_start[k + 1]]
    order: Ints,  # [E]
    consumer: Ints,  # [E]
    remote: NDArray[np.bool_],  # [E] between slots: a transfer; else only an order
    hold_ms: Floats,  # [E] for which a transfer holds its links
    latency_ms: Floats,  # [E] after which its last byte arrives
    link_start: Ints,  # [E + 1] links of a transfer: link[link_start[e]:link_start[e + 1]]
    link: Ints,
    n_links: int,
    inputs: int,
    window: int,  # inputs in flight at most
    contention: bool,
) -> tuple[Any, ...]:
    """Return start, end of compute [inputs, K]; start, arrival of transfers [inputs, E]; whether any waited."""
    K, E = len(compute_ms), len(consumer)
    start, end = np.zeros((inputs, K)), np.zeros((inputs, K))
    sent, arrived = np.zeros((inputs, E)), np.zeros((inputs, E))
    waited = False

    missing = np.zeros(K, np.int64)  # edges into a segment
    for e in range(E):
        missing[consumer[e]] += 1
    pending = np.empty((inputs, K), np.int64)
    unfinished = np.full(inputs, K)

    # Ready work of each slot: a heap of input * K + segment, so the oldest input comes first, then the lowest segment.
    base = np.zeros(n_slots + 1, np.int64)
    for k in range(K):
        base[slot[k] + 1] += window
    base = np.cumsum(base)
    work, work_time, work_size = np.empty(base[-1], np.int64), np.zeros(base[-1]), np.zeros(n_slots, np.int64)

    capacity = n_slots + window * E + 1
    times, codes, size = np.empty(capacity), np.empty(capacity, np.int64), 0
    width = max(K, E) + 1
    kind_width = inputs * width

    idle = np.ones(n_slots, np.bool_)
    free_at = np.zeros(n_links)
    now, admitted, in_flight = 0.0, 0, 0

    while True:
        while in_flight < window and admitted < inputs:
            pending[admitted, :] = missing
            for k in range(K):
                if missing[k] == 0:
                    _feed(admitted, k, pending, slot, base, work_time, work, work_size)
            admitted += 1
            in_flight += 1
        if size == 0 or times[0] > now:  # all that happens now has happened
            for s in range(n_slots):
                if idle[s] and work_size[s] > 0:
                    lo, hi = base[s], base[s + 1]
                    i, k = divmod(work[lo], K)
                    work_size[s] = _pop(work_time[lo:hi], work[lo:hi], work_size[s])
                    idle[s] = False
                    start[i, k] = now
                    end[i, k] = now + compute_ms[k]
                    size = _push(times, codes, size, end[i, k], FINISH * kind_width + i * width + k)
            if size == 0:
                break
        now = times[0]
        kind, rest = divmod(codes[0], kind_width)
        i, index = divmod(rest, width)
        size = _pop(times, codes, size)
        if kind == FINISH:
            idle[slot[index]] = True
            unfinished[i] -= 1
            if unfinished[i] == 0:
                in_flight -= 1
            for position in range(producer_start[index], producer_start[index + 1]):
                e = order[position]
                if remote[e]:
                    size = _push(times, codes, size, now, READY * kind_width + i * width + e)
                else:
                    _feed(i, consumer[e], pending, slot, base, work_time, work, work_size)
        elif kind == READY:
            begin = now
            if contention:
                for position in range(link_start[index], link_start[index + 1]):
                    begin = max(begin, free_at[link[position]])
                for position in range(link_start[index], link_start[index + 1]):
                    free_at[link[position]] = begin + hold_ms[index]
                waited = waited or begin > now
            sent[i, index] = begin
            arrived[i, index] = begin + (latency_ms[index] + hold_ms[index])
            size = _push(times, codes, size, arrived[i, index], ARRIVE * kind_width + i * width + index)
        else:
            _feed(i, consumer[index], pending, slot, base, work_time, work, work_size)
    return start, end, sent, arrived, waited
