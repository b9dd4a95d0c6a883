"""Generalised assignment, compiled: annealing over closed chains of moves, with capacities priced by the LP.

With prices p >= 0 of the slots' bytes, the cost of a mapping is a constant (the LP's bound, at its prices) plus the sum
over units of their *loss*, cost + p * bytes above the least of the unit, plus p * what is left of each slot. So a good
mapping takes units near their least loss and fills the slots. Shifts and swaps seldom fill two slots at once; chains
a -> b -> c -> a of three and more units do (ejection chains: Yagiura, Ibaraki, Glover 2004).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from solvers.mapping._annealing import _below, _random

LONGEST = 8  # slots of a chain, at most
TRIES = 4  # units looked at for one that closes a chain
_STEP = 1024  # moves at one temperature
_ROOM = 1e-9  # of a slot, that rounding may take


@njit(cache=True)
def _unused(slack, price, rate):  # type: ignore[no-untyped-def]
    """Return the cost of what is left of a slot, or of what it lacks: as soft as the latter is, until it is priced."""
    return min(price, rate) * slack if slack >= -_ROOM else -rate * slack


@njit(cache=True)
def anneal_chains(loss, near, held, capacity, price, x, moves, hot, cold, rates, longest, seed):  # type: ignore[no-untyped-def]
    """Anneal x [U] in place to the best assignment met within the capacities; return its loss and slack, or inf.

    loss [U, S] and held [U, S] of units on slots; `near` [U, R] the slots that a unit may go to; price [S] a byte;
    `rates` a byte lacking at the start and at the end; `longest` slots of a chain. Temperatures fall from hot to cold.
    """
    units, count_near = near.shape
    slots = capacity.shape[0]
    state = np.empty(1, np.uint64)
    state[0] = np.uint64(seed * 2654435769 + 88172645463325252)
    for _ in range(10):
        _random(state)
    slack = capacity.copy()
    on = np.empty((slots, units), np.int64)  # units of each slot, in any order
    count = np.zeros(slots, np.int64)
    place = np.zeros(units, np.int64)
    lost, over, unused = 0.0, 0, 0.0
    for u in range(units):
        s = x[u]
        slack[s] -= held[u, s]
        place[u] = count[s]
        on[s, count[s]] = u
        count[s] += 1
        lost += loss[u, s]
    for s in range(slots):
        unused += price[s] * slack[s]
        over += slack[s] < -_ROOM
    best, least = x.copy(), np.inf
    if over == 0:
        least = lost + unused
    reach = np.empty(units)  # loss of the farthest of the near slots
    for u in range(units):
        reach[u] = loss[u, near[u, count_near - 1]]
    unit, slot, after = np.zeros(LONGEST, np.int64), np.zeros(LONGEST, np.int64), np.zeros(LONGEST)
    heat, rate = hot, rates[0]
    for move in range(moves):
        if move % _STEP == 0:
            done = move / moves
            heat = hot * (cold / hot) ** done
            rate = rates[0] * (rates[1] / rates[0]) ** done
        u = _below(state, units)
        home = x[u]
        length = 1 + _below(state, longest)  # 1: a shift; else so many slots in a circle
        unit[0], slot[0] = u, home
        change = -loss[u, home]
        stops, good, closed = 1, True, False
        while True:
            to = home if stops == length and stops > 1 else near[u, _below(state, count_near)]
            for i in range(1 if stops > 1 else 0, stops):
                good = good and slot[i] != to
            if not good:
                break
            change += loss[u, to]
            if to == home:
                closed = True
                break
            slot[stops] = to
            stops += 1
            if length == 1 or count[to] == 0:
                break
            u = on[to, _below(state, count[to])]
            if stops == length:  # the last one goes home: one to which that is near, if it is soon found
                for _ in range(TRIES):
                    if loss[u, home] <= reach[u]:
                        break
                    u = on[to, _below(state, count[to])]
            unit[stops - 1] = u
            change -= loss[u, to]
        if not good:
            continue
        limit = -heat * np.log(1.0 - _random(state))  # Metropolis, the coin tossed first
        least_change = change  # less what the slots cost now: the least that the change can be
        for i in range(stops):
            least_change -= _unused(slack[slot[i]], price[slot[i]], rate)
        if least_change > limit:
            continue
        moved = stops if closed else stops - 1
        for i in range(stops):
            s = slot[i]
            left = slack[s]
            if i < moved:
                left += held[unit[i], s]
            if i > 0:
                left -= held[unit[i - 1], s]
            elif closed:
                left -= held[unit[moved - 1], s]
            after[i] = left
            change += _unused(left, price[s], rate) - _unused(slack[s], price[s], rate)
        if change > limit:
            continue
        for i in range(stops):
            s = slot[i]
            over += (after[i] < -_ROOM) - (slack[s] < -_ROOM)
            unused += price[s] * (after[i] - slack[s])
            slack[s] = after[i]
        for i in range(moved):
            u, s = unit[i], slot[i]
            to = home if closed and i == moved - 1 else slot[i + 1]
            lost += loss[u, to] - loss[u, s]
            last = on[s, count[s] - 1]
            on[s, place[u]] = last
            place[last] = place[u]
            count[s] -= 1
            on[to, count[to]] = u
            place[u] = count[to]
            count[to] += 1
            x[u] = to
        if over == 0 and lost + unused < least * (1 - 1e-12):
            least = lost + unused
            best[:] = x
    x[:] = best
    return least
