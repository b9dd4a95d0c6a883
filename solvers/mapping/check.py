"""The independent checker: plain Python from the definitions of MappingProblem, apart from the vectorised code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import fsum, inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from solvers.errors import SolverError
from solvers.mapping.problem import Infeasibility, MappingProblem

TOLERANCE = 1e-9  # relative; what two orders of summation in float64 may differ by, with room
MEMORY_TOLERANCE = 1e-12  # relative; byte counts are whole numbers, so their sums are exact up to 2**53


class Checked(NamedTuple):
    """What the checker makes of a legal assignment."""

    latency_ms: float
    energy_mj: float
    objective: float


def check(
    problem: MappingProblem, assignment: NDArray[np.int64], order: NDArray[np.int64] | None = None
) -> list[Infeasibility]:
    """Return every constraint that `assignment` [K], run in `order` [K], breaks; none where it is legal."""
    a = [int(m) for m in np.asarray(assignment).ravel()]
    if len(a) != problem.segments:
        return [
            Infeasibility(constraint="length", subject="assignment", demand=problem.segments, bound=len(a), unit="")
        ]
    broken = [
        Infeasibility(
            constraint="range", subject=segment_name(problem, k), demand=m, bound=problem.modes - 1, unit="slot"
        )
        for k, m in enumerate(a)
        if not 0 <= m < problem.modes
    ]
    if broken:
        return broken
    broken += _order(problem, order)
    broken += [
        Infeasibility(
            constraint="deployability",
            subject=f"{segment_name(problem, k)} on {mode_name(problem, m)}",
            demand=1,
            bound=0,
            unit="segments",
        )
        for k, m in enumerate(a)
        if not problem.allowed[k, m]
    ]
    broken += _groups(problem, a)
    stages = _stages(problem, a)
    if problem.contiguous:
        broken += _contiguity(problem, a, stages)
    if problem.regime == "offload" and _calls(problem, a) is None:
        broken.append(
            Infeasibility(
                constraint="one call", subject="a path leaves a slot and comes back", demand=2, bound=1, unit="calls"
            )
        )
    broken += _memory(problem, a, stages)
    if not broken:
        latency_ms, energy_mj = _time_and_energy(problem, a, order)
        for name, value, limit, unit in (
            ("latency", latency_ms, problem.max_latency_ms, "ms"),
            ("energy", energy_mj, problem.max_energy_mj, "mJ"),
        ):
            if value > limit * (1 + TOLERANCE):
                broken.append(
                    Infeasibility(
                        constraint=f"{name} limit", subject="the mapping", demand=value, bound=limit, unit=unit
                    )
                )
    return broken


def checked(
    problem: MappingProblem,
    assignment: NDArray[np.int64],
    *,
    order: NDArray[np.int64] | None = None,
    objective: float | None = None,
) -> Checked:
    """Return latency, energy and objective of a legal assignment [K], recomputed in plain Python.

    Raises SolverError where the assignment breaks a constraint, or where the objective that a solver claims for it is
    off by more than 1e-9 of its value.
    """
    if broken := check(problem, assignment, order):
        raise SolverError(f"the mapping is not legal: {'; '.join(map(str, broken))}")
    latency_ms, energy_mj = _time_and_energy(problem, [int(m) for m in assignment], order)
    value = problem.latency_weight * latency_ms + problem.energy_weight * energy_mj
    if objective is not None and abs(objective - value) > TOLERANCE * max(abs(value), abs(objective)):
        raise SolverError(f"a solver claims objective {objective!r} for a mapping whose objective is {value!r}")
    return Checked(latency_ms, energy_mj, value)


def segment_name(problem: MappingProblem, k: int) -> str:
    """Return how messages call segment k."""
    name = problem.names[k] if problem.names else ""
    return f"segment {k} ({name})" if name else f"segment {k}"


def mode_name(problem: MappingProblem, m: int) -> str:
    """Return how messages call mode m."""
    if m < problem.slots:
        return f"slot {m}"
    return f"slots {', '.join(map(str, _members(problem, m)))} together"


def _members(problem: MappingProblem, m: int) -> list[int]:
    if m < problem.slots:
        return [m]
    return [s for s in range(problem.slots) if problem.teams[m - problem.slots, s]]


def _edges(problem: MappingProblem) -> Iterable[tuple[int, int, float]]:
    return zip(problem.edges[:, 0].tolist(), problem.edges[:, 1].tolist(), problem.edge_bytes.tolist(), strict=True)


def _order(problem: MappingProblem, order: NDArray[np.int64] | None) -> list[Infeasibility]:
    if order is None or not len(order):
        return []
    place = {int(k): i for i, k in enumerate(order)}
    if not problem.free_order or len(order) != problem.segments or sorted(place) != list(range(problem.segments)):
        return [Infeasibility(constraint="order", subject="the order of segments", demand=1, bound=0, unit="")]
    return [
        Infeasibility(
            constraint="order",
            subject=f"{segment_name(problem, j)} before its input {segment_name(problem, i)}",
            demand=place[i],
            bound=place[j],
            unit="place",
        )
        for i, j, _ in _edges(problem)
        if place[i] > place[j]
    ]


def _groups(problem: MappingProblem, a: Sequence[int]) -> list[Infeasibility]:
    broken = []
    home: dict[int, int] = {}
    for k, number in enumerate(problem.group.tolist()):
        if number >= 0 and a[home.setdefault(number, k)] != a[k]:
            subject = f"{segment_name(problem, home[number])} and {segment_name(problem, k)}"
            broken.append(Infeasibility(constraint="colocation", subject=subject, demand=2, bound=1, unit="modes"))
    return broken


def _stages(problem: MappingProblem, a: Sequence[int]) -> dict[int, set[int]] | None:
    """Modes in use -> those that later stages' edges lead to; None where the edges among them form a cycle."""
    after: dict[int, set[int]] = {m: set() for m in a}
    back = problem.backward.tolist() or [False] * len(a)
    for i, j, _ in _edges(problem):
        if a[i] != a[j] and not back[i] and not back[j]:
            after[a[i]].add(a[j])
    return after if _topological(after) is not None else None


def _topological(after: dict[int, set[int]]) -> list[int] | None:
    """Return the keys so that each comes before those it leads to, or None."""
    waiting = dict.fromkeys(after, 0)
    for targets in after.values():
        for target in targets:
            waiting[target] += 1
    ready = [node for node, count in waiting.items() if not count]
    order = []
    while ready:
        order.append(ready.pop())
        for target in after[order[-1]]:
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    return order if len(order) == len(after) else None


def _contiguity(problem: MappingProblem, a: Sequence[int], stages: dict[int, set[int]] | None) -> list[Infeasibility]:
    broken = []
    if stages is None:
        subject = "slots that feed each other in a circle"
        broken.append(Infeasibility(constraint="contiguity", subject=subject, demand=1, bound=0, unit="circles"))
    for s in range(problem.slots):
        users = {m for m in a if s in _members(problem, m)}
        if len(users) > 1:
            broken.append(
                Infeasibility(constraint="contiguity", subject=f"slot {s}", demand=len(users), bound=1, unit="stages")
            )
    return broken


def _in_flight(problem: MappingProblem, a: Sequence[int], stages: dict[int, set[int]] | None) -> dict[int, int]:
    """Slot in use -> inputs whose activations it stashes."""
    used = sorted({s for m in a for s in _members(problem, m)})
    if not problem.contiguous or stages is None:
        return dict.fromkeys(used, min(len(used), problem.most_in_flight))
    depth: dict[int, int] = {}
    for m in reversed(_topological(stages) or []):
        depth[m] = 1 + max((depth[n] for n in stages[m]), default=0)
    return {s: min(max(depth[m] for m in depth if s in _members(problem, m)), problem.most_in_flight) for s in used}


def _memory(problem: MappingProblem, a: Sequence[int], stages: dict[int, set[int]] | None) -> list[Infeasibility]:
    broken = []
    stash = problem.stash_bytes.tolist() or [0.0] * len(a)
    for s, inputs in _in_flight(problem, a, stages).items():
        on = [k for k, m in enumerate(a) if s in _members(problem, m)]
        held = fsum(float(problem.held_bytes[k, a[k]]) for k in on)
        need = held + max(float(problem.workspace_bytes[k]) for k in on) + inputs * fsum(stash[k] for k in on)
        capacity = float(problem.capacity_bytes[s])
        if need > capacity + MEMORY_TOLERANCE * abs(capacity):
            broken.append(
                Infeasibility(constraint="memory", subject=f"slot {s}", demand=need, bound=capacity, unit="bytes")
            )
    return broken


def _time_and_energy(problem: MappingProblem, a: Sequence[int], order: NDArray[np.int64] | None) -> tuple[float, float]:
    if problem.regime == "serial":
        sequence = range(len(a)) if order is None or not len(order) else [int(k) for k in order]
        latency_ms = _serial_ms(problem, a, sequence)
    elif problem.regime == "pipelined":
        latency_ms = _period_ms(problem, a)
    else:
        latency_ms = _offload_ms(problem, a)
    dynamic = [float(problem.energy_mj[k, m]) for k, m in enumerate(a)]
    dynamic += [size * float(problem.route_mj_per_byte[a[i], a[j]]) for i, j, size in _edges(problem)]
    return latency_ms, fsum(dynamic) + problem.static_w * latency_ms


def _wait_ms(problem: MappingProblem, p: int, q: int, size: float) -> float:
    return float(problem.route_latency_ms[p, q]) + size * float(problem.route_ms_per_byte[p, q])


def _serial_ms(problem: MappingProblem, a: Sequence[int], sequence: Iterable[int]) -> float:
    """Longest path over the edges of the graph and the order of the segments on each slot."""
    inputs: list[list[tuple[int, float]]] = [[] for _ in a]
    for i, j, size in _edges(problem):
        inputs[j].append((i, _wait_ms(problem, a[i], a[j], size)))
    busy = problem.concurrent.tolist() or [False] * problem.slots
    finish: dict[int, float] = {}
    free: dict[int, float] = {}
    for k in sequence:
        slots = [s for s in _members(problem, a[k]) if not busy[s]]
        ready = [finish[i] + wait for i, wait in inputs[k]] + [free[s] for s in slots if s in free]
        finish[k] = max(ready, default=0.0) + float(problem.compute_ms[k, a[k]])
        free.update(dict.fromkeys(slots, finish[k]))
    return max(finish.values(), default=0.0)


def _loads(problem: MappingProblem, a: Sequence[int]) -> dict[int, list[float]]:
    """Slot -> what takes its time in a pipeline: computing, and its port; a concurrent one only its largest segment."""
    loads: dict[int, list[float]] = {}
    never_busy = problem.concurrent.tolist() or [False] * problem.slots
    for k, m in enumerate(a):
        for s in _members(problem, m):
            value = float(problem.compute_ms[k, m])
            if never_busy[s]:
                loads[s] = [max(value, *loads.get(s, [0.0]))]
            else:
                loads.setdefault(s, []).append(value)
    into, out = problem.ports.tolist()
    readers: dict[int, set[int]] = {}
    size_of: dict[int, float] = {}
    for i, j, size in _edges(problem):
        size_of[i] = max(size_of.get(i, 0.0), size)
        if a[i] != a[j]:
            readers.setdefault(i, set()).add(a[j])
    for i, modes in readers.items():
        for m, rate in ((a[i], out[a[i]]), *((m, into[m]) for m in modes)):
            for s in _members(problem, m):
                if not never_busy[s] and rate:
                    loads[s].append(size_of[i] * rate)
    return loads


def _period_ms(problem: MappingProblem, a: Sequence[int]) -> float:
    """Load of the busiest slot or link."""
    period = max((fsum(parts) for parts in _loads(problem, a).values()), default=0.0)
    links: dict[int, list[float]] = {}
    for i, j, size in _edges(problem):
        p, q = a[i], a[j]
        for link in np.flatnonzero(problem.route_links[p, q]).tolist():
            held = float(problem.route_links[p, q, link])
            links.setdefault(link, []).append(size * float(problem.route_ms_per_byte[p, q]) * held)
    return max([period, *(fsum(parts) for parts in links.values())])


def _calls(problem: MappingProblem, a: Sequence[int]) -> tuple[list[int], list[int]] | None:
    """Return the call of each segment, and the calls in an order in which they can run; None where there is none.

    A slot is one call; a segment on a concurrent slot is a call by itself.
    """
    never_busy = problem.concurrent.tolist() or [False] * problem.slots
    call = [problem.slots + k if never_busy[s] else s for k, s in enumerate(a)]
    after: dict[int, set[int]] = {c: set() for c in call}
    for i, j, _ in _edges(problem):
        if call[i] != call[j]:
            after[call[i]].add(call[j])
    order = _topological(after)
    return None if order is None else (call, order)


def _offload_ms(problem: MappingProblem, a: Sequence[int]) -> float:
    """Finish of the last call."""
    calls = _calls(problem, a)
    if calls is None:
        return inf
    call, order = calls
    loads = _loads(problem, a)
    finish: dict[int, float] = {}
    for c in order:
        start = max(
            (
                finish[call[i]] + _wait_ms(problem, a[i], a[j], size)
                for i, j, size in _edges(problem)
                if call[j] == c and call[i] != c
            ),
            default=0.0,
        )
        alone = c - problem.slots
        finish[c] = start + (float(problem.compute_ms[alone, a[alone]]) if alone >= 0 else fsum(loads[c]))
    return max(finish.values(), default=0.0)
