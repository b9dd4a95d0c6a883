"""The linear model proves what brute force finds, with every backend, on problems of every kind that it does."""

import numpy as np
import pytest

from solvers.mapping._assignment import Assignment, applies
from solvers.mapping.check import checked
from solvers.mapping.milp import Milp, MilpScip
from solvers.mapping.problem import MappingProblem


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


def knapsacks(seed, units=40, slots=5):
    """Generalised assignment of the hard kind: what costs less takes more room (Chu and Beasley's type D)."""
    rng = np.random.default_rng(seed)
    held = rng.integers(1, 101, (units, slots)).astype(float)
    nothing = np.zeros((slots, slots))
    return MappingProblem(
        compute_ms=np.zeros((units, slots)),
        energy_mj=111 - held + rng.integers(-10, 11, (units, slots)),
        edges=np.zeros((0, 2), dtype=np.int64),
        edge_bytes=np.zeros(0),
        route_latency_ms=nothing,
        route_ms_per_byte=nothing,
        route_mj_per_byte=nothing,
        route_links=np.zeros((slots, slots, 0)),
        resident_bytes=held,
        workspace_bytes=np.zeros(units),
        capacity_bytes=np.floor(0.8 * held.sum(axis=0) / slots),
        allowed=np.ones((units, slots), dtype=bool),
        regime="pipelined",
        latency_weight=0.0,
        energy_weight=1.0,
    )


@pytest.mark.parametrize("seed", range(3))
def test_annealed_assignments_are_legal_and_close_to_the_proven_bound(seed):
    problem = knapsacks(seed)
    assert applies(problem)
    relaxed = Assignment.of(problem, deadline_s=20)
    found = relaxed.improve(seconds=1, seed=seed)
    values = [checked(problem, x).objective for x in found]
    assert values == sorted(values, reverse=True)
    mapping = Milp().solve(problem, deadline_s=4, warm_start=found[-1])
    assert mapping.objective <= values[-1]
    assert mapping.lower_bound <= values[-1] <= 1.02 * mapping.lower_bound


def test_losses_and_prices_are_the_energy_again():
    """Cost = bound of the relaxation at its prices + losses + price of what is left, for any assignment."""
    problem = knapsacks(7)
    relaxed = Assignment.of(problem, deadline_s=20)
    least = (problem.energy_mj + relaxed.price * problem.resident_bytes).min(axis=1)
    x = np.random.default_rng(0).integers(0, 5, 40)
    rows = np.arange(40)
    left = problem.capacity_bytes - np.bincount(x, weights=problem.resident_bytes[rows, x], minlength=5)
    constant = least.sum() - relaxed.price @ problem.capacity_bytes
    assert constant + relaxed.loss[rows, x].sum() + relaxed.price @ left == pytest.approx(
        problem.energy_mj[rows, x].sum()
    )


def test_nothing_is_printed(capfd):
    for solver in (Milp, MilpScip):
        solver().solve(knapsacks(1, units=30), deadline_s=2)
    assert capfd.readouterr().out == ""
