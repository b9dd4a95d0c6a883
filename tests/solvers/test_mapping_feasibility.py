"""Infeasibility is data: which constraint, by how much, and what would meet it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.errors import SolverError
from solvers.mapping.feasibility import explain_infeasible
from solvers.mapping.solve import solve_mapping


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), memory=st.sampled_from([0.8, 1.0, 1.2, 2.0]))
def test_nothing_feasible_is_called_infeasible(seed, memory, random_problem, brute_force):
    problem = random_problem(seed, memory=memory)
    reasons = explain_infeasible(problem)
    assert all(reason.gap > 0 for reason in reasons)
    if reasons:
        assert brute_force(problem)[0] == np.inf


def problem_of(random_problem, **changes):
    base = {
        "segments": 3,
        "slots": 2,
        "resident_bytes": np.array([40.0, 30.0, 30.0]),
        "workspace_bytes": np.array([0.0, 10.0, 0.0]),
        "capacity_bytes": np.array([60.0, 60.0]),
        "compute_ms": np.ones((3, 2)),
        "energy_mj": np.ones((3, 2)),
        "allowed": np.ones((3, 2), dtype=bool),
        "names": ("stem", "body", "head"),
    }
    return random_problem(0, **(base | changes))


def test_each_reason(random_problem):
    assert explain_infeasible(problem_of(random_problem)) == ()

    nowhere = np.array([[True, True], [False, False], [True, True]])
    (reason,) = explain_infeasible(problem_of(random_problem, allowed=nowhere))
    assert reason.constraint == "deployability"
    assert "body" in reason.subject

    stem, body = explain_infeasible(problem_of(random_problem, capacity_bytes=np.array([39.0, 39.5])))
    for reason, who in ((stem, "stem"), (body, "body")):  # 40 resident, and 30 resident + 10 of workspace
        assert (reason.constraint, reason.demand, reason.bound) == ("memory", 40.0, 39.5)
        assert who in reason.subject

    reasons = explain_infeasible(problem_of(random_problem, capacity_bytes=np.array([45.0, 45.0])))
    assert [(r.demand, r.bound, r.gap) for r in reasons] == [(100.0, 90.0, 10.0)]
    assert "all slots" in reasons[0].subject
    assert "10 bytes more" in reasons[0].levers[0]

    # stem and body may run on slot 0 only, which holds one of them; slot 1 has room for far more
    tied = np.array([[True, False], [True, False], [True, True]])
    (reason,) = explain_infeasible(problem_of(random_problem, allowed=tied, capacity_bytes=np.array([60.0, 1000.0])))
    assert (reason.demand, reason.bound) == (70.0, 60.0)
    assert "slots 0" in reason.subject


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("edge_bytes", -1.0),
        ("resident_bytes", np.nan),
        ("capacity_bytes", -5.0),
        ("route_latency_ms", np.inf),
        ("route_ms_per_byte", 1.0),
        ("static_w", -1.0),
        ("latency_weight", -1.0),
        ("compute_ms", np.nan),
    ],
)
def test_values_out_of_range_are_refused(name, value, random_problem):
    problem = random_problem(0, segments=4, slots=2, edges=np.array([[0, 1]]), edge_bytes=np.ones(1))
    before = getattr(problem, name)
    problem = replace(
        problem, allowed=np.ones((4, 2), dtype=bool), compute_ms=np.ones((4, 2)), energy_mj=np.ones((4, 2))
    )
    with pytest.raises(SolverError):
        replace(problem, **{name: np.full_like(before, value) if isinstance(before, np.ndarray) else value})


def test_edges_must_go_forward(random_problem):
    problem = random_problem(0, segments=4, slots=2, edges=np.array([[0, 1]]), edge_bytes=np.ones(1))
    with pytest.raises(SolverError, match="lower to a higher"):
        replace(problem, edges=np.array([[1, 0]]))
    with pytest.raises(SolverError, match="expected"):
        replace(problem, edge_bytes=np.ones(3))


def test_what_a_search_proves_impossible_is_explained_by_what_would_be_enough(random_problem):
    """Three segments of 40 on two slots of 60: 120 in all would do, whole segments do not."""
    problem = random_problem(
        0,
        segments=3,
        slots=2,
        regime="serial",
        allowed=np.ones((3, 2), dtype=bool),
        compute_ms=np.ones((3, 2)),
        energy_mj=np.ones((3, 2)),
        resident_bytes=np.full(3, 40.0),
        workspace_bytes=np.zeros(3),
        capacity_bytes=np.full(2, 60.0),
    )
    mapping = solve_mapping(problem, "cp_sat", deadline_s=5)
    assert mapping.status == "infeasible"
    (reason,) = mapping.infeasibility
    assert reason.constraint == "memory"
    assert 160 <= reason.demand <= 160 * 1.03  # two of them on one slot: 80, a third more than there is
    assert len(solve_mapping(replace(problem, capacity_bytes=np.full(2, reason.demand / 2)), "greedy").assignment)


@pytest.mark.parametrize("seed", range(120))
def test_every_impossible_problem_says_why(seed, rich_problem, brute_force):
    problem = rich_problem(seed, segments=1 + seed % 4)
    if brute_force(problem)[0] < np.inf:
        return
    mapping = solve_mapping(problem, "cp_sat", deadline_s=10)
    assert mapping.status == "infeasible"
    assert mapping.infeasibility
    assert all(line.gap > 0 and line.levers and line.unit for line in mapping.infeasibility)
