"""CP-SAT and the pipeline DP against brute force over every mapping, in both regimes."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from solvers.mapping import _incumbent, pipeline_dp
from solvers.mapping._cp_model.model import Found, Model, Outcome
from solvers.mapping.cp_sat import CpSat
from solvers.mapping.evaluate import evaluate
from solvers.mapping.pipeline_dp import PipelineDP
from solvers.mapping.problem import MappingProblem
from solvers.mapping.symmetry import canonical, interchangeable_slots


def random_problem(
    seed: int,
    segments: int,
    slots: int,
    *,
    regime: str = "serial",
    contiguous: bool = False,
    chain: bool = False,
    twins: bool = False,
    energy: bool = False,
    tightness: float = 0.8,
) -> MappingProblem:
    """A problem with memory that binds, cells that are not allowed, and links that routes share."""
    rng = np.random.default_rng(seed)
    edges = [(k, k + 1) for k in range(segments - 1)]
    if not chain:
        edges = [e for e in edges if rng.random() < 0.7]
        edges += [(i, j) for i in range(segments) for j in range(i + 2, segments) if rng.random() < 0.3]
    # A bus of S - 1 links (routes share them), or a link for each ordered pair.
    mesh = rng.random() < 0.5 and not twins
    links = np.zeros((slots, slots, slots - 1 if mesh else slots * slots), dtype=bool)
    hops = np.zeros((slots, slots))
    for p, q in product(range(slots), repeat=2):
        if p != q:
            links[p, q, slice(min(p, q), max(p, q)) if mesh else p * slots + q] = True
            hops[p, q] = abs(p - q) if mesh else 1.0
    per_slot = rng.uniform(0.5, 2.0, slots)
    if twins:
        per_slot[:] = per_slot[0]
    compute = rng.uniform(1.0, 10.0, segments)[:, None] * per_slot
    allowed = np.ones((segments, slots), dtype=bool) if twins else rng.random((segments, slots)) > 0.1
    resident = rng.integers(1, 10, segments).astype(float)
    capacity = np.full(slots, np.ceil(resident.sum() / slots / tightness) + 2.0)
    return MappingProblem(
        compute_ms=compute,
        energy_mj=compute * (1.0 if twins else rng.uniform(0.2, 3.0, (segments, slots))),
        edges=np.array(edges, dtype=np.int64).reshape(-1, 2),
        edge_bytes=rng.integers(0, 5, len(edges)).astype(float),
        route_latency_ms=0.3 * hops,
        route_ms_per_byte=rng.choice([0.1, 1.0]) * (hops > 0),
        route_mj_per_byte=0.7 * hops,
        route_links=links,
        resident_bytes=resident,
        workspace_bytes=rng.integers(0, 4, segments).astype(float),
        capacity_bytes=capacity,
        allowed=allowed,
        static_w=0.5 if energy else 0.0,
        regime=regime,  # type: ignore[arg-type]
        latency_weight=0.0 if energy and seed % 5 == 0 else 1.0,
        energy_weight=0.4 if energy else 0.0,
        contiguous=contiguous,
    )


def every_mapping(problem: MappingProblem) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    everything = np.array(list(product(range(problem.slots), repeat=problem.segments)), dtype=np.int64)
    return everything, evaluate(problem, everything).objective


def brute_force(problem: MappingProblem) -> float:
    return float(every_mapping(problem)[1].min())


LIMITS: list[tuple[str, ...]] = [(), (), ("max_latency_ms",), ("max_energy_mj",), ("max_latency_ms", "max_energy_mj")]
SETTING = {
    "seed": st.integers(0, 100_000),
    "segments": st.integers(2, 6),
    "slots": st.integers(1, 3),
    "regime": st.sampled_from(["serial", "pipelined"]),
    "contiguous": st.booleans(),
    "chain": st.booleans(),
    "twins": st.booleans(),
    "energy": st.booleans(),
    "tightness": st.sampled_from([0.1, 0.8, 1.1]),
}


@settings(max_examples=150, deadline=None)
@given(**SETTING)
def test_cp_sat_equals_brute_force(**setting: object) -> None:
    problem = random_problem(**setting)  # type: ignore[arg-type]
    best = brute_force(problem)
    # Any legal mapping as the warm start, so that the search has something to find and to prove.
    everything, values = every_mapping(problem)
    legal = everything[np.isfinite(values)]
    start = legal[int(setting["seed"]) % len(legal)] if len(legal) else None  # type: ignore[call-overload]
    with patch.object(_incumbent, "heuristics", lambda _: ()):
        mapping = CpSat().solve(problem, warm_start=start)
    if np.isinf(best):
        assert mapping.status == "infeasible"
    else:
        assert mapping.status == "optimal"
        assert mapping.objective == pytest.approx(best, rel=1e-9)
        assert mapping.lower_bound <= best * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_magnitudes_far_apart_neither_overflow_nor_lose_precision(seed: int) -> None:
    """Cells 1e15 times dearer than the optimum, and a warm start that takes them."""
    problem = random_problem(seed, 5, 3, regime=("serial", "pipelined")[seed % 2], energy=seed % 4 > 1, tightness=0.1)
    compute = np.where(np.arange(3) == 2, 1e9, 1e-6) * problem.compute_ms
    problem = replace(problem, compute_ms=compute, allowed=np.ones((5, 3), dtype=bool))
    mapping = CpSat().solve(problem, warm_start=np.full(5, 2))
    assert mapping.status == "optimal"
    assert mapping.objective == pytest.approx(brute_force(problem), rel=1e-6)


@settings(max_examples=150, deadline=None)
@given(**SETTING)
def test_pipeline_dp_is_sound_and_exact_where_it_says(**setting: object) -> None:
    problem = random_problem(**setting)  # type: ignore[arg-type]
    best = brute_force(problem)
    with patch.object(pipeline_dp, "MAX_COMPARED", int(setting["seed"]) % 2 * 20_000):  # type: ignore[call-overload]
        mapping = PipelineDP().solve(problem)
    if mapping.status == "infeasible":
        assert np.isinf(best)
    else:
        assert mapping.lower_bound <= best * (1 + 1e-9)
        assert mapping.objective >= best * (1 - 1e-9)
        if mapping.status == "optimal":
            assert mapping.objective == pytest.approx(best, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 100_000),
    segments=st.integers(3, 7),
    slots=st.integers(2, 3),
    regime=st.sampled_from(["serial", "pipelined"]),
    twins=st.booleans(),
    energy=st.booleans(),
    tightness=st.sampled_from([0.1, 0.8]),
)
def test_pipeline_dp_is_exact_for_contiguous_chains(**setting: object) -> None:
    problem = random_problem(**setting, contiguous=True, chain=True)  # type: ignore[arg-type]
    slots = problem.slots
    links = np.zeros((slots, slots, slots * slots), dtype=bool)
    for p, q in product(range(slots), repeat=2):
        links[p, q, p * slots + q] = p != q
    problem = replace(problem, route_links=links)
    best = brute_force(problem)
    with patch.object(pipeline_dp, "MAX_COMPARED", 0):
        mapping = PipelineDP().solve(problem)
    assert mapping.status == ("infeasible" if np.isinf(best) else "optimal")
    if np.isfinite(best):
        assert mapping.objective == pytest.approx(best, rel=1e-9)


def test_free_serial_chain_with_memory_to_spare_is_exact() -> None:
    for seed in range(10):
        problem = random_problem(seed, 7, 3, chain=True, tightness=0.01)
        mapping = PipelineDP().solve(problem)
        assert mapping.status == "optimal"
        assert mapping.objective == pytest.approx(brute_force(problem), rel=1e-9)


@pytest.mark.parametrize("contiguous", [False, True])
def test_a_warm_start_in_any_labelling_of_like_slots_is_kept(contiguous: bool) -> None:
    problem = random_problem(7, 8, 4, regime="pipelined", contiguous=contiguous, twins=True, tightness=0.5)
    assert interchangeable_slots(problem) == [[0, 1, 2, 3]]
    warm = np.array([3, 3, 2, 2, 0, 0, 1, 1])
    claimed = float(evaluate(problem, warm).objective[0])
    with patch.object(_incumbent, "heuristics", lambda _: ()):
        mapping = CpSat().solve(problem, warm_start=warm)
        stopped = CpSat().solve(problem, warm_start=warm, deadline_s=1e-6, deterministic=True)
    assert np.isfinite(claimed) and mapping.objective <= claimed
    assert mapping.status == "optimal"
    best = CpSat().solve(problem)
    again = CpSat().solve(problem, warm_start=(3 - best.assignment))
    assert again.objective == pytest.approx(best.objective) and again.status == "optimal"
    assert stopped.objective <= claimed and stopped.lower_bound <= best.objective * (1 + 1e-9)


def test_canonical_labels_keep_the_objective() -> None:
    problem = random_problem(11, 8, 4, regime="pipelined", twins=True)
    rng = np.random.default_rng(0)
    groups = interchangeable_slots(problem)
    for assignment in rng.integers(0, 4, (50, 8)):
        renamed = canonical(assignment, groups)
        first = [int(np.argmax(renamed == s)) if (renamed == s).any() else 8 for s in range(4)]
        assert first == sorted(first)
        value = evaluate(problem, np.stack([assignment, renamed])).objective
        assert value[0] == pytest.approx(value[1])


def test_slots_of_a_line_are_not_interchangeable() -> None:
    problem = random_problem(1, 4, 3, regime="serial", twins=True)
    line = np.abs(np.subtract.outer(np.arange(3), np.arange(3))).astype(float)
    assert interchangeable_slots(replace(problem, route_latency_ms=line)) == [[0, 2], [1]]


def test_too_little_memory_is_proven_and_explained() -> None:
    problem = replace(random_problem(2, 5, 3, twins=True), capacity_bytes=np.full(3, 5.0))
    for solver in (CpSat(), PipelineDP()):
        mapping = solver.solve(problem)
        assert mapping.status == "infeasible" and mapping.assignment.size == 0
        assert mapping.infeasibility[0].constraint == "memory" and mapping.infeasibility[0].gap > 0


def test_a_proof_that_a_legal_mapping_refutes_is_dropped() -> None:
    problem = random_problem(7, 8, 4, regime="pipelined", twins=True, tightness=0.5)
    warm = np.array([3, 3, 2, 2, 0, 0, 1, 1])
    found = Found(np.array([0, 0, 0, 0, 1, 1, 1, 1]), None)
    wrong = patch.object(Model, "solve", lambda *_, **__: Outcome("OPTIMAL", found, 1e9, 0.0))
    with wrong, patch.object(_incumbent, "heuristics", lambda _: ()):
        mapping = CpSat().solve(problem, warm_start=warm)
    assert mapping.status == "feasible"
    assert mapping.lower_bound <= CpSat().solve(problem).objective


@pytest.mark.parametrize("regime", ["serial", "pipelined"])
def test_many_different_slots_are_tried_in_several_orders(regime: str) -> None:
    problem = random_problem(4, 40, 16, regime=regime, contiguous=True, tightness=0.1)
    problem = replace(problem, allowed=np.ones((40, 16), dtype=bool))
    assert len(interchangeable_slots(problem)) == 16
    mapping = PipelineDP().solve(problem)
    single = evaluate(problem, np.repeat(np.arange(16)[:, None], 40, axis=1)).objective.min()
    assert mapping.status == "feasible" and mapping.objective <= single
    assert mapping.lower_bound <= mapping.objective


def test_slots_of_one_kind_scale() -> None:
    """Sixteen like slots are seventeen states, not 65,536: the DP proves a chain of 200 segments optimal."""
    problem = random_problem(4, 200, 16, regime="pipelined", contiguous=True, chain=True, twins=True, tightness=0.1)
    mapping = PipelineDP().solve(problem)
    assert mapping.status == "optimal"
    assert len(set(mapping.assignment.tolist())) > 1


def test_same_seed_same_answer() -> None:
    problem = random_problem(21, 14, 4, regime="pipelined", energy=True)
    runs = [CpSat().solve(problem, deadline_s=0.2, seed=3, deterministic=True) for _ in range(2)]
    assert (runs[0].assignment == runs[1].assignment).all()
    assert runs[0].lower_bound == runs[1].lower_bound


def test_topcuoglu(measured: Callable[[str], Path]) -> None:
    """The 10-task graph of Topcuoglu et al. 2002: its optimum is 73 (HEFT 80), proven."""
    task = json.loads(measured("solvers/heft_canonical/topcuoglu10.json").read_text())
    order = [0, 2, 3, 1, 4, 5, 8, 6, 7, 9]  # HEFT's upward rank, a topological order
    number = {old: new for new, old in enumerate(order)}
    compute = np.array(task["W"], dtype=float)[order]
    problem = MappingProblem(
        compute_ms=compute,
        energy_mj=np.zeros_like(compute),
        edges=np.array([(number[u], number[v]) for u, v, _ in task["edges"]], dtype=np.int64),
        edge_bytes=np.array([c for _, _, c in task["edges"]], dtype=float),
        route_latency_ms=np.zeros((3, 3)),
        route_ms_per_byte=1.0 - np.eye(3),
        route_mj_per_byte=np.zeros((3, 3)),
        route_links=np.zeros((3, 3, 0), dtype=bool),
        resident_bytes=np.zeros(10),
        workspace_bytes=np.zeros(10),
        capacity_bytes=np.full(3, 1.0),
        allowed=np.ones((10, 3), dtype=bool),
    )
    in_number_order = CpSat().solve(problem)
    assert in_number_order.status == "optimal"
    assert in_number_order.objective == pytest.approx(brute_force(problem))
    free = CpSat().solve(replace(problem, free_order=True))
    assert (free.status, free.objective) == ("optimal", pytest.approx(73))


def test_cp_sat_equals_brute_force_on_everything(rich_problem, brute_force) -> None:  # type: ignore[no-untyped-def]
    """Teams, groups, ports, training, hosts, a free order, and limits that bind: one random problem after the other."""

    @settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.3, 0.7]), limits=st.sampled_from(LIMITS))
    def equal(seed: int, share: float, limits: tuple[str, ...]) -> None:
        problem = rich_problem(seed, segments=2 + seed % 4)
        best, _, evaluation = brute_force(problem)
        if np.isfinite(best) and limits:
            legal = evaluation.feasible
            some = {
                "max_latency_ms": float(np.quantile(evaluation.latency_ms[legal], share, method="lower")),
                "max_energy_mj": float(np.quantile(evaluation.energy_mj[legal], share, method="lower")),
            }
            problem = replace(problem, **{name: some[name] for name in limits})
            best = brute_force(problem)[0]
        alone = patch.multiple(_incumbent, heuristics=lambda _: (), bound_and_start=lambda _: (0.0, None))
        with alone if seed % 2 else nullcontext():
            mapping = CpSat().solve(problem, seed=seed)
        if np.isinf(best):
            assert mapping.status == "infeasible"
            return
        assert mapping.status == "optimal"
        assert mapping.objective == pytest.approx(best, rel=1e-8)
        assert mapping.lower_bound <= best * (1 + 1e-9)

    equal()


def test_a_decision_needs_no_optimum() -> None:
    """A mapping within both limits is found, or none exists; how good the first one is does not matter."""
    for seed in range(12):
        problem = random_problem(seed, 6, 3, regime=("serial", "pipelined")[seed % 2], energy=True, tightness=0.5)
        evaluation = evaluate(problem, every_mapping(problem)[0])
        legal = np.flatnonzero(evaluation.feasible)
        if not len(legal):
            continue
        least = legal[np.argmin(evaluation.latency_ms[legal])]
        for share, exists in ((1.0, True), (0.999, False)):
            limited = replace(
                problem,
                max_latency_ms=float(evaluation.latency_ms[least]) * share,
                max_energy_mj=float(evaluation.energy_mj[legal].max()),
            )
            answer = CpSat(decide=True).solve(limited)
            assert bool(len(answer.assignment)) == exists
            assert exists or answer.status == "infeasible"
