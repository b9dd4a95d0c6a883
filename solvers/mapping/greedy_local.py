"""The plain baseline: heavy segments to free slots, then single moves for as long as one of them helps."""

from __future__ import annotations

from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.bounds import lower_bound
from solvers.mapping.evaluate import best_of, evaluate, finish
from solvers.mapping.feasibility import runnable
from solvers.mapping.greedy import MOVE_S, greedy_assignment
from solvers.mapping.problem import Incumbent, Mapping, MappingProblem
from solvers.mapping.solver import MappingSolver, Request


class GreedyLocal(MappingSolver):
    """Heaviest segment first, each to a free slot or else to the one that it costs least; then single moves.

    A segment (or group) moves to the mode that makes the objective least, if that is less than now; in number order,
    round and round, until no move helps. Deterministic: the seed plays no part unless memory has to be repaired.
    """

    name = "greedy_local"
    role = "construct"
    required_modules = ("numba",)

    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Return the mapping that no single move makes better, or what was reached at the deadline."""
        from solvers.mapping._kernels import arrays

        start = best_of(problem, [heavy_first(problem), request.warm_start])
        if start is None:
            start = best_of(problem, [greedy_assignment(problem, arrays(problem), request)])
        bound = lower_bound(problem)
        history: list[Incumbent] = []
        if start is not None:
            value = float(evaluate(problem, start).objective[0])
            history.append(Incumbent(wall_s=perf_counter() - request.started, objective=value, lower_bound=bound))
            start = _moved(problem, request, start, value, history, bound)
        return finish(problem, start, lower_bound=bound, solver=self.name, started=request.started, history=history)


def heavy_first(problem: MappingProblem) -> NDArray[np.int64]:
    """Return a mapping [K], legal or not: the heaviest unit first to the quickest slot that is free and has room.

    Where no slot is free, to the slot with room where its time, on top of what is there, and its energy cost least;
    where none has room, to the one with most of it left.
    """
    unit, slots = problem.unit, problem.slots
    runs = runnable(problem)[:, :slots]
    compute, energy = (
        np.where(problem.allowed, cost, 0.0)[:, :slots] for cost in (problem.compute_ms, problem.energy_mj)
    )
    need = (problem.held_bytes + problem.stash[:, None])[:, :slots]
    heaviest = np.argsort(-np.bincount(unit, compute.mean(axis=1)), kind="stable")
    assignment = np.zeros(problem.segments, dtype=np.int64)
    busy, left, workspace, free = np.zeros(slots), problem.capacity_bytes.copy(), np.zeros(slots), np.ones(slots, bool)
    for u in heaviest.tolist():
        on = unit == u
        largest = np.maximum(workspace, problem.workspace_bytes[on].max())
        room = left - need[on].sum(axis=0) - largest
        fine = runs[on].all(axis=0) & (room >= 0)
        time_ms = busy + compute[on].sum(axis=0)
        cost = problem.time_weight * time_ms + problem.energy_weight * energy[on].sum(axis=0)
        if (fine & free).any():
            fine = fine & free
        slot = int(np.argmin(np.where(fine, cost, np.inf))) if fine.any() else int(np.argmax(room))
        assignment[on] = slot
        busy[slot] = time_ms[slot]
        left[slot] -= need[on, slot].sum()
        workspace[slot] = largest[slot]
        free[slot] = False
    return assignment


def _moved(
    problem: MappingProblem,
    request: Request,
    assignment: NDArray[np.int64],
    value: float,
    history: list[Incumbent],
    bound: float,
) -> NDArray[np.int64]:
    """Return the mapping after single moves, each one an improvement; `history` grows with each round of them."""
    x = assignment.copy()
    units = int(problem.unit.max()) + 1
    unmoved, u = 0, 0  # units in a row that had nowhere better to go
    while unmoved < units and request.left_s > 0:
        on = problem.unit == u
        rows = np.repeat(x[None], problem.modes, axis=0)
        rows[:, on] = np.arange(problem.modes)[:, None]
        objective = evaluate(problem, rows).objective
        request.spend(rows.size * MOVE_S)
        best = int(np.argmin(objective))
        unmoved += 1
        if objective[best] < value * (1 - 1e-12):
            x, value, unmoved = rows[best], float(objective[best]), 0
            history.append(Incumbent(wall_s=perf_counter() - request.started, objective=value, lower_bound=bound))
        u = (u + 1) % units
    return x
