"""Offloads: the bound over one path never exceeds brute force, and is exact on chains; the search keeps calls whole."""

from dataclasses import replace

import numpy as np
import pytest

from solvers.mapping._kernels import arrays
from solvers.mapping.bounds import lower_bounds
from solvers.mapping.check import check
from solvers.mapping.offload import OffloadSearch, path_time_bound
from solvers.mapping.problem import MappingProblem


def device_problem(cpu_ms, accelerator_ms, edges, port_ms, bytes_, accelerators, capacity) -> MappingProblem:
    """Segments on like accelerators, each one call, or on a host that is never busy, as in device placement."""
    k, s = len(cpu_ms), accelerators + 1
    host = np.arange(s) == accelerators
    nothing = np.zeros((s, s))
    edges = np.array(edges, dtype=np.int64).reshape(-1, 2)
    return MappingProblem(
        compute_ms=np.where(host, np.array(cpu_ms)[:, None], np.array(accelerator_ms)[:, None]).astype(float),
        energy_mj=np.zeros((k, s)),
        edges=edges,
        edge_bytes=np.array(port_ms, dtype=float)[edges[:, 0]],
        route_latency_ms=nothing,
        route_ms_per_byte=nothing,
        route_mj_per_byte=nothing,
        route_links=np.zeros((s, s, 0)),
        resident_bytes=np.array(bytes_, dtype=float),
        workspace_bytes=np.zeros(k),
        capacity_bytes=np.where(host, np.inf, float(capacity)),
        allowed=np.ones((k, s), dtype=bool),
        port_in_ms_per_byte=np.where(host, 0.0, 1.0),
        port_out_ms_per_byte=np.where(host, 0.0, 1.0),
        concurrent=host,
        regime="offload",
    )


def random_devices(seed: int, segments: int, *, chain: bool) -> MappingProblem:
    rng = np.random.default_rng(seed)
    edges = [(i, i + 1) for i in range(segments - 1)]
    if not chain:
        edges = [edge for edge in edges if rng.random() < 0.6]
        edges += [(i, j) for i in range(segments) for j in range(i + 2, segments) if rng.random() < 0.3]
    cpu = rng.uniform(1.0, 10.0, segments)
    bytes_ = rng.integers(1, 10, segments)
    accelerators = int(rng.integers(1, 4))
    capacity = max(int(bytes_.max()), int(bytes_.sum() * rng.uniform(0.2, 0.6)))
    return device_problem(cpu, cpu / 10, edges, rng.uniform(0.0, 3.0, segments), bytes_, accelerators, capacity)


def test_on_chains_the_path_bound_is_the_optimum(brute_force):
    for seed in range(60):
        problem = random_devices(seed, 6, chain=True)
        bound, cut = path_time_bound(problem, arrays(problem))
        assert bound == pytest.approx(brute_force(problem)[0], rel=2e-9)
        assert len(cut) == 1
        mapping = OffloadSearch(rounds=0).solve(problem)
        assert mapping.status == "optimal"


def test_the_path_bound_never_exceeds_brute_force(brute_force, rich_problem):
    sharper = 0
    problems = [rich_problem(seed, regime="offload") for seed in range(150)]
    problems += [random_devices(seed, 6, chain=False) for seed in range(100)]
    for problem in problems:
        evaluation = brute_force(problem)[2]
        least = np.where(evaluation.feasible, evaluation.latency_ms, np.inf).min()
        bound = path_time_bound(problem, arrays(problem))[0]
        assert bound <= least * (1 + 1e-9)
        sharper += bound > lower_bounds(problem, np.array([[1.0, 0.0]]))[0] * (1 + 1e-6)
    assert sharper > 50


def test_a_call_holds_all_that_lies_between_its_segments(brute_force):
    """0 -> 1 -> 3 and 0 -> 2 -> 3: with 0 and 3 in one call, 1 and 2 are in it, so that 40 bytes do not fit in 30."""
    problem = device_problem([10] * 4, [1] * 4, [(0, 1), (0, 2), (1, 3), (2, 3)], [2] * 4, [10] * 4, 1, 30)
    bound, _ = path_time_bound(problem, arrays(problem))
    # Best: 0 on the host, the others in the call, where its output enters; 3 on the host would cost two that leave.
    mapping = OffloadSearch(rounds=2).solve(problem)
    assert mapping.objective == brute_force(problem)[0] == 10 + 2 + 3
    assert bound == pytest.approx(10 + 2 + 2)  # a path from 0 to 3 sees one of 1 and 2
    wide = replace(problem, capacity_bytes=np.array([40.0, np.inf]))
    assert path_time_bound(wide, arrays(wide))[0] == pytest.approx(4.0)


def test_the_search_finds_the_optimum_of_small_ones(brute_force):
    for seed in range(15):
        problem = random_devices(seed, 6, chain=False)
        mapping = OffloadSearch(rounds=12).solve(problem, seed=seed)
        assert mapping.objective == pytest.approx(brute_force(problem)[0], rel=1e-9)


def test_large_answers_are_legal_and_the_same_again():
    problem = random_devices(3, 30, chain=False)
    first, second = (OffloadSearch(rounds=2).solve(problem, seed=5, deadline_s=60) for _ in range(2))
    assert not check(problem, first.assignment)
    assert first.assignment.tolist() == second.assignment.tolist()
    assert first.objective < problem.compute_ms[:, -1].sum()
