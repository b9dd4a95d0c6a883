from __future__ import annotations

import json

import numpy as np
import pytest

from dse.cost_table import cost_table
from dse.detail import detail, thinned
from dse.residency import MEMORY
from dse.simulate import simulate
from solvers.placement.problem import Placement
from tests.dse.real import hand_made, two_by_two


@pytest.fixture(params=["serial", "pipelined"])
def point(request):
    system = two_by_two("big_core", "small_core", "big_core")
    table = cost_table(hand_made(), system, precision="fp16")
    placement = Placement(
        x_mm=np.array([1.0, 20.0, 1.0]), y_mm=np.array([1.0, 1.0, 20.0]), rotated=np.array([False, True, False]),
        site=np.array([0, 3, 2]), wirelength_byte_mm=5.0, lower_bound=4.0, status="feasible", solver="grid", wall_s=0.0,
    )  # fmt: skip
    inputs = 1 if request.param == "serial" else 12
    assignment = np.arange(len(table.segments)) % 3
    timeline = simulate(table.segments, assignment, system, placement, table=table, inputs=inputs, regime=request.param)
    answer = {"solver": "hand", "objective": 1.0, "lower_bound": 0.5, "gap": 0.5, "status": "feasible"}
    return timeline, json.loads(json.dumps(detail(timeline, table=table, placement=placement, mapping=answer)))


def test_it_holds_what_the_run_folder_promises(point):
    _, shown = point
    assert set(shown) == {
        "schema", "metrics", "package", "chips", "links", "segments", "layers", "rooflines", "compute", "transfers",
        "memory", "cost", "energy", "mapping", "contention", "placement", "prediction",
    }  # fmt: skip
    assert set(shown["chips"][0]) == {
        "slot", "name", "x_mm", "y_mm", "width_mm", "height_mm", "rotated", "busy_ms", "utilisation",
        "peak_memory_mb", "memory_mb", "power_w", "weights_mb",
    }  # fmt: skip
    assert set(shown["segments"][0]) == {
        "id", "name", "slot", "latency_ms", "latency_low_ms", "latency_high_ms", "energy_mj", "flops", "bytes", "bound",
    }  # fmt: skip
    assert set(shown["layers"][0]) == {"index", "slot", "latency_ms", "flops", "bytes", "bound", "outside"}
    assert set(shown["prediction"]) == {
        "model", "framework", "timer", "software", "data", "coverage", "fingerprint", "calibrated", "intervals",
        "outside",
    }  # fmt: skip
    assert set(shown["rooflines"]) == {"big_core", "small_core"}
    assert all(len(row) == 8 for row in shown["transfers"]) and all(len(row) == 5 for row in shown["compute"])


def test_the_parts_sum_to_the_whole(point):
    timeline, shown = point
    metrics = shown["metrics"]
    assert sum(shown["energy"].values()) == pytest.approx(metrics["energy_mj"])
    assert sum(shown["cost"].values()) == pytest.approx(metrics["cost_usd"])
    assert min(shown["energy"].values()) >= 0.0
    assert max(chip["peak_memory_mb"] for chip in shown["chips"]) == pytest.approx(metrics["peak_memory_mb"])
    links_w = shown["energy"]["links"] / timeline.period_ms
    assert sum(chip["power_w"] for chip in shown["chips"]) + links_w == pytest.approx(metrics["power_w"])
    for segment in shown["segments"]:
        mine = [shown["layers"][n] for n in timeline.table.segments[segment["id"]].layer_indices]
        assert sum(layer["latency_ms"] for layer in mine) == pytest.approx(segment["latency_ms"])
        assert {layer["slot"] for layer in mine} == {segment["slot"]}
        assert segment["bound"] in {layer["bound"] for layer in mine}
    sent = sum(row[7] * timeline.table.system.routes.hops[timeline.site_of_slot[row[3]], timeline.site_of_slot[row[4]]]
               for row in shown["transfers"])  # fmt: skip
    assert sum(link["bytes"] for link in shown["links"]) == pytest.approx(sent)


def test_a_turned_chip_has_its_sides_exchanged(point):
    timeline, shown = point
    turned, chip = shown["chips"][1], timeline.table.system.chips[1]
    assert (turned["width_mm"], turned["height_mm"]) == (chip.height_mm, chip.width_mm)


def test_thinning_keeps_order_ends_and_peaks():
    rng = np.random.default_rng(0)
    events = np.zeros(9000, MEMORY)
    events["slot"] = np.repeat([0, 1, 3], 3000)
    events["ms"] = np.tile(np.arange(3000.0), 3)
    events["bytes"] = rng.uniform(0, 1e6, 9000)
    few = thinned(events, 2000)
    assert 1500 < len(few) <= 2000
    for slot in (0, 1, 3):
        all_of, kept = events[events["slot"] == slot], few[few["slot"] == slot]
        assert kept["bytes"].max() == all_of["bytes"].max()
        assert (kept["ms"][0], kept["ms"][-1]) == (0.0, 2999.0) and (np.diff(kept["ms"]) > 0).all()
    assert thinned(few, 2000) is few
