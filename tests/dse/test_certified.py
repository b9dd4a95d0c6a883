"""The proven epsilon against its definition, and against designs whose whole sets of points are known."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.search.certified import DesignBounds, closed, proven_epsilon


def random_case(seed: int) -> tuple[DesignBounds, list[np.ndarray], np.ndarray, np.ndarray]:
    """Designs with finite sets of true points, half-planes that hold for them, and some of the points as known."""
    rng = np.random.default_rng(seed)
    designs, planes = int(rng.integers(1, 8)), int(rng.integers(2, 5))
    truth = [rng.uniform(1, 4, (int(rng.integers(1, 12)), 2)) for _ in range(designs)]
    exact = rng.integers(1, 4, (designs, int(rng.integers(0, 3)))).astype(float)
    a, b = rng.uniform(0, 1, (2, designs, planes))
    a[:, :2], b[:, :2] = (1, 0), (0, 1)
    least = np.array([(a[d] * truth[d][:, :1] + b[d] * truth[d][:, 1:]).min(0) for d in range(designs)])
    least *= rng.uniform(0.8, 1.0, least.shape)
    known = [(d, p) for d in range(designs) for p in truth[d] if rng.random() < 0.5]
    points = np.array([p for _, p in known]).reshape(-1, 2)
    return DesignBounds(a=a, b=b, least=least, exact=exact), truth, points, exact[[d for d, _ in known]]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_known_points_cover_every_true_point_within_the_proven_epsilon(seed: int) -> None:
    bounds, truth, points, point_exact = random_case(seed)
    epsilon = proven_epsilon(bounds, points, point_exact)
    for d, own in enumerate(truth):
        if not np.isfinite(epsilon[d]):
            continue
        factor = (1 + epsilon[d]) * (1 + 1e-9)
        for point in own:
            covered = (points <= factor * point).all(1) & (point_exact <= factor * bounds.exact[d]).all(1)
            assert covered.any()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_epsilon_is_the_least_that_closes(seed: int) -> None:
    bounds, _, points, point_exact = random_case(seed)
    epsilon = proven_epsilon(bounds, points, point_exact, tolerance=1e-6)
    finite = np.isfinite(epsilon)
    assert closed(bounds, points, point_exact, np.where(finite, epsilon, 0.0))[finite].all()
    below = finite & (epsilon > 1e-4)
    assert not closed(bounds, points, point_exact, np.where(below, epsilon * 0.999 - 1e-5, 0.0))[below].any()


def test_nothing_is_proven_without_points() -> None:
    bounds, _, _, _ = random_case(0)
    empty = np.zeros((0, bounds.exact.shape[1]))
    assert np.isinf(proven_epsilon(bounds, np.zeros((0, 2)), empty)).all()


def test_more_points_never_widen_the_epsilon() -> None:
    for seed in range(30):
        bounds, _, points, point_exact = random_case(seed)
        fewer = proven_epsilon(bounds, points[::2], point_exact[::2])
        assert (proven_epsilon(bounds, points, point_exact) <= fewer + 2e-4 * (1 + fewer)).all()
