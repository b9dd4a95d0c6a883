"""No lower bound exceeds brute force; where theory says a bound is exact, it is."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.mapping.bounds import lower_bound, lower_bounds
from solvers.mapping.evaluate import evaluate
from solvers.mapping.feasibility import explain_infeasible
from solvers.mapping.solve import solve_mapping

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=400, deadline=None)
@given(seed=SEEDS, contiguous=st.booleans())
def test_no_bound_exceeds_brute_force(seed, contiguous, random_problem, brute_force):
    problem = random_problem(seed, contiguous=contiguous)
    optimum, _, every = brute_force(problem)
    legal = every.feasible
    assert lower_bound(problem) <= optimum
    if legal.any():
        time_ms, energy_mj = lower_bounds(problem, np.eye(2))
        assert time_ms <= every.latency_ms[legal].min()
        assert energy_mj <= every.energy_mj[legal].min()


@settings(max_examples=300, deadline=None)
@given(seed=SEEDS)
def test_no_bound_exceeds_brute_force_on_all_that_problems_hold(seed, rich_problem, brute_force):
    problem = rich_problem(seed, segments=1 + seed % 5)
    optimum = brute_force(problem)[0]
    assert lower_bound(problem) <= optimum
    if explain_infeasible(problem):
        assert optimum == np.inf


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS)
def test_limits_bound_one_objective_of_a_pair(seed, rich_problem, brute_force):
    free = rich_problem(seed, segments=1 + seed % 4, latency_weight=1.0, energy_weight=0.0, free_order=False)
    _, every, points = brute_force(free)
    if not points.feasible.any():
        return
    limit = float(np.median(points.energy_mj[points.feasible]))
    limited = replace(free, max_energy_mj=limit)
    assert (evaluate(limited, every).feasible == (points.feasible & (points.energy_mj <= limit * (1 + 1e-9)))).all()
    least = float(points.energy_mj[points.feasible].min())
    assert not explain_infeasible(replace(free, max_energy_mj=least))
    beyond = explain_infeasible(replace(free, max_energy_mj=lower_bounds(free, np.array([[0.0, 1.0]]))[0] * 0.9))
    assert not beyond or (beyond[0].constraint == "energy limit" and beyond[0].gap > 0)
    mapping = solve_mapping(limited, "local_search", seed=1)
    if len(mapping.assignment):
        assert mapping.energy_mj <= limit * (1 + 1e-9)


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS)
def test_half_planes_hold_for_every_mapping(seed, random_problem, brute_force):
    problem = random_problem(seed)
    weights = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.1, 3.0], [0.0, 0.0]])
    bounds = lower_bounds(problem, weights)
    every = brute_force(problem)[2]
    if not every.feasible.any():
        return
    points = np.stack([every.latency_ms, every.energy_mj])[:, every.feasible]
    assert (bounds <= (weights @ points).min(axis=1)).all()
    assert bounds[-1] == 0.0


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (1.0, 0.4)])
def test_exact_for_serial_chains_with_ample_memory(seed, weights, random_problem, brute_force):
    chain = np.array([[k, k + 1] for k in range(5)])
    problem = random_problem(
        seed,
        segments=6,
        slots=3,
        regime="serial",
        memory=0.1,
        edges=chain,
        edge_bytes=np.arange(5) * 30.0,
        latency_weight=weights[0],
        energy_weight=weights[1],
    )
    assert lower_bound(problem) == pytest.approx(brute_force(problem)[0], rel=1e-8)


def test_memory_is_priced(random_problem, brute_force):
    """Two slots, of which the better holds three of six equal segments: the others must pay."""
    problem = random_problem(
        0,
        segments=6,
        slots=2,
        regime="serial",
        compute_ms=np.tile([1.0, 2.0], (6, 1)),
        allowed=np.ones((6, 2), dtype=bool),
        energy_mj=np.zeros((6, 2)),
        edges=np.array([[k, k + 1] for k in range(5)]),
        edge_bytes=np.zeros(5),
        route_latency_ms=np.zeros((2, 2)),
        resident_bytes=np.full(6, 10.0),
        workspace_bytes=np.zeros(6),
        capacity_bytes=np.array([30.0, 30.0]),
        latency_weight=1.0,
        energy_weight=0.0,
    )
    assert brute_force(problem)[0] == 9.0
    assert lower_bound(problem) > 8.9  # 6 without the memory


def test_contraction_sees_slow_links(random_problem, brute_force):
    """Cutting any edge takes 100 ms, all on one slot 6 ms: the loads alone would allow 3 ms."""
    off = 1.0 - np.eye(2)
    problem = random_problem(
        0,
        segments=6,
        slots=2,
        regime="pipelined",
        memory=0.1,
        compute_ms=np.ones((6, 2)),
        allowed=np.ones((6, 2), dtype=bool),
        energy_mj=np.zeros((6, 2)),
        edges=np.array([[k, k + 1] for k in range(5)]),
        edge_bytes=np.full(5, 100.0),
        route_ms_per_byte=off,
        route_links=off.astype(bool)[:, :, None],
        latency_weight=1.0,
        energy_weight=0.0,
    )
    assert brute_force(problem)[0] == 6.0
    assert lower_bound(problem) == pytest.approx(6.0, rel=1e-6)


def test_a_segment_that_can_run_nowhere_bounds_everything_by_infinity(random_problem):
    for regime in ("serial", "pipelined"):
        problem = random_problem(3, segments=4, slots=2, regime=regime, allowed=np.zeros((4, 2), dtype=bool))
        assert lower_bound(problem) == np.inf


def test_bytes_that_lack_by_rounding_have_no_price(random_problem):
    """The slot holds 31.9268 bytes and the segment needs them all; 31.9268 - 31.8916 is not 0.0352 in float64."""
    for resident, workspace in ((0.0353, 31.8916), (0.1, 0.7), (1e-9, 1e9 / 3)):
        problem = random_problem(
            0,
            segments=1,
            slots=2,
            regime="pipelined",
            compute_ms=np.array([[3.0, 2.0]]),
            allowed=np.array([[True, True]]),
            energy_mj=np.ones((1, 2)),
            resident_bytes=np.array([resident]),
            workspace_bytes=np.array([workspace]),
            capacity_bytes=np.array([resident + workspace, 0.0]),
        )
        assert (lower_bounds(problem, np.array([[1.0, 0.0], [1.0, 1.0]])) <= [3.0, 4.0 + 3.0 * problem.static_w]).all()
