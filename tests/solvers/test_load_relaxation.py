"""The relaxation to loads and memory: never above brute force, as tight as the whole linear programme, a good start."""

from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest
from scipy.optimize import linprog

from solvers.mapping._load_relaxation import LoadRelaxation
from solvers.mapping.annealing import Annealing
from solvers.mapping.evaluate import evaluate
from solvers.mapping.solver import Request


def relaxation(problem, deadline_s=20.0):
    request = Request(started=perf_counter(), deadline_s=deadline_s, seed=0, warm_start=None)
    return LoadRelaxation(problem, request, share=1.0)


@pytest.mark.parametrize("block", range(2))
def test_it_never_exceeds_brute_force(block, rich_problem, brute_force):
    """Whatever value is known: a far one, a near one, the optimum itself."""
    met = 0
    for seed in range(100 * block, 100 * block + 100):
        problem = rich_problem(seed, regime="pipelined")
        if not LoadRelaxation.applies(problem):
            continue
        least = brute_force(problem)[0]
        for incumbent in (np.inf, 1.3 * least, least):
            assert relaxation(problem).prove(incumbent) <= least
        met += 1
    assert met > 40


def whole_programme(problem):
    """The least T over shares of segments in slots, all modes at once, by another solver."""
    k, s = problem.compute_ms.shape
    cost = np.zeros(k * s + 1)
    cost[-1] = 1.0
    each = np.zeros((k, k * s + 1))
    for i in range(k):
        each[i, i * s : (i + 1) * s] = 1.0
    rows = np.zeros((2 * s, k * s + 1))
    for m in range(s):
        rows[m, m : k * s : s] = problem.compute_ms[:, m]
        rows[m, -1] = -1.0
        rows[s + m, m : k * s : s] = problem.resident_bytes
    limits = np.concatenate([np.zeros(s), problem.capacity_bytes])
    return linprog(cost, A_ub=rows, b_ub=limits, A_eq=each, b_eq=np.ones(k)).fun


@pytest.mark.parametrize("seed", range(6))
def test_it_is_as_tight_as_the_whole_programme(seed, random_problem):
    """Modes brought in by their prices are enough, also where memory decides."""
    slots = 20
    rng = np.random.default_rng(seed)
    problem = random_problem(
        seed,
        segments=60,
        slots=slots,
        regime="pipelined",
        allowed=np.ones((60, slots), dtype=bool),
        energy_mj=np.zeros((60, slots)),
        workspace_bytes=np.zeros(60),
        latency_weight=1.0,
        energy_weight=0.0,
        static_w=0.0,
    )
    share = rng.uniform(0.5, 1.5, slots)
    problem = replace(
        problem,
        edges=np.zeros((0, 2), dtype=np.int64),
        edge_bytes=np.zeros(0),
        compute_ms=problem.compute_ms * rng.uniform(0.2, 1.0, slots),
        capacity_bytes=share / share.sum() * problem.resident_bytes.sum() * 1.2,
    )
    bound = relaxation(problem).prove()
    assert bound == pytest.approx(whole_programme(problem), rel=1e-3)
    assert bound <= whole_programme(problem) * (1 + 1e-9)


def test_what_an_edge_must_cost_is_in_the_bound(random_problem, brute_force):
    """Two segments that are too long together are apart, and the bytes between them pass both ports."""
    problem = random_problem(
        0,
        segments=2,
        slots=2,
        regime="pipelined",
        compute_ms=np.full((2, 2), 5.0),
        allowed=np.ones((2, 2), dtype=bool),
        edges=np.array([[0, 1]]),
        edge_bytes=np.full(1, 100.0),
        route_ms_per_byte=np.zeros((2, 2)),
        port_in_ms_per_byte=np.full(2, 0.01),
        port_out_ms_per_byte=np.full(2, 0.02),
        capacity_bytes=np.full(2, np.inf),
        latency_weight=1.0,
        energy_weight=0.0,
        static_w=0.0,
    )
    assert brute_force(problem)[0] == 7.0
    assert relaxation(problem).prove() == pytest.approx(5.0)
    assert 6.5 <= relaxation(problem).prove(8.0) <= 7.0  # loads of 6 and 7, cut freely between the slots
    assert relaxation(problem).prove(7.0) == 7.0  # nothing below it is left


def test_its_shares_make_a_mapping_that_annealing_starts_from(random_problem):
    problem = random_problem(3, segments=120, slots=8, regime="pipelined", memory=0.6)
    relaxed = relaxation(problem, deadline_s=3.0)
    bound = relaxed.prove()
    values = [float(evaluate(problem, x).objective[0]) for x in relaxed.mappings()]
    mapping = Annealing().solve(problem, deadline_s=3, seed=0)
    assert mapping.lower_bound >= bound > 0
    assert mapping.objective <= values[0]


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_loads_are_evened_out_where_only_these_matter(scale, random_problem):
    """Within two percent of the bound at 15 units a slot, memory four fifths full; nothing to do without loads."""
    rng = np.random.default_rng(5)
    problem = random_problem(
        1,
        segments=90,
        slots=6,
        regime="pipelined",
        memory=0.8,
        compute_ms=scale * rng.uniform(1.0, 4.0, (90, 1)) * rng.uniform(0.8, 1.2, (90, 6)),
        allowed=np.ones((90, 6), dtype=bool),
        energy_mj=np.zeros((90, 6)),
        edges=np.zeros((0, 2), dtype=np.int64),
        edge_bytes=np.zeros(0),
        workspace_bytes=np.zeros(90),
        latency_weight=1.0,
        energy_weight=0.0,
        static_w=0.0,
    )
    relaxed = relaxation(problem, deadline_s=5.0)
    bound = relaxed.prove()
    rounded, evened = (float(evaluate(problem, x).objective[0]) for x in relaxed.mappings())
    assert bound <= evened <= rounded
    assert evened <= 1.02 * bound
