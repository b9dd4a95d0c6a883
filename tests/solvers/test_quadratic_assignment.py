"""Tabu search on quadratic assignment, against all permutations and published optima."""

from itertools import permutations

import numpy as np
import pytest

from solvers.errors import SolverError
from solvers.formats import read_instance
from solvers.mapping._gilmore_lawler import gilmore_lawler_bound
from solvers.mapping.problem import MappingProblem
from solvers.mapping.solve import solve_mapping
from solvers.mapping.tabu import Tabu


def assignment_problem(flow, distance, *, linear=None, **changes) -> MappingProblem:
    """State a quadratic assignment: flow [K, K] above its diagonal, distance [S, S], linear [K, S] or nothing."""
    k, s = len(flow), len(distance)
    edges = np.argwhere(np.triu(flow, 1) > 0)
    zeros = np.zeros((k, s))
    fields = {
        "compute_ms": zeros,
        "energy_mj": zeros if linear is None else linear,
        "edges": edges,
        "edge_bytes": flow[edges[:, 0], edges[:, 1]].astype(float),
        "route_latency_ms": np.zeros((s, s)),
        "route_ms_per_byte": np.zeros((s, s)),
        "route_mj_per_byte": distance.astype(float),
        "route_links": np.zeros((s, s, 0), dtype=bool),
        "resident_bytes": np.ones(k),
        "workspace_bytes": np.zeros(k),
        "capacity_bytes": np.ones(s),
        "allowed": np.ones((k, s), dtype=bool),
        "regime": "pipelined",
        "latency_weight": 0.0,
        "energy_weight": 1.0,
    }
    return MappingProblem(**(fields | changes))


def draw(seed, items, places):
    rng = np.random.default_rng(seed)
    flow = np.triu(rng.integers(0, 10, (items, items)), 1)
    half = np.triu(rng.integers(1, 10, (places, places)), 1)
    return flow, half + half.T, rng.integers(0, 40, (items, places)).astype(float)


@pytest.mark.parametrize(("items", "places"), [(1, 1), (2, 2), (6, 6), (4, 6)])
def test_it_finds_the_best_permutation(items, places):
    for seed in range(6):
        flow, distance, linear = draw(seed, items, places)
        problem = assignment_problem(flow, distance, linear=linear)
        every = np.array(list(permutations(range(places), items)))
        cost = linear[np.arange(items), every].sum(axis=1)
        for i in range(items):
            for j in range(i + 1, items):
                cost += flow[i, j] * distance[every[:, i], every[:, j]]
        mapping = Tabu(children_per_item=3).solve(problem)
        assert mapping.objective == pytest.approx(cost.min())
        assert len(set(mapping.assignment.tolist())) == items


def test_costs_kept_up_to_date_by_swaps_are_those_of_the_permutation():
    from solvers.mapping._random import seeded
    from solvers.mapping._robust_tabu import cost_of, shuffled, tabu_search

    flow, distance, linear = draw(1, 9, 9)
    flow = (flow + flow.T).astype(float)
    state = seeded(3)
    for turns in (1, 2, 3, 500):
        p = shuffled(9, state)
        before = cost_of(flow, distance.astype(float), linear, p)
        after = tabu_search(flow, distance.astype(float), linear, p, turns, state)
        pairs = sum(flow[i, j] * distance[p[i], p[j]] for i in range(9) for j in range(i + 1, 9))
        assert after == pytest.approx(pairs + linear[np.arange(9), p].sum())
        assert after <= before


def test_same_seed_same_permutation_and_no_warm_start_is_lost():
    flow, distance, linear = draw(5, 12, 12)
    problem = assignment_problem(flow, distance, linear=linear)
    one, other = (Tabu(children_per_item=5).solve(problem, seed=4, deadline_s=60) for _ in range(2))
    assert one.assignment.tolist() == other.assignment.tolist()
    again = Tabu(children_per_item=0).solve(problem, warm_start=one.assignment)
    assert again.objective <= one.objective


def test_any_seed_of_32_bits_will_do_and_a_short_deadline_is_kept():
    flow, distance, linear = draw(5, 40, 40)
    problem = assignment_problem(flow, distance, linear=linear)
    mapping = Tabu().solve(problem, seed=2**32 - 1, deadline_s=0.3)
    assert len(set(mapping.assignment.tolist())) == 40
    assert mapping.wall_s < 30
    assert [line.objective for line in mapping.history] == sorted((x.objective for x in mapping.history), reverse=True)


def test_other_problems_are_refused():
    flow, distance, _ = draw(2, 4, 4)
    lopsided = distance.copy()
    lopsided[0, 1] += 1
    for changes, reason in (
        ({"latency_weight": 1.0}, "time"),
        ({"capacity_bytes": np.full(4, 2.0)}, "more than one segment"),
        ({"contiguous": True}, "contiguous"),
        ({"route_mj_per_byte": lopsided.astype(float)}, "direction"),
        ({"allowed": np.eye(4, dtype=bool)}, "every slot"),
    ):
        with pytest.raises(SolverError, match=reason):
            solve_mapping(assignment_problem(flow, distance, **changes), "tabu")


@pytest.mark.parametrize(("name", "optimum"), [("nug12", 578), ("tho30", 149936)])
def test_published_optima(name, optimum, measured):
    numbers = np.array(measured(f"solvers/qaplib/{name}/{name}.txt").read_text().split(), dtype=np.int64)
    n = int(numbers[0])
    one, other = numbers[1:].reshape(2, n, n)
    mapping = solve_mapping(assignment_problem(other + other.T, one), "tabu", deadline_s=8)
    assert mapping.objective == optimum


@pytest.mark.parametrize(("items", "places"), [(1, 1), (2, 2), (5, 5), (4, 6)])
def test_the_bound_is_below_every_permutation(items, places):
    for seed in range(10):
        flow, distance, linear = draw(seed, items, places)
        problem = assignment_problem(flow, distance, linear=linear)
        whole = np.triu(flow, 1)
        costs = [
            linear[np.arange(items), p].sum() + (whole * distance[np.ix_(p, p)]).sum()
            for p in permutations(range(places), items)
        ]
        assert 0 <= gilmore_lawler_bound(problem) <= min(costs)


@pytest.mark.parametrize(("name", "bound"), [("nug12", 493), ("nug20", 2057), ("nug30", 4539)])
def test_the_published_bounds(measured, name, bound):
    """Of Nugent's instances, as QAPLIB's home page gives them (Gilmore-Lawler bound, objective of all pairs)."""
    problem = read_instance(measured(f"solvers/qaplib/{name}/{name}.txt")).problem
    assert np.ceil(gilmore_lawler_bound(problem)) == bound
