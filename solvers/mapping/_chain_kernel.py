"""Compiled dynamic programme, Lagrangian dual and beam search for a chain of segments with memory limits.

The cost of a chain is a sum over its segments and over the steps between them. Memory couples them; with a price on
each byte (Lagrange multipliers, Held and Karp 1970) it is a sum again, and the programme of Viterbi (1967) makes it
least. Beam search with the programme's costs to go as its guide (decremental label setting, as for shortest paths with
resources: Irnich and Desaulniers 2005) keeps memory exactly, and is complete where it never drops a label.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray


class Routes(NamedTuple):
    """What steps between modes cost, in units of the objective."""

    latency: NDArray[np.float64]  # [M, M]
    per_wait: NDArray[np.float64]  # [M, M] a byte of the largest edge
    per_moved: NDArray[np.float64]  # [M, M] a byte of all edges
    near: NDArray[np.int64]  # [M, M] of each mode, all modes, the nearest first
    beyond: NDArray[np.float64]  # [3, M, M] least latency, per_wait and per_moved to the i-th nearest and all after it


class Chain(NamedTuple):
    """N segments of a chain that are to be assigned, the others being fixed; costs in units of the objective."""

    node: NDArray[np.float64]  # [N, M] inf where a segment cannot be, steps from and to fixed neighbours included
    linked: NDArray[np.bool_]  # [N] whether a segment is fed by the one before it here
    wait_bytes: NDArray[np.float64]  # [N] of the largest edge from the one before
    moved_bytes: NDArray[np.float64]  # [N] of all edges from the one before
    routes: Routes
    held: NDArray[np.float64]  # [N, M] bytes on each slot of the mode
    workspace: NDArray[np.float64]  # [N]
    room: NDArray[np.float64]  # [S] bytes left for these segments, their least workspace taken off, for the dual
    used: NDArray[np.float64]  # [S] bytes that the others hold
    largest: NDArray[np.float64]  # [S] workspace of the others
    capacity: NDArray[np.float64]  # [S]
    member_first: NDArray[np.int64]  # [M + 1]
    member: NDArray[np.int64]


@njit(cache=True)
def _price_of(c, price):  # type: ignore[no-untyped-def]
    """Return the price [M] of a byte on each slot of a mode together."""
    of_mode = np.zeros(c.node.shape[1])
    for m in range(of_mode.shape[0]):
        for i in range(c.member_first[m], c.member_first[m + 1]):
            of_mode[m] += price[c.member[i]]
    return of_mode


@njit(cache=True)
def _step(c, i, p, q):  # type: ignore[no-untyped-def]
    """Return what the step into segment i costs from mode p to mode q."""
    r = c.routes
    return r.latency[p, q] + c.wait_bytes[i] * r.per_wait[p, q] + c.moved_bytes[i] * r.per_moved[p, q]


@njit(cache=True)
def costs_to_go(c, price, to_go, choice):  # type: ignore[no-untyped-def]
    """Fill to_go [N, M], the least cost after segment i in mode m, memory priced, and choice, the next mode.

    Returns the least cost of all, and the first mode. The next mode is sought among the cheapest and among the nearest
    at once, until none that is left can be better (the threshold algorithm: Fagin, Lotem, Naor 2003).
    """
    beyond = c.routes.beyond
    count, modes = c.node.shape
    of_mode = _price_of(c, price)
    to_go[count - 1] = 0.0
    value = np.empty(modes)
    for i in range(count - 1, 0, -1):
        for q in range(modes):
            value[q] = c.node[i, q] + of_mode[q] * c.held[i, q] + to_go[i, q] if c.node[i, q] < np.inf else np.inf
        if not c.linked[i]:
            q = int(np.argmin(value))
            to_go[i - 1, :] = value[q]
            choice[i - 1, :] = q
            continue
        rising = np.argsort(value)
        wait, moved = c.wait_bytes[i], c.moved_bytes[i]
        for p in range(modes):
            if c.node[i - 1, p] == np.inf:
                to_go[i - 1, p] = np.inf
                choice[i - 1, p] = 0
                continue
            best, chosen = value[p], p
            for n in range(modes):
                q = rising[n]
                far = beyond[0, p, n] + wait * beyond[1, p, n] + moved * beyond[2, p, n]
                if value[q] + far >= best:
                    break
                cost = value[q] + _step(c, i, p, q)
                if cost < best:
                    best, chosen = cost, q
                q = c.routes.near[p, n]
                if value[q] < best:
                    cost = value[q] + _step(c, i, p, q)
                    if cost < best:
                        best, chosen = cost, q
            to_go[i - 1, p] = best
            choice[i - 1, p] = chosen
    best, first = np.inf, 0
    for q in range(modes):
        if c.node[0, q] < np.inf:
            cost = c.node[0, q] + of_mode[q] * c.held[0, q] + to_go[0, q]
            if cost < best:
                best, first = cost, q
    return best, first


@njit(cache=True)
def follow(choice, first, x):  # type: ignore[no-untyped-def]
    """Fill x [N] with the modes of the least cost."""
    x[0] = first
    for i in range(1, x.shape[0]):
        x[i] = choice[i - 1, x[i - 1]]


@njit(cache=True)
def value_of(c, x):  # type: ignore[no-untyped-def]
    """Return the cost of x [N], inf where memory is exceeded."""
    used, largest = c.used.copy(), c.largest.copy()
    total = 0.0
    for i in range(x.shape[0]):
        q = x[i]
        total += c.node[i, q]
        if i > 0 and c.linked[i]:
            total += _step(c, i, x[i - 1], q)
        for j in range(c.member_first[q], c.member_first[q + 1]):
            s = c.member[j]
            used[s] += c.held[i, q]
            largest[s] = max(largest[s], c.workspace[i])
            if used[s] + largest[s] > c.capacity[s]:
                return np.inf
    return total


@njit(cache=True)
def dual(c, iterations, target, price):  # type: ignore[no-untyped-def]
    """Improve price [S] by subgradient steps towards `target` (a known value, or inf); return the best bound.

    Steps are Polyak's, deflected (the direction is a mean of the last ones), and halved while nothing is gained.
    """
    count, modes = c.node.shape
    slots = price.shape[0]
    to_go, choice = np.zeros((count, modes)), np.zeros((count, modes), np.int32)
    x = np.zeros(count, np.int64)
    now, direction, excess = price.copy(), np.zeros(slots), np.zeros(slots)
    bound = -np.inf
    step, stale = 1.0, 0
    for _ in range(iterations):
        found, first = costs_to_go(c, now, to_go, choice)
        if found == np.inf:
            return np.inf
        for s in range(slots):
            if now[s] > 0.0:
                found -= now[s] * c.room[s]
        if found > bound:
            stale = 0 if found > bound + 1e-4 * abs(bound) else stale + 1
            bound = found
            price[:] = now
        else:
            stale += 1
        if stale > 5:
            step, stale = step / 2, 0
            now[:] = price
            direction[:] = 0.0
            if step < 1e-4:
                break
        if bound >= target * (1 - 1e-12):
            break
        follow(choice, first, x)
        for s in range(slots):
            excess[s] = -c.room[s]
        for i in range(count):
            for j in range(c.member_first[x[i]], c.member_first[x[i] + 1]):
                excess[c.member[j]] += c.held[i, x[i]]
        norm = 0.0
        for s in range(slots):
            direction[s] = 0.6 * direction[s] + 0.4 * excess[s] if direction.any() else excess[s]
            if now[s] == 0.0 and direction[s] < 0.0:
                continue
            norm += direction[s] * direction[s]
        if norm == 0.0:
            break
        goal = target if target < np.inf else found + 0.1 * abs(found) + 1e-12
        stride = step * max(goal - found, 1e-3 * abs(bound)) / norm
        for s in range(slots):
            now[s] = max(0.0, now[s] + stride * direction[s])
    return bound


@njit(cache=True)
def beam(c, price, width, ceiling, x):  # type: ignore[no-untyped-def]
    """Search all mappings of the chain below `ceiling`, at most `width` partial ones kept a segment; fill x [N].

    Returns the least value met (inf: none below the ceiling), and a lower bound on the values of all below it: the
    least bound of what was dropped, or inf.
    """
    count, modes = c.node.shape
    slots = price.shape[0]
    to_go, choice = np.zeros((count, modes)), np.zeros((count, modes), np.int32)
    if costs_to_go(c, price, to_go, choice)[0] == np.inf:
        return np.inf, np.inf
    of_mode = _price_of(c, price)
    offset = 0.0
    left, remaining = 0.0, np.zeros(count + 1)  # bytes of the segments that follow, on their least mode
    for s in range(slots):
        if price[s] > 0.0:
            offset += price[s] * c.room[s]
        left += c.capacity[s] - c.used[s]
    for i in range(count - 1, -1, -1):
        least_held = np.inf
        for m in range(modes):
            if c.node[i, m] < np.inf:
                least_held = min(least_held, c.held[i, m] * (c.member_first[m + 1] - c.member_first[m]))
        remaining[i] = remaining[i + 1] + least_held
    slack = 1e-9 * (remaining[0] + 1.0)
    parents, steps = np.empty((count, width), np.int32), np.empty((count, width), np.int32)
    cost, priced, free, at = np.zeros(width), np.zeros(width), np.zeros(width), np.zeros(width, np.int64)
    used, largest = np.empty((width, slots)), np.empty((width, slots))
    used2, largest2 = np.empty((width, slots)), np.empty((width, slots))
    cost2, priced2, free2, at2 = cost.copy(), priced.copy(), free.copy(), at.copy()
    used[0], largest[0], free[0] = c.used, c.largest, left
    labels = 1
    guess = np.empty(width * modes)
    entry = np.empty(width * modes, np.int64)
    dropped = np.inf
    for i in range(count):
        found = 0
        for w in range(labels):
            p = at[w]
            for q in range(modes):
                if c.node[i, q] == np.inf:
                    continue
                bound = cost[w] + c.node[i, q]
                if i > 0 and c.linked[i] and p != q:
                    bound += _step(c, i, p, q)
                bound += priced[w] + of_mode[q] * c.held[i, q] + to_go[i, q] - offset
                if bound >= ceiling:
                    continue
                held = c.held[i, q]
                members = c.member_first[q + 1] - c.member_first[q]
                if free[w] - held * members + slack < remaining[i + 1]:
                    continue
                fits = True
                for j in range(c.member_first[q], c.member_first[q + 1]):
                    s = c.member[j]
                    if used[w, s] + held + max(largest[w, s], c.workspace[i]) > c.capacity[s]:
                        fits = False
                if fits:
                    guess[found] = bound
                    entry[found] = w * modes + q
                    found += 1
        if found == 0:
            return np.inf, dropped
        limit, ties = np.inf, 0
        if found > width:
            ranked = np.partition(guess[:found], width)
            limit = ranked[width]
            dropped = min(dropped, limit)
            ties = width - int((guess[:found] < limit).sum())
        kept = 0
        for n in range(found):
            if guess[n] == limit and ties > 0:
                ties -= 1
            elif guess[n] >= limit:
                continue
            w, q = entry[n] // modes, entry[n] % modes
            p = at[w]
            cost2[kept] = cost[w] + c.node[i, q]
            if i > 0 and c.linked[i] and p != q:
                cost2[kept] += _step(c, i, p, q)
            used2[kept] = used[w]
            largest2[kept] = largest[w]
            for j in range(c.member_first[q], c.member_first[q + 1]):
                s = c.member[j]
                used2[kept, s] += c.held[i, q]
                largest2[kept, s] = max(largest2[kept, s], c.workspace[i])
            priced2[kept] = priced[w] + of_mode[q] * c.held[i, q]
            free2[kept] = free[w] - c.held[i, q] * (c.member_first[q + 1] - c.member_first[q])
            at2[kept] = q
            parents[i, kept] = w
            steps[i, kept] = q
            kept += 1
        labels = kept
        cost, cost2 = cost2, cost
        priced, priced2 = priced2, priced
        free, free2 = free2, free
        at, at2 = at2, at
        used, used2 = used2, used
        largest, largest2 = largest2, largest
    w = int(np.argmin(cost[:labels]))
    value = cost[w]
    for i in range(count - 1, -1, -1):
        x[i] = steps[i, w]
        w = parents[i, w]
    return value, dropped
