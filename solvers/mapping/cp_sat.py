"""CP-SAT: an exact model of every mapping problem for OR-tools' constraint solver, with a proven bound.

Costs are scaled by a power of two and rounded down, so that the model's objective never exceeds the true one: its
bound holds as it is. The answer's objective is always recomputed from the assignment.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from solvers.mapping._incumbent import Best, begin
from solvers.mapping.evaluate import PROVEN, finish
from solvers.mapping.problem import Mapping, MappingProblem
from solvers.mapping.solver import MappingSolver, Request

VARIABLES_A_SECOND = 20_000  # of deadline; a larger model would take more than half of it to build
SMALL, LARGE = 2_000, 20_000  # segments x modes up to which it proves in seconds, and proves anything as a rule
OPTIMAL_GAP = 1e-6  # a search that is complete but for rounding
_REFUSALS = 20  # mappings that rounding let pass and the evaluation did not, until the search gives up


class CpSat(MappingSolver):
    """Exact for every regime, contiguous or free, any weights, limits and memory.

    One worker and a fixed seed: with a deterministic request, whose work is counted in CP-SAT's own deterministic
    seconds, the same problem gives the same answer.
    """

    name = "cp_sat"
    role = "exact"
    required_modules = ("ortools",)

    def __init__(self, *, decide: bool = False) -> None:
        """With `decide`, only say whether a mapping within the limits exists: the first that is found is enough."""
        self.decide = decide

    @classmethod
    def proves(cls, problem: MappingProblem) -> bool:
        """Return True: given time, it proves the optimum of any problem."""
        return True

    @classmethod
    def weight(cls, problem: MappingProblem) -> float:
        """Return more for contiguous stages and small models, which it proves soon; see MappingSolver."""
        size = problem.segments * problem.modes
        return 60.0 if size <= SMALL or (problem.contiguous and size <= LARGE) else 20.0 if size <= LARGE else 4.0

    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Return the better of the warm start and what the search finds; see MappingSolver."""
        best, bound = begin(problem, request)
        complete = False
        small = _variables(problem) <= VARIABLES_A_SECOND * request.deadline_s
        decided = self.decide and best.assignment is not None
        if bound < best.objective * PROVEN and bound < np.inf and small and not decided:
            bound, complete = self._prove(problem, request, best, bound)
        mapping = finish(
            problem,
            best.assignment,
            order=best.order,
            lower_bound=bound,
            solver=self.name,
            started=request.started,
            history=best.history,
            exact=complete and best.assignment is None,
        )
        if complete and mapping.status == "feasible" and mapping.gap <= OPTIMAL_GAP:
            return replace(mapping, status="optimal")
        return mapping

    def _prove(self, problem: MappingProblem, request: Request, best: Best, bound: float) -> tuple[float, bool]:
        """Improve `best`; return a lower bound, and whether the search was complete."""
        from solvers.mapping._cp_model.model import Found, Model

        model = Model(problem, best.assignment, bound, best.objective)

        def on_found(found: Found, proven: float) -> None:
            best.take(found.assignment, found.order, max(bound, proven))

        for _ in range(_REFUSALS):
            left_s = request.left_s
            outcome = model.solve(
                time_s=np.inf if request.deterministic else left_s - min(0.5, 0.05 * request.deadline_s),
                work_s=max(left_s, 0.0) if request.deterministic else np.inf,
                seed=request.seed,
                on_found=on_found,
                decide=self.decide,
            )
            request.spend(outcome.work_s)
            if outcome.bound > best.objective:  # refuted by a mapping that the checker accepts: no proof of anything
                return bound, False
            bound = max(bound, outcome.bound)
            if self.decide and best.assignment is not None:
                return bound, False
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


def _variables(problem: MappingProblem) -> int:
    """How many variables and ordering constraints a model would hold, about."""
    return problem.modes * problem.segments + len(problem.edges) * problem.modes**2
