"""CP-SAT: an exact model of every mapping problem for OR-tools' constraint solver, with a proven bound.

Costs are scaled by a power of two and rounded down, so that the model's objective never exceeds the true one: its
bound holds as it is. The answer's objective is always recomputed from the assignment.
"""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.bounds import bound_and_start
from solvers.mapping.evaluate import PROVEN, best_of, evaluate, finish
from solvers.mapping.pipeline_dp import PipelineDP
from solvers.mapping.problem import Incumbent, Mapping, MappingProblem
from solvers.mapping.solver import MappingSolver, Request, mapping_solver

VARIABLES_A_SECOND = 20_000  # of deadline; a larger model would take more than half of it to build
OPTIMAL_GAP = 1e-6  # a search that is complete but for rounding
_REFUSALS = 20  # mappings that rounding let pass and the evaluation did not, until the search gives up


class CpSat(MappingSolver):
    """Exact for every regime, contiguous or free, any weights, limits and memory.

    One worker and a fixed seed: the same problem gives the same answer as long as `deterministic_s`, a limit in
    CP-SAT's own deterministic seconds of work, is reached before `deadline_s`.
    """

    name = "cp_sat"
    role = "exact"
    required_modules = ("ortools",)

    @classmethod
    def proves(cls, problem: MappingProblem) -> bool:
        """Return True: given time, it proves the optimum of any problem."""
        return True

    def __init__(self, deterministic_s: float | None = None) -> None:
        self.deterministic_s = deterministic_s

    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Return the better of the warm start and what the search finds; see MappingSolver."""
        started, deadline_s = request.started, request.deadline_s
        best = _Best(problem, started)
        bound, relaxed = bound_and_start(problem)
        best.take(best_of(problem, [request.warm_start, relaxed]), None, bound)
        for name in _heuristics(problem) if np.isfinite(bound) else ():
            found = mapping_solver(name).solve(
                problem, deadline_s=deadline_s / 8, seed=request.seed, warm_start=best.assignment
            )
            bound = max(bound, found.lower_bound)
            best.take(found.assignment, found.order, bound)
        complete = False
        if (
            bound < best.objective * PROVEN
            and bound < np.inf
            and _variables(problem) <= VARIABLES_A_SECOND * deadline_s
        ):
            bound, complete = self._prove(problem, request, best, bound)
        mapping = finish(
            problem,
            best.assignment,
            order=best.order,
            lower_bound=bound,
            solver=self.name,
            started=started,
            history=best.history,
            exact=complete and best.assignment is None,
        )
        if complete and mapping.status == "feasible" and mapping.gap <= OPTIMAL_GAP:
            return replace(mapping, status="optimal")
        return mapping

    def _prove(self, problem: MappingProblem, request: Request, best: _Best, bound: float) -> tuple[float, bool]:
        """Improve `best`; return a lower bound, and whether the search was complete."""
        from solvers.mapping._cp_model.model import Found, Model

        model = Model(problem, best.assignment, bound, best.objective)

        def on_found(found: Found, proven: float) -> None:
            best.take(found.assignment, found.order, max(bound, proven))

        for _ in range(_REFUSALS):
            left_s = request.left_s
            outcome = model.solve(
                time_s=left_s - min(0.5, 0.05 * request.deadline_s),
                deterministic_s=self.deterministic_s,
                seed=request.seed,
                on_found=on_found,
            )
            if outcome.bound > best.objective:  # refuted by a mapping that the checker accepts: no proof of anything
                return bound, False
            bound = max(bound, outcome.bound)
            if outcome.status == "INFEASIBLE" and best.assignment is None:
                return bound, True
            if outcome.status != "OPTIMAL" or outcome.found is None:
                return bound, False
            if best.is_legal(outcome.found.assignment, outcome.found.order):
                return bound, True
            if problem.free_order:  # another order of it may be legal
                return bound, False
            model.forbid(outcome.found.assignment)  # legal but for what rounding took off
        return bound, False


class _Best:
    """The incumbent and its history."""

    def __init__(self, problem: MappingProblem, started: float) -> None:
        self.problem, self.started = problem, started
        self.assignment: NDArray[np.int64] | None = None
        self.order: NDArray[np.int64] | None = None
        self.objective = np.inf
        self.history: list[Incumbent] = []

    def take(self, assignment: NDArray[np.int64] | None, order: NDArray[np.int64] | None, bound: float) -> None:
        """Keep a mapping where it is legal and better."""
        if assignment is None or not len(assignment):
            return
        order = order if order is not None and len(order) else None
        value = float(evaluate(self.problem, assignment, order).objective[0])
        if value < self.objective:
            self.assignment, self.order, self.objective = assignment, order, value
            at_s = perf_counter() - self.started
            self.history.append(Incumbent(wall_s=at_s, objective=value, lower_bound=bound))

    def is_legal(self, assignment: NDArray[np.int64], order: NDArray[np.int64] | None) -> bool:
        return bool(evaluate(self.problem, assignment, order).feasible[0])


def _heuristics(problem: MappingProblem) -> tuple[str, ...]:
    """Solvers whose answer the search starts from: the better it is, the finer the ticks and the smaller the model."""
    chain = problem.contiguous and not PipelineDP.refusal(problem)
    return ("pipeline_dp", "local_search") if chain else ("local_search",)


def _variables(problem: MappingProblem) -> int:
    """How many variables and ordering constraints a model would hold, about."""
    return problem.modes * problem.segments + len(problem.edges) * problem.modes**2
