"""Compiled construction and annealing of mappings. Every move is evaluated in full; the seed decides everything."""

from __future__ import annotations

import numpy as np
from numba import njit

from solvers.mapping._kernels import PIPELINED, legal, overfull, staged, time_and_energy, work_for

# What `anneal` makes small, of T and the whole energy E of a mapping:
WEIGHTED = 0  # weight[0] * T + weight[1] * E
EXCESS = 1  # bytes that do not fit + all resident bytes for each segment on a slot not ok: repairs an illegal mapping

FOCUS = 0.5  # share of moves that take load off the busiest resource (pipelined)
REORDER = 0.3  # share of moves that change the order, where that is free
COLD = 1e-4  # temperature at the end, in units of the value at the start


@njit(cache=True)
def list_schedule(a, time_w, energy_w, x):  # type: ignore[no-untyped-def]
    """Fill x: each segment in order goes where it costs least now, memory, groups and contiguity respected.

    The cost is its finish (serial, offload), or the load of its slots and of the links that feed it (pipelined), and
    its energy. Returns False where some segment finds no slot that fits; x is legal otherwise.
    """
    segments, modes = a.compute.shape
    slots = a.capacity.shape[0]
    end, busy, load, after = np.zeros(segments), np.zeros(slots), np.zeros(a.links), np.zeros(a.links)
    resident, workspace = np.zeros(slots), np.zeros(slots)
    taken = np.full(slots, -1, np.int64)  # mode that has used it
    home = np.full(a.units, -1, np.int64)
    pipelined = a.regime == PIPELINED
    last = -1
    for k in range(segments):
        best, chosen, finish = np.inf, -1, 0.0
        for q in range(modes):
            u = a.unit[k]
            if not a.ok[k, q] or (home[u] >= 0 and home[u] != q):
                continue
            start, fine = 0.0, True
            for i in range(a.member_first[q], a.member_first[q + 1]):
                s = a.member[i]
                room = a.capacity[s] - resident[s] - a.resident[k, q] - a.stash[k]
                if max(workspace[s], a.workspace[k]) > room:
                    fine = False
                if a.contiguous and home[u] < 0 and taken[s] >= 0 and last != q:
                    fine = False
                start = max(start, busy[s])
            if not fine:
                continue
            energy = a.energy[k, q]
            peak = 0.0
            after[:] = load
            for e in range(a.first[k], a.first[k + 1]):
                i = a.source[e]
                p = x[i]
                energy += a.size[e] * a.mj_per_byte[p, q]
                if not pipelined:
                    start = max(start, end[i] + a.latency[p, q] + a.size[e] * a.per_byte[p, q])
                elif p != q:
                    start += a.output[i] * a.port_in[q]
                    for h in range(a.hop_first[p * modes + q], a.hop_first[p * modes + q + 1]):
                        after[a.hop[h]] += a.size[e] * a.hop_ms[h]
                        peak = max(peak, after[a.hop[h]])
            cost = time_w * max(start + a.compute[k, q], peak) + energy_w * energy
            if cost < best:
                best, chosen, finish = cost, q, start + a.compute[k, q]
        if chosen < 0:
            return False
        x[k] = last = home[a.unit[k]] = chosen
        end[k] = finish
        for i in range(a.member_first[chosen], a.member_first[chosen + 1]):
            s = a.member[i]
            taken[s] = chosen
            if not a.never_busy[s]:
                busy[s] = finish
            resident[s] += a.resident[k, chosen] + a.stash[k]
            workspace[s] = max(workspace[s], a.workspace[k])
        if pipelined:
            for e in range(a.first[k], a.first[k + 1]):
                p = x[a.source[e]]
                for h in range(a.hop_first[p * modes + chosen], a.hop_first[p * modes + chosen + 1]):
                    load[a.hop[h]] += a.size[e] * a.hop_ms[h]
    w = work_for(a)
    time, _ = time_and_energy(a, x, np.arange(segments), w, 0.0, 0.0, np.inf)
    return time < np.inf and legal(a, x, w)


@njit(cache=True)
def largest_first(a, x):  # type: ignore[no-untyped-def]
    """Fill x: the largest group first, each to the slot that then has most bytes left (or is least overfull)."""
    slots = a.capacity.shape[0]
    left = a.capacity.copy()
    need = np.zeros(a.units)
    for u in range(a.units):
        for i in range(a.unit_first[u], a.unit_first[u + 1]):
            k = a.in_unit[i]
            need[u] += a.resident[k].max() + a.stash[k] + a.workspace[k]
    for u in np.argsort(-need, kind="mergesort"):
        chosen = -1
        for s in range(slots):
            fine = True
            for i in range(a.unit_first[u], a.unit_first[u + 1]):
                fine = fine and a.ok[a.in_unit[i], s]
            if fine and (chosen < 0 or left[s] > left[chosen]):
                chosen = s
        for i in range(a.unit_first[u], a.unit_first[u + 1]):
            k = a.in_unit[i]
            if chosen >= 0:
                x[k] = chosen
            else:  # on a team only
                x[k] = max(0, int(np.argmax(a.ok[k])))
            left[x[k] if x[k] < slots else a.member[a.member_first[x[k]]]] -= a.resident[k, x[k]] + a.stash[k]


@njit(cache=True)
def _random(state):  # type: ignore[no-untyped-def]
    """Return the next number in [0, 1) of xorshift64 (Marsaglia 2003)."""
    bits = state[0]
    bits ^= bits << np.uint64(13)
    bits ^= bits >> np.uint64(7)
    bits ^= bits << np.uint64(17)
    state[0] = bits
    return (bits >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit(cache=True)
def _below(state, n):  # type: ignore[no-untyped-def]
    return int(_random(state) * n)


@njit(cache=True)
def _value(a, mode, weight, limit, x, order, w):  # type: ignore[no-untyped-def]
    """Return what is made small; inf where it is above `limit`, or a limit of the problem is passed."""
    if mode == EXCESS:
        if a.contiguous and not staged(a, x, w):
            return np.inf
        forbidden, total = 0.0, 0.0
        for k in range(x.shape[0]):
            total += a.resident[k].max() + a.stash[k]
            if not a.ok[k, x[k]]:
                forbidden += 1.0
        return overfull(a, x, w) + forbidden * (1.0 + total)
    time_w = weight[0] + weight[1] * a.static_w
    time, energy = time_and_energy(a, x, order, w, time_w, weight[1], limit)
    if time == np.inf:
        return np.inf
    energy += a.static_w * time
    if time > a.max_time or energy > a.max_energy:
        return np.inf
    return weight[0] * time + weight[1] * energy


@njit(cache=True)
def _near(a, x, k, state):  # type: ignore[no-untyped-def]
    """Return a slot to try for segment k: where a neighbour in order or in the graph runs, or any."""
    u = _random(state)
    if u < 0.2 and k > 0:
        return x[k - 1]
    if u < 0.4 and k + 1 < x.shape[0]:
        return x[k + 1]
    inputs = a.first[k + 1] - a.first[k]
    if u < 0.5 and inputs > 0:
        return x[a.source[a.first[k] + _below(state, inputs)]]
    return _below(state, a.compute.shape[1])


@njit(cache=True)
def _busiest(busy, load):  # type: ignore[no-untyped-def]
    """Return the slot, or S + the link, that is loaded most."""
    slot = int(np.argmax(busy))
    if load.shape[0] > 0:
        link = int(np.argmax(load))
        if load[link] > busy[slot]:
            return busy.shape[0] + link
    return slot


@njit(cache=True)
def _loads(a, x, k, resource):  # type: ignore[no-untyped-def]
    """Return whether segment k runs on the slot, or reads over the link, that `resource` (see `_busiest`) is."""
    slots, modes = a.capacity.shape[0], a.compute.shape[1]
    if resource < slots:
        return resource in a.member[a.member_first[x[k]] : a.member_first[x[k] + 1]]
    for e in range(a.first[k], a.first[k + 1]):
        route = x[a.source[e]] * modes + x[k]
        for h in range(a.hop_first[route], a.hop_first[route + 1]):
            if a.hop[h] == resource - slots:
                return True
    return False


@njit(cache=True)
def _propose(a, x, y, state, resource):  # type: ignore[no-untyped-def]
    """Change y, a copy of x: move one segment, move a block of consecutive ones, swap two, or swap two slots.

    Where a `resource` is the busiest (-1: none), a share of FOCUS takes load off it: nothing else shortens a period.
    """
    segments, modes = a.compute.shape
    u = _random(state)
    k = _below(state, segments)
    if resource >= 0 and _random(state) < FOCUS:
        for _ in range(segments):
            if _loads(a, x, k, resource):
                break
            k = k + 1 if k + 1 < segments else 0
    if a.contiguous:  # moves that keep runs whole, mostly
        low, high = k, k + 1  # the run of k
        while low > 0 and x[low - 1] == x[k]:
            low -= 1
        while high < segments and x[high] == x[k]:
            high += 1
        if u < 0.25 and low > 0:  # the run before takes a head of this run
            y[low : k + 1] = x[low - 1]
        elif u < 0.5 and high < segments:  # the run after takes a tail
            y[k:high] = x[high]
        elif u < 0.85:  # a head, a tail or the whole run goes to some slot
            if u < 0.6:
                high = k + 1
            elif u < 0.75:
                low = k
            y[low:high] = _below(state, modes)
        elif u < 0.92:  # a segment joins one of its neighbours in the graph
            y[k] = _near(a, x, k, state)
        else:
            _swap_slots(x, y, x[k], _below(state, modes))
    elif u < 0.5:
        y[k] = _near(a, x, k, state)
    elif u < 0.75:
        size = 2 + _below(state, 1 + segments // 3)
        y[k : k + size] = _near(a, x, k, state)
    elif u < 0.95:
        other = _below(state, segments)
        y[k], y[other] = x[other], x[k]
    else:
        _swap_slots(x, y, x[k], _below(state, modes))
    if a.units < segments:
        _follow(a, x, y)


@njit(cache=True)
def _follow(a, x, y):  # type: ignore[no-untyped-def]
    """Make the others of a group go where the first of them that moved goes."""
    for u in range(a.units):
        if a.unit_first[u + 1] - a.unit_first[u] < 2:
            continue
        for i in range(a.unit_first[u], a.unit_first[u + 1]):
            k = a.in_unit[i]
            if y[k] != x[k]:
                for j in range(a.unit_first[u], a.unit_first[u + 1]):
                    y[a.in_unit[j]] = y[k]
                break


@njit(cache=True)
def _reorder(a, order, place, state):  # type: ignore[no-untyped-def]
    """Move one segment to another place of `order` [K] between its inputs and its consumers; `place` is its inverse."""
    k = _below(state, order.shape[0])
    low, high = 0, order.shape[0] - 1
    for e in range(a.first[k], a.first[k + 1]):
        low = max(low, place[a.source[e]] + 1)
    for i in range(a.out_first[k], a.out_first[k + 1]):
        high = min(high, place[a.target[a.out_edge[i]]] - 1)
    to = low + _below(state, high - low + 1)
    at = place[k]
    while at != to:
        other = at + 1 if to > at else at - 1
        order[at] = order[other]
        place[order[at]] = at
        at = other
    order[to] = k
    place[k] = to


@njit(cache=True)
def _swap_slots(x, y, p, q):  # type: ignore[no-untyped-def]
    for i in range(x.shape[0]):
        if x[i] == p:
            y[i] = q
        elif x[i] == q:
            y[i] = p


@njit(cache=True)
def anneal(a, mode, weight, moves, hot, seed, x, order):  # type: ignore[no-untyped-def]
    """Anneal from x (legal, unless the mode is EXCESS) for `moves` proposals; x becomes the best met, with its order.

    The temperature falls from `hot` to COLD, in units of the value of x (or of the mean segment, to repair).

    Returns its value. Contiguous problems start from, and stay with, stages; `order` changes where it is free.
    """
    segments = a.compute.shape[0]
    w = work_for(a)
    everything = a.workspace.max()
    for k in range(segments):
        everything += a.resident[k].max() + a.stash[k] * segments
    tight = everything > a.capacity.min()
    state = np.empty(1, np.uint64)
    state[0] = np.uint64(seed * 2654435769 + 88172645463325252)
    for _ in range(8):
        _random(state)
    now, y = x.copy(), x.copy()
    run_in, other = order.copy(), order.copy()
    place = np.empty(segments, np.int64)
    value = _value(a, mode, weight, np.inf, x, order, w)
    best = value
    periodic = a.regime == PIPELINED and mode != EXCESS and weight[0] > 0.0
    resource = _busiest(w.busy, w.load) if periodic else -1
    temperature = hot * (max(value, everything / segments) if mode == EXCESS else value)
    cooling = (COLD / hot) ** (1.0 / max(moves, 1))
    for _ in range(moves):
        if best <= 0.0:
            break
        temperature *= cooling
        reordered = a.free_order and mode != EXCESS and _random(state) < REORDER
        fine, same = True, True
        if reordered:
            for i in range(segments):
                place[other[i]] = i
            _reorder(a, other, place, state)
            same = False
        else:
            _propose(a, now, y, state, resource)
            for k in range(segments):
                if y[k] != now[k]:
                    same = False
                    if not a.ok[k, y[k]]:
                        fine = False
        if same:
            continue
        if mode == EXCESS:
            fine = True
        elif not reordered:
            if fine and a.contiguous and not staged(a, y, w):
                fine = False
            if fine and tight and overfull(a, y, w) > 0.0:
                fine = False
        if not fine:
            y[:] = now
            continue
        limit = value - temperature * np.log(_random(state))  # Metropolis, the coin tossed first
        after = _value(a, mode, weight, limit, y, other, w)
        if after <= limit and after < np.inf:
            value = after
            now[:] = y
            if reordered:
                run_in[:] = other
            if periodic:
                resource = _busiest(w.busy, w.load)
            if after < best:
                best = after
                x[:] = y
                order[:] = run_in
        else:
            y[:] = now
            if reordered:
                other[:] = run_in
    return best


@njit(cache=True)
def best_start(a, weight, starts):  # type: ignore[no-untyped-def]
    """Return which of starts [N, K] is legal and least in weight[0] * T + weight[1] * E (-1: none), and its value."""
    order = np.arange(a.compute.shape[0])
    w = work_for(a)
    best, chosen = np.inf, -1
    for n in range(starts.shape[0]):
        if legal(a, starts[n], w):
            value = _value(a, WEIGHTED, weight, np.inf, starts[n], order, w)
            if value < best:
                best, chosen = value, n
    return chosen, best
