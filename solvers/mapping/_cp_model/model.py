"""The whole model of a problem, and one run of CP-SAT on it."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solvers.mapping._cp_model.core import Core
from solvers.mapping._cp_model.loads import largest_on_hosts, link_loads, slot_loads
from solvers.mapping._cp_model.memory import limit_memory
from solvers.mapping._cp_model.routes import crossings, energy_of
from solvers.mapping._cp_model.schedule import call_slots, schedule
from solvers.mapping._cp_model.stages import inputs_in_flight, order_like_slots, order_stages, relabelled
from solvers.mapping._cp_model.units import Units
from solvers.mapping.problem import MappingProblem
from solvers.mapping.symmetry import interchangeable_slots

ROUNDING = 1 - 1e-12  # of float64 between the model's coefficients and the evaluation


class Found(NamedTuple):
    """A mapping that the model holds to be legal: assignment [K], and order [K] where the problem leaves it free."""

    assignment: NDArray[np.int64]
    order: NDArray[np.int64] | None


class Outcome(NamedTuple):
    """What a run of CP-SAT came to. `bound` is below the objective of every legal mapping."""

    status: str
    found: Found | None
    bound: float
    work_s: float  # CP-SAT's deterministic time


class Window(NamedTuple):
    """What a model may leave out that only moves a few units of a known mapping."""

    order: list[int] | None  # [M] of contiguous stages, to be kept
    watched: NDArray[np.bool_] | None  # [S] slots whose largest load is T; the others need not get better


class Model:
    """The CP-SAT model of one problem; see MappingProblem for what it states, in its order."""

    def __init__(
        self,
        problem: MappingProblem,
        start: NDArray[np.int64] | None,
        bound: float,
        best: float,
        window: Window | None = None,
    ) -> None:
        """State the problem. `start` [K] is a legal mapping of objective `best`, or None and inf."""
        units = Units.from_problem(problem)
        alike = interchangeable_slots(problem) if window is None else [[s] for s in range(problem.slots)]
        if start is not None:
            start = relabelled(problem, units.of, start[np.unique(units.of, return_index=True)[1]], alike)
        self.core = core = Core(problem, units, start, best)
        self.window = window
        if problem.contiguous:
            order_stages(core, alike, window and window.order)
        else:
            order_like_slots(core, alike)
        limit_memory(core, inputs_in_flight(core))
        crossed = crossings(core)
        time = core.cp.new_int_var(0, core.latest, "T") if core.counts_time else None
        self.begin = self._times(crossed, time)
        energy = energy_of(core, crossed) if core.counts_energy else []
        slack = 4 * (problem.segments + len(problem.edges)) + 2 * problem.modes * len(units.outputs) + 4
        core.minimise(time, energy, bound, slack)

    def _times(self, crossed: list[list[Any]], time: Any) -> list[Any]:
        """State what T is at least; return the starts of segments where their order is free."""
        core, regime = self.core, self.core.problem.regime
        loads = slot_loads(core, ports=regime != "serial") if time is not None else {}
        for s, load in loads.items():
            counts = self.window is None or self.window.watched is None or self.window.watched[s]
            core.cp.add((time if counts else core.latest) >= sum(load))
        if regime == "offload":
            call_slots(core, crossed, loads, time)
            return []
        if time is None:
            return []
        if regime == "serial":
            return schedule(core, crossed, time)
        for load in [*link_loads(core, crossed), *([host] for host in largest_on_hosts(core))]:
            core.cp.add((time if self.window is None or self.window.watched is None else core.latest) >= sum(load))
        return []

    def forbid(self, assignment: NDArray[np.int64]) -> None:
        """Take out one assignment [K]."""
        chosen = {int(u): int(m) for u, m in zip(self.core.units.of, assignment, strict=True)}
        self.core.cp.add_bool_or(~self.core.x[cell] for cell in chosen.items())

    def read(self, value: Callable[[Any], int]) -> Found:
        """Return the mapping of a solution."""
        core = self.core
        modes = np.full(core.units.count, -1, dtype=np.int64)
        for (u, m), literal in core.x.items():
            if value(literal):
                modes[u] = m
        assignment = modes[core.units.of]
        if not (core.problem.free_order and self.begin):
            return Found(assignment, None)
        begin = np.array([value(start) for start in self.begin], dtype=np.int64)
        ms = core.problem.compute_ms[np.arange(len(assignment)), assignment]
        # Of those that start in the same tick on a slot, all but the last take no tick; numbers are topological.
        return Found(assignment, np.lexsort((np.arange(len(begin)), core.time_ticks(ms), begin)).astype(np.int64))

    def solve(
        self,
        *,
        time_s: float,
        work_s: float = inf,
        seed: int = 0,
        on_found: Callable[[Found, float], None] | None = None,
        decide: bool = False,
    ) -> Outcome:
        """Run CP-SAT for at most time_s, or so much work; tell `on_found` of each mapping, with the bound by then.

        `decide` stops at the first mapping.
        """
        from ortools.sat.python import cp_model

        read, scale = self.read, self.core.scale

        class Watch(cp_model.CpSolverSolutionCallback):  # type: ignore[misc]
            def on_solution_callback(self) -> None:
                assert on_found is not None
                on_found(read(self.value), self.best_objective_bound / scale * ROUNDING)

        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = seed % 2**31  # CP-SAT takes 31 bits
        solver.parameters.max_time_in_seconds = max(time_s, 0.01)
        # OR-tools 9.15.6755 proves wrong optima in presolve. One step adds up coefficients above 2**31 in 32 bits (its
        # issue 5293: 13 of 1,800 random problems against brute force); a limit of 0 skips it. What is left is wrong in
        # 5 of 2,500 serial and offload problems, whose times are integers under conditions, and in no pipelined one.
        solver.parameters.presolve_inclusion_work_limit = 0
        solver.parameters.cp_model_presolve = self.core.problem.regime == "pipelined"
        solver.parameters.max_deterministic_time = work_s
        solver.parameters.stop_after_first_solution = decide
        status = solver.status_name(solver.solve(self.core.cp, Watch() if on_found else None))
        if status == "MODEL_INVALID":
            raise RuntimeError(f"CP-SAT refuses the model: {self.core.cp.validate()}")
        found = self.read(solver.value) if status in ("OPTIMAL", "FEASIBLE") else None
        bound = solver.best_objective_bound / scale * ROUNDING if status != "INFEASIBLE" else 0.0
        return Outcome(status, found, bound, solver.response_proto.deterministic_time)
