"""Portfolio: the solvers one after another, each starting from the best mapping so far, until the deadline or a proof.

Fast ones first, then those that improve a mapping, then the exact ones with the best start that the others found. Each
has its weight of the time left, and what it leaves goes to those after it. The bound is the best of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.evaluate import PROVEN, finish
from solvers.mapping.problem import Incumbent, Mapping, MappingProblem
from solvers.mapping.solver import MappingSolver, Request, mapping_solvers


class Portfolio(MappingSolver):
    """All solvers that do the problem, fast ones first. One that crashes warns, and the others go on."""

    name = "portfolio"
    role = "apart"

    @classmethod
    def proves(cls, problem: MappingProblem) -> bool:
        """Return whether a member does."""
        return any(solver.proves(problem) for solver in members(problem))

    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Return the best mapping of all members; see MappingSolver."""
        best, order = request.warm_start, None
        objective, bound = np.inf, 0.0
        history: list[Incumbent] = []
        for solver, deadline_s in _schedule(problem, request):
            began_s = perf_counter() - request.started
            answer = _answer(solver, problem, request, deadline_s, best, bound)
            if answer is None:
                continue
            for line in answer.history:
                if line.objective < objective or line.lower_bound > bound:
                    objective, bound = min(line.objective, objective), max(line.lower_bound, bound)
                    history.append(
                        Incumbent(wall_s=began_s + line.wall_s, objective=objective, lower_bound=min(bound, objective))
                    )
            bound = max(bound, answer.lower_bound)
            if len(answer.assignment) and answer.objective <= objective:
                best, order, objective = answer.assignment, answer.order, answer.objective
            proven = answer.status in ("optimal", "infeasible")
            if proven or bound >= objective * PROVEN:
                found = None if answer.status == "infeasible" else best
                return _finish(problem, request, found, order, objective if proven else bound, history, proven)
        found = best if objective < np.inf else None
        return _finish(problem, request, found, order, bound, history, False)


def members(problem: MappingProblem) -> list[type[MappingSolver]]:
    """Return the solvers that are installed, do the problem and are of use to it: by role, the exact ones by weight."""
    able = [
        solver
        for solver in mapping_solvers().values()
        if not solver.missing_modules() and not solver.refusal(problem) and solver.weight(problem) > 0
    ]
    exact = sorted((solver for solver in able if solver.role == "exact"), key=lambda solver: -solver.weight(problem))
    fast = [solver for role in ("construct", "improve") for solver in able if solver.role == role]
    return fast + exact


def _schedule(problem: MappingProblem, request: Request) -> Iterator[tuple[type[MappingSolver], float]]:
    """Yield each member with its deadline in seconds, while there is time."""
    able = members(problem)
    weights = [solver.weight(problem) for solver in able]
    for place, solver in enumerate(able):
        deadline_s = request.left_s * weights[place] / sum(weights[place:])
        if deadline_s > 0:
            yield solver, deadline_s


def _answer(
    solver: type[MappingSolver],
    problem: MappingProblem,
    request: Request,
    deadline_s: float,
    start: NDArray[np.int64] | None,
    bound: float,
) -> Mapping | None:
    """Return what a member finds from `start` [K] in its time; None, and a warning, where it fails."""
    own = Request(
        started=perf_counter(),
        deadline_s=deadline_s,
        seed=request.seed,
        warm_start=start,
        deterministic=request.deterministic,
        lower_bound=bound,
        prepared=start is not None,
    )
    try:
        return solver().search(problem, own)
    except Exception as error:
        warn(f"mapping solver {solver.name!r} failed, the others go on: {type(error).__name__}: {error}", stacklevel=2)
        return None
    finally:
        request.spend(own.spent_s)


def _finish(
    problem: MappingProblem,
    request: Request,
    found: NDArray[np.int64] | None,
    order: NDArray[np.int64] | None,
    bound: float,
    history: list[Incumbent],
    exact: bool,
) -> Mapping:
    return finish(
        problem,
        found,
        order=order if order is not None and len(order) else None,
        lower_bound=bound,
        solver=Portfolio.name,
        started=request.started,
        history=history,
        exact=exact,
    )
