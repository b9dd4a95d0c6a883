"""Generalised assignment by its knapsacks, compiled: the Lagrangian dual that prices units, and dives from its prices.

With a price of each unit (a multiplier of the rule that it runs once), every slot takes the set of units of most
profit, price less cost, that fits: a knapsack each, solved by dynamic programming over whole bytes (in any grain). The
prices less all profits are a bound on the cost of every assignment, for any prices (Ross and Soland 1975; Fisher 1981),
never below that of the linear relaxation.

`work` counts steps of those programmes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from solvers.mapping._random import random, seeded

CALM = 0.3  # of the step before, in the next
# Steps aim at a bound that share above the best so far; after so many without a better one, at half the share, from the
# best prices. Less than the least rise counts as none.
ABOVE, PATIENCE, LEAST_RISE = 0.02, 20, 1e-6
MEMORY = 0.1  # weight of a turn in the running mean of what slots take
_ROW = 4  # steps that a unit takes in a knapsack, whatever its capacity


@njit(cache=True)
def _knapsack(profit, weight, count, capacity, value, took, take):  # type: ignore[no-untyped-def]
    """Return the most profit of the first `count` items within `capacity`; `take` [n] says which."""
    value[: capacity + 1] = 0.0
    for k in range(count):
        w, p, row = weight[k], profit[k], took[k]
        row[: min(w, capacity + 1)] = 0
        for c in range(capacity, w - 1, -1):
            v = value[c - w] + p
            if v > value[c]:
                value[c] = v
                row[c] = 1
            else:
                row[c] = 0
    c = capacity
    for k in range(count - 1, -1, -1):
        take[k] = took[k, c]
        if take[k]:
            c -= weight[k]
    return value[capacity]


@njit(cache=True)
def _scratch(units, capacity):  # type: ignore[no-untyped-def]
    """Return arrays that `_relaxed` works in."""
    return (
        np.zeros(units),
        np.zeros(units, np.int64),
        np.zeros(units, np.int64),
        np.zeros(units, np.uint8),
        np.zeros(capacity + 1),
        np.zeros((units, capacity + 1), np.uint8),
    )


@njit(cache=True)
def _relaxed(price, cost, weight, room, active, count, times, mean, scratch):  # type: ignore[no-untyped-def]
    """Return the bound at those prices for the first `count` of the `active` units, and the work.

    times [U] tells how many slots take a unit, and `mean` [U, S] follows who takes it, where that is not empty.
    """
    profit, size, item, take, value, took = scratch
    bound, work = 0.0, 0
    for k in range(count):
        bound += price[active[k]]
        times[active[k]] = 0
    for s in range(room.shape[0]):
        n, total = 0, 0
        for k in range(count):
            u = active[k]
            p = price[u] - cost[u, s]
            if p > 0 and weight[u, s] <= room[s]:
                profit[n], size[n], item[n] = p, weight[u, s], u
                total += weight[u, s]
                n += 1
        work += _ROW * count
        if total <= room[s]:
            for k in range(n):
                bound -= profit[k]
                take[k] = 1
        else:
            bound -= _knapsack(profit, size, n, room[s], value, took, take)
            work += n * room[s]
        if len(mean):
            for k in range(count):
                mean[active[k], s] *= 1 - MEMORY
        for k in range(n):
            if take[k]:
                times[item[k]] += 1
                if len(mean):
                    mean[item[k], s] += MEMORY
    return bound, work


@njit(cache=True)
def _step(price, way, active, count, times, reach):  # type: ignore[no-untyped-def]
    """Move prices by `reach`, shared by the units that are taken not once; return whether there are any."""
    norm = 0.0
    for k in range(count):
        norm += (1 - times[active[k]]) ** 2
    if norm == 0:
        return False
    for k in range(count):
        u = active[k]
        way[u] = (1 - CALM) * (1 - times[u]) + CALM * way[u]
        price[u] += reach / norm * way[u]
    return True


@njit(cache=True)
def dual(price, cost, weight, capacity, upper, most_work):  # type: ignore[no-untyped-def]
    """Raise the bound by subgradient steps (Held, Wolfe and Crowder 1974); return the best, and the work.

    price [U] is the start, and becomes the best prices; cost [U, S], inf where not allowed; weight [U, S] and capacity
    [S] whole numbers; `upper` is what no bound can exceed.
    """
    units, slots = cost.shape
    scratch = _scratch(units, capacity.max())
    active = np.arange(units)
    times, way, mean = np.zeros(units, np.int64), np.zeros(units), np.zeros((0, slots))
    best, best_price = -np.inf, price.copy()
    above, stale, work = ABOVE, 0, 0
    while above >= LEAST_RISE and work < most_work:
        bound, spent = _relaxed(price, cost, weight, capacity, active, units, times, mean, scratch)
        work += spent
        stale = 0 if bound > best + LEAST_RISE * abs(best) else stale + 1
        if bound > best:
            best = bound
            best_price[:] = price
        aim = max(min(upper, best + above * abs(best)), best + LEAST_RISE * abs(best))
        if not _step(price, way, active, units, times, aim - bound):
            break
        if stale >= PATIENCE:
            above, stale = above / 2, 0
            price[:] = best_price
            way[:] = 0
    price[:] = best_price
    return best, work


@njit(cache=True)
def reduced_costs(price, cost, weight, capacity):  # type: ignore[no-untyped-def]
    """Return the bound at those prices, and [U, S] by how much it rises where unit u has to run in slot s."""
    units, slots = cost.shape
    rise = np.full((units, slots), np.inf)
    bound = price.sum()
    for s in range(slots):
        room = capacity[s]
        item = np.zeros(units, np.int64)
        n = 0
        for u in range(units):
            if price[u] > cost[u, s] and weight[u, s] <= room:
                item[n] = u
                n += 1
        before, after = np.zeros((n + 1, room + 1)), np.zeros((n + 1, room + 1))  # most profit of the items on a side
        for k in range(n):
            p, w = price[item[k]] - cost[item[k], s], weight[item[k], s]
            before[k + 1] = before[k]
            for c in range(w, room + 1):
                before[k + 1, c] = max(before[k, c], before[k, c - w] + p)
        for k in range(n - 1, -1, -1):
            p, w = price[item[k]] - cost[item[k], s], weight[item[k], s]
            after[k] = after[k + 1]
            for c in range(w, room + 1):
                after[k, c] = max(after[k + 1, c], after[k + 1, c - w] + p)
        most = before[n, room]
        bound -= most
        for u in range(units):
            if weight[u, s] <= room and cost[u, s] < np.inf:
                rise[u, s] = most - before[n, room - weight[u, s]] - (price[u] - cost[u, s])
        for k in range(n):
            left = room - weight[item[k], s]
            others = 0.0
            for c in range(left + 1):
                others = max(others, before[k, c] + after[k + 1, left - c])
            rise[item[k], s] = most - others - (price[item[k]] - cost[item[k], s])
    return bound, rise


@njit(cache=True)
def dive(price, cost, weight, capacity, free, x, first, turns, share, above, noise, seed, most_work):  # type: ignore[no-untyped-def]
    """Assign the `free` units [U] of x [U] in place, a share of them at a time; return the work, -1 if cut short.

    Subgradient steps on what is left, towards a bound `above` (a share) the present one; then the units on which the
    slots agree most, but for noise, stay where they are taken, and the rest is priced again (relax and fix). `first`
    and `turns` are the steps before the first fixing and before the others. A unit that has no room left goes where it
    lacks least.
    """
    units, slots = cost.shape
    state = seeded(seed)
    scratch = _scratch(units, capacity.max())
    price, room = price.copy(), capacity.copy()
    active, left = np.zeros(units, np.int64), 0
    for u in range(units):
        if free[u]:
            active[left] = u
            left += 1
        else:
            room[x[u]] -= weight[u, x[u]]
    for s in range(slots):
        room[s] = max(room[s], 0)
    times, way, mean = np.zeros(units, np.int64), np.zeros(units), np.zeros((units, slots))
    score, to = np.zeros(units), np.zeros(units, np.int64)
    work, steps = 0, first
    while left > 0:
        best = -np.inf
        for _ in range(steps):
            bound, spent = _relaxed(price, cost, weight, room, active, left, times, mean, scratch)
            work += spent
            if work > most_work:
                return -1
            best = max(best, bound)
            if not _step(price, way, active, left, times, best + above * abs(best) - bound):
                break
        steps = turns
        for k in range(left):
            u = active[k]
            to[u], score[k] = -1, -1.0
            for s in range(slots):
                if cost[u, s] == np.inf or weight[u, s] > room[s]:
                    continue
                tie = to[u] >= 0 and mean[u, s] == score[k] and cost[u, s] < cost[u, to[u]]
                if mean[u, s] > score[k] or tie:
                    to[u], score[k] = s, mean[u, s]
            score[k] += noise * random(state)
        agreed = np.argsort(-score[:left])
        for k in range(max(1, int(share * left))):
            u = active[agreed[k]]
            s = to[u]
            if s >= 0 and weight[u, s] > room[s]:
                continue  # others fixed now took its place: it is looked at again
            if s < 0:
                lack = np.inf
                for z in range(slots):
                    if cost[u, z] < np.inf and weight[u, z] - room[z] < lack:
                        s, lack = z, weight[u, z] - room[z]
            x[u] = s
            room[s] = max(room[s] - weight[u, s], 0)
            active[agreed[k]] = -1
        kept = 0
        for k in range(left):
            if active[k] >= 0:
                active[kept] = active[k]
                kept += 1
        left = kept
    return work
