"""solve_placement: the one door to every placement solver."""

from __future__ import annotations

from solvers.placement.evaluate import validate
from solvers.placement.problem import Placement, PlacementProblem
from solvers.placement.solver import placement_solver
from solvers.registry import check_limits


def solve_placement(
    problem: PlacementProblem, solver: str = "grid", deadline_s: float = 10.0, seed: int = 0
) -> Placement:
    """Place the chips of `problem` with the solver of that name.

    The wall time of the answer is at most `deadline_s` and a little; the same problem and seed give the same answer
    as long as the deadline does not cut the search short. Raises SolverError where the problem, deadline or seed
    makes no sense, or where no solver has that name. What does not fit raises nothing: the answer's status is
    "infeasible", and its violations say by how much.
    """
    validate(problem)
    check_limits(deadline_s, seed)
    return placement_solver(solver).solve(problem, deadline_s=deadline_s, seed=seed)
