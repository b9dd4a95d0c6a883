"""No mapping of a design may beat the half-planes of that design: checked against every mapping there is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.search.bounds import TypeCosts, half_planes
from solvers.mapping.evaluate import evaluate
from solvers.mapping.problem import MappingProblem


def random_costs(rng: np.random.Generator, segments: int, types: int) -> TypeCosts:
    edges = [(k - 1, k) for k in range(1, segments) if rng.random() < 0.8]
    edges += [(u, v) for u in range(segments) for v in range(u + 2, segments) if rng.random() < 0.25]
    allowed = rng.random((segments, types)) < 0.85
    allowed[:, 0] |= rng.random() < 0.7
    return TypeCosts(
        latency_ms=np.where(allowed, rng.uniform(0.1, 3, (segments, types)), np.inf),
        energy_mj=np.where(allowed, rng.uniform(0.1, 3, (segments, types)), np.inf),
        allowed=allowed,
        resident_bytes=rng.uniform(0, 2, segments),
        workspace_bytes=rng.uniform(0, 2, segments),
        capacity_bytes=rng.uniform(2, 12, types),
        static_w=rng.uniform(0, 1, types),
        edges=np.array(sorted(edges), np.int64).reshape(-1, 2),
        edge_bytes=rng.uniform(0, 2, len(edges)),
        hop_ms=float(rng.uniform(0, 0.3)),
        ms_per_byte=float(rng.uniform(0, 0.5)),
        mj_per_byte=float(rng.uniform(0, 0.5)),
    )


def every_mapping(costs: TypeCosts, counts: np.ndarray, regime: str) -> tuple[np.ndarray, np.ndarray]:
    """Time and energy of each feasible mapping onto the design's slots, all joined by the package's cheapest route."""
    types = np.repeat(np.arange(len(counts)), counts)
    slots = len(types)
    apart = 1.0 - np.eye(slots)
    links = np.zeros((slots, slots, slots * slots), bool)
    for p, q in product(range(slots), repeat=2):
        links[p, q, p * slots + q] = p != q
    problem = MappingProblem(
        compute_ms=costs.latency_ms[:, types],
        energy_mj=costs.energy_mj[:, types],
        edges=costs.edges,
        edge_bytes=costs.edge_bytes,
        route_latency_ms=costs.hop_ms * apart,
        route_ms_per_byte=costs.ms_per_byte * apart,
        route_mj_per_byte=costs.mj_per_byte * apart,
        route_links=links,
        resident_bytes=costs.resident_bytes,
        workspace_bytes=costs.workspace_bytes,
        capacity_bytes=costs.capacity_bytes[types],
        allowed=costs.allowed[:, types],
        static_w=float(costs.static_w[types].sum()),
        regime=regime,  # type: ignore[arg-type]
    )
    answer = evaluate(problem, np.array(list(product(range(slots), repeat=problem.segments)), np.int64))
    return answer.latency_ms[answer.feasible], answer.energy_mj[answer.feasible]


@pytest.mark.parametrize("regime", ["serial", "pipelined"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_mapping_beats_the_half_planes(regime: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs = random_costs(rng, int(rng.integers(1, 7)), int(rng.integers(1, 4)))
    counts = np.array([c for c in product(range(3), repeat=len(costs.static_w)) if 1 <= sum(c) <= 3], np.int16)
    planes = half_planes(costs, counts, regime)  # type: ignore[arg-type]
    for row, design in enumerate(counts):
        time, energy = every_mapping(costs, design, regime)
        if not planes.possible[row]:
            assert not len(time), planes.reason[row]
            continue
        reach = planes.a[row] * time[:, None] + planes.b[row] * energy[:, None]
        assert (reach >= planes.least[row]).all()


def test_the_bounds_of_a_chain_are_exact_where_communication_is_free() -> None:
    rng = np.random.default_rng(3)
    costs = random_costs(rng, 6, 3)
    costs = TypeCosts(
        **{name: getattr(costs, name) for name in TypeCosts.__dataclass_fields__}
        | {
            "edges": np.array([(k, k + 1) for k in range(5)]),
            "edge_bytes": np.ones(5),
            "hop_ms": 0.0,
            "ms_per_byte": 0.0,
            "mj_per_byte": 0.0,
            "capacity_bytes": np.full(3, 100.0),
        }
    )
    counts = np.array([[1, 1, 1], [1, 0, 1], [2, 1, 0]], np.int16)
    counts = counts[[(costs.allowed[:, row > 0].any(1)).all() for row in counts]]
    planes = half_planes(costs, counts, "serial")
    for row, design in enumerate(counts):
        time, energy = every_mapping(costs, design, "serial")
        best = (planes.a[row] * time[:, None] + planes.b[row] * energy[:, None]).min(0)
        assert best == pytest.approx(planes.least[row], rel=1e-8)
