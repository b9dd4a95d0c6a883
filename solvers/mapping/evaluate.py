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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """Figures of M mappings, each [M]. `objective` is inf where a mapping breaks a constraint."""

    latency_ms: NDArray[np.float64]  # T of the problem's regime
    energy_mj: NDArray[np.float64]  # static part included
    objective: NDArray[np.float64]
    feasible: NDArray[np.bool_]


def times(problem: MappingProblem, assignments: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return T [N] in ms of `assignments` [N, K], as MappingProblem defines it for its regime.

    A segment where it is not allowed takes forever. Raises SolverError for a mode that does not exist.
    """
    return evaluate(problem, assignments).latency_ms


def memory_bytes(problem: MappingProblem, assignments: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the memory [N, S] that each slot needs in bytes, what a pipeline stashes for one input at a time."""
    a = as_batch(problem, assignments)
    columns = np.arange(problem.segments)
    held, largest = np.zeros((2, len(a), problem.slots))
    bytes_ = problem.held_bytes[columns, a] + problem.stash
    for s in range(problem.slots):
        on = problem.members[a, s]
        held[:, s] = np.where(on, bytes_, 0.0).sum(axis=1)
        largest[:, s] = np.where(on, problem.workspace_bytes, 0.0).max(axis=1)
    return held + largest


def evaluate(
    problem: MappingProblem, assignments: NDArray[np.int64], orders: NDArray[np.int64] | None = None
) -> Evaluation:
    """Return latency, energy, objective and feasibility, each [N], of `assignments` [N, K] (or one, [K]).

    `orders`, of the same shape, are those in which the segments run, where the problem leaves that free.
    """
    from solvers.mapping._kernels import arrays, evaluate_rows

    a = as_batch(problem, assignments)
    run_in = np.arange(problem.segments) if orders is None else orders
    run_in = np.atleast_2d(np.require(run_in, np.int64, ["C", "W"]))
    if orders is not None and (not problem.free_order or run_in.shape != a.shape):
        raise SolverError(f"orders have shape {run_in.shape}", f"{a.shape}, and a problem with free_order")
    latency_ms, energy_mj, feasible = evaluate_rows(arrays(problem), a, run_in)
    if problem.static_w:
        energy_mj = energy_mj + problem.static_w * latency_ms
    feasible &= latency_ms <= problem.max_latency_ms * (1 + TOLERANCE)
    feasible &= energy_mj <= problem.max_energy_mj * (1 + TOLERANCE)
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
    return a[best].copy() if np.isfinite(objective[best]) else None


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
    order: NDArray[np.int64] | None = None,
) -> Mapping:
    """Make a solver's answer: the one way in which every solver does it.

    `assignment` [K] is None where none was found, `order` [K] goes with it where the problem leaves that free.
    `objective` is what the solver holds its value to be, if it knows.
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
        if status == "infeasible" and not infeasibility:
            from solvers.mapping._conflict import conflicts

            infeasibility = conflicts(problem)
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
    values = checked(problem, assignment, order=order, objective=objective)
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
        order=np.zeros(0, dtype=np.int64) if order is None else np.array(order, dtype=np.int64),
    )


def as_batch(problem: MappingProblem, *assignments: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return assignments, each [K] or [M, K], as one array [M, K]; None and the empty one of a Mapping are left out.

    A single one is not copied: do not write into the answer.
    Raises SolverError for another length, or a slot that does not exist.
    """
    k = problem.segments
    rows = [
        np.atleast_2d(np.require(given, np.int64, ["C", "W"]))  # what compiled code takes
        for given in assignments
        if given is not None and np.size(given)
    ]
    for given in rows:
        if given.ndim != 2 or given.shape[1] != k:
            raise SolverError(f"assignments have shape {given.shape}", f"expected [M, {k}] or [{k}]")
    a = rows[0] if len(rows) == 1 else np.concatenate([np.empty((0, k), dtype=np.int64), *rows])
    if a.size and a.view(np.uint64).max() >= problem.modes:  # what is below zero is above all others without a sign
        wrong = a.min() if a.min() < 0 else a.max()
        raise SolverError(f"an assignment names slot {wrong}", f"slots are 0 to {problem.modes - 1}")
    return a
