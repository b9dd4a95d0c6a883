"""The independent checker: plain Python from the definitions of MappingProblem, apart from the vectorised code."""

from __future__ import annotations

from itertools import pairwise
from math import fsum
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


def check(problem: MappingProblem, assignment: NDArray[np.int64]) -> list[Infeasibility]:
    """Return every constraint that `assignment` [K] breaks; none where it is legal."""
    slots = problem.slots
    a = [int(s) for s in np.asarray(assignment).ravel()]
    if len(a) != problem.segments:
        return [
            Infeasibility(constraint="length", subject="assignment", demand=problem.segments, bound=len(a), unit="")
        ]
    broken = [
        Infeasibility(constraint="range", subject=segment_name(problem, k), demand=s, bound=slots - 1, unit="slot")
        for k, s in enumerate(a)
        if not 0 <= s < slots
    ]
    if broken:
        return broken
    for k, s in enumerate(a):
        if not problem.allowed[k, s]:
            subject = f"{segment_name(problem, k)} on slot {s}"
            broken.append(
                Infeasibility(constraint="deployability", subject=subject, demand=1, bound=0, unit="segments")
            )
    for s in range(slots):
        members = [k for k in range(len(a)) if a[k] == s]
        if not members:
            continue
        need = fsum(float(problem.resident_bytes[k]) for k in members)
        need += max(float(problem.workspace_bytes[k]) for k in members)
        capacity = float(problem.capacity_bytes[s])
        if need > capacity + MEMORY_TOLERANCE * abs(capacity):
            broken.append(
                Infeasibility(constraint="memory", subject=f"slot {s}", demand=need, bound=capacity, unit="bytes")
            )
        if problem.contiguous and members[-1] - members[0] + 1 != len(members):
            runs = 1 + sum(later != earlier + 1 for earlier, later in pairwise(members))
            broken.append(
                Infeasibility(
                    constraint="contiguity", subject=f"slot {s}", demand=runs, bound=1, unit="runs of segments"
                )
            )
    return broken


def checked(problem: MappingProblem, assignment: NDArray[np.int64], *, objective: float | None = None) -> Checked:
    """Return latency, energy and objective of a legal assignment [K], recomputed in plain Python.

    Raises SolverError where the assignment breaks a constraint, or where the objective that a solver claims for it is
    off by more than 1e-9 of its value.
    """
    if broken := check(problem, assignment):
        raise SolverError(f"the mapping is not legal: {'; '.join(map(str, broken))}")
    a = [int(s) for s in assignment]
    latency_ms = _serial_ms(problem, a) if problem.regime == "serial" else _period_ms(problem, a)
    dynamic = [float(problem.energy_mj[k, s]) for k, s in enumerate(a)]
    dynamic += [
        float(size) * float(problem.route_mj_per_byte[a[i], a[j]])
        for (i, j), size in zip(problem.edges.tolist(), problem.edge_bytes.tolist(), strict=True)
    ]
    energy_mj = fsum(dynamic) + problem.static_w * latency_ms
    value = problem.latency_weight * latency_ms + problem.energy_weight * energy_mj
    if objective is not None and abs(objective - value) > TOLERANCE * max(abs(value), abs(objective)):
        raise SolverError(f"a solver claims objective {objective!r} for a mapping whose objective is {value!r}")
    return Checked(latency_ms, energy_mj, value)


def segment_name(problem: MappingProblem, k: int) -> str:
    """Return how messages call segment k."""
    name = problem.names[k] if problem.names else ""
    return f"segment {k} ({name})" if name else f"segment {k}"


def _serial_ms(problem: MappingProblem, a: list[int]) -> float:
    """Longest path over the edges of the graph and the order of the segments on each slot."""
    inputs: list[list[tuple[int, float]]] = [[] for _ in a]
    for (i, j), size in zip(problem.edges.tolist(), problem.edge_bytes.tolist(), strict=True):
        p, q = a[i], a[j]
        inputs[j].append((i, float(problem.route_latency_ms[p, q]) + size * float(problem.route_ms_per_byte[p, q])))
    finish: list[float] = []
    last_on: dict[int, int] = {}
    for k, s in enumerate(a):
        ready = [finish[i] + wait for i, wait in inputs[k]]
        if s in last_on:
            ready.append(finish[last_on[s]])
        finish.append(max(ready, default=0.0) + float(problem.compute_ms[k, s]))
        last_on[s] = k
    return max(finish, default=0.0)


def _period_ms(problem: MappingProblem, a: list[int]) -> float:
    """Load of the busiest slot or link."""
    loads: dict[tuple[str, int], list[float]] = {}
    for k, s in enumerate(a):
        loads.setdefault(("slot", s), []).append(float(problem.compute_ms[k, s]))
    for (i, j), size in zip(problem.edges.tolist(), problem.edge_bytes.tolist(), strict=True):
        p, q = a[i], a[j]
        for link in np.flatnonzero(problem.route_links[p, q]).tolist():
            loads.setdefault(("link", link), []).append(size * float(problem.route_ms_per_byte[p, q]))
    return max((fsum(parts) for parts in loads.values()), default=0.0)
