"""The vectorised evaluation equals the independent checker, and both equal figures worked out by hand."""

from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.errors import SolverError
from solvers.mapping.check import check, checked
from solvers.mapping.evaluate import best_of, evaluate, finish, memory_bytes, times
from solvers.mapping.problem import MappingProblem

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=300, deadline=None)
@given(seed=SEEDS, contiguous=st.booleans())
def test_vectorised_equals_checker(seed, contiguous, random_problem):
    problem = random_problem(seed, contiguous=contiguous)
    batch = np.random.default_rng(seed).integers(0, problem.slots, (8, problem.segments))
    evaluation = evaluate(problem, batch)
    for m, assignment in enumerate(batch):
        broken = check(problem, assignment)
        assert evaluation.feasible[m] == (not broken)
        if broken:
            assert evaluation.objective[m] == np.inf
            assert all(line.demand > line.bound for line in broken)
            continue
        values = checked(problem, assignment, objective=float(evaluation.objective[m]))
        assert values.latency_ms == pytest.approx(evaluation.latency_ms[m], rel=1e-12)
        assert values.energy_mj == pytest.approx(evaluation.energy_mj[m], rel=1e-12)


@settings(max_examples=400, deadline=None)
@given(seed=SEEDS)
def test_the_kernels_equal_the_checker_on_all_that_problems_hold(seed, rich_problem):
    problem = rich_problem(seed)
    rng = np.random.default_rng(seed)
    batch = rng.integers(0, problem.modes, (8, problem.segments))
    batch[4:] = rng.integers(0, problem.modes, (4, problem.unit.max() + 1))[:, problem.unit]
    evaluation = evaluate(problem, batch)
    for m, assignment in enumerate(batch):
        broken = check(problem, assignment)
        assert evaluation.feasible[m] == (not broken), broken
        if not broken:
            values = checked(problem, assignment, objective=float(evaluation.objective[m]))
            assert values.latency_ms == pytest.approx(evaluation.latency_ms[m], rel=1e-12)
            assert values.energy_mj == pytest.approx(evaluation.energy_mj[m], rel=1e-12)


def diamond(**changes) -> MappingProblem:
    """0 -> {1, 2} -> 3 on two slots one hop apart: 1 ms + 2 ms per byte, 3 mJ per byte."""
    off = 1.0 - np.eye(2)
    fields = {
        "compute_ms": np.array([[1.0, 2.0], [3.0, 1.0], [2.0, 4.0], [1.0, 1.0]]),
        "energy_mj": np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0], [5.0, 1.0]]),
        "edges": np.array([[0, 1], [0, 2], [1, 3], [2, 3]]),
        "edge_bytes": np.array([0.5, 1.0, 0.25, 2.0]),
        "route_latency_ms": off,
        "route_ms_per_byte": 2 * off,
        "route_mj_per_byte": 3 * off,
        "route_links": np.stack([np.triu(off), np.tril(off)], axis=-1).astype(bool),
        "resident_bytes": np.array([4.0, 3.0, 2.0, 1.0]),
        "workspace_bytes": np.array([0.0, 5.0, 1.0, 0.0]),
        "capacity_bytes": np.array([8.0, 8.0]),
        "allowed": np.ones((4, 2), dtype=bool),
        "static_w": 0.5,
        "energy_weight": 2.0,
    }
    return MappingProblem(**(fields | changes))


def test_diamond_by_hand():
    a = np.array([0, 1, 0, 0])
    # 0 ends at 1; its 0.5 bytes reach slot 1 at 1 + 1 + 1 = 3, where 1 ends at 4; its 0.25 bytes are back at 5.5;
    # 2 runs on slot 0 from 1 to 3; 3 runs there from 5.5 to 6.5.
    serial = evaluate(diamond(), a)
    assert serial.latency_ms[0] == 6.5
    assert serial.energy_mj[0] == (1 + 1 + 1 + 5) + 3 * 0.75 + 0.5 * 6.5
    assert serial.objective[0] == 6.5 + 2 * serial.energy_mj[0]
    assert memory_bytes(diamond(), a).tolist() == [[4 + 2 + 1 + 1, 3 + 5]]
    assert serial.feasible[0]
    # pipelined: slot 0 works 1 + 2 + 1 = 4 ms, slot 1 works 1 ms, links carry 0.5 and 0.25 bytes: 1 and 0.5 ms
    assert times(diamond(regime="pipelined"), a[None]).tolist() == [4.0]
    # a slower link becomes the bottleneck: 0.5 bytes x 20 ms a byte
    slow = diamond(regime="pipelined", route_ms_per_byte=20 * (1.0 - np.eye(2)))
    assert times(slow, a[None]).tolist() == [10.0]


def test_every_kind_of_broken_constraint_is_named():
    def kinds(problem, *slots):
        return [line.constraint for line in check(problem, np.array(slots))]

    assert kinds(diamond(), 0, 1, 0, 2) == ["range"]
    assert kinds(diamond(), 0, 1, 0) == ["length"]
    assert kinds(diamond(), 0, 0, 0, 0) == ["memory"]
    assert kinds(diamond(contiguous=True), 0, 1, 0, 0) == ["contiguity"]
    forbidden = np.ones((4, 2), dtype=bool)
    forbidden[1, 1] = False
    assert kinds(diamond(allowed=forbidden), 0, 1, 0, 0) == ["deployability"]
    memory = check(diamond(), np.array([0, 0, 0, 0]))[0]
    assert (memory.demand, memory.bound, memory.gap) == (15.0, 8.0, 7.0)


def test_the_checker_catches_a_lie():
    with pytest.raises(SolverError, match="claims objective"):
        checked(diamond(), np.array([0, 1, 0, 0]), objective=1.0)
    with pytest.raises(SolverError, match="not legal: memory of slot 0"):
        checked(diamond(), np.array([0, 0, 0, 0]))
    with pytest.raises(SolverError, match="exceeds objective"):
        finish(diamond(), np.array([0, 1, 0, 0]), lower_bound=1e6, solver="liar", started=perf_counter())


def test_slots_that_do_not_exist_are_refused():
    for slots in ([0, 1, 0, 2], [-1, 0, 0, 0], [0, 0, 0]):
        with pytest.raises(SolverError):
            evaluate(diamond(), np.array(slots))


def test_statuses():
    problem, legal = diamond(), np.array([0, 1, 0, 0])
    best = float(evaluate(problem, legal).objective[0])

    def status(assignment, bound, on=problem, exact=False):
        return finish(on, assignment, lower_bound=bound, solver="t", started=perf_counter(), exact=exact).status

    assert status(legal, 0.0) == "feasible"
    assert status(legal, best) == "optimal"
    assert status(legal, 0.0, exact=True) == "optimal"
    assert status(None, 0.0) == "unknown"
    assert status(None, 0.0, exact=True) == "infeasible"
    assert status(None, 0.0, on=replace(problem, capacity_bytes=np.array([1.0, 1.0]))) == "infeasible"


def test_best_of_takes_the_best_legal_candidate():
    problem = diamond()
    too_big, legal, better = np.array([0, 0, 0, 0]), np.array([1, 0, 1, 0]), np.array([0, 1, 0, 0])
    assert best_of(problem, [None, too_big, legal, better]) is not None
    assert best_of(problem, [None, too_big, legal, better]).tolist() == better.tolist()
    assert best_of(problem, [too_big, None]) is None
    assert best_of(problem, []) is None


def test_a_problem_that_makes_no_sense_is_refused():
    nothing = {"compute_ms": np.empty((0, 2)), "energy_mj": np.empty((0, 2))}
    for changes in ({"regime": "steady"}, {"latency_weight": np.nan}, {"energy_weight": np.inf}, nothing):
        with pytest.raises(SolverError):
            diamond(**changes)
