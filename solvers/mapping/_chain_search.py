"""Generalised assignment, compiled: chains of moves, the best of each start, with capacities priced by the LP.

With prices p >= 0 of the slots' bytes, the cost of a mapping is a constant (the LP's bound, at its prices) plus the sum
over units of their *loss*, cost + p * bytes above the least of the unit, plus p * what is left of each slot. A slot
that lacks bytes pays a rate for them that rises until none does. Chains of units that each take the place of the next,
the last one going home or to a slot with room, reach what shifts and swaps do not (ejection chains: Yagiura, Ibaraki,
Glover 2004); those of a start are labelled slot by slot (cyclic exchanges: Ahuja, Orlin, Sharma 2001).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from solvers.mapping._random import random, seeded

DEPTH = 4  # units that a chain moves, the one that goes home not counted
ROOM = 1e-12  # of a slot, that rounding may take


@njit(cache=True)
def _slot_cost(left, price, rate, room):  # type: ignore[no-untyped-def]
    """Return the cost of what is left of a slot, or of what it lacks."""
    return price * left if left >= -room else -rate * left


@njit(cache=True)
def _move(u, to, x, held, left, on, count, place):  # type: ignore[no-untyped-def]
    s = x[u]
    left[s] += held[u, s]
    left[to] -= held[u, to]
    count[s] -= 1
    last = on[s, count[s]]
    on[s, place[u]] = last
    place[last] = place[u]
    on[to, count[to]] = u
    place[u] = count[to]
    count[to] += 1
    x[u] = to


@njit(cache=True)
def _standing(x, loss, left, price, room):  # type: ignore[no-untyped-def]
    """Return the loss and what is left at the prices, inf where bytes lack, and how many do."""
    value, lacks = 0.0, 0.0
    for u in range(x.shape[0]):
        value += loss[u, x[u]]
    for s in range(left.shape[0]):
        value += price[s] * left[s]
        if left[s] < -room[s]:
            lacks -= left[s]
    return (np.inf if lacks > 0 else value), lacks


@njit(cache=True)
def _best_chain(u, x, loss, near, held, left, price, rate, room, on, count, label, land, back, least):  # type: ignore[no-untyped-def]
    """Return the change of the best chain that u begins (0 where none is below -least), its end, and the steps taken.

    Its end is the level and slot of the last unit to land, and who goes home from there (-1: nobody). label[at, s] is
    the change up to where unit land[at, s] lands in s as the at-th, that slot not counted, back[at, s] the slot before.
    """
    home = x[u]
    freed = left[home] + held[u, home]
    was = _slot_cost(left[home], price[home], rate[home], room[home])
    opened = _slot_cost(freed, price[home], rate[home], room[home]) - was
    best, level, slot, returns, steps = -least, -1, -1, -1, 0
    label[:] = np.inf
    for r in range(near.shape[1]):
        s = near[u, r]
        if s != home:
            label[0, s], land[0, s], back[0, s] = loss[u, s] - loss[u, home], u, -1
    for at in range(DEPTH):
        for s in range(left.shape[0]):
            if label[at, s] == np.inf:
                continue
            after = left[s] - held[land[at, s], s]
            here = label[at, s] - _slot_cost(left[s], price[s], rate[s], room[s])
            change = here + _slot_cost(after, price[s], rate[s], room[s]) + opened
            if change < best:
                best, level, slot, returns = change, at, s, -1
            steps += count[s]
            for k in range(count[s]):
                v = on[s, k]
                out = here + _slot_cost(after + held[v, s], price[s], rate[s], room[s]) - loss[v, s]
                change = out + loss[v, home] - was
                if change < best:  # with the least that home can cost; only then what it does
                    change += _slot_cost(freed - held[v, home], price[home], rate[home], room[home])
                    if change < best:
                        best, level, slot, returns = change, at, s, v
                # A cycle of negative sum has a start from which all its beginnings are negative.
                if at + 1 == DEPTH or out + loss[u, home] >= 0:
                    continue
                steps += near.shape[1]
                for r in range(near.shape[1]):
                    z = near[v, r]
                    if z == home or out + loss[v, z] >= label[at + 1, z]:
                        continue
                    q, m = s, at
                    while m >= 0 and q != z:
                        q, m = back[m, q], m - 1
                    if m < 0:
                        label[at + 1, z], land[at + 1, z], back[at + 1, z] = out + loss[v, z], v, s
    return (best if level >= 0 else 0.0), level, slot, returns, steps


@njit(cache=True)
def chain_search(loss, near, held, capacity, price, rate, x, rounds, kicks, gain, seed, most_work):  # type: ignore[no-untyped-def]
    """Improve x [U] in place; return its loss and what is left at the prices, inf where no legal one is met; the work.

    loss [U, S] (inf where not allowed); near [U, R] the slots that a unit may go to; held [U, S]; price and rate [S] a
    byte left and lacking. In every round chains follow until none gains more than `gain`. Where no bytes lack, or still
    as many, `kicks` units move at random from the best before the next round. Rates rise by half where bytes lack, and
    sink slowly where none do.
    """
    units, slots = loss.shape
    state = seeded(seed)
    rate, left = rate.copy(), capacity.copy()
    room = ROOM * capacity
    on, count, place = np.zeros((slots, units), np.int64), np.zeros(slots, np.int64), np.zeros(units, np.int64)
    label = np.zeros((DEPTH, slots))
    land, back = np.zeros((DEPTH, slots), np.int64), np.zeros((DEPTH, slots), np.int64)
    for u in range(units):
        s = x[u]
        left[s] -= held[u, s]
        on[s, count[s]], place[u] = u, count[s]
        count[s] += 1
    best, shaken, work = x.copy(), False, 0
    least, best_lacks = _standing(x, loss, left, price, room)
    for _ in range(rounds):
        if work > most_work:
            break
        if shaken:
            for u in range(units):
                if x[u] != best[u]:
                    _move(u, best[u], x, held, left, on, count, place)
            for _ in range(kicks):
                u = int(random(state) * units)
                s = near[u, int(random(state) * near.shape[1])]
                if s != x[u] and loss[u, s] < np.inf:
                    _move(u, s, x, held, left, on, count, place)
        order = np.arange(units)
        for i in range(units - 1, 0, -1):
            j = int(random(state) * (i + 1))
            order[i], order[j] = order[j], order[i]
        idle, i = 0, 0
        while idle < units and work <= most_work:
            u = order[i]
            i = (i + 1) % units
            change, level, s, returns, steps = _best_chain(
                u, x, loss, near, held, left, price, rate, room, on, count, label, land, back, gain
            )
            work += steps
            if change == 0.0:
                idle += 1
                continue
            idle = 0
            home = x[u]
            if returns >= 0:
                _move(returns, home, x, held, left, on, count, place)
            while level >= 0:
                _move(land[level, s], s, x, held, left, on, count, place)
                s, level = back[level, s], level - 1
        for s in range(slots):
            rate[s] = 1.5 * rate[s] if left[s] < -room[s] else max(0.95 * rate[s], price[s])
        value, lacks = _standing(x, loss, left, price, room)
        shaken = lacks == 0 or lacks >= best_lacks
        if value < least or lacks < best_lacks:
            best[:] = x
            least, best_lacks = value, lacks
    x[:] = best
    return least, work
