"""What mappings of a problem cost, many at a time; and the one way in which a solver makes its answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from solvers.errors import SolverError
from solvers.mapping.check import TOLERANCE, checked
from solvers.mapping.feasibility import explain_infeasible
from solvers.mapping.problem import Incumbent, Mapping, MappingProblem, Status

PROVEN = 1 - 2e-9  # an answer is optimal from this share of it proven; bounds are rounded down by 1e-9 for safety
_CHUNK = 1 << 20  # numbers in a temporary array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """Figures of M mappings, each [M]. `objective` is inf where a mapping breaks a constraint."""

    latency_ms: NDArray[np.float64]  # T of the problem's regime
    energy_mj: NDArray[np.float64]  # static part included
    objective: NDArray[np.float64]
    feasible: NDArray[np.bool_]


def times(problem: MappingProblem, assignments: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return T [M] in ms of `assignments` [M, K], as MappingProblem defines it for its regime.

    A segment on a slot where it is not allowed takes forever. Raises SolverError for a slot that does not exist.
    """
    a = as_batch(problem, assignments)
    compute = np.where(problem.allowed, problem.compute_ms, np.inf)[np.arange(problem.segments), a]  # [M, K]
    return _serial(problem, a, compute) if problem.regime == "serial" else _pipelined(problem, a, compute)


def _serial(problem: MappingProblem, a: NDArray[np.int64], compute: NDArray[np.float64]) -> NDArray[np.float64]:
    """In-order list schedule: finish of the last segment [M]."""
    source, target = a[:, problem.edges[:, 0]], a[:, problem.edges[:, 1]]
    wait = problem.route_latency_ms[source, target] + problem.edge_bytes * problem.route_ms_per_byte[source, target]
    into: list[list[tuple[int, int]]] = [[] for _ in range(problem.segments)]
    for e, (i, j) in enumerate(problem.edges.tolist()):
        into[j].append((e, i))
    rows = np.arange(len(a))
    free = np.zeros((len(a), problem.slots))  # when each slot has done what it has so far
    end = np.zeros((len(a), problem.segments))
    for k, inputs in enumerate(into):
        start = free[rows, a[:, k]]
        for e, i in inputs:
            start = np.maximum(start, end[:, i] + wait[:, e])
        end[:, k] = free[rows, a[:, k]] = start + compute[:, k]
    makespan: NDArray[np.float64] = free.max(axis=1, initial=0.0)
    return makespan


def _pipelined(problem: MappingProblem, a: NDArray[np.int64], compute: NDArray[np.float64]) -> NDArray[np.float64]:
    """Load of the busiest slot or link [M]."""
    period: NDArray[np.float64] = _per_slot(problem, a, compute).max(axis=1, initial=0.0)
    links = problem.route_links.shape[-1]
    if links and len(problem.edges):
        source, target = a[:, problem.edges[:, 0]], a[:, problem.edges[:, 1]]
        load = np.zeros((len(a), links))
        chunk = max(1, _CHUNK // max(1, len(a) * links))
        for first in range(0, len(problem.edges), chunk):
            part = slice(first, first + chunk)
            p, q = source[:, part], target[:, part]
            ms = problem.edge_bytes[part] * problem.route_ms_per_byte[p, q]
            load += np.einsum("me,mel->ml", ms, problem.route_links[p, q])
        period = np.maximum(period, load.max(axis=1))
    return period


def _per_slot(problem: MappingProblem, a: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [M, S]: the sum of values [M, K] by the slot of their segment."""
    offset = np.arange(len(a))[:, None] * problem.slots
    sums: NDArray[np.float64] = np.bincount(
        (a + offset).ravel(), weights=values.ravel(), minlength=len(a) * problem.slots
    ).astype(np.float64)
    return sums.reshape(len(a), problem.slots)


def memory_bytes(problem: MappingProblem, assignments: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the memory [M, S] that each slot needs: resident bytes summed + the largest workspace, in bytes."""
    a = as_batch(problem, assignments)
    resident = _per_slot(problem, a, np.broadcast_to(problem.resident_bytes, a.shape))
    workspace = np.zeros((len(a), problem.slots))
    np.maximum.at(workspace, (np.arange(len(a))[:, None], a), problem.workspace_bytes)
    return resident + workspace


def evaluate(problem: MappingProblem, assignments: NDArray[np.int64]) -> Evaluation:
    """Return latency, energy, objective and feasibility, each [M], of `assignments` [M, K] (or one, [K])."""
    a = as_batch(problem, assignments)
    columns = np.arange(problem.segments)
    latency_ms = times(problem, a)
    source, target = a[:, problem.edges[:, 0]], a[:, problem.edges[:, 1]]
    energy_mj = np.where(problem.allowed, problem.energy_mj, np.inf)[columns, a].sum(axis=1)
    energy_mj += (problem.edge_bytes * problem.route_mj_per_byte[source, target]).sum(axis=1)
    if problem.static_w:
        energy_mj += problem.static_w * latency_ms
    feasible = np.logical_and.reduce(problem.allowed[columns, a], axis=1)
    feasible &= (memory_bytes(problem, a) <= problem.capacity_bytes).all(axis=1)
    if problem.contiguous:
        runs = 1 + (np.diff(a, axis=1) != 0).sum(axis=1)
        distinct = 1 + (np.diff(np.sort(a, axis=1), axis=1) != 0).sum(axis=1)
        feasible &= runs == distinct
    objective = np.full(len(a), np.inf)
    objective[feasible] = problem.latency_weight * latency_ms[feasible] + problem.energy_weight * energy_mj[feasible]
    return Evaluation(latency_ms=latency_ms, energy_mj=energy_mj, objective=objective, feasible=feasible)


def best_of(problem: MappingProblem, candidates: Iterable[NDArray[np.int64] | None]) -> NDArray[np.int64] | None:
    """Return the legal candidate [K] of least objective (the first of equals), or None where none is legal.

    Raises SolverError for a candidate of the wrong length, or with a slot that does not exist.
    """
    a = as_batch(problem, *candidates)
    if not len(a):
        return None
    objective = evaluate(problem, a).objective
    best = int(np.argmin(objective))
    return a[best] if np.isfinite(objective[best]) else None


def finish(
    problem: MappingProblem,
    assignment: NDArray[np.int64] | None,
    *,
    lower_bound: float,
    solver: str,
    started: float,
    history: Sequence[Incumbent] = (),
    exact: bool = False,
    objective: float | None = None,
) -> Mapping:
    """Make a solver's answer: the one way in which every solver does it.

    `assignment` [K] is None where none was found. `objective` is what the solver holds its value to be, if it knows.
    `started` is the solver's `perf_counter()` at its start. `exact` says
    that the search was complete: no other mapping is better; or, without an assignment, none exists. The status is
    optimal where the bound reaches the objective (within 2e-9), infeasible only where proven, else feasible or unknown.

    Raises SolverError where the checker finds the assignment illegal or its objective another than the solver claims,
    or where the bound exceeds it.
    """
    status: Status
    if assignment is None:
        infeasibility = explain_infeasible(problem)
        status = "infeasible" if exact or infeasibility or lower_bound == np.inf else "unknown"
        return Mapping(
            assignment=np.empty(0, dtype=np.int64),
            objective=np.inf,
            latency_ms=np.inf,
            energy_mj=np.inf,
            lower_bound=np.inf if status == "infeasible" else lower_bound,
            status=status,
            solver=solver,
            wall_s=perf_counter() - started,
            history=tuple(history),
            infeasibility=infeasibility,
        )
    values = checked(problem, assignment, objective=objective)
    if exact:
        lower_bound = max(lower_bound, values.objective)
    if lower_bound > values.objective * (1 + TOLERANCE):
        raise SolverError(
            f"{solver}: lower bound {lower_bound!r} exceeds objective {values.objective!r} of its mapping"
        )
    lower_bound = min(lower_bound, values.objective)
    wall_s = perf_counter() - started
    last = Incumbent(wall_s=wall_s, objective=values.objective, lower_bound=lower_bound)
    return Mapping(
        assignment=np.array(assignment, dtype=np.int64),
        objective=values.objective,
        latency_ms=values.latency_ms,
        energy_mj=values.energy_mj,
        lower_bound=lower_bound,
        status="optimal" if lower_bound >= values.objective * PROVEN else "feasible",
        solver=solver,
        wall_s=wall_s,
        history=(*(line for line in history if line.objective > values.objective), last),
    )


def as_batch(problem: MappingProblem, *assignments: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return assignments, each [K] or [M, K], as one array [M, K]; None and the empty one of a Mapping are left out.

    Raises SolverError for another length, or a slot that does not exist.
    """
    k = problem.segments
    rows = [
        np.atleast_2d(np.asarray(given, dtype=np.int64))
        for given in assignments
        if given is not None and np.size(given)
    ]
    for given in rows:
        if given.ndim != 2 or given.shape[1] != k:
            raise SolverError(f"assignments have shape {given.shape}", f"expected [M, {k}] or [{k}]")
    a = np.concatenate([np.empty((0, k), dtype=np.int64), *rows])
    if a.size and not (a.min() >= 0 and a.max() < problem.slots):
        wrong = a.min() if a.min() < 0 else a.max()
        raise SolverError(f"an assignment names slot {wrong}", f"slots are 0 to {problem.slots - 1}")
    return a
