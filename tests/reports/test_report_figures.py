"""Figures and words against independent formulas: slots, ranks, shares, numbers."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiplib.links import LinkType
from chiplib.package import Package, slot_centres
from reports.analysis import best, runs_of, segment_shares
from reports.format import chips_text, duration, number, percent, prefixed, shorten
from reports.records import DetailPackage, FrontPoint
from reports.run import read_run
from reports.sections.floorplan import _sites
from reports.sections.front import front_info
from reports.sections.roofline import roofline_info
from reports.sections.system import _ranks

LINK = LinkType(name="link", bandwidth_gb_s=64.0, latency_ns=10.0, pj_per_bit=1.0)
GRID = {"rows": 6, "columns": 7, "slot_width_mm": 30.0, "slot_height_mm": 25.0, "spacing_mm": 1.0, "edge_mm": 3.0}


@pytest.mark.parametrize(("shape", "side"), [("rectangle", 260.0), ("disc", 300.0)])
def test_slots_are_drawn_where_the_package_has_them(shape: str, side: float) -> None:
    package = Package(name="p", kind="wafer", shape=shape, width_mm=side, height_mm=side, link=LINK, **GRID)
    shown = DetailPackage(name="p", shape=shape, width_mm=side, height_mm=side)
    sites = _sites(asdict(package), shown)
    centres = [(site.x_mm + site.width_mm / 2, site.y_mm + site.height_mm / 2) for site in sites]
    np.testing.assert_allclose(centres, slot_centres(package))
    assert [site.number for site in sites] == list(range(len(sites)))


def test_a_datasheet_without_a_grid_shows_no_slots() -> None:
    package = DetailPackage(name="p", width_mm=10.0, height_mm=10.0)
    assert _sites({"rows": 2}, package) == []
    assert _sites({}, package) == []


def test_chips_of_different_size_in_a_row_stay_in_one_row() -> None:
    assert _ranks([5.0, 5.3, 20.0, 19.8]) == [0, 0, 1, 1]
    assert _ranks([3.0, 3.0, 3.0]) == [0, 0, 0]
    assert _ranks([30.0, 10.0, 20.0]) == [2, 0, 1]


def test_segment_shares_add_up_and_fall(shared_run: Path) -> None:
    run = read_run(shared_run)
    assert run.knee_detail is not None
    shares = segment_shares(run.knee_detail, run.workload)
    assert math.isclose(sum(entry.share for entry in shares), 1.0)
    assert [e.share for e in shares] == sorted((e.share for e in shares), reverse=True)
    for entry in shares:
        saving = re.search(r"up to −(\d+) %", entry.advice)
        assert saving is None or 0 <= int(saving[1]) <= 50  # twice the resource halves the time at most


def test_no_layer_of_the_roofline_beats_its_chip_where_the_latency_does_not(shared_run: Path) -> None:
    run = read_run(shared_run)
    detail = run.knee_detail
    assert detail is not None
    plot = roofline_info(run).plot
    assert math.isclose(plot.share.sum() + roofline_info(run).moved_share, 1.0)
    shown = [layer for layer in detail.layers if layer.flops > 0]
    np.testing.assert_allclose(plot.rate, [layer.flops / layer.latency_ms * 1e3 for layer in shown])
    np.testing.assert_allclose(plot.intensity, [layer.flops / layer.bytes for layer in shown])


def test_every_point_of_the_front_has_one_colour_and_no_dominated_point_is_on_it(shared_run: Path) -> None:
    info = front_info(read_run(shared_run))
    assert info.plot is not None
    assert (np.sum([mask for _, mask, _ in info.plot.groups], axis=0) == 1).all()
    assert len(info.plot.points) + info.dominated == 570
    assert {tuple(p) for p in info.plot.points}.isdisjoint({tuple(p) for p in info.plot.dominated})


def test_best_knows_which_way_is_better() -> None:
    front = [
        FrontPoint(design=d, metrics={"latency_ms": x, "throughput_per_s": x}) for d, x in (("a", 1.0), ("b", 2.0))
    ]
    assert best(front, "latency_ms") is front[0]
    assert best(front, "throughput_per_s") is front[1]
    assert best(front, "cost_usd") is None


@given(st.sets(st.integers(0, 60)))
def test_runs_name_every_number_once(numbers: set[int]) -> None:
    named: list[int] = []
    for part in filter(None, runs_of(sorted(numbers)).split(", ")):
        low, _, high = part.partition("–")
        named += range(int(low), int(high or low) + 1)
    assert named == sorted(numbers)


@given(st.floats(1e-3, 1e12))
def test_numbers_keep_three_digits(value: float) -> None:
    assert math.isclose(float(number(value).replace(",", "")), value, rel_tol=5.1e-3)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (number(1234567), "1,234,567"),
        (number(0.0), "0"),
        (number(float("nan")), "–"),
        (number(None), "–"),
        (prefixed(171.3e9, "MACs"), "171 GMACs"),
        (prefixed(999_900, "B"), "1.00 MB"),
        (percent(0.062, 3), "6.20 %"),
        (percent(1e-5), "< 0.1 %"),
        (duration(2.16e-6), "2.16 ns"),
        (duration(0.0235), "23.5 µs"),
        (duration(1500.0), "1.50 s"),
        (chips_text(["a", "b", "a"]), "2 × a + b"),
        (shorten("encoder.0.dconv.layers.3", 11), "encod…ers.3"),
    ],
)
def test_words(shown: str, expected: str) -> None:
    assert shown == expected
