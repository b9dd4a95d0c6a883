"""Compiled annealing by incremental moves of units: one, two that change places, blocks, whole slots."""

from __future__ import annotations

import numpy as np
from numba import njit

from solvers.mapping._incremental import (
    EXCESS,
    MOVED,
    TOP,
    apply,
    begin,
    exact_value,
    fits,
    keep,
    plan,
    reset,
    revert,
    smooth_value,
)
from solvers.mapping._random import random

FOCUS = 0.4  # share of moves that begin at the resource loaded most
BLOCK = 24  # units of a block at most
REFRESH = 20_000  # moves kept before sums are worked out anew: rounding adds up
ROUNDING = 1e-12  # of sums
BEYOND = 20.0  # price of passing a limit, a multiple of the objective for each multiple of the limit


@njit(cache=True, forceinline=True, _nrt=False)
def _below(state, n):  # type: ignore[no-untyped-def]
    return int(random(state) * n)


@njit(cache=True, forceinline=True, _nrt=False)
def _on_slot(t, s, slot, state):  # type: ignore[no-untyped-def]
    """Return a random unit of a slot, -1 where it is empty."""
    if s.users[slot] == 0:
        return -1
    i = _below(state, s.users[slot])
    if s.units[slot] > i:  # mode s is slot s alone
        return s.on[slot, i]
    i -= s.units[slot]
    for m in range(t.capacity.shape[0], t.compute.shape[1]):
        for j in range(t.member_first[m], t.member_first[m + 1]):
            if t.member[j] == slot:
                if s.units[m] > i:
                    return s.on[m, i]
                i -= s.units[m]
    return -1


@njit(cache=True, forceinline=True, _nrt=False)
def _on_link(t, s, link, state):  # type: ignore[no-untyped-def]
    """Return a unit with an edge over the link, found at random, or -1."""
    units, modes = t.compute.shape
    for _ in range(8):
        u = _below(state, units)
        for e in range(t.near_first[u], t.near_first[u + 1]):
            p, q = s.at[u], s.at[t.near[e]]
            route = p * modes + q if t.near_out[e] else q * modes + p
            for h in range(t.hop_first[route], t.hop_first[route + 1]):
                if t.hop[h] == link:
                    return u
    return -1


@njit(cache=True, forceinline=True, _nrt=False)
def _pick(t, s, state):  # type: ignore[no-untyped-def]
    """Return the unit to move: half of the time one that loads the busiest resource."""
    u = -1
    if t.time_w > 0.0 and random(state) < FOCUS:
        slots = t.capacity.shape[0]
        top = s.number[TOP]
        u = _on_slot(t, s, top, state) if top < slots else _on_link(t, s, top - slots, state)
    return u if u >= 0 else _below(state, s.at.shape[0])


@njit(cache=True, forceinline=True, _nrt=False)
def _target(t, s, u, state):  # type: ignore[no-untyped-def]
    """Return the mode to move it to: a neighbour's, the less loaded of two candidates, or any candidate."""
    r = random(state)
    near = t.near_first[u + 1] - t.near_first[u]
    if r < 0.5 and near > 0:
        q = s.at[t.near[t.near_first[u] + _below(state, near)]]
        if q != s.at[u]:
            return q
    choices = t.candidates.shape[1]
    q = t.candidates[u, _below(state, choices)]
    if r < 0.8:
        other = t.candidates[u, _below(state, choices)]
        if s.load[t.member[t.member_first[other]]] < s.load[t.member[t.member_first[q]]]:
            q = other
    return q


@njit(cache=True, _nrt=False)
def _block(t, s, u, q, size, direction, state):  # type: ignore[no-untyped-def]
    """Plan that u and up to size - 1 units that it is joined to on its mode go to mode q.

    direction 1 follows ordering edges to later units, -1 to earlier ones, 0 any edge.
    """
    p = s.at[u]
    first = done = s.number[MOVED]
    plan(s, u, q)
    while done < s.number[MOVED]:
        v = s.moved[done]
        done += 1
        near = t.near_first[v + 1] - t.near_first[v]
        begin_at = _below(state, near) if near > 0 else 0
        for i in range(near):
            e = t.near_first[v] + (begin_at + i) % near
            along = direction == 0 or (t.near_ordering[e] and t.near_out[e] == (direction == 1))
            if along and s.number[MOVED] - first < size and s.at[t.near[e]] == p:
                plan(s, t.near[e], q)


@njit(cache=True, _nrt=False)
def _exchange(s, p, q):  # type: ignore[no-untyped-def]
    """Plan that everything on mode p goes to q, and everything on q to p; so do their places among the stages."""
    for i in range(s.units[p]):
        plan(s, s.on[p, i], q)
    for i in range(s.units[q]):
        plan(s, s.on[q, i], p)
    s.rank[p], s.rank[q] = s.rank[q], s.rank[p]


@njit(cache=True, _nrt=False)
def _open(s, p, q, after):  # type: ignore[no-untyped-def]
    """Put mode q, which is empty, right before or after p in the order of stages."""
    old = s.rank[q]
    for m in range(s.rank.shape[0]):
        if s.rank[m] > old:
            s.rank[m] -= 1
    new = s.rank[p] + (1 if after else 0)
    for m in range(s.rank.shape[0]):
        if m != q and s.rank[m] >= new:
            s.rank[m] += 1
    s.rank[q] = new


@njit(cache=True, _nrt=False)
def _propose(t, s, state):  # type: ignore[no-untyped-def]
    """Plan a move; return the two modes that it exchanges as a whole, or -1 twice."""
    u = _pick(t, s, state)
    p = s.at[u]
    q = _target(t, s, u, state)
    whole = False
    kind = random(state)
    if p == q:
        return -1, -1
    if t.contiguous:
        if s.units[q] == 0:
            _open(s, p, q, random(state) < 0.5)
        if kind < 0.4:
            plan(s, u, q)
        elif kind < 0.95:
            _block(t, s, u, q, s.at.shape[0], 1 if s.rank[q] > s.rank[p] else -1, state)
        else:
            whole = True
    elif kind < 0.5:
        plan(s, u, q)
    elif kind < 0.75:
        v = s.on[q, _below(state, s.units[q])] if s.units[q] > 0 else -1
        plan(s, u, q)
        if v >= 0:
            plan(s, v, p)
    elif kind < 0.995:
        size = 2 + _below(state, BLOCK - 1)
        _block(t, s, u, q, size, 0, state)
        if kind > 0.93 and s.units[q] > 0:  # and as many back
            _block(t, s, s.on[q, _below(state, s.units[q])], p, size, 0, state)
    else:
        whole = True
    if whole:
        _exchange(s, p, q)
        return p, q
    return -1, -1


@njit(cache=True, _nrt=False)
def anneal(t, s, moves, hot, cold, squarings, full, state, best, best_rank, best_value):  # type: ignore[no-untyped-def]
    """Make `moves` proposals while the temperature falls from hot to cold, both in units of the objective.

    A slot that is fuller than it can be costs `full` for each of its capacity beyond it; inf where none may be.
    best [U] becomes the best mapping met within all limits that is better than best_value, with its order of stages;
    returns its value.
    """
    reset(t, s, squarings)
    begin(s)
    value, beyond = smooth_value(t, s)
    unit_price = BEYOND * max(value, 1e-300)
    value += unit_price * beyond
    hard = full == np.inf
    if not hard:
        value += full * s.total[EXCESS]
    temperature = hot
    cooling = (cold / hot) ** (1.0 / max(moves, 1))
    kept = 0
    for _ in range(moves):
        temperature *= cooling
        begin(s)
        p, q = _propose(t, s, state)
        if s.number[MOVED] == 0:
            continue
        apply(t, s)
        good = fits(t, s, hard)
        if good:
            after, beyond = smooth_value(t, s)
            after += unit_price * beyond
            if not hard:
                after += full * s.total[EXCESS]
            good = after <= value or random(state) < np.exp((value - after) / temperature)
        if not good:
            revert(t, s)
            if p >= 0:
                s.rank[p], s.rank[q] = s.rank[q], s.rank[p]
            continue
        value = after
        keep(s)
        kept += 1
        if kept % REFRESH == 0:
            reset(t, s, squarings)
            begin(s)
            value, beyond = smooth_value(t, s)
            value += unit_price * beyond
            if not hard:
                value += full * s.total[EXCESS]
        if s.total[EXCESS] > ROUNDING:
            continue
        exact = exact_value(t, s)
        if exact < best_value * (1.0 - 1e-12):
            best_value = exact
            for u in range(best.shape[0]):
                best[u] = s.at[u]
            for m in range(best_rank.shape[0]):
                best_rank[m] = s.rank[m]
    return best_value
