"""Compiled lower bounds: Lagrangian duals whose inner problem is a dynamic programme over a forest of edges.

T of a mapping is the largest of many figures: the length of each path (serial), the load of each slot, the load of
each link (pipelined). Any weighted mean of them, weights summing to 1, is at most T, and is a sum over segments and
edges; so are the energy and, with prices >= 0, the excess of memory. Such a sum is made least exactly over all mappings
on a forest (one incoming edge a segment), and the edges left out cost at least nothing. Any weights and prices give a
valid bound; the loops below look for good ones (Held and Karp 1970; Geoffrion 1974).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from solvers.mapping._kernels import legal, time_and_energy


@njit(cache=True)
def _earliest(a, earliest):  # type: ignore[no-untyped-def]
    """Fill [K, S] with a bound on the finish of segment k where it runs on slot s; return the bound on T, and the end.

    Waits for each input from its best slot; knows neither that slots are shared nor that one input fixes a slot.
    """
    segments, slots = a.compute.shape
    bound = 0.0
    last = 0
    for k in range(segments):
        least = np.inf
        for q in range(slots):
            if not a.ok[k, q]:
                earliest[k, q] = np.inf
                continue
            start = 0.0
            for e in range(a.first[k], a.first[k + 1]):
                arrival = np.inf
                for p in range(slots):
                    wait = a.latency[p, q] + a.size[e] * a.per_byte[p, q]
                    arrival = min(arrival, earliest[a.source[e], p] + wait)
                start = max(start, arrival)
            earliest[k, q] = start + a.compute[k, q]
            least = min(least, earliest[k, q])
        if least > bound:
            bound = least
            last = k
    return bound, last


@njit(cache=True)
def _critical_path(a, earliest, last, on_node, on_edge):  # type: ignore[no-untyped-def]
    """Mark with 1 the segments [K] and edges [E] of the path that makes `earliest` of segment `last`."""
    slots = a.compute.shape[1]
    on_node[:] = 0.0
    on_edge[:] = 0.0
    k = last
    q = int(np.argmin(earliest[k]))
    while True:
        on_node[k] = 1.0
        best, edge, slot = -1.0, -1, 0
        for e in range(a.first[k], a.first[k + 1]):
            arrival, origin = np.inf, 0
            for p in range(slots):
                at = earliest[a.source[e], p] + a.latency[p, q] + a.size[e] * a.per_byte[p, q]
                if at < arrival:
                    arrival, origin = at, p
            if arrival > best:
                best, edge, slot = arrival, e, origin
        if edge < 0:
            return
        on_edge[edge] = 1.0
        k, q = a.source[edge], slot


@njit(cache=True)
def _longest_path(a, x, length, back):  # type: ignore[no-untyped-def]
    """Fill length [K] and the edge back [K] of the longest path into each segment under mapping x; return its end."""
    last = 0
    for k in range(x.shape[0]):
        start, back[k] = 0.0, -1
        for e in range(a.first[k], a.first[k + 1]):
            i = a.source[e]
            arrival = length[i] + a.latency[x[i], x[k]] + a.size[e] * a.per_byte[x[i], x[k]]
            if arrival >= start:
                start, back[k] = arrival, e
        length[k] = start + a.compute[k, x[k]]
        if length[k] > length[last]:
            last = k
    return last


@njit(cache=True)
def _least(a, node, parent, latency_w, byte_w, byte_ms, energy_w, value, choice, x):  # type: ignore[no-untyped-def]
    """Return the least of sum node[k, x_k] + sum of edge costs over the forest `parent` [K]; fill x with a minimiser.

    An edge costs latency_w * latency + byte_w * byte_ms + energy_w * bytes * mj_per_byte of its route.
    """
    segments, slots = node.shape
    value[:] = node
    total = 0.0
    for k in range(segments - 1, -1, -1):
        e = parent[k]
        if e < 0:
            choice[k, 0] = np.argmin(value[k])
            total += value[k, choice[k, 0]]
            continue
        i = a.source[e]
        lat, ms, mj = latency_w[e], byte_w[e], energy_w * a.size[e]
        if lat == 0.0 and ms == 0.0 and mj == 0.0:
            q = int(np.argmin(value[k]))
            choice[k, :] = q
            value[i] += value[k, q]
            continue
        for p in range(slots):
            if value[i, p] == np.inf:
                choice[k, p] = 0
                continue
            best, chosen = np.inf, 0
            for q in range(slots):
                cost = value[k, q] + lat * a.latency[p, q] + ms * byte_ms[p, q] + mj * a.mj_per_byte[p, q]
                if cost < best:
                    best, chosen = cost, q
            value[i, p] += best
            choice[k, p] = chosen
    if total < np.inf:
        for k in range(segments):
            x[k] = choice[k, 0] if parent[k] < 0 else choice[k, x[a.source[parent[k]]]]
    return total


@njit(cache=True)
def dual_bound(a, time_w, energy_w, iterations, x_best):  # type: ignore[no-untyped-def]
    """Return a lower bound on time_w * T + energy_w * dynamic energy, and the objective of x_best [K] (inf: none).

    x_best receives the best legal mapping met on the way: a good place to start a search.
    """
    segments, slots = a.compute.shape
    edges = a.source.shape[0]
    links = a.links
    node = np.empty((segments, slots))
    value = np.empty((segments, slots))
    choice = np.empty((segments, slots), np.int32)
    x = np.zeros(segments, np.int64)
    end, busy, load = np.zeros(segments), np.zeros(slots), np.zeros(links)
    back = np.full(segments, -1, np.int64)
    parent = np.full(segments, -1, np.int64)
    seen = np.zeros(slots, np.bool_)
    on_node, on_edge = np.zeros(segments), np.zeros(edges)  # weights of the paths through them (serial)
    slot_w, link_w = np.zeros(slots), np.zeros(links)  # weights of the loads
    price = np.zeros(slots)  # of a byte of memory
    used = np.zeros(slots)
    latency_w, byte_w = np.zeros(edges), np.zeros(edges)
    byte_ms = np.empty((slots, slots))

    if a.serial:
        value[:] = 0.0
        time_bound, last = _earliest(a, value)
        if time_bound == np.inf:
            return np.inf, np.inf
        _critical_path(a, value, last, on_node, on_edge)
        byte_ms[:] = a.per_byte
    else:
        for s in range(slots):
            total, count = 0.0, 0
            for k in range(segments):
                if a.ok[k, s]:
                    total += a.compute[k, s]
                    count += 1
            slot_w[s] = count / total if total > 0.0 else (1.0 if count > 0 else 0.0)
        slot_w /= max(slot_w.sum(), 1e-300)
        if links > 0:
            slot_w *= 0.9
            link_w[:] = 0.1 / links
    for k in range(segments):
        for e in range(a.first[k], a.first[k + 1]):
            before = parent[k]
            if before < 0 or (on_edge[e], a.size[e]) > (on_edge[before], a.size[before]):
                parent[k] = e

    bound, best = 0.0, np.inf
    step, stale = 1.0, 0
    for turn in range(iterations):
        for k in range(segments):
            for s in range(slots):
                if a.ok[k, s]:
                    weight = time_w * (on_node[k] + slot_w[s])
                    node[k, s] = weight * a.compute[k, s] + energy_w * a.energy[k, s] + price[s] * a.resident[k]
                else:
                    node[k, s] = np.inf
        if a.serial:
            latency_w[:] = time_w * on_edge
            byte_w[:] = latency_w * a.size
        else:
            byte_w[:] = time_w * a.size
            for p in range(slots):
                for q in range(slots):
                    weight = 0.0
                    for h in range(a.hop_first[p * slots + q], a.hop_first[p * slots + q + 1]):
                        weight += link_w[a.hop[h]]
                    byte_ms[p, q] = weight * a.per_byte[p, q]
        found = _least(a, node, parent, latency_w, byte_w, byte_ms, energy_w, value, choice, x)
        if found == np.inf:
            return np.inf, np.inf
        for s in range(slots):
            found -= price[s] * a.room[s]
        if found > bound:
            stale = 0 if found > bound * (1 + 1e-4) else stale + 1
            bound = found
        else:
            stale += 1
        if stale > 3:
            step, stale = step / 2, 0

        time, energy = time_and_energy(a, x, end, busy, load, 0.0, 0.0, np.inf)
        if legal(a, x, seen) and time_w * time + energy_w * energy < best:
            best = time_w * time + energy_w * energy
            x_best[:] = x
        if best <= bound * (1 + 1e-12):
            break

        used[:] = 0.0
        for k in range(segments):
            used[x[k]] += a.resident[k]
        norm = 0.0
        for s in range(slots):
            excess = used[s] - a.room[s]
            if excess > 0.0 or price[s] > 0.0:
                norm += excess * excess
        if norm > 0.0:
            target = best if best < np.inf else bound * 1.1 + 1e-12
            stride = step * max(target - found, 0.01 * bound) / norm
            for s in range(slots):
                price[s] = max(0.0, price[s] + stride * (used[s] - a.room[s]))
        if a.serial:
            share = step / (turn + 3.0)
            last = _longest_path(a, x, end, back)
            busy[:] = 0.0
            for k in range(segments):
                busy[x[k]] += a.compute[k, x[k]]
            on_node *= 1.0 - share
            on_edge *= 1.0 - share
            slot_w *= 1.0 - share
            full = int(np.argmax(busy))
            if busy[full] > end[last]:
                slot_w[full] += share
            else:
                k = last
                while True:
                    on_node[k] += share
                    if back[k] < 0:
                        break
                    on_edge[back[k]] += share
                    k = a.source[back[k]]
        elif time > 0.0:
            rate = 1.0 / np.sqrt(turn + 1.0)
            slot_w *= np.exp(rate * busy / time)
            link_w *= np.exp(rate * load / time)
            total = slot_w.sum() + link_w.sum()
            slot_w /= total
            link_w /= total
    return bound, best


@njit(cache=True)
def serial_time_bound(a):  # type: ignore[no-untyped-def]
    """Return the critical-path bound on T of the serial regime; inf where a segment can run nowhere."""
    return _earliest(a, np.empty(a.compute.shape))[0]


@njit(cache=True)
def _fractional(cost, iterations):  # type: ignore[no-untyped-def]
    """Return a bound on the least largest load of cost [G, S] (inf: not there): largest row, and the dual.

    Dual of the assignment with rows cut freely: sum over rows of min over s of w_s * cost[g, s], w on the simplex.
    """
    rows, slots = cost.shape
    weight, busy = np.zeros(slots), np.zeros(slots)
    bound = 0.0
    for s in range(slots):
        total, count = 0.0, 0
        for g in range(rows):
            if cost[g, s] < np.inf:
                total += cost[g, s]
                count += 1
        weight[s] = count / total if total > 0.0 else (1.0 if count > 0 else 0.0)
    weight /= max(weight.sum(), 1e-300)
    for turn in range(iterations):
        busy[:] = 0.0
        found = 0.0
        for g in range(rows):
            best, chosen, fastest = np.inf, 0, np.inf
            for s in range(slots):
                if cost[g, s] < np.inf:
                    fastest = min(fastest, cost[g, s])
                    if weight[s] * cost[g, s] < best:
                        best, chosen = weight[s] * cost[g, s], s
            if best == np.inf:
                return np.inf
            found += best
            bound = max(bound, fastest)
            busy[chosen] += cost[g, chosen]
        bound = max(bound, found)
        top = busy.max()
        if top <= 0.0:
            break
        weight *= np.exp(busy / top / np.sqrt(turn + 1.0))
        weight /= weight.sum()
    return bound


@njit(cache=True)
def _contracted(a, cut_ms, threshold, group):  # type: ignore[no-untyped-def]
    """Merge the ends of every edge with cut_ms >= threshold; return the cost [G, S] of the groups."""
    segments, slots = a.compute.shape
    for k in range(segments):
        group[k] = k
    for k in range(segments):
        for e in range(a.first[k], a.first[k + 1]):
            if cut_ms[e] >= threshold:
                i, j = a.source[e], k
                while group[i] != i:
                    i = group[i]
                while group[j] != j:
                    j = group[j]
                group[max(i, j)] = min(i, j)
    number = np.full(segments, -1, np.int64)
    groups = 0
    for k in range(segments):  # a root has the least number of its group, so it is met first
        if group[k] == k:
            number[k] = groups
            groups += 1
        else:
            group[k] = group[group[k]]
    cost = np.zeros((groups, slots))
    resident, workspace = np.zeros(groups), np.zeros(groups)
    for k in range(segments):
        g = number[group[k]]
        resident[g] += a.resident[k]
        workspace[g] = max(workspace[g], a.workspace[k])
        for s in range(slots):
            cost[g, s] = cost[g, s] + a.compute[k, s] if a.ok[k, s] else np.inf
    for g in range(groups):
        for s in range(slots):
            if resident[g] + workspace[g] > a.capacity[s]:
                cost[g, s] = np.inf
    return cost


@njit(cache=True)
def pipelined_time_bound(a, iterations):  # type: ignore[no-untyped-def]
    """Return a bound on T of the pipelined regime; inf where a segment can run nowhere.

    For any threshold: either an edge that takes that long on every link route is cut, and T is at least the threshold,
    or none is, and T is at least the bound of the problem with their ends merged. The best threshold is found by
    bisection over the edges' times.
    """
    segments, slots = a.compute.shape
    group = np.empty(segments, np.int64)
    per_byte = np.inf
    for p in range(slots):
        for q in range(slots):
            if p != q:
                used = a.hop_first[p * slots + q + 1] > a.hop_first[p * slots + q]
                per_byte = min(per_byte, a.per_byte[p, q] if used else 0.0)
    cut_ms = np.zeros(a.source.shape[0]) if per_byte == np.inf else a.size * per_byte
    bound = _fractional(_contracted(a, cut_ms, np.inf, group), iterations)
    if slots == 1 or per_byte == 0.0:
        return bound
    thresholds = np.unique(cut_ms)
    low, high = 0, thresholds.shape[0] - 1
    while low <= high:
        middle = (low + high) // 2
        threshold = thresholds[middle]
        if threshold <= bound:
            low = middle + 1
            continue
        merged = _fractional(_contracted(a, cut_ms, threshold, group), iterations)
        bound = max(bound, min(threshold, merged))
        if merged >= threshold:
            low = middle + 1
        else:
            high = middle - 1
    return bound
