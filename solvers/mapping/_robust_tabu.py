"""Compiled tabu search over permutations of symmetric quadratic assignment, and what breeds new ones from two.

A solution p [n] puts item i on place p[i]; its cost is the sum over pairs i < j of flow[i, j] * distance[p[i], p[j]],
and over items of linear[i, p[i]]. Matrices are symmetric with zero diagonals.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from solvers.mapping._random import random

# The least of a row is found with vector instructions only where NaN and the sign of zero need no care; none occurs.
_VECTOR = {"nnan", "nsz"}


@njit(cache=True)
def cost_of(flow, distance, linear, p):  # type: ignore[no-untyped-def]
    """Return the cost of p."""
    total = 0.0
    for i in range(p.shape[0]):
        total += linear[i, p[i]]
        for j in range(i + 1, p.shape[0]):
            total += flow[i, j] * distance[p[i], p[j]]
    return total


@njit(cache=True, fastmath=_VECTOR | {"reassoc", "contract"})
def _swap_delta(flow, linear, p, placed, i, j):  # type: ignore[no-untyped-def]
    """Return what exchanging the places of i and j adds to the cost; `placed` [n, n] is distance[p[i], p[j]]."""
    n = p.shape[0]
    total = 0.0
    for k in range(n):
        total += (flow[i, k] - flow[j, k]) * (placed[j, k] - placed[i, k])
    # k = i and k = j were counted as if i and j did not exchange with each other
    total += 2.0 * flow[i, j] * placed[i, j]
    return total + linear[i, p[j]] + linear[j, p[i]] - linear[i, p[i]] - linear[j, p[j]]


@njit(cache=True, fastmath=_VECTOR | {"contract"})
def _update(delta, rise, fall):  # type: ignore[no-untyped-def]
    """Bring delta [n, n] up to date after two items changed places, their rows apart (Taillard 1991)."""
    n = rise.shape[0]
    for i in range(n - 1):
        a, b = rise[i], fall[i]
        row = delta[i]
        for j in range(i + 1, n):
            row[j] += (a - rise[j]) * (b - fall[j])


@njit(cache=True, fastmath=_VECTOR)
def _row_least(row, begin):  # type: ignore[no-untyped-def]
    least = np.inf
    for j in range(begin, row.shape[0]):
        least = min(least, row[j])
    return least


@njit(cache=True)
def tabu_search(flow, distance, linear, p, iterations, state):  # type: ignore[no-untyped-def]
    """Search from p [n] for so many exchanges; p becomes the best met. Return its cost.

    The best exchange that is not tabu is made, however bad: one that puts both items back to places that they left
    less than about n exchanges ago is tabu, unless it leads to the best met (Taillard 1991, with tenures redrawn).
    """
    n = p.shape[0]
    now = p.copy()
    cost = cost_of(flow, distance, linear, p)
    best = cost
    placed = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            placed[i, j] = distance[now[i], now[j]]
    delta = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1, n):
            delta[i, j] = _swap_delta(flow, linear, now, placed, i, j)
    until = np.full((n, n), -1, np.int64)
    rise, fall = np.empty(n), np.empty(n)
    for turn in range(iterations):
        least, u, v = np.inf, -1, -1
        for i in range(n - 1):
            row = delta[i]
            if _row_least(row, i + 1) >= least:
                continue
            for j in range(i + 1, n):
                if row[j] < least:
                    tabu = until[i, now[j]] >= turn and until[j, now[i]] >= turn
                    if not tabu or cost + row[j] < best - 1e-9 * abs(best):
                        least, u, v = row[j], i, j
        if u < 0:
            continue
        until[u, now[u]] = turn + int(n * (0.9 + 0.2 * random(state))) + 1
        until[v, now[v]] = turn + int(n * (0.9 + 0.2 * random(state))) + 1
        for k in range(n):
            rise[k] = flow[u, k] - flow[v, k]
            fall[k] = placed[u, k] - placed[v, k]
        _update(delta, rise, fall)
        now[u], now[v] = now[v], now[u]
        cost += least
        for k in range(n):
            placed[u, k] = distance[now[u], now[k]]
            placed[v, k] = distance[now[v], now[k]]
            placed[k, u] = placed[u, k]
            placed[k, v] = placed[v, k]
        for k in range(n):
            for end in (u, v):
                if k != end:
                    i, j = min(k, end), max(k, end)
                    delta[i, j] = _swap_delta(flow, linear, now, placed, i, j)
        if cost < best - 1e-9 * abs(best):
            best = cost
            p[:] = now
    return cost_of(flow, distance, linear, p)


@njit(cache=True)
def shuffled(n, state):  # type: ignore[no-untyped-def]
    """Return a random permutation [n]."""
    p = np.arange(n)
    for i in range(n - 1, 0, -1):
        j = int(random(state) * (i + 1))
        p[i], p[j] = p[j], p[i]
    return p


@njit(cache=True)
def child_of(mother, father, state):  # type: ignore[no-untyped-def]
    """Return a permutation that puts each item where one of its parents does, as far as that place is free."""
    n = mother.shape[0]
    child = np.full(n, -1, np.int64)
    taken = np.zeros(n, np.bool_)
    for i in range(n):
        if mother[i] == father[i]:
            child[i] = mother[i]
            taken[child[i]] = True
    order = shuffled(n, state)
    for i in order:
        if child[i] >= 0:
            continue
        first, second = mother[i], father[i]
        if random(state) < 0.5:
            first, second = second, first
        if not taken[first]:
            child[i] = first
        elif not taken[second]:
            child[i] = second
        if child[i] >= 0:
            taken[child[i]] = True
    free = shuffled(n, state)
    at = 0
    for i in order:
        if child[i] < 0:
            while taken[free[at]]:
                at += 1
            child[i] = free[at]
            taken[free[at]] = True
    return child


@njit(cache=True)
def shaken(p, exchanges, state):  # type: ignore[no-untyped-def]
    """Return p after a cycle of so many random items has moved each to the next one's place."""
    other = p.copy()
    chosen = shuffled(p.shape[0], state)[:exchanges]
    first = other[chosen[0]]
    for i in range(exchanges - 1):
        other[chosen[i]] = other[chosen[i + 1]]
    other[chosen[exchanges - 1]] = first
    return other
