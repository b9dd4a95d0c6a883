"""A problem as numba takes it, and the evaluation of one mapping; loaded only when a solver runs."""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numba import njit
from numpy.typing import NDArray

from solvers.mapping.feasibility import room_bytes, runnable
from solvers.mapping.problem import MappingProblem

# Of all bytes. Without it, bytes that lack only by rounding get a price without end, and a bound above the optimum.
ROUNDING = 1e-12

# Functions that make no array are compiled without numba's reference counts (_nrt=False): they are handed tuples of
# fifty arrays, and counting those took longer than evaluating a mapping.

SERIAL, PIPELINED, OFFLOAD = 0, 1, 2
_REGIMES = {"serial": SERIAL, "pipelined": PIPELINED, "offload": OFFLOAD}


class Arrays(NamedTuple):
    """A MappingProblem for compiled code: edges sorted by target, zeros (never inf or nan) where a cell is not ok."""

    allowed: NDArray[np.bool_]  # [K, M]
    ok: NDArray[np.bool_]  # [K, M] allowed, and fits there alone
    compute: NDArray[np.float64]  # [K, M]
    energy: NDArray[np.float64]  # [K, M]
    first: NDArray[np.int64]  # [K + 1] edges first[k]:first[k + 1] end in segment k
    source: NDArray[np.int64]  # [E]
    size: NDArray[np.float64]  # [E] bytes
    ordering: NDArray[np.bool_]  # [E] whether the order of contiguous stages has to respect it
    out_first: NDArray[np.int64]  # [K + 1] edges out_edge[out_first[k]:...] begin in segment k
    out_edge: NDArray[np.int64]  # [E]
    target: NDArray[np.int64]  # [E]
    latency: NDArray[np.float64]  # [M, M]
    per_byte: NDArray[np.float64]  # [M, M] ms
    mj_per_byte: NDArray[np.float64]  # [M, M]
    hop_first: NDArray[np.int64]  # [M * M + 1] links hop[hop_first[p * M + q]:...] lie on the route p -> q
    hop: NDArray[np.int64]
    hop_ms: NDArray[np.float64]  # ms a byte that the route holds that link
    links: int
    port_in: NDArray[np.float64]  # [M] ms a byte
    port_out: NDArray[np.float64]  # [M] ms a byte
    output: NDArray[np.float64]  # [K] bytes that a port moves of a segment's output
    ports: bool
    resident: NDArray[np.float64]  # [K, M]
    workspace: NDArray[np.float64]  # [K]
    stash: NDArray[np.float64]  # [K]
    capacity: NDArray[np.float64]  # [S]
    room: NDArray[np.float64]  # [S] upper bound on resident bytes, at most their total, and a little for rounding
    member_first: NDArray[np.int64]  # [M + 1] slots member[member_first[m]:...] belong to mode m
    member: NDArray[np.int64]
    never_busy: NDArray[np.bool_]  # [S]
    unit: NDArray[np.int64]  # [K] group
    units: int
    unit_first: NDArray[np.int64]  # [units + 1] segments in_unit[unit_first[u]:...] are one group
    in_unit: NDArray[np.int64]  # [K]
    static_w: float
    max_time: float
    max_energy: float
    most_in_flight: int
    regime: int
    contiguous: bool
    free_order: bool
    stashes: bool
    plain: bool  # one slot a mode, none concurrent


_MADE: WeakKeyDictionary[MappingProblem, Arrays] = WeakKeyDictionary()


class Work(NamedTuple):
    """Room for the evaluation of one mapping."""

    end: NDArray[np.float64]  # [K]
    busy: NDArray[np.float64]  # [S]
    load: NDArray[np.float64]  # [L]
    held: NDArray[np.float64]  # [S]
    largest: NDArray[np.float64]  # [S]
    mark: NDArray[np.int64]  # [M]
    user: NDArray[np.int64]  # [S]
    node: NDArray[np.int64]  # [K] of the quotient graph
    waiting: NDArray[np.int64]  # [max(M, S + K)]
    head: NDArray[np.int64]  # [max(M, S + K)]
    next: NDArray[np.int64]  # [K]
    order: NDArray[np.int64]  # [max(M, S + K)]
    depth: NDArray[np.int64]  # [max(M, S + K)]
    when: NDArray[np.float64]  # [max(M, S + K)]
    home: NDArray[np.int64]  # [units]


def arrays(problem: MappingProblem) -> Arrays:
    """Return the problem as compiled code takes it; made once for a problem."""
    if problem not in _MADE:
        made = _made(problem)
        # of one layout and writable: for every other, numba would compile all kernels once more
        _MADE[problem] = Arrays._make(np.require(v, None, ["C", "W"]) if isinstance(v, np.ndarray) else v for v in made)
    return _MADE[problem]


def _made(problem: MappingProblem) -> Arrays:
    k, m, edges = problem.segments, problem.modes, problem.edges
    by_target = np.argsort(edges[:, 1], kind="stable")
    source, target = (np.ascontiguousarray(edges[by_target, end], dtype=np.int64) for end in (0, 1))
    uses = problem.route_links.reshape(m**2, -1)
    route, hop = np.nonzero(uses)
    members = problem.members
    held = problem.held_bytes
    runs = runnable(problem)
    total = np.where(runs, held, 0.0).max(axis=1, initial=0.0).sum() + problem.stash.sum()
    return Arrays(
        allowed=problem.allowed,
        ok=runs,
        compute=np.where(problem.allowed, problem.compute_ms, 0.0),
        energy=np.where(problem.allowed, problem.energy_mj, 0.0),
        first=_offsets(target, k),
        source=source,
        size=_floats(problem.edge_bytes[by_target]),
        ordering=problem.ordering[by_target],
        out_first=_offsets(source, k),
        out_edge=np.argsort(source, kind="stable").astype(np.int64),
        target=target,
        latency=_floats(problem.route_latency_ms),
        per_byte=_floats(problem.route_ms_per_byte),
        mj_per_byte=_floats(problem.route_mj_per_byte),
        hop_first=_offsets(route, m**2),
        hop=hop.astype(np.int64),
        hop_ms=_floats(uses[route, hop] * problem.route_ms_per_byte.ravel()[route]),
        links=int(problem.route_links.shape[-1]),
        port_in=_floats(problem.ports[0]),
        port_out=_floats(problem.ports[1]),
        output=_floats(problem.output_bytes),
        ports=problem.has_ports,
        resident=_floats(np.where(runs, held, 0.0)),
        workspace=_floats(problem.workspace_bytes),
        stash=_floats(problem.stash),
        capacity=_floats(problem.capacity_bytes),
        room=np.minimum(room_bytes(problem, runs), total) + ROUNDING * (total + problem.workspace_bytes.max()),
        member_first=_offsets(np.nonzero(members)[0], m),
        member=np.nonzero(members)[1].astype(np.int64),
        never_busy=problem.never_busy,
        unit=problem.unit,
        units=int(problem.unit.max()) + 1,
        unit_first=_offsets(problem.unit, int(problem.unit.max()) + 1),
        in_unit=np.argsort(problem.unit, kind="stable").astype(np.int64),
        static_w=float(problem.static_w),
        max_time=float(problem.max_latency_ms),
        max_energy=float(problem.max_energy_mj),
        most_in_flight=int(problem.most_in_flight),
        regime=_REGIMES[problem.regime],
        contiguous=bool(problem.contiguous),
        free_order=bool(problem.free_order),
        stashes=bool(problem.stash_bytes.any()),
        plain=m == problem.slots and not problem.concurrent.any(),
    )


def _floats(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.ascontiguousarray(values, dtype=np.float64)


def _offsets(keys: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Where the entries of each of `count` sorted keys begin, and the end."""
    first = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(keys, minlength=count), out=first[1:])
    return first


@njit(cache=True)
def work_for(a):  # type: ignore[no-untyped-def]
    """Return the room in which mappings of a problem are evaluated."""
    segments, modes = a.compute.shape
    slots = a.capacity.shape[0]
    nodes = max(modes, slots + segments)
    return Work(
        np.zeros(segments),
        np.zeros(slots),
        np.zeros(a.links),
        np.zeros(slots),
        np.zeros(slots),
        np.full(modes, -1, np.int64),
        np.full(slots, -1, np.int64),
        np.zeros(segments, np.int64),
        np.zeros(nodes, np.int64),
        np.full(nodes, -1, np.int64),
        np.zeros(segments, np.int64),
        np.zeros(nodes, np.int64),
        np.zeros(nodes, np.int64),
        np.zeros(nodes),
        np.full(a.units, -1, np.int64),
    )


@njit(cache=True, _nrt=False)
def time_and_energy(a, x, order, w, time_w, energy_w, limit):  # type: ignore[no-untyped-def]
    """Return T and dynamic energy of mapping x [K] with segments run in `order` [K] (serial), in the room `w`.

    Gives up, and returns inf for both, once time_w * T + energy_w * energy is above `limit`: it only grows. In an
    offload whose calls wait for each other in a circle, T is inf.
    """
    if a.regime == SERIAL:
        return _serial(a, x, order, w, time_w, energy_w, limit)
    energy = 0.0
    time = 0.0
    slots = a.capacity.shape[0]
    modes = a.compute.shape[1]
    busy, load = w.busy, w.load
    busy[:] = 0.0
    load[:] = 0.0
    for k in range(x.shape[0]):  # the loads of the slots first: they are cheap, and enough to give up on most bad ones
        m = x[k]
        energy += a.energy[k, m]
        if a.plain:
            busy[m] += a.compute[k, m]
        else:
            for i in range(a.member_first[m], a.member_first[m + 1]):
                s = a.member[i]
                busy[s] = max(busy[s], a.compute[k, m]) if a.never_busy[s] else busy[s] + a.compute[k, m]
    for s in range(slots):
        time = max(time, busy[s])
    if time_w * time + energy_w * energy > limit:
        return np.inf, np.inf
    pipelined = a.regime == PIPELINED
    for k in range(x.shape[0]):
        q = x[k]
        for e in range(a.first[k], a.first[k + 1]):
            p = x[a.source[e]]
            if p == q:
                continue
            energy += a.size[e] * a.mj_per_byte[p, q]
            if pipelined:
                for h in range(a.hop_first[p * modes + q], a.hop_first[p * modes + q + 1]):
                    load[a.hop[h]] += a.size[e] * a.hop_ms[h]
                    time = max(time, load[a.hop[h]])
        if time_w * time + energy_w * energy > limit:
            return np.inf, np.inf
    if a.ports:
        _through_ports(a, x, w)
        for s in range(slots):
            time = max(time, busy[s])
    if not pipelined:
        time = _offload(a, x, w)
    if time_w * time + energy_w * energy > limit:
        return np.inf, np.inf
    return time, energy


@njit(cache=True, _nrt=False)
def _serial(a, x, order, w, time_w, energy_w, limit):  # type: ignore[no-untyped-def]
    end, busy = w.end, w.busy
    busy[:] = 0.0
    energy = 0.0
    time = 0.0
    for k in order:
        q = x[k]
        start = 0.0
        if a.plain:
            start = busy[q]
        else:
            for i in range(a.member_first[q], a.member_first[q + 1]):
                start = max(start, busy[a.member[i]])
        for e in range(a.first[k], a.first[k + 1]):
            i = a.source[e]
            p = x[i]
            start = max(start, end[i] + a.latency[p, q] + a.size[e] * a.per_byte[p, q])
            energy += a.size[e] * a.mj_per_byte[p, q]
        energy += a.energy[k, q]
        end[k] = start + a.compute[k, q]
        if a.plain:
            busy[q] = end[k]
        else:
            for i in range(a.member_first[q], a.member_first[q + 1]):
                if not a.never_busy[a.member[i]]:
                    busy[a.member[i]] = end[k]
        time = max(time, end[k])
        if time_w * time + energy_w * energy > limit:
            return np.inf, np.inf
    return time, energy


@njit(cache=True, _nrt=False)
def _through_ports(a, x, w):  # type: ignore[no-untyped-def]
    """Add to the loads of slots what their ports move: an output once for each mode that it leaves or enters."""
    w.mark[:] = -1
    for u in range(x.shape[0]):
        p = x[u]
        crosses = False
        for i in range(a.out_first[u], a.out_first[u + 1]):
            q = x[a.target[a.out_edge[i]]]
            if q == p:
                continue
            crosses = True
            if w.mark[q] != u:
                w.mark[q] = u
                _pass(a, w, q, a.output[u] * a.port_in[q])
        if crosses:
            _pass(a, w, p, a.output[u] * a.port_out[p])


@njit(cache=True, _nrt=False)
def _pass(a, w, m, ms):  # type: ignore[no-untyped-def]
    for i in range(a.member_first[m], a.member_first[m + 1]):
        if not a.never_busy[a.member[i]]:
            w.busy[a.member[i]] += ms


@njit(cache=True, _nrt=False)
def _offload(a, x, w):  # type: ignore[no-untyped-def]
    """Return the finish of the last call; `w.busy` holds how long the call of each slot takes."""
    segments = x.shape[0]
    slots = a.capacity.shape[0]
    for k in range(segments):
        w.node[k] = slots + k if a.never_busy[x[k]] else x[k]
    calls = quotient_order(a, x, w, slots + segments, False)
    if calls < 0:
        return np.inf
    w.when[:] = 0.0  # a call's start, then its finish
    time = 0.0
    for n in range(calls):
        c = w.order[n]
        w.when[c] += a.compute[c - slots, x[c - slots]] if c >= slots else w.busy[c]
        time = max(time, w.when[c])
        k = w.head[c]
        while k >= 0:
            for i in range(a.out_first[k], a.out_first[k + 1]):
                e = a.out_edge[i]
                j = a.target[e]
                if w.node[j] != c:
                    wait = a.latency[x[k], x[j]] + a.size[e] * a.per_byte[x[k], x[j]]
                    w.when[w.node[j]] = max(w.when[w.node[j]], w.when[c] + wait)
            k = w.next[k]
    return time


@njit(cache=True, _nrt=False)
def quotient_order(a, x, w, nodes, only_ordering):  # type: ignore[no-untyped-def]
    """Put the nodes in use of the quotient graph by `w.node` [K] into topological order: return how many, -1: a cycle.

    `w.order` holds them, `w.head` and `w.next` the list of the segments of each. Edges that are not `ordering` count
    unless `only_ordering`.
    """
    segments = x.shape[0]
    for n in range(nodes):
        w.head[n] = -1
        w.waiting[n] = 0
    for k in range(segments - 1, -1, -1):
        w.next[k] = w.head[w.node[k]]
        w.head[w.node[k]] = k
    for k in range(segments):
        n = w.node[k]
        for e in range(a.first[k], a.first[k + 1]):
            if w.node[a.source[e]] != n and (a.ordering[e] or not only_ordering):
                w.waiting[n] += 1
    used, done = 0, 0
    for n in range(nodes):
        if w.head[n] >= 0:
            used += 1
            if w.waiting[n] == 0:
                w.order[done] = n
                done += 1
    at = 0
    while at < done:
        n = w.order[at]
        at += 1
        k = w.head[n]
        while k >= 0:
            for i in range(a.out_first[k], a.out_first[k + 1]):
                e = a.out_edge[i]
                other = w.node[a.target[e]]
                if other != n and (a.ordering[e] or not only_ordering):
                    w.waiting[other] -= 1
                    if w.waiting[other] == 0:
                        w.order[done] = other
                        done += 1
            k = w.next[k]
    return done if done == used else -1


@njit(cache=True, _nrt=False)
def staged(a, x, w):  # type: ignore[no-untyped-def]
    """Whether the slots are stages of a pipeline: no circle of edges, no slot used by two modes.

    Fills `w.depth` [M] with the stages from each mode in use to the last one, both included.
    """
    slots = a.capacity.shape[0]
    for s in range(slots):
        w.user[s] = -1
    for k in range(x.shape[0]):
        w.node[k] = x[k]
        for i in range(a.member_first[x[k]], a.member_first[x[k] + 1]):
            s = a.member[i]
            if w.user[s] >= 0 and w.user[s] != x[k]:
                return False
            w.user[s] = x[k]
    stages = quotient_order(a, x, w, a.compute.shape[1], True)
    if stages < 0:
        return False
    for n in range(stages - 1, -1, -1):
        m = w.order[n]
        w.depth[m] = 1
        k = w.head[m]
        while k >= 0:
            for i in range(a.out_first[k], a.out_first[k + 1]):
                e = a.out_edge[i]
                other = x[a.target[e]]
                if other != m and a.ordering[e]:
                    w.depth[m] = max(w.depth[m], 1 + w.depth[other])
            k = w.next[k]
    return True


@njit(cache=True, _nrt=False)
def overfull(a, x, w):  # type: ignore[no-untyped-def]
    """Return the bytes of mapping x that do not fit, over all slots; after `staged` where that is asked for."""
    slots = a.capacity.shape[0]
    w.held[:] = 0.0
    w.largest[:] = 0.0
    if a.plain and not a.stashes:
        for k in range(x.shape[0]):
            w.held[x[k]] += a.resident[k, x[k]]
            w.largest[x[k]] = max(w.largest[x[k]], a.workspace[k])
    else:
        _hold_stashes(a, x, w)
    excess = 0.0
    for s in range(slots):
        excess += max(0.0, w.held[s] + w.largest[s] - a.capacity[s])
    return excess


@njit(cache=True, _nrt=False)
def _hold_stashes(a, x, w):  # type: ignore[no-untyped-def]
    """Fill `w.held` and `w.largest` [S] where modes have several slots, or stages keep something of each input."""
    free_depth = 0
    if a.stashes and not a.contiguous:
        for s in range(a.capacity.shape[0]):
            w.user[s] = -1
        for k in range(x.shape[0]):
            for i in range(a.member_first[x[k]], a.member_first[x[k] + 1]):
                free_depth += 1 if w.user[a.member[i]] < 0 else 0
                w.user[a.member[i]] = x[k]
    for k in range(x.shape[0]):
        m = x[k]
        depth = 0
        if a.stashes:
            depth = min(w.depth[m] if a.contiguous else free_depth, a.most_in_flight)
        for i in range(a.member_first[m], a.member_first[m + 1]):
            s = a.member[i]
            w.held[s] += a.resident[k, m] + depth * a.stash[k]
            w.largest[s] = max(w.largest[s], a.workspace[k])


@njit(cache=True, _nrt=False)
def together(a, x, w):  # type: ignore[no-untyped-def]
    """Whether segments of one group are in one mode."""
    if a.units == x.shape[0]:
        return True
    w.home[:] = -1
    for k in range(x.shape[0]):
        u = a.unit[k]
        if w.home[u] >= 0 and w.home[u] != x[k]:
            return False
        w.home[u] = x[k]
    return True


@njit(cache=True, _nrt=False)
def legal(a, x, w):  # type: ignore[no-untyped-def]
    """Whether mapping x satisfies every constraint but the limits on time and energy."""
    for k in range(x.shape[0]):
        if not a.ok[k, x[k]]:
            return False
    if not together(a, x, w):
        return False
    if a.contiguous and not staged(a, x, w):
        return False
    return overfull(a, x, w) == 0.0


@njit(cache=True)
def evaluate_rows(a, assignments, orders):  # type: ignore[no-untyped-def]
    """Return time, dynamic energy and legality [N] of assignments [N, K], each with its row of orders [N or 1, K]."""
    rows = assignments.shape[0]
    w = work_for(a)
    time, energy, fine = np.empty(rows), np.empty(rows), np.empty(rows, np.bool_)
    anywhere = a.allowed.all()
    for n in range(rows):
        x = assignments[n]
        order = orders[n if orders.shape[0] > 1 else 0]
        time[n], energy[n] = time_and_energy(a, x, order, w, 0.0, 0.0, np.inf)
        if not anywhere:
            for k in range(x.shape[0]):
                if not a.allowed[k, x[k]]:
                    time[n] = energy[n] = np.inf
        fine[n] = legal(a, x, w) and time[n] < np.inf and (not a.free_order or follows(a, order, w))
    return time, energy, fine


@njit(cache=True, _nrt=False)
def follows(a, order, w):  # type: ignore[no-untyped-def]
    """Whether every segment comes after its inputs in `order` [K], a permutation."""
    for i in range(order.shape[0]):
        w.next[order[i]] = i
    for k in range(order.shape[0]):
        for e in range(a.first[k], a.first[k + 1]):
            if w.next[a.source[e]] > w.next[k]:
                return False
    return True
