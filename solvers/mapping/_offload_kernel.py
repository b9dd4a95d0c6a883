"""Compiled annealing of an offload: stretches of the graph move between calls and the host."""

from __future__ import annotations

import numpy as np
from numba import njit

from solvers.mapping._annealing import COLD, WEIGHTED, _below, _follow, _random, _swap_slots, _value
from solvers.mapping._kernels import overfull, staged, work_for

LONGEST_WALK = 40  # edges from one end of a stretch that moves to the other


@njit(cache=True)
def stretch(a, low, high, inside, y, slot):  # type: ignore[no-untyped-def]
    """Put everything that lies on a way from segment low to segment high, both included, on the slot."""
    inside[low] = True
    for k in range(low + 1, high + 1):
        inside[k] = False
        for e in range(a.first[k], a.first[k + 1]):
            if a.source[e] >= low and inside[a.source[e]]:
                inside[k] = True
                break
    if not inside[high]:
        return
    for k in range(high - 1, low - 1, -1):
        if inside[k]:
            leads = False
            for i in range(a.out_first[k], a.out_first[k + 1]):
                j = a.target[a.out_edge[i]]
                if j <= high and inside[j]:
                    leads = True
                    break
            inside[k] = leads
    for k in range(low, high + 1):
        if inside[k]:
            y[k] = slot


@njit(cache=True)
def _neighbour(a, x, k, state):  # type: ignore[no-untyped-def]
    """Return the slot of a random input or consumer of segment k; its own where it has none."""
    inputs, outputs = a.first[k + 1] - a.first[k], a.out_first[k + 1] - a.out_first[k]
    if inputs + outputs == 0:
        return x[k]
    n = _below(state, inputs + outputs)
    if n < inputs:
        return x[a.source[a.first[k] + n]]
    return x[a.target[a.out_edge[a.out_first[k] + n - inputs]]]


@njit(cache=True)
def _walk(a, k, length, forward, state):  # type: ignore[no-untyped-def]
    """Return where a random way of at most `length` edges from segment k ends."""
    for _ in range(length):
        if forward:
            n = a.out_first[k + 1] - a.out_first[k]
            if n == 0:
                break
            k = a.target[a.out_edge[a.out_first[k] + _below(state, n)]]
        else:
            n = a.first[k + 1] - a.first[k]
            if n == 0:
                break
            k = a.source[a.first[k] + _below(state, n)]
    return k


@njit(cache=True)
def _propose(a, x, y, inside, state):  # type: ignore[no-untyped-def]
    """Change y, a copy of x: move a segment, a stretch, the head or tail of a call; swap two segments, or slots."""
    segments, modes = a.compute.shape
    k = _below(state, segments)
    u = _random(state)
    slot = _neighbour(a, x, k, state) if _random(state) < 0.6 else _below(state, modes)
    if u < 0.35:
        y[k] = slot
    elif u < 0.7:
        length = 1 + int(LONGEST_WALK ** _random(state))
        if _random(state) < 0.5:
            stretch(a, k, _walk(a, k, length, True, state), inside, y, slot)
        else:
            stretch(a, _walk(a, k, length, False, state), k, inside, y, slot)
    elif u < 0.8:  # what a full memory and a host need
        other = _below(state, segments)
        y[k], y[other] = x[other], x[k]
    elif u < 0.97:  # of the call of k, all, what comes before k, or what comes after it
        low, high = 0, segments
        if u < 0.88:
            low = k
        elif u < 0.95:
            high = k + 1
        for i in range(low, high):
            if x[i] == x[k]:
                y[i] = slot
    else:
        _swap_slots(x, y, x[k], slot)
    if a.units < segments:
        _follow(a, x, y)


@njit(cache=True)
def anneal_calls(a, weight, moves, hot, seed, x):  # type: ignore[no-untyped-def]
    """Anneal from x (legal) for `moves` proposals; x becomes the best met. Returns its value.

    The temperature falls from `hot` to COLD, in units of the value of x.
    """
    segments = a.compute.shape[0]
    w = work_for(a)
    state = np.empty(1, np.uint64)
    state[0] = np.uint64(seed * 2654435769 + 88172645463325252)
    for _ in range(8):
        _random(state)
    now, y = x.copy(), x.copy()
    inside = np.zeros(segments, np.bool_)
    order = np.arange(segments)
    value = _value(a, WEIGHTED, weight, np.inf, x, order, w)
    best = value
    temperature = hot * value
    cooling = (COLD / hot) ** (1.0 / max(moves, 1))
    for _ in range(moves):
        temperature *= cooling
        _propose(a, now, y, inside, state)
        fine, same = True, True
        for k in range(segments):
            if y[k] != now[k]:
                same = False
                if not a.ok[k, y[k]]:
                    fine = False
        if same:
            continue
        if fine and a.contiguous:
            fine = staged(a, y, w)
        if fine and overfull(a, y, w) == 0.0:
            limit = value - temperature * np.log(_random(state))  # Metropolis, the coin tossed first
            after = _value(a, WEIGHTED, weight, limit, y, order, w)
            if after <= limit and after < np.inf:
                value = after
                now[:] = y
                if after < best:
                    best = after
                    x[:] = y
                continue
        y[:] = now
    return best
