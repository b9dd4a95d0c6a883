from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.errors import DseError
from dse.objectives import Objectives, hypervolume, knee, nondominated


def test_more_is_better_becomes_less_is_better() -> None:
    objectives = Objectives(("throughput_per_s", "cost_usd"), "pipelined")
    metrics = [{"throughput_per_s": 4.0, "cost_usd": 7.0}, {"throughput_per_s": 2.0, "cost_usd": 7.0}]
    assert objectives.criteria(metrics).tolist() == [[0.25, 7.0], [0.5, 7.0]]
    assert objectives.time_energy(metrics).tolist() == [[250.0, 1.0], [500.0, 1.0]]
    assert not objectives.unbounded


def test_what_has_no_bound_is_named() -> None:
    assert Objectives(("latency_ms", "peak_memory_mb"), "serial").unbounded == ("peak_memory_mb",)
    assert Objectives(("latency_ms", "cost_usd"), "pipelined").unbounded == ("latency_ms",)


@pytest.mark.parametrize(
    ("names", "words"),
    [(("latency", "cost_usd"), "did you mean 'latency_ms'"), (("cost_usd",), "two or more"), (("x", "y"), "one of")],
)
def test_wrong_objectives_are_refused(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(DseError, match=words):
        Objectives(names, "serial")


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_nondominated_is_what_no_other_point_dominates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(1, 6, (int(rng.integers(1, 30)), int(rng.integers(2, 4)))).astype(float)
    front = set(nondominated(points).tolist())
    for i, p in enumerate(points):
        dominated = any(((q <= p).all() and (q < p).any()) or ((q == p).all() and j < i) for j, q in enumerate(points))
        assert (i in front) == (not dominated)


def test_hypervolume_of_known_points() -> None:
    points = np.array([[1.0, 2.0], [2.0, 1.0]])
    assert hypervolume(points, np.array([4.0, 4.0])) == pytest.approx((2 * 3 + 3 * 2 - 2 * 2 + 0) / 16)


def test_the_knee_of_a_bent_front_is_its_bend() -> None:
    assert knee(np.array([[1.0, 100.0], [2.0, 2.0], [100.0, 1.0]])) == 1


def test_criteria_lead_back_to_metrics() -> None:
    objectives = Objectives(("throughput_per_s", "cost_usd"), "pipelined")
    row = {"throughput_per_s": 4.0, "cost_usd": 7.0}
    assert objectives.metrics(objectives.criteria([row])[0]) == [4.0, 7.0]
