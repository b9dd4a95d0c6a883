"""Compiled construction and annealing of mappings. Every move is evaluated in full; the seed decides everything."""

from __future__ import annotations

import numpy as np
from numba import njit

from solvers.mapping._kernels import fits, legal, one_run_each, time_and_energy

# What `anneal` makes small, of T and the whole energy E of a mapping:
WEIGHTED = 0  # weight[0] * T + weight[1] * E
EXCESS = 1  # bytes that do not fit + all resident bytes for each segment on a slot not ok: repairs an illegal mapping

FOCUS = 0.5  # share of moves that take load off the busiest resource (pipelined)
COLD = 1e-4  # temperature at the end, in units of the value at the start


@njit(cache=True)
def list_schedule(a, time_w, energy_w, x):  # type: ignore[no-untyped-def]
    """Fill x: each segment in order goes where it costs least now, memory and contiguity respected.

    The cost is its finish (serial), or the load of its slot and of the links that feed it (pipelined), and its energy.
    Returns False where some segment finds no slot that fits; x is legal otherwise.
    """
    segments, slots = a.compute.shape
    end, busy, load, after = np.zeros(segments), np.zeros(slots), np.zeros(a.links), np.zeros(a.links)
    resident, workspace = np.zeros(slots), np.zeros(slots)
    taken = np.zeros(slots, np.bool_)
    for k in range(segments):
        best, chosen, finish = np.inf, -1, 0.0
        for q in range(slots):
            if a.contiguous and taken[q] and x[k - 1] != q:
                continue
            room = a.capacity[q] - resident[q] - a.resident[k]
            if not a.ok[k, q] or max(workspace[q], a.workspace[k]) > room:
                continue
            start = busy[q]
            energy = a.energy[k, q]
            peak = 0.0
            after[:] = load
            for e in range(a.first[k], a.first[k + 1]):
                i = a.source[e]
                p = x[i]
                energy += a.size[e] * a.mj_per_byte[p, q]
                if a.serial:
                    start = max(start, end[i] + a.latency[p, q] + a.size[e] * a.per_byte[p, q])
                elif p != q:
                    for h in range(a.hop_first[p * slots + q], a.hop_first[p * slots + q + 1]):
                        after[a.hop[h]] += a.size[e] * a.per_byte[p, q]
                        peak = max(peak, after[a.hop[h]])
            cost = time_w * max(start + a.compute[k, q], peak) + energy_w * energy
            if cost < best:
                best, chosen, finish = cost, q, start + a.compute[k, q]
        if chosen < 0:
            return False
        x[k] = chosen
        end[k] = busy[chosen] = finish
        taken[chosen] = True
        resident[chosen] += a.resident[k]
        workspace[chosen] = max(workspace[chosen], a.workspace[k])
        if not a.serial:
            for e in range(a.first[k], a.first[k + 1]):
                p = x[a.source[e]]
                for h in range(a.hop_first[p * slots + chosen], a.hop_first[p * slots + chosen + 1]):
                    load[a.hop[h]] += a.size[e] * a.per_byte[p, chosen]
    return True


@njit(cache=True)
def largest_first(a, x):  # type: ignore[no-untyped-def]
    """Fill x: the largest segment first, each to the slot that then has most bytes left (or is least overfull)."""
    slots = a.capacity.shape[0]
    left = a.capacity.copy()
    for k in np.argsort(-(a.resident + a.workspace), kind="mergesort"):
        chosen = -1
        for s in range(slots):
            if a.ok[k, s] and (chosen < 0 or left[s] > left[chosen]):
                chosen = s
        x[k] = max(chosen, 0)
        left[x[k]] -= a.resident[k]


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
def _value(a, mode, weight, limit, x, end, busy, load):  # type: ignore[no-untyped-def]
    """Return what is made small; inf where it is above `limit`."""
    if mode == EXCESS:
        busy[:] = 0.0
        excess, total = 0.0, a.resident.sum()
        for k in range(x.shape[0]):
            busy[x[k]] += a.resident[k]
            if not a.ok[k, x[k]]:
                excess += 1.0 + total
        for s in range(a.capacity.shape[0]):
            workspace = 0.0
            for k in range(x.shape[0]):
                if x[k] == s:
                    workspace = max(workspace, a.workspace[k])
            excess += max(0.0, busy[s] + workspace - a.capacity[s])
        return excess
    time_w = weight[0] + weight[1] * a.static_w
    time, energy = time_and_energy(a, x, end, busy, load, time_w, weight[1], limit)
    if time == np.inf:
        return np.inf
    energy += a.static_w * time
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
    return _below(state, a.capacity.shape[0])


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
    slots = a.capacity.shape[0]
    if resource < slots:
        return x[k] == resource
    for e in range(a.first[k], a.first[k + 1]):
        route = x[a.source[e]] * slots + x[k]
        for h in range(a.hop_first[route], a.hop_first[route + 1]):
            if a.hop[h] == resource - slots:
                return True
    return False


@njit(cache=True)
def _propose(a, x, y, state, resource):  # type: ignore[no-untyped-def]
    """Change y, a copy of x: move one segment, move a block of consecutive ones, swap two, or swap two slots.

    Where a `resource` is the busiest (-1: none), a share of FOCUS takes load off it: nothing else shortens a period.
    """
    segments = x.shape[0]
    slots = a.capacity.shape[0]
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
            y[low:high] = _below(state, slots)
        else:
            _swap_slots(x, y, x[k], _below(state, slots))
    elif u < 0.5:
        y[k] = _near(a, x, k, state)
    elif u < 0.75:
        size = 2 + _below(state, 1 + segments // 3)
        y[k : k + size] = _near(a, x, k, state)
    elif u < 0.95:
        other = _below(state, segments)
        y[k], y[other] = x[other], x[k]
    else:
        _swap_slots(x, y, x[k], _below(state, slots))


@njit(cache=True)
def _swap_slots(x, y, p, q):  # type: ignore[no-untyped-def]
    for i in range(x.shape[0]):
        if x[i] == p:
            y[i] = q
        elif x[i] == q:
            y[i] = p


@njit(cache=True)
def anneal(a, mode, weight, moves, hot, seed, x):  # type: ignore[no-untyped-def]
    """Anneal from x (legal, unless the mode is EXCESS) for `moves` proposals; x becomes the best met.

    The temperature falls from `hot` to COLD, in units of the value of x (or of the mean segment, to repair).

    Returns its value. Contiguous problems start from, and stay with, whole runs.
    """
    segments, slots = a.compute.shape
    end, busy, load = np.zeros(segments), np.zeros(slots), np.zeros(a.links)
    seen = np.zeros(slots, np.bool_)
    changed = np.zeros(slots, np.bool_)
    ample = np.empty(slots, np.bool_)
    everything = a.resident.sum() + a.workspace.max()
    for s in range(slots):
        ample[s] = everything <= a.capacity[s]
    state = np.empty(1, np.uint64)
    state[0] = np.uint64(seed * 2654435769 + 88172645463325252)
    for _ in range(8):
        _random(state)
    now, y = x.copy(), x.copy()
    value = _value(a, mode, weight, np.inf, x, end, busy, load)
    best = value
    periodic = not a.serial and mode != EXCESS and weight[0] > 0.0
    resource = _busiest(busy, load) if periodic else -1
    temperature = hot * (max(value, everything / segments) if mode == EXCESS else value)
    cooling = (COLD / hot) ** (1.0 / max(moves, 1))
    for _ in range(moves):
        if best <= 0.0:
            break
        temperature *= cooling
        _propose(a, now, y, state, resource)
        fine, same = True, True
        for s in range(slots):
            changed[s] = False
        for k in range(segments):
            if y[k] != now[k]:
                same = False
                changed[y[k]] = True
                if not a.ok[k, y[k]]:
                    fine = False
        if same:
            continue
        if mode == EXCESS:
            fine = True
        else:
            for s in range(slots):
                if fine and changed[s] and not ample[s] and not fits(a, y, s):
                    fine = False
        if fine and a.contiguous and not one_run_each(y, seen):
            fine = False
        if not fine:
            y[:] = now
            continue
        limit = value - temperature * np.log(_random(state))  # Metropolis, the coin tossed first
        after = _value(a, mode, weight, limit, y, end, busy, load)
        if after <= limit:
            value = after
            now[:] = y
            if periodic:
                resource = _busiest(busy, load)
            if after < best:
                best = after
                x[:] = y
        else:
            y[:] = now
    return best


@njit(cache=True)
def best_start(a, weight, starts):  # type: ignore[no-untyped-def]
    """Return which of starts [N, K] is legal and least in weight[0] * T + weight[1] * E (-1: none), and its value."""
    segments, slots = a.compute.shape
    end, busy, load = np.zeros(segments), np.zeros(slots), np.zeros(a.links)
    seen = np.zeros(slots, np.bool_)
    best, chosen = np.inf, -1
    for n in range(starts.shape[0]):
        if legal(a, starts[n], seen):
            value = _value(a, WEIGHTED, weight, np.inf, starts[n], end, busy, load)
            if value < best:
                best, chosen = value, n
    return chosen, best
