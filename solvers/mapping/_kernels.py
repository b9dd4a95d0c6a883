"""A problem as numba takes it, and the evaluation of one mapping; loaded only when a solver runs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from solvers.mapping.feasibility import room_bytes, runnable
from solvers.mapping.problem import MappingProblem

# Of all bytes. Without it, bytes that lack only by rounding get a price without end, and a bound above the optimum.
ROUNDING = 1e-12


class Arrays(NamedTuple):
    """A MappingProblem for compiled code: edges sorted by target, zeros (never inf or nan) where a cell is not ok."""

    ok: NDArray[np.bool_]  # [K, S] allowed, and fits there alone
    compute: NDArray[np.float64]  # [K, S]
    energy: NDArray[np.float64]  # [K, S]
    first: NDArray[np.int64]  # [K + 1] edges first[k]:first[k + 1] end in segment k
    source: NDArray[np.int64]  # [E]
    size: NDArray[np.float64]  # [E] bytes
    latency: NDArray[np.float64]  # [S, S]
    per_byte: NDArray[np.float64]  # [S, S] ms
    mj_per_byte: NDArray[np.float64]  # [S, S]
    hop_first: NDArray[np.int64]  # [S * S + 1] links hop[hop_first[p * S + q]:...] lie on the route p -> q
    hop: NDArray[np.int64]
    links: int
    resident: NDArray[np.float64]  # [K]
    workspace: NDArray[np.float64]  # [K]
    capacity: NDArray[np.float64]  # [S]
    room: NDArray[np.float64]  # [S] upper bound on resident bytes, at most their total, and a little for rounding
    static_w: float
    serial: bool
    contiguous: bool


def arrays(problem: MappingProblem) -> Arrays:
    """Return the problem as compiled code takes it."""
    ok = runnable(problem)
    order = np.argsort(problem.edges[:, 1], kind="stable")
    first = np.zeros(problem.segments + 1, dtype=np.int64)
    np.cumsum(np.bincount(problem.edges[:, 1], minlength=problem.segments), out=first[1:])
    total = problem.resident_bytes.sum()
    uses = problem.route_links.reshape(problem.slots**2, -1)
    hop_first = np.zeros(len(uses) + 1, dtype=np.int64)
    np.cumsum(uses.sum(axis=1), out=hop_first[1:])
    return Arrays(
        ok=ok,
        compute=np.where(ok, problem.compute_ms, 0.0),
        energy=np.where(ok, problem.energy_mj, 0.0),
        first=first,
        source=np.ascontiguousarray(problem.edges[order, 0], dtype=np.int64),
        size=np.ascontiguousarray(problem.edge_bytes[order], dtype=np.float64),
        latency=np.ascontiguousarray(problem.route_latency_ms, dtype=np.float64),
        per_byte=np.ascontiguousarray(problem.route_ms_per_byte, dtype=np.float64),
        mj_per_byte=np.ascontiguousarray(problem.route_mj_per_byte, dtype=np.float64),
        hop_first=hop_first,
        hop=np.nonzero(uses)[1].astype(np.int64),
        links=int(problem.route_links.shape[-1]),
        resident=np.ascontiguousarray(problem.resident_bytes, dtype=np.float64),
        workspace=np.ascontiguousarray(problem.workspace_bytes, dtype=np.float64),
        capacity=np.ascontiguousarray(problem.capacity_bytes, dtype=np.float64),
        room=np.minimum(room_bytes(problem, ok), total) + ROUNDING * (total + problem.workspace_bytes.max()),
        static_w=float(problem.static_w),
        serial=problem.regime == "serial",
        contiguous=bool(problem.contiguous),
    )


@njit(cache=True)
def time_and_energy(a, x, end, busy, load, time_w, energy_w, limit):  # type: ignore[no-untyped-def]
    """Return T and dynamic energy of mapping x [K]; end [K], busy [S], load [L] are room to work in.

    Gives up, and returns inf for both, once time_w * T + energy_w * energy is above `limit`: it only grows.
    """
    segments = x.shape[0]
    slots = a.capacity.shape[0]
    busy[:] = 0.0
    load[:] = 0.0
    energy = 0.0
    time = 0.0
    if not a.serial:  # the loads of the slots first: they are cheap, and enough to give up on most bad mappings
        for k in range(segments):
            energy += a.energy[k, x[k]]
            busy[x[k]] += a.compute[k, x[k]]
            time = max(time, busy[x[k]])
        if time_w * time + energy_w * energy > limit:
            return np.inf, np.inf
    for k in range(segments):
        q = x[k]
        start = busy[q]
        for e in range(a.first[k], a.first[k + 1]):
            i = a.source[e]
            p = x[i]
            if p == q:  # it ended before slot q came free
                continue
            energy += a.size[e] * a.mj_per_byte[p, q]
            ms = a.size[e] * a.per_byte[p, q]
            if a.serial:
                start = max(start, end[i] + a.latency[p, q] + ms)
            else:
                for h in range(a.hop_first[p * slots + q], a.hop_first[p * slots + q + 1]):
                    load[a.hop[h]] += ms
                    time = max(time, load[a.hop[h]])
        if a.serial:
            energy += a.energy[k, q]
            end[k] = start + a.compute[k, q]
            busy[q] = end[k]
            time = max(time, end[k])
        if time_w * time + energy_w * energy > limit:
            return np.inf, np.inf
    return time, energy


@njit(cache=True)
def fits(a, x, slot):  # type: ignore[no-untyped-def]
    """Whether what mapping x puts on `slot` fits its memory."""
    resident = 0.0
    workspace = 0.0
    for k in range(x.shape[0]):
        if x[k] == slot:
            resident += a.resident[k]
            workspace = max(workspace, a.workspace[k])
    return resident + workspace <= a.capacity[slot]


@njit(cache=True)
def one_run_each(x, seen):  # type: ignore[no-untyped-def]
    """Whether each slot holds one run of consecutive segments or none; seen [S] is room to work in."""
    seen[:] = False
    for k in range(x.shape[0]):
        if k == 0 or x[k] != x[k - 1]:
            if seen[x[k]]:
                return False
            seen[x[k]] = True
    return True


@njit(cache=True)
def legal(a, x, seen):  # type: ignore[no-untyped-def]
    """Whether mapping x satisfies every constraint."""
    for k in range(x.shape[0]):
        if not a.ok[k, x[k]]:
            return False
    for s in range(a.capacity.shape[0]):
        if not fits(a, x, s):
            return False
    return not a.contiguous or one_run_each(x, seen)
