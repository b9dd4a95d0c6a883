"""Chains with memory: the dual and the beam's bound never exceed brute force; what drops nothing is the optimum."""

import numpy as np
import pytest

from solvers.mapping._chain_kernel import beam, dual, value_of
from solvers.mapping._kernels import arrays
from solvers.mapping.bounds import lower_bound
from solvers.mapping.evaluate import evaluate
from solvers.mapping.lagrangian import Lagrangian, _chain, _routes


def as_chain(draw, seed: int, **changes):
    k = changes.get("segments", 1 + seed % 6)
    steps = np.stack([np.arange(k - 1), np.arange(1, k)], axis=1)
    sizes = np.random.default_rng(seed).integers(0, 200, k - 1).astype(float)
    chain = {"segments": k, "regime": "serial", "contiguous": False, "edges": steps, "edge_bytes": sizes}
    return draw(seed, **(chain | changes))


def test_bounds_and_optima_against_brute_force(random_problem, rich_problem, brute_force):
    solver = Lagrangian()
    for seed in range(120):
        problem = as_chain(rich_problem if seed % 2 else random_problem, seed)
        if solver.refusal(problem):
            continue
        optimum = brute_force(problem)[0]
        mapping = solver.solve(problem)
        assert mapping.lower_bound <= optimum * (1 + 1e-9)
        assert mapping.objective == pytest.approx(optimum, rel=1e-9)
        if optimum < np.inf:
            assert mapping.status == "optimal"


def test_a_narrow_beam_bounds_what_it_drops(random_problem, brute_force):
    dropped_some = 0
    for seed in range(150):
        problem = as_chain(random_problem, seed, slots=3)
        optimum = brute_force(problem)[0]
        chain = _chain(problem, arrays(problem), _routes(problem))
        price, x = np.zeros(problem.slots), np.zeros(problem.segments, dtype=np.int64)
        bound = dual(chain, 30, np.inf, price)
        assert bound <= optimum * (1 + 1e-9) + 1e-12
        for width in (1, 3):
            met, dropped = beam(chain, price, width, np.inf, x)
            assert min(met, dropped) <= optimum * (1 + 1e-9) + 1e-12
            dropped_some += dropped < np.inf
            if met < np.inf:
                assert met == pytest.approx(evaluate(problem, x).objective[0], rel=1e-9, abs=1e-12)
                assert value_of(chain, x) == pytest.approx(met, rel=1e-9, abs=1e-12)
    assert dropped_some > 100


def test_a_window_costs_what_the_whole_chain_does(random_problem):
    """The cost of a window differs from that of the chain by a constant, whatever is in the window."""
    rng = np.random.default_rng(0)
    for seed in range(30):
        problem = as_chain(random_problem, seed, segments=9, slots=3, memory=0.1)
        fixed = rng.integers(0, 3, 9)
        free = np.flatnonzero(rng.random(9) < 0.5)
        if not len(free):
            continue
        part = _chain(problem, arrays(problem), _routes(problem), fixed, free)
        others = []
        for _ in range(8):
            x = fixed.copy()
            x[free] = rng.integers(0, 3, len(free))
            value = evaluate(problem, x).objective[0]
            if np.isfinite(value):
                others.append(value - value_of(part, x[free]))
        assert np.ptp(others or [0.0]) <= 1e-9 * max(1.0, np.abs(others or [1.0]).max())


def test_the_whole_search_is_sharper_than_the_quick_bound_and_repeats_itself(random_problem):
    problem = as_chain(random_problem, 3, segments=40, slots=4, memory=0.85)
    first, second = (Lagrangian().solve(problem, seed=2, deadline_s=120) for _ in range(2))
    assert first.assignment.tolist() == second.assignment.tolist()
    assert first.lower_bound == second.lower_bound >= lower_bound(problem) * (1 - 1e-9)
    assert first.gap < 0.05


def test_edges_that_skip_segments_count_in_the_answer(random_problem, brute_force):
    for seed in range(40):
        problem = as_chain(random_problem, seed, segments=5, slots=2, memory=0.3)
        edges = np.concatenate([problem.edges, [[0, 3], [1, 4]]])
        problem = as_chain(
            random_problem,
            seed,
            segments=5,
            slots=2,
            memory=0.3,
            edges=edges,
            edge_bytes=np.concatenate([problem.edge_bytes, [150.0, 80.0]]),
        )
        optimum = brute_force(problem)[0]
        mapping = Lagrangian().solve(problem)
        assert mapping.lower_bound <= optimum * (1 + 1e-9)
        assert mapping.objective >= optimum * (1 - 1e-9)
