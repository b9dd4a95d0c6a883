"""Portfolio: the solvers one after another, each starting from the best mapping so far, until the deadline or a proof.

Fast ones first, then those that improve a mapping; the exact ones have what time is left, and the best start that the
others found. The bound is the best of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.evaluate import PROVEN, finish
from solvers.mapping.problem import Incumbent, Mapping, MappingProblem
from solvers.mapping.solver import MappingSolver, Request, Role, mapping_solvers

SHARES: tuple[tuple[Role, float], ...] = (("construct", 0.15), ("improve", 0.35), ("exact", 1.0))
"""Roles in their order, and the share of the time left that all solvers of a role may take together."""


class Portfolio(MappingSolver):
    """All solvers that do the problem, fast ones first. One that crashes warns, and the others go on."""

    name = "portfolio"
    role = "apart"

    @classmethod
    def proves(cls, problem: MappingProblem) -> bool:
        """Return whether a member does."""
        return any(solver.proves(problem) for role, _ in SHARES for solver in members(problem, role))

    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Return the best mapping of all members; see MappingSolver."""
        best, order = request.warm_start, None
        objective, bound = np.inf, 0.0
        history: list[Incumbent] = []
        for solver, deadline_s in _schedule(problem, request):
            began_s = perf_counter() - request.started
            answer = _answer(solver, problem, request, deadline_s, best)
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


def members(problem: MappingProblem, role: Role) -> list[type[MappingSolver]]:
    """Return the solvers of a role that are installed and do the problem."""
    return [
        solver
        for solver in mapping_solvers().values()
        if solver.role == role and not solver.missing_modules() and not solver.refusal(problem)
    ]


def _schedule(problem: MappingProblem, request: Request) -> Iterator[tuple[type[MappingSolver], float]]:
    """Yield each member with its deadline in seconds, while there is time: what one leaves goes to those after it."""
    for role, share in SHARES:
        able = members(problem, role)
        kept_s = request.left_s * (1.0 - share)  # for the roles after this one
        for place, solver in enumerate(able):
            deadline_s = (request.left_s - kept_s) / (len(able) - place)
            if deadline_s > 0:
                yield solver, deadline_s


def _answer(
    solver: type[MappingSolver],
    problem: MappingProblem,
    request: Request,
    deadline_s: float,
    start: NDArray[np.int64] | None,
) -> Mapping | None:
    """Return what a member finds from `start` [K] in its time; None, and a warning, where it fails."""
    own = Request(
        started=perf_counter(),
        deadline_s=deadline_s,
        seed=request.seed,
        warm_start=start,
        deterministic=request.deterministic,
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
