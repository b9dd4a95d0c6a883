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
from solvers.mapping.solver import MappingSolver, Request, Role, part_of

COLUMNS_A_SECOND = 20_000  # of deadline; a larger model would take most of it to build
COLUMN_NODES_A_SECOND = 20_000  # nodes of the search tree times columns, where the deadline is counted in work
# The solvers prove in float64, rows met to 1e-9 each and reduced costs as well: a bound is good to far better than
# this share of it, and a search that is complete leaves no larger gap.
MARGIN = 1e-6
OPTIMAL_GAP = 3 * MARGIN  # a search that is complete but for rounding
# Where knapsacks are all that binds: shares of the deadline for each run of their dual, and for the first dives and the
# first search.
DUAL_SHARE, FIRST_SHARE = 0.1, 1 / 30
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

    @classmethod
    def weight(cls, problem: MappingProblem) -> float:
        """Return much for knapsacks, which no other solver knows, and for a bound by parts; see MappingSolver."""
        if cls.role != "exact":
            return super().weight(problem)
        if _assignment.applies(problem):
            return 1_000.0
        parts = PartsBound.applies(problem) and not problem.energy_weight and not problem.contiguous
        return 25.0 if parts else 4.0

    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Return the best of a short local search, what the bounds on the way meet, and what the solver finds."""
        run = _Run(problem, request)
        bound, relaxed = bound_and_start(problem)
        run.prove(max(bound, request.lower_bound))
        run.take(request.warm_start)
        run.take(relaxed)
        knapsacks = _assignment.applies(problem)
        if np.isfinite(bound) and not knapsacks and not request.prepared:
            self._local(run)
        too_large = columns_needed(problem) > COLUMNS_A_SECOND * request.deadline_s
        late = request.left_s <= 0 and not (knapsacks and run.best is None)
        if run.proven or run.bound == np.inf or too_large or late:
            return run.answer(self.name)
        if knapsacks:
            self._knapsacks(run)
        else:
            self._parts(run)
            if not run.proven:
                self._solve(run, problem, request.left_s)
        return run.answer(self.name)

    def _local(self, run: _Run) -> None:
        """Search for a start."""
        own = part_of(run.request, run.request.deadline_s / 8, warm_start=run.best)
        found = LocalSearch().search(run.problem, own)
        run.request.spend(own.spent_s)
        run.take(found.assignment if len(found.assignment) else None)
        run.prove(found.lower_bound)

    def _parts(self, run: _Run) -> None:
        """Raise the bound by parts of slots, where that applies."""
        problem, request = run.problem, run.request
        if run.best is None or not PartsBound.applies(problem) or problem.energy_weight:
            return
        parts = PartsBound(problem, run.bound / problem.latency_weight)
        own = part_of(request, request.left_s - request.deadline_s * (1 - PARTS_SHARE))
        proven_ms = parts.prove(run.value / problem.latency_weight, request=own, start=run.best)
        request.spend(own.spent_s)
        run.prove(proven_ms * problem.latency_weight, OPTIMAL_GAP)

    def _knapsacks(self, run: _Run) -> None:
        """Dive from the Lagrangian dual, and search what that leaves, in turn and twice as long each time."""
        problem, request = run.problem, run.request
        weight = problem.energy_weight
        relaxed = _assignment.Assignment.of(problem, request)
        if relaxed is None:
            if request.left_s > 0:
                self._solve(run, problem, request.left_s)
            return
        bound_mj, relaxed = relaxed.dual(best_mj=run.value / weight, request=request, share=DUAL_SHARE)
        run.prove(bound_mj * weight)
        run.take(relaxed.rounded(request))
        turn, span_s = 0, request.deadline_s * FIRST_SHARE
        while not run.proven and request.left_s > 0:
            until_s = request.left_s - span_s
            while not run.proven and request.left_s > max(0.0, until_s):
                run.take(relaxed.dive(request=request, turn=turn))
                turn += 1
            if run.proven or request.left_s <= 0:
                break
            may = problem.allowed
            if run.best is not None:
                bound_mj, narrow = relaxed.narrowed(best_mj=run.value / weight, request=request, share=DUAL_SHARE)
                run.prove(bound_mj * weight)
                may = may & narrow
                may[np.arange(problem.segments), run.best] = True
            span_s = request.left_s if run.best is None else min(span_s, request.left_s)
            if not run.proven and span_s > 0 and (run.best is None or may.sum() <= COLUMNS_A_SECOND / 4 * span_s):
                self._solve(run, replace(problem, allowed=may), span_s)
                run.prove(relaxed.proven(run.bound / weight) * weight)
            span_s *= 2

    def _solve(self, run: _Run, problem: MappingProblem, seconds: float) -> None:
        """Search with the solver; `problem` may lack what is known to be no better than the best mapping."""
        request, until_s = run.request, run.request.left_s - seconds
        model = MappingMilp(problem, run.best)
        nodes = int(max(1.0, seconds * COLUMN_NODES_A_SECOND / model.model.columns)) if request.deterministic else None
        limit_s = np.inf if request.deterministic else request.left_s - until_s  # what building it has left
        solved = model.solve(self.backend, deadline_s=limit_s, seed=request.seed, nodes=nodes)
        request.spend(seconds)
        run.take(solved.assignment)
        if solved.status == "infeasible":
            run.complete = True
        elif (proven := solved.bound * (1 - MARGIN)) <= run.value:  # else refuted by a mapping that the checker accepts
            run.prove(proven, OPTIMAL_GAP if solved.status == "optimal" else 0.0)


class MilpScip(Milp):
    """The same model by SCIP, which proves some problems that HiGHS does not."""

    name = "milp_scip"
    role: ClassVar[Role] = "apart"
    backend = "gscip"


class _Run:
    """The best mapping and bound so far of one search."""

    def __init__(self, problem: MappingProblem, request: Request) -> None:
        self.problem, self.request = problem, request
        self.best: NDArray[np.int64] | None = None
        self.value, self.bound = np.inf, 0.0
        self.closed = False  # proven to what rounding lets a solver prove
        self.complete = False  # the search met every mapping
        self.history: list[Incumbent] = []

    def take(self, assignment: NDArray[np.int64] | None) -> None:
        """Keep an assignment [K] if it is legal and better."""
        candidate = best_of(self.problem, [assignment])
        if candidate is None:
            return
        value = float(evaluate(self.problem, candidate).objective[0])
        if value < self.value:
            self.best, self.value = candidate, value
            wall_s = perf_counter() - self.request.started
            self.history.append(Incumbent(wall_s=wall_s, objective=value, lower_bound=min(self.bound, value)))

    def prove(self, bound: float, gap: float = 0.0) -> None:
        """Raise the bound; within that gap the best mapping counts as optimal."""
        self.bound = max(self.bound, bound)
        self.closed |= bool(gap and self.best is not None and self.bound >= self.value * (1 - gap))

    @property
    def proven(self) -> bool:
        """Whether nothing is left to do."""
        return self.closed or self.complete or self.bound >= self.value * PROVEN

    def answer(self, solver: str) -> Mapping:
        """Return the answer."""
        mapping = finish(
            self.problem,
            self.best,
            lower_bound=self.bound,
            solver=solver,
            started=self.request.started,
            history=self.history,
            exact=self.complete and self.best is None,
        )
        return replace(mapping, status="optimal") if self.closed and mapping.status == "feasible" else mapping
