"""Local search and its trade-offs against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.errors import SolverError
from solvers.mapping.bounds import lower_bound
from solvers.mapping.evaluate import evaluate
from solvers.mapping.greedy import Greedy
from solvers.mapping.local_search import LocalSearch, local_search_many

WEIGHTS = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def test_it_finds_most_optima_of_small_problems(random_problem, brute_force):
    found = total = 0
    for seed in range(120):
        problem = random_problem(seed, segments=5, slots=3, contiguous=seed % 3 == 0)
        optimum = brute_force(problem)[0]
        if optimum < np.inf:
            total += 1
            found += LocalSearch().solve(problem, seed=seed).objective <= optimum * (1 + 1e-9)
    assert total > 60
    assert found >= 0.85 * total


def test_it_finds_a_legal_mapping_of_nearly_every_small_problem_that_has_one(random_problem, brute_force):
    found = total = 0
    for seed in range(150):
        problem = random_problem(seed, memory=0.9, contiguous=seed % 2 == 0)
        if brute_force(problem)[0] < np.inf:
            total += 1
            found += len(Greedy().solve(problem).assignment) > 0
    assert total > 50
    assert found >= 0.97 * total


def test_it_is_never_worse_than_greedy(random_problem):
    for seed in range(10):
        problem = random_problem(seed, segments=30, slots=6, memory=0.7)
        greedy, search = Greedy().solve(problem), LocalSearch().solve(problem)
        assert search.objective <= greedy.objective
        assert search.objective >= lower_bound(problem)


def test_serial_chain_reaches_its_bound(random_problem):
    """The dual of a chain with ample memory meets the optimum itself, so the answer is proven."""
    problem = random_problem(
        1,
        segments=40,
        slots=4,
        regime="serial",
        memory=0.05,
        edges=np.array([[k, k + 1] for k in range(39)]),
        edge_bytes=np.full(39, 50.0),
    )
    assert LocalSearch().solve(problem).status == "optimal"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_trade_offs_are_legal_and_none_beats_another(seed, random_problem, brute_force):
    problem = random_problem(seed)
    found = local_search_many(problem, WEIGHTS, seed=seed % 1000)
    again = local_search_many(problem, WEIGHTS, seed=seed % 1000)
    assert (found.assignments == again.assignments).all()
    legal = brute_force(problem)[2].feasible.any()
    assert legal or not len(found.latency_ms)
    evaluation = evaluate(problem, found.assignments)
    assert evaluation.feasible.all()
    assert (np.diff(found.latency_ms) > 0).all()
    assert (np.diff(found.energy_mj) < 0).all()


def test_corners_reach_between_weighted_sums(random_problem):
    """Of points (1, 10), (6, 6), (10, 1) no weighted sum prefers the middle one; the corner (7, 7) does."""
    problem = random_problem(
        0,
        segments=1,
        slots=3,
        regime="serial",
        memory=0.1,
        compute_ms=np.array([[1.0, 6.0, 10.0]]),
        energy_mj=np.array([[10.0, 6.0, 1.0]]),
        allowed=np.ones((1, 3), dtype=bool),
        static_w=0.0,
    )
    found = local_search_many(problem, WEIGHTS[:2], corners=np.array([[7.0, 7.0]]))
    assert list(zip(found.latency_ms, found.energy_mj, strict=True)) == [(1.0, 10.0), (6.0, 6.0), (10.0, 1.0)]


def test_trade_offs_hold_at_most_what_is_asked(random_problem):
    problem = random_problem(11, segments=30, slots=6, memory=0.3, latency_weight=1.0, energy_weight=1.0)
    assert 0 < len(local_search_many(problem, WEIGHTS, most=3).latency_ms) <= 3


def test_bad_weights_are_refused(random_problem):
    problem = random_problem(0, memory=0.1)
    for weights, corners in ((np.array([[-1.0, 1.0]]), None), (np.empty((0, 2)), None), (WEIGHTS, np.zeros((1, 2)))):
        with pytest.raises(SolverError):
            local_search_many(problem, weights, corners=corners)
