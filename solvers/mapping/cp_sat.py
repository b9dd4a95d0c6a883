"""CP-SAT: an exact model of the mapping problem for OR-tools' constraint solver, both regimes, with a proven bound.

Costs are scaled by a power of two and rounded down, so that the model's objective never exceeds the true one: its
bound holds as it is. The answer's objective is always recomputed from the assignment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import floor, frexp
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.bounds import bound_and_start
from solvers.mapping.evaluate import PROVEN, best_of, evaluate, finish
from solvers.mapping.feasibility import runnable
from solvers.mapping.pipeline_dp import PipelineDP
from solvers.mapping.problem import Incumbent, Mapping, MappingProblem
from solvers.mapping.solver import MappingSolver, Request, mapping_solver
from solvers.mapping.symmetry import canonical, interchangeable_slots

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

SCALE_BITS = 36  # the objective in ticks: about 2**36, so that rounding down a hundred terms costs 2e-9 of it
VARIABLES_A_SECOND = 20_000  # of deadline; a larger model would take more than half of it to build
OPTIMAL_GAP = 1e-6  # a search that is complete but for rounding
ROUNDING = 1 - 1e-12  # of float64 between the model's coefficients and the evaluation


class CpSat(MappingSolver):
    """Exact for both regimes, contiguous or free, any weights and memory.

    One worker and a fixed seed: the same problem gives the same answer as long as `deterministic_s`, a limit in
    CP-SAT's own deterministic seconds of work, is reached before `deadline_s`.
    """

    name = "cp_sat"
    role = "exact"
    required_modules = ("ortools",)
    regimes = ("serial", "pipelined")

    @classmethod
    def refusal(cls, problem: MappingProblem) -> str:
        """Return what it does not do; see MappingSolver."""
        return super().refusal(problem) or PipelineDP.refusal(problem)

    @classmethod
    def proves(cls, problem: MappingProblem) -> bool:
        """Return True: given time, it proves the optimum of any problem that it does."""
        return True

    def __init__(self, deterministic_s: float | None = None) -> None:
        self.deterministic_s = deterministic_s

    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Return the better of the warm start and what the search finds; see MappingSolver."""
        started, deadline_s = request.started, request.deadline_s
        bound, relaxed = bound_and_start(problem)
        start = best_of(problem, [request.warm_start, relaxed])
        for name in _heuristics(problem) if np.isfinite(bound) else ():
            found = mapping_solver(name).solve(problem, deadline_s=deadline_s / 8, seed=request.seed, warm_start=start)
            start, bound = found.assignment if len(found.assignment) else start, max(bound, found.lower_bound)
        history: list[Incumbent] = []
        best = float(evaluate(problem, start).objective[0]) if start is not None else np.inf
        if start is not None:
            history.append(Incumbent(wall_s=perf_counter() - started, objective=best, lower_bound=bound))

        def answer_of(assignment: NDArray[np.int64] | None, bound: float, complete: bool = False) -> Mapping:
            return finish(
                problem,
                assignment,
                lower_bound=bound,
                solver=self.name,
                started=started,
                history=history,
                exact=complete and assignment is None,
            )

        if bound >= best * PROVEN or bound == np.inf or _variables(problem) > VARIABLES_A_SECOND * deadline_s:
            return answer_of(start, bound)
        model = _Model(problem, start, bound, best)
        status, answer, proven = model.solve(
            deadline_s=request.left_s,
            deterministic_s=self.deterministic_s,
            seed=request.seed,
            on_incumbent=lambda a, b: history.append(
                Incumbent(
                    wall_s=perf_counter() - started,
                    objective=min(float(evaluate(problem, a).objective[0]), best),
                    lower_bound=max(bound, b),
                )
            ),
        )
        final = best_of(problem, [start, answer])
        if final is not None and proven > float(evaluate(problem, final).objective[0]):
            status, proven = "UNSOUND", 0.0  # refuted by a mapping that the checker accepts: no proof of anything
        mapping = answer_of(final, max(bound, proven), complete=status == "INFEASIBLE")
        if status == "OPTIMAL" and mapping.status == "feasible" and mapping.gap <= OPTIMAL_GAP:
            return replace(mapping, status="optimal")
        return mapping


def _heuristics(problem: MappingProblem) -> tuple[str, ...]:
    """Solvers whose answer the search starts from: the better it is, the finer the ticks and the smaller the model."""
    return ("pipeline_dp", "local_search") if problem.contiguous else ("local_search",)


def _variables(problem: MappingProblem) -> int:
    """How many variables and ordering constraints a model would hold, about."""
    pairs = problem.segments**2 // 2 if problem.regime == "serial" and not problem.contiguous else 0
    return problem.slots * (problem.segments + pairs) + len(problem.edges) * problem.slots**2


class _Model:
    """The CP-SAT model of one problem.

    x[k, s]   segment k runs on slot s.
    w[e, p, c] edge e leaves slot p for one of the slots to which it costs the same from there (class c): as tight as
              one variable a pair of slots, and as few as the routes have different costs.
    end[k]    finish of segment k in ticks (serial).
    began[k, s], ended[k, s]  slot s's run has begun (has ended) by segment k (contiguous): x = began - ended, both
              rising in k. These "ideal" booleans make contiguity a chain of implications.
    """

    def __init__(self, problem: MappingProblem, start: NDArray[np.int64] | None, bound: float, best: float) -> None:
        from ortools.sat.python import cp_model

        self.problem = problem
        self.cp = cp_model.CpModel()
        self.runs = runnable(problem)
        self.groups = interchangeable_slots(problem)
        self.start = None if start is None else canonical(start, self.groups)
        most = best if np.isfinite(best) else _most(problem, self.runs)
        self.scale = 2.0 ** (SCALE_BITS - frexp(most)[1]) if most > 0 else 1.0
        self.horizon = floor(self.scale * most) + 1
        self.x = {(k, s): self._bool(k, s) for k, s in zip(*(i.tolist() for i in np.nonzero(self.runs)), strict=True)}
        for k in range(problem.segments):
            self.cp.add_exactly_one(self.x[k, s] for s in range(problem.slots) if self.runs[k, s])
        self._memory()
        self._symmetry_and_contiguity()
        energy, loads, waits = self._crossings()
        objective: list[Any] = list(energy)
        if problem.energy_weight:
            ticks = self._ticks(problem.energy_weight * np.where(self.runs, problem.energy_mj, 0.0))
            objective += [int(ticks[cell]) * x for cell, x in self.x.items()]
        if problem.time_weight:
            self.compute = self._ticks(problem.time_weight * np.where(self.runs, problem.compute_ms, 0.0))
            self.time = self.cp.new_int_var(0, self.horizon, "T")
            objective.append(self.time)
            for s in range(problem.slots):
                self.cp.add(self.time >= sum(self._spent(k, s) for k in range(problem.segments)))
            if problem.regime == "pipelined":
                for load in loads:
                    self.cp.add(self.time >= sum(load))
            else:
                self._schedule(waits)
        total = sum(objective)
        slack = 2 * (problem.segments + len(problem.edges)) + 2  # what rounding down can take off a mapping
        self.cp.add_linear_constraint(total, max(0, floor(self.scale * bound) - slack), self.horizon)
        self.cp.minimize(total)

    def _ticks(self, cost: NDArray[np.float64]) -> NDArray[np.int64]:
        """Costs in units of the objective -> ticks, rounded down (the scale is a power of two: exact but for that).

        What alone exceeds the best mapping known costs one tick more than that: it is out either way, and larger
        numbers would overflow.
        """
        return np.floor(np.minimum(cost * self.scale, self.horizon + 1)).astype(np.int64)

    def _bool(self, k: int, s: int) -> cp_model.IntVar:
        x = self.cp.new_bool_var(f"x{k},{s}")
        if self.start is not None:
            self.cp.add_hint(x, int(self.start[k] == s))
        return x

    def _spent(self, k: int, s: int) -> Any:
        return int(self.compute[k, s]) * self.x[k, s] if self.runs[k, s] else 0

    def _memory(self) -> None:
        """Resident bytes summed + any one member's workspace <= capacity, in whole units rounded down.

        That loses no legal mapping. Whole bytes stay exact; fractions are kept to 2**-20 of the capacity or finer.
        """
        p = self.problem
        largest = float(p.resident_bytes.sum() + p.workspace_bytes.max(initial=0.0))
        whole = all((np.floor(v) == v).all() for v in (p.resident_bytes, p.workspace_bytes)) and largest < 2**53
        unit = 1.0 if whole or largest == 0 else 2.0 ** (frexp(largest)[1] - 50)
        resident, workspace = (np.floor(v / unit).astype(np.int64) for v in (p.resident_bytes, p.workspace_bytes))
        for s in range(p.slots):
            members = np.flatnonzero(self.runs[:, s])
            if p.resident_bytes[members].sum() + p.workspace_bytes[members].max(initial=0.0) <= p.capacity_bytes[s]:
                continue
            capacity = floor(p.capacity_bytes[s] / unit)
            used = sum(int(resident[k]) * self.x[int(k), s] for k in members)
            self.cp.add(used <= capacity)
            for k in members:
                if workspace[k]:
                    self.cp.add(used + int(workspace[k]) * self.x[int(k), s] <= capacity)

    def _symmetry_and_contiguity(self) -> None:
        """Each slot one run of segments; slots of a group begin in the order of their numbers."""
        p, x = self.problem, self.x
        if not p.contiguous:
            for group in self.groups:
                for one, other in pairwise(group):
                    for k in range(p.segments):
                        if self.runs[k, other]:
                            self.cp.add_bool_or([~x[k, other], *(x[i, one] for i in range(k) if self.runs[i, one])])
            return
        began: dict[tuple[int, int], cp_model.IntVar] = {}
        for s in range(p.slots):
            previous = None
            for k in range(p.segments):
                began[k, s] = self.cp.new_bool_var(f"began{k},{s}")
                ended = self.cp.new_bool_var(f"ended{k},{s}")
                if self.start is not None:
                    run = np.flatnonzero(self.start == s)
                    self.cp.add_hint(began[k, s], int(len(run) > 0 and k >= run[0]))
                    self.cp.add_hint(ended, int(len(run) > 0 and k > run[-1]))
                self.cp.add(began[k, s] - ended == (x[k, s] if self.runs[k, s] else 0))
                if previous is not None:
                    self.cp.add_implication(began[k - 1, s], began[k, s])
                    self.cp.add_implication(previous, ended)
                previous = ended
        for group in self.groups:
            for one, other in pairwise(group):
                for k in range(p.segments):
                    self.cp.add_implication(began[k, other], began[k, one])

    def _crossings(self) -> tuple[list[Any], list[list[Any]], list[list[Any]]]:
        """Terms of edges between slots, in ticks: energy, load of each link [L], and waiting time of each edge [E]."""
        p, x = self.problem, self.x
        energy: list[Any] = []
        loads: list[list[Any]] = [[] for _ in range(p.route_links.shape[-1])]
        waits: list[list[Any]] = [[] for _ in p.edges]
        serial, slots = p.regime == "serial", range(p.slots)
        uses = p.route_links.any(axis=2)
        number: dict[bytes, int] = {}  # of a set of links; routes with the same links get the same
        paths = [[number.setdefault(p.route_links[s, q].tobytes(), 1 + len(number)) for q in slots] for s in slots]
        for e, (u, v) in enumerate(p.edges.tolist()):
            size = p.edge_bytes[e]
            time = p.route_latency_ms + size * p.route_ms_per_byte if serial else size * p.route_ms_per_byte * uses
            ticks = self._ticks(p.time_weight * time)
            mj_ticks = self._ticks(p.energy_weight * size * p.route_mj_per_byte)
            path = np.zeros_like(ticks) if serial else np.where(ticks > 0, paths, 0)
            rows = zip(ticks.tolist(), mj_ticks.tolist(), path.tolist(), strict=True)
            costs = [list(zip(*row, strict=True)) for row in rows]
            targets = np.flatnonzero(self.runs[v]).tolist()
            chosen: list[list[Any]] = [[] for _ in range(p.slots)]  # what says that v runs on slot q
            for s in np.flatnonzero(self.runs[u]).tolist():
                classes: dict[tuple[int, ...], list[int]] = {}
                for q in targets:
                    classes.setdefault(costs[s][q], []).append(q)
                todo = classes.pop((0, 0, 0), [])
                free: Any = x[u, s]
                for c, (cost, reached) in enumerate(classes.items()):
                    w = self.cp.new_bool_var(f"w{e},{s},{c}")
                    if self.start is not None:
                        self.cp.add_hint(w, int(self.start[u] == s and int(self.start[v]) in reached))
                    self.cp.add(w <= sum(x[v, q] for q in reached))
                    free = free - w
                    for q in reached:
                        chosen[q].append(w)
                    waits[e].append(cost[0] * w)
                    energy.append(cost[1] * w)
                    for link in np.flatnonzero(p.route_links[s, reached[0]]).tolist() if not serial else ():
                        loads[link].append(cost[0] * w)
                # What is left of x[u, s] goes where it costs nothing, its own slot most often.
                self.cp.add(free <= sum(x[v, q] for q in todo))
                self.cp.add(free >= 0)
                for q in todo:
                    chosen[q].append(free)
            for q in targets:
                self.cp.add(x[v, q] <= sum(chosen[q]))
        return energy, loads, waits

    def _schedule(self, waits: list[list[Any]]) -> None:
        """Serial: a segment starts when its inputs have arrived and the segments before it on its slot are done."""
        p = self.problem
        end = [self.cp.new_int_var(0, self.horizon, f"end{k}") for k in range(p.segments)]
        begin = [end[k] - sum(self._spent(k, s) for s in range(p.slots)) for k in range(p.segments)]
        before = np.zeros((p.segments, p.segments), dtype=np.bool_)  # k ends before j starts, whatever the mapping
        for j in range(p.segments):
            self.cp.add(begin[j] >= 0)
            self.cp.add(self.time >= end[j])
            for e in np.flatnonzero(p.edges[:, 1] == j).tolist():
                u = int(p.edges[e, 0])
                self.cp.add(begin[j] >= end[u] + sum(waits[e]))
                before[:, j] |= before[:, u]
                before[u, j] = True
        for j in range(p.segments):
            # On a contiguous slot, all between two members are members: neighbours order the rest.
            for k in range(max(0, j - 1) if p.contiguous else 0, j):
                shared = np.flatnonzero(self.runs[k] & self.runs[j]).tolist()
                if before[k, j] or not shared:
                    continue
                same = self.cp.new_bool_var(f"same{k},{j}")
                for s in shared:
                    self.cp.add_bool_or([~self.x[k, s], ~self.x[j, s], same])
                self.cp.add(begin[j] >= end[k]).only_enforce_if(same)

    def solve(
        self,
        *,
        deadline_s: float,
        deterministic_s: float | None,
        seed: int,
        on_incumbent: Callable[[NDArray[np.int64], float], None],
    ) -> tuple[str, NDArray[np.int64] | None, float]:
        """Return CP-SAT's status, the best assignment [K] or None, and a lower bound on the true objective."""
        from ortools.sat.python import cp_model

        x, scale, segments = self.x, self.scale, self.problem.segments

        def read(value: Callable[[Any], int]) -> NDArray[np.int64]:
            assignment = np.full(segments, -1, dtype=np.int64)
            for (k, s), variable in x.items():
                if value(variable):
                    assignment[k] = s
            return assignment

        class Watch(cp_model.CpSolverSolutionCallback):  # type: ignore[misc]
            def on_solution_callback(self) -> None:
                on_incumbent(read(self.value), self.best_objective_bound / scale * ROUNDING)

        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = seed % 2**31  # CP-SAT takes 31 bits
        solver.parameters.max_time_in_seconds = max(deadline_s, 0.01)
        # OR-tools 9.15.6755 proves wrong optima in presolve (its issue 5293): of random problems compared with brute
        # force, 3 of 1,145 at 2**30 ticks and 12 of 171 at 2**40; none without it, and the search is no slower.
        solver.parameters.cp_model_presolve = False
        if deterministic_s is not None:
            solver.parameters.max_deterministic_time = deterministic_s
        status = solver.status_name(solver.solve(self.cp, Watch()))
        if status == "MODEL_INVALID":
            raise RuntimeError(f"CP-SAT refuses the model: {self.cp.validate()}")
        found = status in ("OPTIMAL", "FEASIBLE")
        bound = solver.best_objective_bound / scale * ROUNDING if status != "INFEASIBLE" else 0.0
        return status, read(solver.value) if found else None, bound


def _most(problem: MappingProblem, runs: NDArray[np.bool_]) -> float:
    """An upper bound on the objective of every mapping: everything at its dearest, one thing at a time."""
    compute_ms, energy_mj = (np.where(runs, cost, 0.0) for cost in (problem.compute_ms, problem.energy_mj))
    cell = problem.time_weight * compute_ms + problem.energy_weight * energy_mj
    wait = problem.route_latency_ms.max() + problem.edge_bytes * problem.route_ms_per_byte.max()
    crossing = problem.time_weight * wait + problem.energy_weight * problem.edge_bytes * problem.route_mj_per_byte.max()
    return float(cell.max(axis=1).sum() + crossing.sum()) * (1 + 1e-9)
