"""The linear model proves what brute force finds, with every backend, on problems of every kind that it does."""

import numpy as np
import pytest

from solvers.mapping.milp import Milp, MilpScip


@pytest.mark.parametrize("solver", [Milp, MilpScip], ids=lambda solver: solver.name)
@pytest.mark.parametrize("seed", range(60))
def test_it_proves_what_brute_force_finds(solver, seed, rich_problem, brute_force):
    problem = rich_problem(seed, regime="pipelined" if seed % 6 else "serial", segments=2 + seed % 4)
    if seed % 6 == 0:
        problem = rich_problem(seed, regime="serial", latency_weight=0.0, energy_weight=1.0, static_w=0.0)
    if solver.refusal(problem):
        pytest.skip(solver.refusal(problem))
    optimum = brute_force(problem)[0]
    mapping = solver().solve(problem, deadline_s=60)
    if optimum == np.inf:
        assert mapping.status == "infeasible"
        return
    assert mapping.status == "optimal"
    assert mapping.objective == pytest.approx(optimum, rel=1e-9)
    assert mapping.lower_bound <= optimum


def test_nothing_is_printed(capfd, knapsacks):
    for solver in (Milp, MilpScip):
        solver().solve(knapsacks(1, units=30, slots=5), deadline_s=2)
    assert capfd.readouterr().out == ""
