"""Compiled list scheduling with insertion into idle time."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def mean_costs(a):  # type: ignore[no-untyped-def]
    """Return the mean compute time [K] over the modes that can run a segment, and wait [E] over pairs of two modes."""
    segments, modes = a.compute.shape
    compute, wait = np.zeros(segments), np.zeros(a.source.shape[0])
    for k in range(segments):
        count = 0
        for m in range(modes):
            if a.ok[k, m]:
                compute[k] += a.compute[k, m]
                count += 1
        compute[k] /= max(count, 1)
    pairs = max(modes * (modes - 1), 1)  # routes are zero on the diagonal
    wait[:] = a.latency.sum() / pairs + a.size * (a.per_byte.sum() / pairs)
    return compute, wait


@njit(cache=True)
def upward_ranks(a, rank):  # type: ignore[no-untyped-def]
    """Fill [K] with the mean length of the longest path from the start of a segment to the end."""
    compute, wait = mean_costs(a)
    for k in range(rank.shape[0] - 1, -1, -1):
        rank[k] = 0.0
        for i in range(a.out_first[k], a.out_first[k + 1]):
            e = a.out_edge[i]
            rank[k] = max(rank[k], wait[e] + rank[a.target[e]])
        rank[k] += compute[k]


@njit(cache=True)
def optimistic_costs(a, table):  # type: ignore[no-untyped-def]
    """Fill [K, M] with the least time from the finish of a segment in a mode to the end; waits are mean ones."""
    segments, modes = table.shape
    _, wait = mean_costs(a)
    table[:] = 0.0
    for k in range(segments - 1, -1, -1):
        for i in range(a.out_first[k], a.out_first[k + 1]):
            e = a.out_edge[i]
            j = a.target[e]
            near = np.full(modes, np.inf)  # of the consumer in each mode, its computing included
            least = np.inf
            for q in range(modes):
                if a.ok[j, q]:
                    near[q] = table[j, q] + a.compute[j, q]
                    least = min(least, near[q] + wait[e])
            for p in range(modes):
                table[k, p] = max(table[k, p], min(near[p], least))


@njit(cache=True)
def _first_gap(begin, until, count, s, at, length, insert):  # type: ignore[no-untyped-def]
    """Return the first time from `at` on when slot s is idle for `length`; unless `insert`, after all that it runs."""
    if not insert and count[s] > 0:
        return max(at, until[s, count[s] - 1])
    for i in range(count[s]):
        if at + length <= begin[s, i]:
            return at
        at = max(at, until[s, i])
    return at


@njit(cache=True)
def _occupy(begin, until, count, s, start, end):  # type: ignore[no-untyped-def]
    i = count[s]
    while i > 0 and begin[s, i - 1] > start:
        begin[s, i] = begin[s, i - 1]
        until[s, i] = until[s, i - 1]
        i -= 1
    begin[s, i], until[s, i] = start, end
    count[s] += 1


@njit(cache=True)
def insertion_schedule(a, sequence, ahead, time_w, energy_w, x, start, finish):  # type: ignore[no-untyped-def]
    """Fill x, start and finish [K]: each segment of `sequence` [K] in the first idle time of its best mode.

    Segments that run in number order, `sequence` then, queue up behind each other on a slot instead. Their best mode is
    where time_w * (finish + ahead[k, mode]) + energy_w * energy is least, of the modes where memory, groups and
    contiguity let it be. Returns False where some segment finds none.
    """
    segments, modes = a.compute.shape
    slots = a.capacity.shape[0]
    begin, until = np.empty((slots, segments)), np.empty((slots, segments))
    count = np.zeros(slots, np.int64)
    resident, workspace = np.zeros(slots), np.zeros(slots)
    taken = np.full(slots, -1, np.int64)  # mode that has used it
    home = np.full(a.units, -1, np.int64)
    last = -1
    for k in sequence:
        u = a.unit[k]
        best, chosen = np.inf, -1
        for q in range(modes):
            if not a.ok[k, q] or (home[u] >= 0 and home[u] != q):
                continue
            fine = True
            for i in range(a.member_first[q], a.member_first[q + 1]):
                s = a.member[i]
                room = a.capacity[s] - resident[s] - a.resident[k, q]
                if max(workspace[s], a.workspace[k]) > room:
                    fine = False
                if a.contiguous and home[u] < 0 and taken[s] >= 0 and last != q:
                    fine = False
            if not fine:
                continue
            at, energy = 0.0, a.energy[k, q]
            for e in range(a.first[k], a.first[k + 1]):
                i = a.source[e]
                at = max(at, finish[i] + a.latency[x[i], q] + a.size[e] * a.per_byte[x[i], q])
                energy += a.size[e] * a.mj_per_byte[x[i], q]
            settled = False
            while not settled:  # until all slots of the mode are idle together
                settled = True
                for i in range(a.member_first[q], a.member_first[q + 1]):
                    s = a.member[i]
                    if not a.never_busy[s]:
                        later = _first_gap(begin, until, count, s, at, a.compute[k, q], a.free_order)
                        if later > at:
                            at, settled = later, False
            end = at + a.compute[k, q]
            cost = time_w * (end + ahead[k, q]) + energy_w * energy
            if cost < best:
                best, chosen, start[k], finish[k] = cost, q, at, end
        if chosen < 0:
            return False
        x[k] = last = home[u] = chosen
        for i in range(a.member_first[chosen], a.member_first[chosen + 1]):
            s = a.member[i]
            taken[s] = chosen
            resident[s] += a.resident[k, chosen]
            workspace[s] = max(workspace[s], a.workspace[k])
            if not a.never_busy[s]:
                _occupy(begin, until, count, s, start[k], finish[k])
    return True
