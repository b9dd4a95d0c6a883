"""What mappings of a problem cost, many at a time; and the one way in which a solver makes its answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from solvers.errors import SolverError
from solvers.mapping.check import TOLERANCE, check, checked
from solvers.mapping.feasibility import explain_infeasible
from solvers.mapping.problem import Incumbent, Mapping, MappingProblem, Status

__all__ = [
    "Evaluation",
    "best_of",
    "check",
    "checked",
    "evaluate",
    "explain_infeasible",
    "finish",
    "memory_bytes",
    "times",
]


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
    a = _batch(problem, assignments)
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
    rows = np.arange(len(a))
    busy = np.zeros((len(a), problem.slots))
    for k in range(problem.segments):
        busy[rows, a[:, k]] += compute[:, k]
    period: NDArray[np.float64] = busy.max(axis=1, initial=0.0)
    links = problem.route_links.shape[-1]
    if links and len(problem.edges):
        load = np.zeros((len(a), links))
        for (i, j), size in zip(problem.edges.tolist(), problem.edge_bytes.tolist(), strict=True):
            p, q = a[:, i], a[:, j]
            load += (size * problem.route_ms_per_byte[p, q])[:, None] * problem.route_links[p, q]
        period = np.maximum(period, load.max(axis=1))
    return period


def memory_bytes(problem: MappingProblem, assignments: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the memory [M, S] that each slot needs: resident bytes summed + the largest workspace, in bytes."""
    a = _batch(problem, assignments)
    rows = np.arange(len(a))
    resident = np.zeros((len(a), problem.slots))
    workspace = np.zeros((len(a), problem.slots))
    for k in range(problem.segments):
        resident[rows, a[:, k]] += problem.resident_bytes[k]
        workspace[rows, a[:, k]] = np.maximum(workspace[rows, a[:, k]], problem.workspace_bytes[k])
    return resident + workspace


def evaluate(problem: MappingProblem, assignments: NDArray[np.int64]) -> Evaluation:
    """Return latency, energy, objective and feasibility, each [M], of `assignments` [M, K] (or one, [K])."""
    a = _batch(problem, assignments)
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
    given = [np.asarray(c, dtype=np.int64) for c in candidates if c is not None and len(c)]
    if not given:
        return None
    for candidate in given:
        _batch(problem, candidate)
    objective = evaluate(problem, np.stack(given)).objective
    best = int(np.argmin(objective))
    return given[best] if np.isfinite(objective[best]) else None


def finish(
    problem: MappingProblem,
    assignment: NDArray[np.int64] | None,
    *,
    lower_bound: float,
    solver: str,
    started: float,
    history: Sequence[Incumbent] = (),
    exact: bool = False,
) -> Mapping:
    """Make a solver's answer: the one way in which every solver does it.

    `assignment` [K] is None where none was found. `started` is the solver's `perf_counter()` at its start. `exact` says
    that the search was complete: no other mapping is better; or, without an assignment, none exists. The status is
    optimal where the bound reaches the objective (within 1e-9), infeasible only where proven, else feasible or unknown.

    Raises SolverError where the checker finds the assignment illegal, or where the bound exceeds its objective.
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
    claimed = evaluate(problem, assignment)
    values = checked(problem, assignment, objective=float(claimed.objective[0]))
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
        status="optimal" if lower_bound >= values.objective * (1 - TOLERANCE) else "feasible",
        solver=solver,
        wall_s=wall_s,
        history=(*(line for line in history if line.objective > values.objective), last),
    )


def _batch(problem: MappingProblem, assignments: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return assignments as [M, K] of existing slots."""
    a = np.atleast_2d(np.asarray(assignments, dtype=np.int64))
    if a.ndim != 2 or a.shape[1] != problem.segments:
        raise SolverError(
            f"assignments have shape {a.shape}", f"expected [M, {problem.segments}] or [{problem.segments}]"
        )
    if a.size and not (a.min() >= 0 and a.max() < problem.slots):
        raise SolverError(
            f"an assignment names slot {a.min() if a.min() < 0 else a.max()}", f"slots are 0 to {problem.slots - 1}"
        )
    return a
