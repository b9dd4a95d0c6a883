"""Mixed-integer linear programming of a mapping, by OR-tools' MathOpt: HiGHS or SCIP, with a proven bound."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from solvers.mapping import _assignment
from solvers.mapping._linear_model import Backend
from solvers.mapping._mapping_milp import MappingMilp, columns_needed, time_counts
from solvers.mapping._parts_bound import PartsBound
from solvers.mapping.bounds import bound_and_start
from solvers.mapping.evaluate import PROVEN, best_of, evaluate, finish
from solvers.mapping.local_search import LocalSearch
from solvers.mapping.problem import Incumbent, Mapping, MappingProblem
from solvers.mapping.solver import MappingSolver, Request, Role

COLUMNS_A_SECOND = 20_000  # of deadline; a larger model would take most of it to build
# The solvers prove in float64, rows met to 1e-9 each and reduced costs as well: a bound is good to far better than
# this share of it, and a search that is complete leaves no larger gap.
MARGIN = 1e-6
OPTIMAL_GAP = 3 * MARGIN  # a search that is complete but for rounding
# Of the deadline for the search, and for the annealing that follows it where knapsacks are all that binds: what the
# search has not proven by then, it rarely proves.
SEARCH_SHARE, ANNEALING_SHARE = 0.25, 0.6
PARTS_SHARE = 0.6  # of the deadline for the bound by parts, at most; it is better than the search's own


class Milp(MappingSolver):
    """Pipelined mappings, contiguous or free, and energy alone: HiGHS, the better solver for knapsacks.

    One thread and a fixed seed: the same problem gives the same answer unless the deadline cuts it short. MathOpt does
    not tell of incumbents on the way: the history holds where the search began and where it ended.
    """

    name = "milp"
    role: ClassVar[Role] = "exact"
    required_modules = ("ortools", "numba")
    regimes = ("pipelined",)  # whole; in the serial regime only what `refusal` lets through
    backend: ClassVar[Backend] = "highs"

    @classmethod
    def refusal(cls, problem: MappingProblem) -> str:
        """Return what it does not do; see MappingSolver."""
        if problem.regime == "offload":
            return "the offload regime"
        if problem.regime == "serial" and time_counts(problem):
            return "time in the serial regime"
        if problem.stash_bytes.any() and problem.most_in_flight > 1:
            return "activations stashed of several inputs"
        return ""

    @classmethod
    def proves(cls, problem: MappingProblem) -> bool:
        """Return True: given time, it proves the optimum of any problem that it does."""
        return True

    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Return the better of a short local search from the warm start and what the solver finds."""
        started = request.started
        bound, relaxed = bound_and_start(problem)
        start = best_of(problem, [request.warm_start, relaxed])
        if np.isfinite(bound):
            found = LocalSearch().solve(problem, deadline_s=request.deadline_s / 8, seed=request.seed, warm_start=start)
            start, bound = found.assignment if len(found.assignment) else None, max(bound, found.lower_bound)
        best = _objective(problem, start)
        history: list[Incumbent] = []

        def note(assignment: NDArray[np.int64]) -> None:
            value = min(_objective(problem, assignment), history[-1].objective if history else np.inf)
            if np.isfinite(value):
                history.append(Incumbent(wall_s=perf_counter() - started, objective=value, lower_bound=bound))

        def answer(assignment: NDArray[np.int64] | None, bound: float, complete: bool = False) -> Mapping:
            return finish(
                problem,
                assignment,
                lower_bound=bound,
                solver=self.name,
                started=started,
                history=history,
                exact=complete and assignment is None,
            )

        if start is not None:
            note(start)
        too_large = columns_needed(problem) > COLUMNS_A_SECOND * request.deadline_s
        if bound >= best * PROVEN or bound == np.inf or too_large or request.left_s <= 0:
            return answer(start, bound)
        if start is not None and PartsBound.applies(problem) and not problem.energy_weight:
            parts = PartsBound(problem, bound / problem.latency_weight)
            until = request.started + request.deadline_s * PARTS_SHARE
            proven_ms = parts.prove(best / problem.latency_weight, until=until, start=start)
            bound = max(bound, proven_ms * problem.latency_weight)
            if bound >= best * (1 - OPTIMAL_GAP):
                return replace(answer(start, bound), status="optimal")
        model = MappingMilp(problem, start)
        knapsacks = _assignment.applies(problem)
        deadline_s = request.left_s * (SEARCH_SHARE if knapsacks else 1.0)
        solved = model.solve(self.backend, deadline_s=deadline_s, seed=request.seed)
        final = best_of(problem, [start, solved.assignment])
        if final is not None:
            note(final)
        if knapsacks and solved.status not in ("optimal", "infeasible"):
            final = self._annealed(problem, final, request)
        value, proven = _objective(problem, final), solved.bound * (1 - MARGIN)
        if proven > value:  # refuted by a mapping that the checker accepts: no proof of anything
            return answer(final, bound)
        mapping = answer(final, max(bound, proven), complete=solved.status == "infeasible")
        if solved.status == "optimal" and mapping.status == "feasible" and mapping.gap <= OPTIMAL_GAP:
            return replace(mapping, status="optimal")
        return mapping

    @staticmethod
    def _annealed(
        problem: MappingProblem, start: NDArray[np.int64] | None, request: Request
    ) -> NDArray[np.int64] | None:
        """Return the best of `start` and what annealing at the linear relaxation's prices finds."""
        relaxed = _assignment.Assignment.of(problem, deadline_s=request.left_s / 3)
        if relaxed is None:
            return start
        seconds = min(request.left_s, request.deadline_s * ANNEALING_SHARE)
        return best_of(problem, [start, *relaxed.improve(seconds=seconds, seed=request.seed)])


class MilpScip(Milp):
    """The same model by SCIP, which proves some problems that HiGHS does not."""

    name = "milp_scip"
    role: ClassVar[Role] = "apart"
    backend = "gscip"


def _objective(problem: MappingProblem, assignment: NDArray[np.int64] | None) -> float:
    return np.inf if assignment is None else float(evaluate(problem, assignment).objective[0])
