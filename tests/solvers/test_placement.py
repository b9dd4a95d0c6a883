"""Placement: the checker against brute sampling, the grid solver against brute force and a published instance."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.errors import SolverError
from solvers.placement import (
    Outline,
    Placement,
    PlacementProblem,
    placement_solvers,
    solve_placement,
    violations,
    wirelength_byte_mm,
)
from solvers.placement.evaluate import outline_excess_mm
from solvers.placement.grid import gilmore_lawler


def problem_of(
    seed: int,
    chips: int,
    columns: int,
    rows: int,
    *,
    width: float = 8.0,
    height: float = 8.0,
    pitch_x: float = 10.0,
    pitch_y: float = 10.0,
    spacing: float = 1.0,
) -> PlacementProblem:
    rng = np.random.default_rng(seed)
    sites = np.array([((i + 0.5) * pitch_x, (j + 0.5) * pitch_y) for j in range(rows) for i in range(columns)])
    return PlacementProblem(
        width_mm=np.full(chips, width),
        height_mm=np.full(chips, height),
        traffic_bytes=rng.integers(0, 5, (chips, chips)).astype(float),
        power_w=rng.uniform(1, 9, chips),
        outline=Outline(shape="rectangle", width_mm=columns * pitch_x, height_mm=rows * pitch_y),
        sites=sites,
        spacing_mm=spacing,
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), chips=st.integers(1, 4), columns=st.integers(2, 3), rows=st.integers(2, 2))
def test_grid_equals_brute_force(seed: int, chips: int, columns: int, rows: int) -> None:
    problem = problem_of(seed, chips, columns, rows)
    best = min(
        wirelength_byte_mm(problem.traffic_bytes, problem.sites[list(order)])
        for order in permutations(range(columns * rows), chips)
    )
    placement = solve_placement(problem)
    assert placement.status == "optimal"
    assert placement.wirelength_byte_mm == pytest.approx(best)
    assert placement.lower_bound == pytest.approx(best)
    assert violations(problem, placement) == ()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), chips=st.integers(2, 3), width=st.floats(2, 12), height=st.floats(2, 12))
def test_a_legal_placement_is_found_iff_there_is_one(seed: int, chips: int, width: float, height: float) -> None:
    rng = np.random.default_rng(seed)
    problem = problem_of(seed, chips, 2, 2, pitch_x=9.0, pitch_y=7.0)
    problem = PlacementProblem(
        width_mm=rng.uniform(1, width, chips),
        height_mm=rng.uniform(1, height, chips),
        traffic_bytes=problem.traffic_bytes,
        power_w=problem.power_w,
        outline=problem.outline,
        sites=problem.sites,
        spacing_mm=0.5,
    )
    best = np.inf
    for order, turns in product(permutations(range(4), chips), product((False, True), repeat=chips)):
        site, turned = np.array(order), np.array(turns)
        size = np.where(turned, [problem.height_mm, problem.width_mm], [problem.width_mm, problem.height_mm])
        corner = problem.sites[site].T - size / 2
        tried = Placement(
            x_mm=corner[0],
            y_mm=corner[1],
            rotated=turned,
            site=site,
            wirelength_byte_mm=0.0,
            lower_bound=0.0,
            status="feasible",
            solver="brute force",
            wall_s=0.0,
        )
        if not violations(problem, tried):
            best = min(best, wirelength_byte_mm(problem.traffic_bytes, problem.sites[site]))
    placement = solve_placement(problem)
    if np.isfinite(best):
        assert placement.status == "optimal" and placement.violations == ()
        assert placement.wirelength_byte_mm == pytest.approx(best)
    else:
        assert placement.status == "infeasible" and placement.violations


@pytest.mark.parametrize("shape", ["disc", "rectangle"])
def test_outline_agrees_with_sampled_points(shape: str) -> None:
    rng = np.random.default_rng(0)
    outline = Outline(shape=shape, width_mm=20.0, height_mm=20.0 if shape == "disc" else 14.0, edge_mm=1.0)  # type: ignore[arg-type]
    t = np.linspace(-0.5, 0.5, 41)
    for _ in range(400):
        x, y = rng.uniform(-8, 16, 2) if shape == "rectangle" else rng.uniform(-8, 8, 2)
        width, height = rng.uniform(1, 9, 2)
        px, py = (a.ravel() for a in np.meshgrid(x + t * width, y + t * height))
        if shape == "disc":
            inside = (np.hypot(px, py) <= 9.0).all()
        else:
            inside = ((px >= 1) & (px <= 19) & (py >= 1) & (py <= 13)).all()
        excess = outline_excess_mm(outline, *(np.array(v) for v in (x, y, width, height)))
        assert (excess <= 0) == inside


def test_a_chip_is_turned_where_only_that_fits() -> None:
    problem = problem_of(3, 2, 1, 2, width=12.0, height=6.0, pitch_x=8.0, pitch_y=14.0)
    placement = solve_placement(problem)
    assert placement.rotated.all() and placement.status == "optimal" and not placement.violations
    upright = solve_placement(problem_of(3, 2, 1, 2, width=6.0, height=12.0, pitch_x=8.0, pitch_y=14.0))
    assert not upright.rotated.any()


def test_what_does_not_fit_says_by_how_much() -> None:
    placement = solve_placement(problem_of(0, 4, 2, 2, width=9.5, height=9.5))
    assert placement.status == "infeasible"
    assert any("0.5 mm too little" in line for line in placement.violations)
    too_large = solve_placement(problem_of(0, 1, 2, 2, width=12.0, height=11.0))
    assert "1 mm over the rectangle's outline" in too_large.violations[0]
    assert "1 sites too few" in solve_placement(problem_of(0, 5, 2, 2)).violations[0]


def test_equal_wirelength_sets_hot_chips_apart() -> None:
    line = problem_of(0, 3, 3, 1)
    problem = PlacementProblem(
        width_mm=line.width_mm,
        height_mm=line.height_mm,
        traffic_bytes=np.zeros((3, 3)),
        power_w=np.array([100.0, 100.0, 1.0]),
        outline=line.outline,
        sites=line.sites,
    )
    assert sorted(solve_placement(problem).site[:2]) == [0, 2]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_annealing_reaches_the_optimum_and_its_bound_is_sound(seed: int) -> None:
    problem = problem_of(seed, 8, 4, 2)
    traffic = problem.traffic_bytes
    distance = np.abs(problem.sites[:, None] - problem.sites[None]).sum(axis=2)
    table = np.array(list(permutations(range(8))))
    length = sum(traffic[i, j] * distance[table[:, i], table[:, j]] for i in range(8) for j in range(8) if i != j)
    placement = solve_placement(problem, seed=seed)
    assert placement.lower_bound <= np.min(length) * (1 + 1e-9)
    assert np.min(length) <= placement.wirelength_byte_mm * (1 + 1e-9)
    assert placement.wirelength_byte_mm <= 1.02 * np.min(length)
    again = solve_placement(problem, seed=seed)
    assert (again.site == placement.site).all()


def test_annealing_keeps_spacing() -> None:
    # Two columns of large chips fit only where a column of small ones lies between them.
    rng = np.random.default_rng(5)
    sites = np.array([((i + 0.5) * 10.0, (j + 0.5) * 10.0) for j in range(4) for i in range(3)])
    size = np.array([12.0] * 4 + [7.0] * 6)
    problem = PlacementProblem(
        width_mm=size,
        height_mm=np.array([8.0] * 4 + [7.0] * 6),
        traffic_bytes=rng.random((10, 10)),
        power_w=np.ones(10),
        outline=Outline(shape="rectangle", width_mm=34.0, height_mm=40.0),
        sites=sites + np.array([2.0, 0.0]),
        spacing_mm=0.2,
    )
    placement = solve_placement(problem)
    assert placement.status == "feasible" and violations(problem, placement) == ()


def test_nug12(measured: Callable[[str], Path]) -> None:
    """QAPLIB's nug12 is a 3 x 4 grid with Manhattan distances; its optimum is 578 (Gilmore-Lawler bound 493)."""
    path = measured("solvers/qaplib/nug12/nug12.txt")
    distance, flow = np.array(path.read_text().split()[1:], dtype=float).reshape(2, 12, 12)
    sites = np.array([(i % 4, i // 4) for i in range(12)], dtype=float)
    problem = PlacementProblem(
        width_mm=np.full(12, 0.5),
        height_mm=np.full(12, 0.5),
        traffic_bytes=flow,
        power_w=np.zeros(12),
        outline=Outline(shape="rectangle", width_mm=5.0, height_mm=4.0),
        sites=sites + 0.5,
    )
    found = [solve_placement(problem, seed=seed).wirelength_byte_mm for seed in range(5)]
    assert min(found) == 578
    assert max(found) <= 578 * 1.02
    assert gilmore_lawler(flow + flow.T, distance) == pytest.approx(493)


def test_bad_problems_are_named() -> None:
    problem = problem_of(0, 2, 2, 2)
    with pytest.raises(SolverError, match="one of grid"):
        solve_placement(problem, solver="gird")
    with pytest.raises(SolverError, match="power_w"):
        solve_placement(
            PlacementProblem(
                width_mm=problem.width_mm,
                height_mm=problem.height_mm,
                traffic_bytes=problem.traffic_bytes,
                power_w=np.array([1.0, -1.0]),
                outline=problem.outline,
                sites=problem.sites,
            )
        )
    assert "grid" in placement_solvers()


def test_a_search_that_finds_nothing_legal_proves_nothing(monkeypatch):
    sites = np.array([[0.0, 0.0], [3.0, 0.0]])
    chip = np.full(2, 4.0)
    problem = PlacementProblem(
        width_mm=chip,
        height_mm=chip,
        traffic_bytes=np.ones((2, 2)),
        power_w=np.zeros(2),
        outline=Outline(shape="disc", width_mm=50.0, height_mm=50.0),
        sites=sites,
    )
    assert solve_placement(problem).lower_bound == np.inf  # all compared
    monkeypatch.setattr("solvers.placement.grid.MAX_TABLE", 0)
    annealed = solve_placement(problem)
    assert annealed.status == "infeasible"
    assert annealed.lower_bound == pytest.approx(6.0)
