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
    i: int,
    k: int,
    pending: Ints,
    member: Ints,
    first: int,
    last: int,
    base: Ints,
    work_time: Floats,
    work: Ints,
    work_size: Ints,
) -> None:
    """Take one off the inputs that segment k of input i waits for; queue it on its slots when it waits for none."""
    pending[i, k] -= 1
    if pending[i, k] <= 0:
        for position in range(first, last):
            s = member[position]
            lo, hi = base[s], base[s + 1]
            work_size[s] = _push(work_time[lo:hi], work[lo:hi], work_size[s], 0.0, i * pending.shape[1] + k)


@njit(cache=True)
def _all_at_its_turn(
    code: int, member: Ints, first: int, last: int, idle: NDArray[np.bool_], base: Ints, work: Ints, work_size: Ints
) -> bool:
    """Whether all slots of a segment are idle, and it is the next of each."""
    for position in range(first, last):
        s = member[position]
        if not idle[s] or work_size[s] == 0 or work[base[s]] != code:
            return False
    return True


@njit(cache=True)
def _hold(now: float, first: int, last: int, link: Ints, hold_ms: Floats, free_at: Floats) -> float:
    """Hold links from the instant at which all of them are free, each for its own time; return that instant."""
    begin = now
    for position in range(first, last):
        begin = max(begin, free_at[link[position]])
    for position in range(first, last):
        free_at[link[position]] = begin + hold_ms[position]
    return begin


@njit(cache=True)
def run_events(
    compute_ms: Floats,  # [R, K] on its slots; input i runs as variant i % R
    member_start: Ints,  # [R * K + 1] slots of segment k of variant v: member[member_start[v * K + k]:...]
    member: Ints,
    n_slots: int,
    producer_start: Ints,  # [K + 1] edges by producer: order[producer_start[k]:producer_start[k + 1]]
    order: Ints,  # [E]
    consumer: Ints,  # [E]
    remote: NDArray[np.bool_],  # [R, E] between slots: a transfer; else only an order
    carry_ms: Floats,  # [R, E] for which a transfer is on its links
    latency_ms: Floats,  # [R, E] after which its last byte arrives
    link_start: Ints,  # [R * E + 1] links of a transfer: link[link_start[v * E + e]:...], each held for hold_ms
    link: Ints,
    hold_ms: Floats,
    inner_start: Ints,  # [R * K + 1] links of a segment's collectives, in the same way
    inner_link: Ints,
    inner_ms: Floats,
    n_links: int,
    inputs: int,
    window: int,  # inputs in flight at most
    contention: bool,
) -> tuple[Any, ...]:
    """Return start, end of compute [inputs, K]; start, arrival of transfers [inputs, E]; whether any waited."""
    (R, K), E = compute_ms.shape, len(consumer)
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
    for position in range(len(member)):
        base[member[position] + 1] += window
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
                    row = admitted % R * K + k
                    first, last = member_start[row], member_start[row + 1]
                    _feed(admitted, k, pending, member, first, last, base, work_time, work, work_size)
            admitted += 1
            in_flight += 1
        if size == 0 or times[0] > now:  # all that happens now has happened
            for s in range(n_slots):
                if not idle[s] or work_size[s] == 0:
                    continue
                code = work[base[s]]
                i, k = divmod(code, K)
                row = i % R * K + k
                first, last = member_start[row], member_start[row + 1]
                if not _all_at_its_turn(code, member, first, last, idle, base, work, work_size):
                    continue  # a team starts together: until all of it is free, this slot waits
                for position in range(first, last):
                    t = member[position]
                    lo, hi = base[t], base[t + 1]
                    work_size[t] = _pop(work_time[lo:hi], work[lo:hi], work_size[t])
                    idle[t] = False
                begin = now
                if contention:
                    begin = _hold(now, inner_start[row], inner_start[row + 1], inner_link, inner_ms, free_at)
                    waited = waited or begin > now
                start[i, k] = now
                end[i, k] = begin + compute_ms[i % R, k]
                size = _push(times, codes, size, end[i, k], FINISH * kind_width + i * width + k)
            if size == 0:
                break
        now = times[0]
        kind, rest = divmod(codes[0], kind_width)
        i, index = divmod(rest, width)
        v = i % R
        size = _pop(times, codes, size)
        if kind == FINISH:
            for position in range(member_start[v * K + index], member_start[v * K + index + 1]):
                idle[member[position]] = True
            unfinished[i] -= 1
            if unfinished[i] == 0:
                in_flight -= 1
            for position in range(producer_start[index], producer_start[index + 1]):
                e = order[position]
                if remote[v, e]:
                    size = _push(times, codes, size, now, READY * kind_width + i * width + e)
                else:
                    row = v * K + consumer[e]
                    first, last = member_start[row], member_start[row + 1]
                    _feed(i, consumer[e], pending, member, first, last, base, work_time, work, work_size)
        elif kind == READY:
            begin = now
            if contention:
                row = v * E + index
                begin = _hold(now, link_start[row], link_start[row + 1], link, hold_ms, free_at)
                waited = waited or begin > now
            sent[i, index] = begin
            arrived[i, index] = begin + (latency_ms[v, index] + carry_ms[v, index])
            size = _push(times, codes, size, arrived[i, index], ARRIVE * kind_width + i * width + index)
        else:
            row = v * K + consumer[index]
            first, last = member_start[row], member_start[row + 1]
            _feed(i, consumer[index], pending, member, first, last, base, work_time, work, work_size)
    return start, end, sent, arrived, waited
