"""Generalised assignment: the Lagrangian dual, the dives from it and the chains that mend them, against brute force."""

from itertools import product
from time import perf_counter

import numpy as np
import pytest

from solvers.mapping._assignment import Assignment, applies
from solvers.mapping._chain_search import chain_search
from solvers.mapping._knapsack_kernel import dual, reduced_costs
from solvers.mapping.check import check, checked
from solvers.mapping.evaluate import evaluate
from solvers.mapping.milp import Milp
from solvers.mapping.solver import Request

SMALL = range(60)


def asked(deadline_s=20.0, seed=0, deterministic=True):
    return Request(
        started=perf_counter(), deadline_s=deadline_s, seed=seed, warm_start=None, deterministic=deterministic
    )


@pytest.fixture
def small(knapsacks):
    """Problems of 6 segments on 3 slots: whole and broken numbers, slots not allowed, groups, hardly any room."""

    def draw(seed):
        rng = np.random.default_rng([seed, 3])
        changes = {}
        plain = knapsacks(seed, units=6, slots=3)
        if seed % 2:
            changes["energy_mj"] = rng.uniform(0, 10, (6, 3))
            changes["resident_bytes"] = rng.uniform(0, 1e7, (6, 3)) * (rng.random((6, 3)) < 0.9)
            changes["capacity_bytes"] = changes["resident_bytes"].mean(axis=1).sum() / 3 * rng.uniform(0.7, 1.6, 3)
        if seed % 3 == 0:
            changes["allowed"] = rng.random((6, 3)) < 0.8
            changes["allowed"][np.arange(6), rng.integers(0, 3, 6)] = True
        if seed % 5 == 0:
            changes["group"] = np.array([0, -1, 0, 1, 1, -1])
        if seed % 7 == 0:
            changes["energy_weight"] = 0.37
        return plain if not changes else knapsacks(seed, units=6, slots=3, **changes)

    return draw


def every(problem):
    return np.array(list(product(range(problem.slots), repeat=problem.segments)), dtype=np.int64)


@pytest.mark.parametrize("seed", SMALL)
def test_no_bound_is_above_the_optimum(seed, small):
    problem = small(seed)
    assert applies(problem)
    values = evaluate(problem, every(problem)).energy_mj
    legal = evaluate(problem, every(problem)).feasible
    relaxed = Assignment.of(problem, asked())
    if relaxed is None:
        assert not legal.any()
        return
    optimum = values[legal].min(initial=np.inf)
    bound, tight = relaxed.dual(best_mj=np.inf, request=asked(), share=1.0)
    assert bound <= optimum * (1 + 1e-9)
    rng = np.random.default_rng(seed)
    price = rng.uniform(0, 100, len(relaxed.cost))  # any prices will do
    drawn, _ = dual(price, relaxed.cost, relaxed.least_weight, relaxed.room, np.inf, 0 if seed % 2 else 10**6)
    assert relaxed.proven(drawn) <= optimum * (1 + 1e-9) or not np.isfinite(drawn)
    for best in np.sort(values[legal])[:4] if legal.any() else ():
        bound, may = tight.narrowed(best_mj=float(best), request=asked(), share=0.5)
        assert bound <= optimum * (1 + 1e-9)
        better = every(problem)[legal & (values < best * (1 - 1e-6))]
        assert may[np.arange(problem.segments), better].all()


@pytest.mark.parametrize("seed", SMALL)
def test_reduced_costs_are_the_bounds_of_what_they_force(seed, small):
    """The bound at fixed prices with a unit forced into a slot, by trying every set of every slot."""
    relaxed = Assignment.of(small(seed), asked())
    if relaxed is None:
        return
    price = np.random.default_rng(seed).uniform(0, 120, len(relaxed.cost))
    bound, rise = reduced_costs(price, relaxed.cost, relaxed.least_weight, relaxed.room)
    sets = np.array(list(product((0, 1), repeat=len(price))), dtype=bool)
    total = price.sum()
    most = []
    for s in range(len(relaxed.room)):
        fits = sets @ relaxed.least_weight[:, s] <= relaxed.room[s]
        profit = sets @ np.where(np.isfinite(relaxed.cost[:, s]), price - relaxed.cost[:, s], -1e9)
        most.append(profit[fits].max())
        for u in range(len(price)):
            forced = profit[fits & sets[:, u]].max(initial=-np.inf)
            if forced > -1e8:
                assert rise[u, s] == pytest.approx(most[-1] - forced, abs=1e-6)
            else:
                assert rise[u, s] == np.inf
    assert bound == pytest.approx(total - sum(most))


@pytest.mark.parametrize("seed", SMALL)
def test_it_proves_what_brute_force_finds(seed, small):
    problem = small(seed)
    optimum = evaluate(problem, every(problem)).objective.min()
    mapping = Milp().solve(problem, deadline_s=30, seed=seed)
    if optimum == np.inf:
        assert mapping.status == "infeasible"
        return
    assert mapping.status == "optimal"
    assert mapping.objective == pytest.approx(optimum, rel=1e-9)
    assert mapping.lower_bound <= optimum * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_dives_are_legal_and_close_to_the_bound(seed, knapsacks):
    problem = knapsacks(seed)
    request = asked(seed=seed)
    relaxed = Assignment.of(problem, request)
    bound, relaxed = relaxed.dual(best_mj=np.inf, request=request, share=0.2)
    found = [relaxed.dive(request=request, turn=turn) for turn in range(5)]
    values = [checked(problem, x).objective for x in found if not check(problem, x)]
    assert bound <= min(values) <= 1.01 * bound


@pytest.mark.parametrize("seed", range(20))
def test_chains_mend_and_never_lose(seed, knapsacks):
    """From any start, what chains answer has the loss that they say, and no less legal or dearer than a legal start."""
    problem = knapsacks(seed, units=25, slots=4)
    relaxed = Assignment.of(problem, asked())
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, 25)
    near = np.argsort(relaxed.loss, axis=1)[:, :3].copy()
    price, rows = relaxed.byte_price, np.arange(25)

    def value(x):
        left = relaxed.capacity - np.bincount(x, weights=relaxed.held[rows, x], minlength=4)
        return relaxed.loss[rows, x].sum() + price @ left if (left >= 0).all() else np.inf

    before = np.inf
    for turn in range(3):
        told, work = chain_search(
            relaxed.loss, near, relaxed.held, relaxed.capacity, price, price + 1.0, x, 10, 3, 1e-9, turn, 10**9
        )
        assert told == pytest.approx(value(x))
        assert told <= before * (1 + 1e-9)
        assert work > 0
        before = told


def test_losses_and_prices_are_the_energy_again(knapsacks):
    """Cost = bound of the relaxation at its prices + losses + price of what is left, for any assignment."""
    problem = knapsacks(7)
    relaxed = Assignment.of(problem, asked())
    least = (problem.energy_mj + relaxed.byte_price * problem.resident_bytes).min(axis=1)
    x = np.random.default_rng(0).integers(0, 5, 40)
    rows = np.arange(40)
    left = problem.capacity_bytes - np.bincount(x, weights=problem.resident_bytes[rows, x], minlength=5)
    constant = least.sum() - relaxed.byte_price @ problem.capacity_bytes
    assert constant + relaxed.loss[rows, x].sum() + relaxed.byte_price @ left == pytest.approx(
        problem.energy_mj[rows, x].sum()
    )


def test_the_deadline_counted_in_work_gives_the_same_answer(knapsacks):
    problem = knapsacks(3, units=30, slots=5)
    first, second = (Milp().solve(problem, deadline_s=0.4, seed=5, deterministic=True) for _ in range(2))
    assert first.assignment.tolist() == second.assignment.tolist()
    assert first.lower_bound == second.lower_bound
    assert first.status == second.status
