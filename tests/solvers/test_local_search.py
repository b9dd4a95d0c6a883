"""Local search against brute force, greedy and its bound."""

import numpy as np

from solvers.mapping.bounds import lower_bound
from solvers.mapping.greedy import Greedy
from solvers.mapping.local_search import LocalSearch

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
