"""What an exact search starts from: the best mapping of the fast solvers, and a bound."""

from __future__ import annotations

from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.bounds import bound_and_start
from solvers.mapping.evaluate import best_of, evaluate
from solvers.mapping.pipeline_dp import PipelineDP
from solvers.mapping.problem import Incumbent, MappingProblem
from solvers.mapping.solver import Request, mapping_solver

SHARE = 1 / 8  # of the deadline, for each fast solver at most


class Best:
    """The best mapping so far, and how it came about."""

    def __init__(self, problem: MappingProblem, started: float) -> None:
        self.problem, self.started = problem, started
        self.assignment: NDArray[np.int64] | None = None
        self.order: NDArray[np.int64] | None = None
        self.objective = np.inf
        self.history: list[Incumbent] = []

    def take(
        self,
        assignment: NDArray[np.int64] | None,
        order: NDArray[np.int64] | None,
        bound: float,
        *,
        equal: bool = False,
    ) -> bool:
        """Keep a mapping where it is legal and better, or with `equal` as good; return whether it was kept."""
        if assignment is None or not len(assignment):
            return False
        order = order if order is not None and len(order) else None
        value = float(evaluate(self.problem, assignment, order).objective[0])
        if not (value < self.objective or (equal and value == self.objective < np.inf)):
            return False
        if value < self.objective:
            at_s = perf_counter() - self.started
            self.history.append(Incumbent(wall_s=at_s, objective=value, lower_bound=min(bound, value)))
        self.assignment, self.order, self.objective = assignment, order, value
        return True

    def is_legal(self, assignment: NDArray[np.int64], order: NDArray[np.int64] | None) -> bool:
        """Return whether the evaluation accepts a mapping."""
        return bool(evaluate(self.problem, assignment, order).feasible[0])


def begin(problem: MappingProblem, request: Request) -> tuple[Best, float]:
    """Return the best mapping of the warm start and the fast solvers, and a lower bound, inf where none is legal."""
    best = Best(problem, request.started)
    bound, relaxed = bound_and_start(problem)
    bound = max(bound, request.lower_bound)
    best.take(best_of(problem, [request.warm_start, relaxed]), None, bound)
    for name in heuristics(problem) if np.isfinite(bound) and not request.prepared else ():
        found = mapping_solver(name).solve(
            problem,
            deadline_s=request.deadline_s * SHARE,
            seed=request.seed,
            warm_start=best.assignment,
            deterministic=request.deterministic,
        )
        bound = max(bound, found.lower_bound)
        best.take(found.assignment, found.order, bound)
    return best, bound


def heuristics(problem: MappingProblem) -> tuple[str, ...]:
    """Names of the solvers that make the start: the better it is, the smaller the model."""
    return ("local_search",) if PipelineDP.refusal(problem) else ("pipeline_dp", "local_search")
