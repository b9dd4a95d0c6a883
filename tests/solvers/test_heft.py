"""HEFT and PEFT: a published schedule, legal orders, and what is left of them where the order is given."""

from dataclasses import replace

import numpy as np
import pytest

from solvers.mapping.evaluate import evaluate
from solvers.mapping.heft import Heft, Peft
from solvers.mapping.problem import MappingProblem
from solvers.mapping.solve import solve_mapping

# Topcuoglu, Hariri, Wu, IEEE TPDS 13(3), 2002, figure 2: computation costs on 3 processors, and edges
TASKS = [
    (14, 16, 9),
    (13, 19, 18),
    (11, 13, 19),
    (13, 8, 17),
    (12, 13, 10),
    (13, 16, 9),
    (7, 15, 11),
    (5, 11, 14),
    (18, 12, 20),
    (21, 7, 16),
]
EDGES = [(0, 1, 18), (0, 2, 12), (0, 3, 9), (0, 4, 11), (0, 5, 14), (1, 7, 19), (1, 8, 16), (2, 6, 23)]
EDGES += [(3, 7, 27), (3, 8, 23), (4, 8, 13), (5, 7, 15), (6, 9, 17), (7, 9, 11), (8, 9, 13)]


@pytest.fixture(scope="module")
def published() -> MappingProblem:
    compute, edges = np.array(TASKS, dtype=float), np.array(EDGES)
    nothing = np.zeros((3, 3))
    return MappingProblem(
        compute_ms=compute,
        energy_mj=np.zeros_like(compute),
        edges=edges[:, :2],
        edge_bytes=edges[:, 2].astype(float),
        route_latency_ms=nothing,
        route_ms_per_byte=1.0 - np.eye(3),
        route_mj_per_byte=nothing,
        route_links=np.zeros((3, 3, 0)),
        resident_bytes=np.zeros(10),
        workspace_bytes=np.zeros(10),
        capacity_bytes=np.full(3, np.inf),
        allowed=np.ones((10, 3), dtype=bool),
        free_order=True,
    )


def test_the_published_schedule(published):
    assert solve_mapping(published, "heft").objective == 80


def test_the_published_ranks(published):
    from solvers.mapping._heft_kernel import upward_ranks
    from solvers.mapping._kernels import arrays

    rank = np.zeros(10)
    upward_ranks(arrays(published), rank)
    printed = [108.0, 77.0, 80.0, 80.0, 69.0, 63.333, 42.667, 35.667, 44.333, 14.667]  # table 3 there
    assert rank == pytest.approx(printed, abs=5e-4)


def test_without_edges_the_work_is_spread(published):
    alike = replace(published, edges=np.zeros((0, 2), dtype=np.int64), edge_bytes=np.zeros(0))
    for name in ("heft", "peft"):
        mapping = solve_mapping(alike, name)
        assert mapping.latency_ms < published.compute_ms.min(axis=1).sum() / 2


def test_insertion_fills_idle_time():
    """A short segment of low rank goes before a long wait, on the only slot where it may run."""
    compute = np.array([[4.0, 4.0], [9.0, 9.0], [2.0, 2.0]])
    problem = MappingProblem(
        compute_ms=compute,
        energy_mj=np.zeros_like(compute),
        edges=np.array([[0, 1]]),
        edge_bytes=np.array([1.0]),
        route_latency_ms=np.zeros((2, 2)),
        route_ms_per_byte=3.0 * (1.0 - np.eye(2)),
        route_mj_per_byte=np.zeros((2, 2)),
        route_links=np.zeros((2, 2, 0)),
        resident_bytes=np.zeros(3),
        workspace_bytes=np.zeros(3),
        capacity_bytes=np.full(2, np.inf),
        allowed=np.array([[True, False], [False, True], [False, True]]),
        free_order=True,
    )
    mapping = solve_mapping(problem, "heft")
    assert mapping.latency_ms == 16
    assert mapping.order.tolist().index(2) < mapping.order.tolist().index(1)
    assert solve_mapping(replace(problem, free_order=False), "heft").latency_ms == 18


@pytest.mark.parametrize("solver", [Heft, Peft])
def test_its_own_order_is_topological_and_as_good_as_it_thinks(solver, rich_problem):
    """What a schedule holds its segments' finishes to be is never earlier than what the evaluation makes of them."""
    from solvers.mapping._heft_kernel import insertion_schedule
    from solvers.mapping._kernels import arrays

    scheduled = 0
    for seed in range(300):
        problem = rich_problem(seed, regime="serial", free_order=seed % 2 == 0, contiguous=False)
        compiled = arrays(problem)
        own = solver()
        found = own.schedule(problem, compiled)
        if found is None:
            continue
        scheduled += 1
        x, order = found
        k = problem.segments
        y, start, end = np.zeros(k, dtype=np.int64), np.zeros(k), np.zeros(k)
        sequence = own.sequence(compiled) if problem.free_order else np.arange(k)
        weights = problem.time_weight, problem.energy_weight
        insertion_schedule(compiled, sequence, own.ahead(compiled), *weights, y, start, end)
        assert y.tolist() == x.tolist()
        unlimited = replace(problem, max_latency_ms=np.inf, max_energy_mj=np.inf)
        result = evaluate(unlimited, x, order if problem.free_order else None)
        assert result.feasible[0]
        assert result.latency_ms[0] <= end.max() * (1 + 1e-12)
    assert scheduled > 100  # the others have more bytes than room
