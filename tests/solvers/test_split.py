"""Splitting a segment: the acceptance rule, against costs worked out by hand."""

import numpy as np
import pytest

from solvers.errors import SolverError
from solvers.mapping.check import checked
from solvers.mapping.problem import MappingProblem
from solvers.split import split_marked, try_fine_split_segment


def chain(split_ms: float, *, resident: float = 1.0, regime: str = "serial") -> MappingProblem:
    """Three segments of 2, 10 and 2 ms; two slots, and a team of both on which the middle one takes split_ms.

    An edge carries one byte: 0.5 ms between the slots, 0.25 ms from a slot to the team or back.
    """
    compute = np.array([[2.0, 2.0, 2.0], [10.0, 10.0, split_ms], [2.0, 2.0, 2.0]])
    route = np.array([[0.0, 0.5, 0.25], [0.5, 0.0, 0.25], [0.25, 0.25, 0.0]])
    return MappingProblem(
        compute_ms=compute,
        energy_mj=np.zeros((3, 3)),
        edges=np.array([[0, 1], [1, 2]]),
        edge_bytes=np.ones(2),
        route_latency_ms=np.zeros((3, 3)),
        route_ms_per_byte=route,
        route_mj_per_byte=np.zeros((3, 3)),
        route_links=np.zeros((3, 3, 0), dtype=bool),
        resident_bytes=np.full((3, 3), resident),
        workspace_bytes=np.zeros(3),
        capacity_bytes=np.array([3.0, 1.0]),
        allowed=np.array([[True, True, False], [True, True, True], [True, True, False]]),
        teams=np.ones((1, 2), dtype=bool),
        regime=regime,
    )


def test_a_split_is_used_where_it_gains_more_than_the_margin():
    problem, on_one = chain(6.0), np.zeros(3, dtype=np.int64)
    split = try_fine_split_segment(problem, on_one, 1, groups=2)
    # coarse 2 + 10 + 2; fine 2 + 0.25 + 6 + 0.25 + 2
    assert (split.cost_coarse, split.cost_fine, split.mode, split.use_fine) == (14.0, 10.5, 2, True)
    assert not try_fine_split_segment(problem, on_one, 1, groups=2, margin=3.5).use_fine
    assert try_fine_split_segment(problem, on_one, 1, groups=2, margin=3.4).use_fine
    assert not try_fine_split_segment(chain(9.5), on_one, 1, groups=2).use_fine


def test_what_may_not_or_does_not_fit_is_not_split():
    problem, on_one = chain(6.0), np.zeros(3, dtype=np.int64)
    assert try_fine_split_segment(problem, on_one, 0, groups=2).mode == -1
    assert try_fine_split_segment(problem, on_one, 1, groups=4).cost_fine == np.inf
    crowded = try_fine_split_segment(chain(6.0), np.array([0, 0, 1]), 1, groups=2)  # slot 1 is full with segment 2
    assert not crowded.use_fine
    assert crowded.cost_fine == np.inf


def test_marked_segments_are_tried_in_turn_and_the_checker_agrees():
    problem, on_one = chain(6.0), np.zeros(3, dtype=np.int64)
    assignment, tried = split_marked(problem, on_one, [(0, 2), (1, 2)])
    assert assignment.tolist() == [0, 2, 0]
    assert [split.use_fine for split in tried] == [False, True]
    assert checked(problem, assignment).objective == 10.5


def test_wrong_questions_are_refused():
    problem, on_one = chain(6.0), np.zeros(3, dtype=np.int64)
    for arguments in (
        {"segment": 3, "groups": 2},
        {"segment": 1, "groups": 1},
        {"segment": 1, "groups": 2, "margin": -1},
    ):
        with pytest.raises(SolverError):
            try_fine_split_segment(problem, on_one, **arguments)
