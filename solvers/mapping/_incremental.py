"""Compiled incremental evaluation: what a mapping of units costs after each of them moves, in time of its edges.

Compiled without numba's reference counts (_nrt=False) where no array is made: they took twenty times the moves' time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray


class State(NamedTuple):
    """A mapping of units, its loads and memory, and what undoes the last moves.

    `number` and `total` hold what changes as a whole; T is smoothed by the p-norm of the loads, p = 2 ** squarings.
    """

    at: NDArray[np.int64]  # [U] mode
    on: NDArray[np.int32]  # [M, U] units of a mode, the first `units[m]`
    place: NDArray[np.int64]  # [U] where in `on`
    units: NDArray[np.int64]  # [M] how many
    load: NDArray[np.float64]  # [S + L] ms of slots, then links
    power: NDArray[np.float64]  # [S + L] (load / scale) ** p
    held: NDArray[np.float64]  # [S] bytes
    stash: NDArray[np.float64]  # [S] bytes for each input in flight
    largest: NDArray[np.float64]  # [S] workspace
    excess: NDArray[np.float64]  # [S] share of its capacity by which what it holds exceeds it
    users: NDArray[np.int64]  # [S] units
    readers: NDArray[np.int32]  # [N, M] units of a mode that read a net
    rank: NDArray[np.int64]  # [M] place of a mode in the order of stages (contiguous)
    stamp: NDArray[np.int64]  # [S + L] the last move that changed a load
    touched: NDArray[np.int64]  # [S + L]
    old_load: NDArray[np.float64]  # [S + L]
    old_power: NDArray[np.float64]  # [S + L]
    moved: NDArray[np.int64]  # [U] units of the move, in order
    origin: NDArray[np.int64]  # [U] modes that they leave
    goal: NDArray[np.int64]  # [U] modes that they go to
    planned: NDArray[np.int64]  # [U] the last move that a unit was part of
    number: NDArray[np.int64]  # MOVE, TOUCHED, MOVED, TOP, USED, SQUARINGS
    total: NDArray[np.float64]  # ENERGY, POWERS, SCALE, OLD_ENERGY, OLD_POWERS, EXCESS, OLD_EXCESS


MOVE, TOUCHED, MOVED, TOP, USED, SQUARINGS = range(6)
ENERGY, POWERS, SCALE, OLD_ENERGY, OLD_POWERS, EXCESS, OLD_EXCESS = range(7)


@njit(cache=True)
def state_of(t, at, rank, squarings):  # type: ignore[no-untyped-def]
    """Return the state of mapping `at` [U], stages in the order `rank` [M]."""
    units, modes = t.compute.shape
    slots = t.capacity.shape[0]
    resources = slots + t.links
    s = State(
        at.copy(),
        np.zeros((modes, units), np.int32),
        np.zeros(units, np.int64),
        np.zeros(modes, np.int64),
        np.zeros(resources),
        np.zeros(resources),
        np.zeros(slots),
        np.zeros(slots),
        np.zeros(slots),
        np.zeros(slots),
        np.zeros(slots, np.int64),
        np.zeros((t.net_source.shape[0], modes), np.int32),
        rank.copy(),
        np.zeros(resources, np.int64),
        np.zeros(resources, np.int64),
        np.zeros(resources),
        np.zeros(resources),
        np.zeros(units, np.int64),
        np.zeros(units, np.int64),
        np.zeros(units, np.int64),
        np.zeros(units, np.int64),
        np.zeros(6, np.int64),
        np.zeros(7),
    )
    reset(t, s, squarings)
    return s


@njit(cache=True, _nrt=False)
def reset(t, s, squarings):  # type: ignore[no-untyped-def]
    """Work out everything anew from `s.at`: sums without drift, loads measured in T of now."""
    units, modes = t.compute.shape
    slots = t.capacity.shape[0]
    s.units[:] = 0
    s.load[:] = 0.0
    s.held[:] = 0.0
    s.stash[:] = 0.0
    s.largest[:] = 0.0
    s.users[:] = 0
    s.readers[:] = 0
    energy = 0.0
    for u in range(units):
        m = s.at[u]
        s.place[u] = s.units[m]
        s.on[m, s.units[m]] = u
        s.units[m] += 1
        energy += t.energy[u, m]
        for i in range(t.member_first[m], t.member_first[m + 1]):
            slot = t.member[i]
            s.load[slot] += t.compute[u, m]
            s.held[slot] += t.held[u, m]
            s.stash[slot] += t.stash[u]
            s.largest[slot] = max(s.largest[slot], t.workspace[u])
            s.users[slot] += 1
        for i in range(t.in_first[u], t.in_first[u + 1]):
            s.readers[t.in_net[i], m] += 1
        if t.wired:
            for e in range(t.near_first[u], t.near_first[u + 1]):
                if t.near_out[e]:
                    q = s.at[t.near[e]]
                    energy += t.near_bytes[e] * t.mj_per_byte[m, q]
                    for h in range(t.hop_first[m * modes + q], t.hop_first[m * modes + q + 1]):
                        s.load[slots + t.hop[h]] += t.near_bytes[e] * t.hop_ms[h]
    for n in range(t.net_source.shape[0]):
        p = s.at[t.net_source[n]]
        if s.readers[n, p] < t.net_readers[n]:
            for m in range(modes):
                ms = 0.0
                if m == p:
                    ms = t.net_bytes[n] * t.port_out[p]
                elif s.readers[n, m] > 0:
                    ms = t.net_bytes[n] * t.port_in[m]
                for i in range(t.member_first[m], t.member_first[m + 1]):
                    s.load[t.member[i]] += ms
    s.total[EXCESS] = 0.0
    for slot in range(slots):
        s.excess[slot] = _excess(t, s, slot)
        s.total[EXCESS] += s.excess[slot]
    top = int(np.argmax(s.load))
    s.number[TOP] = top
    s.number[USED] = _in_use(s)
    s.number[SQUARINGS] = squarings
    s.total[ENERGY] = energy
    s.total[SCALE] = s.load[top] if s.load[top] > 0.0 else 1.0
    s.total[POWERS] = 0.0
    for r in range(s.load.shape[0]):
        s.power[r] = _powered(s, s.load[r])
        s.total[POWERS] += s.power[r]


@njit(cache=True, forceinline=True, _nrt=False)
def _excess(t, s, slot):  # type: ignore[no-untyped-def]
    over = s.held[slot] + s.largest[slot] - t.capacity[slot]
    if over <= 0.0:
        return 0.0
    return over / t.capacity[slot] if t.capacity[slot] > 0.0 else 1.0


@njit(cache=True, _nrt=False)
def _in_use(s):  # type: ignore[no-untyped-def]
    used = 0
    for slot in range(s.users.shape[0]):
        used += 1 if s.users[slot] > 0 else 0
    return used


@njit(cache=True, forceinline=True, _nrt=False)
def _powered(s, load):  # type: ignore[no-untyped-def]
    value = max(load, 0.0) / s.total[SCALE]
    for _ in range(s.number[SQUARINGS]):
        value *= value
    return value


@njit(cache=True, forceinline=True, _nrt=False)
def begin(s):  # type: ignore[no-untyped-def]
    """Begin a move: `plan` says of which units, `apply` makes it, then `revert` undoes it or `keep` makes it last."""
    s.number[MOVE] += 1
    s.number[TOUCHED] = 0
    s.number[MOVED] = 0
    s.total[OLD_ENERGY] = s.total[ENERGY]
    s.total[OLD_POWERS] = s.total[POWERS]
    s.total[OLD_EXCESS] = s.total[EXCESS]


@njit(cache=True, forceinline=True, _nrt=False)
def _touch(s, r, ms):  # type: ignore[no-untyped-def]
    if s.stamp[r] != s.number[MOVE]:
        s.stamp[r] = s.number[MOVE]
        i = s.number[TOUCHED]
        s.touched[i] = r
        s.old_load[i] = s.load[r]
        s.old_power[i] = s.power[r]
        s.number[TOUCHED] = i + 1
    s.load[r] += ms


@njit(cache=True, forceinline=True, _nrt=False)
def _charge(t, s, m, ms):  # type: ignore[no-untyped-def]
    for i in range(t.member_first[m], t.member_first[m + 1]):
        _touch(s, t.member[i], ms)


@njit(cache=True, forceinline=True, _nrt=False)
def _through_ports(t, s, u, p, q):  # type: ignore[no-untyped-def]
    """Charge what changes at the ports as u goes from p to q; `s.at` still says p, `s.readers` follows."""
    for i in range(t.in_first[u], t.in_first[u + 1]):
        n = t.in_net[i]
        m = s.at[t.net_source[n]]
        bytes_ = t.net_bytes[n]
        away = t.net_readers[n] - s.readers[n, m]
        s.readers[n, p] -= 1
        s.readers[n, q] += 1
        if p == m:
            if away == 0:
                _charge(t, s, m, bytes_ * t.port_out[m])
        elif s.readers[n, p] == 0:
            _charge(t, s, p, -bytes_ * t.port_in[p])
        if q == m:
            if away == 1:
                _charge(t, s, m, -bytes_ * t.port_out[m])
        elif s.readers[n, q] == 1:
            _charge(t, s, q, bytes_ * t.port_in[q])
    for i in range(t.out_first[u], t.out_first[u + 1]):
        n = t.out_net[i]
        bytes_ = t.net_bytes[n]
        if s.readers[n, p] < t.net_readers[n]:
            _charge(t, s, p, -bytes_ * t.port_out[p])
        if s.readers[n, q] < t.net_readers[n]:
            _charge(t, s, q, bytes_ * t.port_out[q])
        if s.readers[n, q] > 0:
            _charge(t, s, q, -bytes_ * t.port_in[q])
        if s.readers[n, p] > 0:
            _charge(t, s, p, bytes_ * t.port_in[p])


@njit(cache=True, forceinline=True, _nrt=False)
def _along_routes(t, s, u, p, q):  # type: ignore[no-untyped-def]
    slots, modes = t.capacity.shape[0], t.compute.shape[1]
    energy = 0.0
    for e in range(t.near_first[u], t.near_first[u + 1]):
        m = s.at[t.near[e]]
        bytes_ = t.near_bytes[e]
        if t.near_out[e]:
            before, after = p * modes + m, q * modes + m
            energy += bytes_ * (t.mj_per_byte[q, m] - t.mj_per_byte[p, m])
        else:
            before, after = m * modes + p, m * modes + q
            energy += bytes_ * (t.mj_per_byte[m, q] - t.mj_per_byte[m, p])
        for h in range(t.hop_first[before], t.hop_first[before + 1]):
            _touch(s, slots + t.hop[h], -bytes_ * t.hop_ms[h])
        for h in range(t.hop_first[after], t.hop_first[after + 1]):
            _touch(s, slots + t.hop[h], bytes_ * t.hop_ms[h])
    s.total[ENERGY] += energy


@njit(cache=True, forceinline=True, _nrt=False)
def _carry(t, s, u, q):  # type: ignore[no-untyped-def]
    """Put unit u on mode q in the lists and the memory."""
    p = s.at[u]
    s.units[p] -= 1
    last = s.on[p, s.units[p]]
    s.on[p, s.place[u]] = last
    s.place[last] = s.place[u]
    s.place[u] = s.units[q]
    s.on[q, s.units[q]] = u
    s.units[q] += 1
    s.at[u] = q
    for i in range(t.member_first[p], t.member_first[p + 1]):
        slot = t.member[i]
        s.held[slot] -= t.held[u, p]
        s.stash[slot] -= t.stash[u]
        s.users[slot] -= 1
        if s.users[slot] == 0:
            s.number[USED] -= 1
            s.held[slot] = s.stash[slot] = 0.0
        if t.workspace[u] > 0.0 and t.workspace[u] >= s.largest[slot]:
            s.largest[slot] = _largest(t, s, slot)
        _weigh(t, s, slot)
    for i in range(t.member_first[q], t.member_first[q + 1]):
        slot = t.member[i]
        if s.users[slot] == 0:
            s.number[USED] += 1
        s.held[slot] += t.held[u, q]
        s.stash[slot] += t.stash[u]
        s.users[slot] += 1
        s.largest[slot] = max(s.largest[slot], t.workspace[u])
        _weigh(t, s, slot)


@njit(cache=True, forceinline=True, _nrt=False)
def _weigh(t, s, slot):  # type: ignore[no-untyped-def]
    if not t.roomy:
        now = _excess(t, s, slot)
        s.total[EXCESS] += now - s.excess[slot]
        s.excess[slot] = now


@njit(cache=True, forceinline=True, _nrt=False)
def _largest(t, s, slot):  # type: ignore[no-untyped-def]
    value = 0.0
    for m in range(t.compute.shape[1]):
        if s.units[m] == 0 or not _uses(t, m, slot):
            continue
        for i in range(s.units[m]):
            value = max(value, t.workspace[s.on[m, i]])
    return value


@njit(cache=True, forceinline=True, _nrt=False)
def _uses(t, m, slot):  # type: ignore[no-untyped-def]
    found = False
    for i in range(t.member_first[m], t.member_first[m + 1]):
        found = found or t.member[i] == slot
    return found


@njit(cache=True, forceinline=True, _nrt=False)
def plan(s, u, q):  # type: ignore[no-untyped-def]
    """Make it part of the move that unit u goes to mode q, unless it is part of it already."""
    if s.planned[u] != s.number[MOVE] and s.at[u] != q:
        s.planned[u] = s.number[MOVE]
        i = s.number[MOVED]
        s.moved[i] = u
        s.origin[i] = s.at[u]
        s.goal[i] = q
        s.number[MOVED] = i + 1


@njit(cache=True, forceinline=True, _nrt=False)
def apply(t, s):  # type: ignore[no-untyped-def]
    """Do what is planned: loads, energy and memory follow."""
    for i in range(s.number[MOVED]):
        u, p, q = s.moved[i], s.origin[i], s.goal[i]
        s.total[ENERGY] += t.energy[u, q] - t.energy[u, p]
        _charge(t, s, p, -t.compute[u, p])
        _charge(t, s, q, t.compute[u, q])
        if t.net_source.shape[0] > 0:
            _through_ports(t, s, u, p, q)
        if t.wired:
            _along_routes(t, s, u, p, q)
        _carry(t, s, u, q)


@njit(cache=True, forceinline=True, _nrt=False)
def fits(t, s, hard):  # type: ignore[no-untyped-def]
    """Whether the slots have room for what the move brings, and stages keep their order; not how deep stages stash.

    Room for one input in flight is asked for only where `hard`.
    """
    deeper = False
    depth = 0
    if t.stashes and not t.contiguous:
        depth = min(s.number[USED], t.most_in_flight)
        deeper = True  # an opened slot makes every other stash more
    if deeper:
        for slot in range(t.capacity.shape[0]):
            if s.held[slot] + depth * s.stash[slot] + s.largest[slot] > t.capacity[slot]:
                return False
    for i in range(s.number[MOVED]):
        u = s.moved[i]
        q = s.at[u]
        if not t.ok[u, q]:
            return False
        if hard and not t.roomy and not deeper:
            for j in range(t.member_first[q], t.member_first[q + 1]):
                if s.excess[t.member[j]] > 0.0:
                    return False
        if t.contiguous:
            for j in range(t.member_first[q], t.member_first[q + 1]):
                if s.users[t.member[j]] != s.units[q]:
                    return False
            for e in range(t.near_first[u], t.near_first[u + 1]):
                if t.near_ordering[e]:
                    here, there = s.rank[q], s.rank[s.at[t.near[e]]]
                    if (here > there) if t.near_out[e] else (there > here):
                        return False
    return True


@njit(cache=True, forceinline=True, _nrt=False)
def smooth_value(t, s):  # type: ignore[no-untyped-def]
    """Return the objective after the move with the p-norm of the loads for T, and what it is beyond its limits."""
    time, energy = 0.0, s.total[ENERGY]
    if t.time_w > 0.0 or t.max_time < np.inf:
        powers = s.total[POWERS]
        for i in range(s.number[TOUCHED]):
            r = s.touched[i]
            s.power[r] = _powered(s, s.load[r])
            powers += s.power[r] - s.old_power[i]
        s.total[POWERS] = powers
        time = max(powers, 0.0)
        for _ in range(s.number[SQUARINGS]):
            time = np.sqrt(time)
        time *= s.total[SCALE]
    value = t.time_w * time + t.energy_w * energy
    beyond = max(0.0, time / t.max_time - 1.0) if t.max_time > 0.0 else time
    whole = energy + t.static_w * time
    beyond += max(0.0, whole / t.max_energy - 1.0) if t.max_energy > 0.0 else whole
    return value, beyond


@njit(cache=True, forceinline=True, _nrt=False)
def revert(t, s):  # type: ignore[no-untyped-def]
    """Undo everything since `begin`, to the bit where loads are concerned."""
    for i in range(s.number[MOVED] - 1, -1, -1):
        u, p = s.moved[i], s.origin[i]
        for j in range(t.in_first[u], t.in_first[u + 1]):
            s.readers[t.in_net[j], s.at[u]] -= 1
            s.readers[t.in_net[j], p] += 1
        _carry(t, s, u, p)
    for i in range(s.number[TOUCHED]):
        r = s.touched[i]
        s.load[r] = s.old_load[i]
        s.power[r] = s.old_power[i]
    s.total[ENERGY] = s.total[OLD_ENERGY]
    s.total[POWERS] = s.total[OLD_POWERS]
    s.total[EXCESS] = s.total[OLD_EXCESS]


@njit(cache=True, forceinline=True, _nrt=False)
def keep(s):  # type: ignore[no-untyped-def]
    """Make the move last: find the resource that is loaded most."""
    top = s.number[TOP]
    lowered = False
    for i in range(s.number[TOUCHED]):
        r = s.touched[i]
        lowered = lowered or (r == s.number[TOP] and s.load[r] < s.old_load[i])
        if s.load[r] > s.load[top]:
            top = r
    s.number[TOP] = int(np.argmax(s.load)) if lowered else top


@njit(cache=True, forceinline=True, _nrt=False)
def exact_value(t, s):  # type: ignore[no-untyped-def]
    """Return the objective of the mapping after `keep`; inf beyond its limits."""
    time = s.load[s.number[TOP]]
    energy = s.total[ENERGY] + t.static_w * time
    if time > t.max_time or energy > t.max_energy:
        return np.inf
    return t.time_w * time + t.energy_w * s.total[ENERGY]
