"""Compiled lower bounds: Lagrangian duals whose inner problem is a dynamic programme over a forest of edges.

T of a mapping is the largest of many figures: the length of each path (serial, offload), the load of each slot, that of
each link (pipelined). Any weighted mean of them, weights summing to 1, is at most T, and is a sum over segments and
edges; so are the energy and, with prices >= 0, the excess of memory. Such a sum is made least exactly over all mappings
on a forest (one incoming edge a segment), and the edges left out cost at least nothing. Any weights and prices give a
valid bound; the loops below look for good ones (Held and Karp 1970; Geoffrion 1974).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from solvers.mapping._kernels import PIPELINED, legal, time_and_energy, work_for


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
    segments, modes = a.compute.shape
    slots = a.capacity.shape[0]
    edges = a.source.shape[0]
    links = a.links
    paths = a.regime != PIPELINED  # T is at least the length of each path
    node = np.empty((segments, modes))
    value = np.empty((segments, modes))
    choice = np.empty((segments, modes), np.int32)
    x = np.zeros(segments, np.int64)
    number_order = np.arange(segments)
    w = work_for(a)
    end, busy = np.zeros(segments), np.zeros(slots)
    back = np.full(segments, -1, np.int64)
    parent = np.full(segments, -1, np.int64)
    on_node, on_edge = np.zeros(segments), np.zeros(edges)  # weights of the paths through them (serial)
    slot_w, link_w = np.zeros(slots), np.zeros(links)  # weights of the loads
    price = np.zeros(slots)  # of a byte of memory
    used = np.zeros(slots)
    latency_w, byte_w = np.zeros(edges), np.zeros(edges)
    byte_ms = np.empty((modes, modes))
    mode_w, mode_price = np.zeros(modes), np.zeros(modes)  # of the slots of a mode together

    if paths:
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
                if a.ok[k, s]:  # mode s is slot s alone
                    total += a.compute[k, s]
                    count += 1
            slot_w[s] = count / total if total > 0.0 else (1.0 if count > 0 else 0.0)
            if a.never_busy[s]:
                slot_w[s] = 0.0
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
        mode_w[:] = 0.0
        mode_price[:] = 0.0
        for m in range(modes):
            for i in range(a.member_first[m], a.member_first[m + 1]):
                mode_w[m] += slot_w[a.member[i]]
                mode_price[m] += price[a.member[i]]
        for k in range(segments):
            for m in range(modes):
                if a.ok[k, m]:
                    weight = time_w * (on_node[k] + mode_w[m])
                    held = a.resident[k, m] + a.stash[k]
                    node[k, m] = weight * a.compute[k, m] + energy_w * a.energy[k, m] + mode_price[m] * held
                else:
                    node[k, m] = np.inf
        if paths:
            latency_w[:] = time_w * on_edge
            byte_w[:] = latency_w * a.size
        else:
            byte_w[:] = time_w * a.size
            for p in range(modes):
                for q in range(modes):
                    byte_ms[p, q] = 0.0
                    for h in range(a.hop_first[p * modes + q], a.hop_first[p * modes + q + 1]):
                        byte_ms[p, q] += link_w[a.hop[h]] * a.hop_ms[h]
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

        time, energy = time_and_energy(a, x, number_order, w, 0.0, 0.0, np.inf)
        loads, load = w.busy.copy(), w.load.copy()
        within = time <= a.max_time and energy + a.static_w * time <= a.max_energy
        if within and time < np.inf and legal(a, x, w) and time_w * time + energy_w * energy < best:
            best = time_w * time + energy_w * energy
            x_best[:] = x
        if best <= bound * (1 + 1e-12):
            break

        used[:] = 0.0
        for k in range(segments):
            for i in range(a.member_first[x[k]], a.member_first[x[k] + 1]):
                used[a.member[i]] += a.resident[k, x[k]] + a.stash[k]
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
        if paths:
            share = step / (turn + 3.0)
            last = _longest_path(a, x, end, back)
            busy[:] = 0.0
            for k in range(segments):
                for i in range(a.member_first[x[k]], a.member_first[x[k] + 1]):
                    if not a.never_busy[a.member[i]]:
                        busy[a.member[i]] += a.compute[k, x[k]]
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
            for s in range(slots):
                slot_w[s] *= 0.0 if a.never_busy[s] else np.exp(rate * loads[s] / time)
            link_w *= np.exp(rate * load / time)
            total = slot_w.sum() + link_w.sum()
            if total > 0.0:
                slot_w /= total
                link_w /= total
    return bound, best


@njit(cache=True)
def serial_time_bound(a):  # type: ignore[no-untyped-def]
    """Return the critical-path bound on T (serial, offload); inf where a segment can run nowhere."""
    return _earliest(a, np.empty(a.compute.shape))[0]


@njit(cache=True)
def _fractional(a, cost, iterations):  # type: ignore[no-untyped-def]
    """Return a bound on the least largest load of cost [G, M] (inf: not there): largest row, and the dual.

    Dual of the assignment with rows cut freely: sum over rows of min over m of w_m * cost[g, m], where w_m is the sum
    of the weights of its slots, those on the simplex.
    """
    rows, modes = cost.shape
    slots = a.capacity.shape[0]
    weight, of_mode, busy = np.zeros(slots), np.zeros(modes), np.zeros(slots)
    bound = 0.0
    for s in range(slots):
        total, count = 0.0, 0
        for g in range(rows):
            if cost[g, s] < np.inf:
                total += cost[g, s]
                count += 1
        weight[s] = count / total if total > 0.0 else (1.0 if count > 0 else 0.0)
        if a.never_busy[s]:
            weight[s] = 0.0
    weight /= max(weight.sum(), 1e-300)
    for turn in range(iterations):
        busy[:] = 0.0
        of_mode[:] = 0.0
        for m in range(modes):
            for i in range(a.member_first[m], a.member_first[m + 1]):
                of_mode[m] += weight[a.member[i]]
        found = 0.0
        for g in range(rows):
            best, chosen, fastest = np.inf, 0, np.inf
            for m in range(modes):
                if cost[g, m] < np.inf:
                    fastest = min(fastest, cost[g, m])
                    if of_mode[m] * cost[g, m] < best:
                        best, chosen = of_mode[m] * cost[g, m], m
            if best == np.inf:
                return np.inf
            found += best
            if turn == 0 and a.plain:
                bound = max(bound, fastest)
            for i in range(a.member_first[chosen], a.member_first[chosen + 1]):
                if not a.never_busy[a.member[i]]:
                    busy[a.member[i]] += cost[g, chosen]
        bound = max(bound, found)
        top = busy.max()
        if top <= 0.0:
            break
        weight *= np.exp(busy / top / np.sqrt(turn + 1.0))
        weight /= max(weight.sum(), 1e-300)
    return bound


@njit(cache=True)
def _root(group, k):  # type: ignore[no-untyped-def]
    while group[k] != k:
        k = group[k]
    return k


@njit(cache=True)
def _contracted(a, cut_ms, threshold, group):  # type: ignore[no-untyped-def]
    """Merge groups, and the ends of every edge with cut_ms >= threshold; return the cost [G, M] of what is merged."""
    segments, modes = a.compute.shape
    home = np.full(a.units, -1, np.int64)
    for k in range(segments):
        group[k] = k
    for k in range(segments):
        u = a.unit[k]
        if home[u] < 0:
            home[u] = k
        else:
            i, j = _root(group, home[u]), _root(group, k)
            group[max(i, j)] = min(i, j)
        for e in range(a.first[k], a.first[k + 1]):
            if cut_ms[e] >= threshold:
                i, j = _root(group, a.source[e]), _root(group, k)
                group[max(i, j)] = min(i, j)
    number = np.full(segments, -1, np.int64)
    groups = 0
    for k in range(segments):  # a root has the least number of its group, so it is met first
        if group[k] == k:
            number[k] = groups
            groups += 1
        else:
            group[k] = group[group[k]]
    cost, resident = np.zeros((groups, modes)), np.zeros((groups, modes))
    workspace = np.zeros(groups)
    for k in range(segments):
        g = number[group[k]]
        workspace[g] = max(workspace[g], a.workspace[k])
        for m in range(modes):
            resident[g, m] += a.resident[k, m] + a.stash[k]
            cost[g, m] = cost[g, m] + a.compute[k, m] if a.ok[k, m] else np.inf
    for g in range(groups):
        for m in range(modes):
            for i in range(a.member_first[m], a.member_first[m + 1]):
                if resident[g, m] + workspace[g] > a.capacity[a.member[i]]:
                    cost[g, m] = np.inf
    return cost


@njit(cache=True)
def pipelined_time_bound(a, iterations):  # type: ignore[no-untyped-def]
    """Return a bound on T of the pipelined regime; inf where a segment can run nowhere.

    For any threshold: either an edge that takes that long on every link route, or on every pair of ports, is cut, and T
    is at least the threshold, or none is, and T is at least the bound of the problem with their ends merged. The best
    threshold is found by bisection over the edges' times.
    """
    segments, modes = a.compute.shape
    group = np.empty(segments, np.int64)
    link_ms, port_ms = np.inf, np.inf  # a byte, by the quickest way
    for p in range(modes):
        for q in range(modes):
            if p != q:
                on_link = 0.0
                for h in range(a.hop_first[p * modes + q], a.hop_first[p * modes + q + 1]):
                    on_link = max(on_link, a.hop_ms[h])
                through = 0.0
                for i in range(a.member_first[p], a.member_first[p + 1]):
                    if not a.never_busy[a.member[i]]:
                        through = max(through, a.port_out[p])
                for i in range(a.member_first[q], a.member_first[q + 1]):
                    if not a.never_busy[a.member[i]]:
                        through = max(through, a.port_in[q])
                link_ms, port_ms = min(link_ms, on_link), min(port_ms, through)
    cut_ms = np.zeros(a.source.shape[0])
    if link_ms < np.inf:
        for e in range(cut_ms.shape[0]):
            cut_ms[e] = max(a.size[e] * link_ms, a.output[a.source[e]] * port_ms)
    bound = _fractional(a, _contracted(a, cut_ms, np.inf, group), iterations)
    if modes == 1 or max(link_ms, port_ms) == 0.0:
        return bound
    thresholds = np.unique(cut_ms)
    low, high = 0, thresholds.shape[0] - 1
    while low <= high:
        middle = (low + high) // 2
        threshold = thresholds[middle]
        if threshold <= bound:
            low = middle + 1
            continue
        merged = _fractional(a, _contracted(a, cut_ms, threshold, group), iterations)
        bound = max(bound, min(threshold, merged))
        if merged >= threshold:
            low = middle + 1
        else:
            high = middle - 1
    return bound
