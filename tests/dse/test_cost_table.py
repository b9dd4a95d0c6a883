from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chiplib import load_library
from chiplib.chip import Precision, Rule
from chiplib.features import chip_features
from dse.cost_table import CostTable, cost_table, segment_costs
from dse.errors import DseError
from dse.proxy.model import Bound
from tests.dse.real import hand_made, two_by_two

CHIPS = load_library("chiplets").chips


def test_a_segment_costs_the_sum_of_its_layers_each_at_its_roofline():
    segments, chip = hand_made(), CHIPS["big_core"]
    costs = segment_costs(segments, [chip], model="roofline", precision="fp16")
    part = chip_features([chip], Precision.FP16)[0]
    for segment in segments:
        latency_ms = 0.0
        energy_mj = 0.0
        by_bound = [0.0, 0.0, 0.0, 0.0]
        for n in segment.layer_indices:
            layer = segments.graph.layers[n]
            flops = layer.flops
            moved = layer.bytes / 2  # fp16, traced in fp32
            matrix = layer.kind in ("conv", "linear")
            peak = part["achievable"] * (part["peak_flops"] if matrix else part["vector_flops"])
            compute, memory = flops / peak * 1e3, moved / (part["achievable_bw"] * part["peak_bw"]) * 1e3
            mine = max(compute, memory)
            latency_ms += mine
            energy_mj += min(
                (flops * part["pj_per_flop"] + moved * part["pj_per_byte"]) * 1e-9,
                mine * (part["tdp_w"] - part["static_w"]),
            )
            by_bound[2 if memory > compute else 0 if matrix else 1] += mine
        assert costs.latency_ms[segment.id, 0] == pytest.approx(latency_ms, rel=1e-12)
        assert costs.energy_mj[segment.id, 0] == pytest.approx(energy_mj, rel=1e-12)
        assert costs.bound_ms[:, segment.id, 0] == pytest.approx(by_bound)
        assert Bound(int(costs.bound[segment.id, 0])) == int(np.argmax(by_bound))


def test_layers_side_by_side_take_as_long_as_the_longest_and_as_much_energy_as_all():
    segments, chips = hand_made(), [CHIPS["big_core"], CHIPS["small_core"]]
    one_by_one, at_once = (segment_costs(segments, chips, reduce=how) for how in ("sum", "max"))
    for segment in segments:
        layers = one_by_one.layers.latency_ms[list(segment.layer_indices)]
        assert at_once.latency_ms[segment.id] == pytest.approx(layers.max(axis=0))
    assert (at_once.energy_mj == one_by_one.energy_mj).all()


def test_columns_gathered_from_all_chip_types_are_those_of_the_system_alone():
    segments = hand_made()
    every = segment_costs(segments, list(CHIPS.values()), precision="fp16")
    system = two_by_two("small_core", "big_core", "small_core")
    gathered, alone = CostTable.of(every, system), cost_table(segments, system, precision="fp16")
    for name in ("latency_ms", "energy_mj", "allowed"):
        assert np.array_equal(getattr(gathered, name), getattr(alone, name)), name
    assert not gathered.allowed[:, 3].any() and np.isinf(gathered.latency_ms[:, 3]).all()  # the empty slot
    assert gathered.why_not(0, 3) == "the slot is empty"


def test_what_a_chip_cannot_run_is_refused_with_every_reason():
    whole = CHIPS["big_core"]
    chips = [
        whole,
        replace(whole, name="integers_only", peak_flops={Precision.INT8: 1e12}),
        replace(whole, name="no_norms", missing_operators=("norm",)),
        replace(whole, name="small_kernels", rules=(Rule(operator="conv", parameter="kernel", limit=3),)),
    ]
    segments = hand_made()
    costs = segment_costs(segments, chips, precision="fp16")
    layers, home = segments.graph.layers, segments.segment_of_layer
    with_norm = {int(home[n]) for n, layer in enumerate(layers) if layer.kind == "norm"}
    too_large = {int(home[n]) for n, layer in enumerate(layers) if layer.shape.get("kernel_h", 0) > 3}
    assert too_large and len(too_large) < len(segments)
    refused = [set(np.flatnonzero(~costs.allowed[:, column]).tolist()) for column in range(4)]
    assert refused == [set(), set(range(len(segments))), with_norm, too_large]
    assert np.isfinite(costs.latency_ms[costs.allowed]).all() and np.isinf(costs.latency_ms[~costs.allowed]).all()
    for chip, broken in zip(chips[2:], refused[2:], strict=True):
        assert {refusal.segment for refusal in costs.refusals if refusal.chip == chip.name} == broken
    texts = [str(refusal) for refusal in costs.refusals]
    assert any("integers_only" in text and "no fp16 peak" in text for text in texts)
    worst = next(text for text in texts if text.startswith("small_kernels"))
    assert "layer_" in worst and "kernel_h 5" in worst and "at most 3" in worst


def test_the_mapping_problem_states_what_the_docstring_says():
    segments = hand_made()
    table = cost_table(segments, two_by_two("big_core", "small_core"), precision="int8")
    serial, stream = table.mapping_problem("latency"), table.mapping_problem("throughput", contiguous=True)
    scaled = segments.at(1)
    assert serial.resident_bytes == pytest.approx(scaled.weight_bytes + scaled.output_bytes)
    assert stream.resident_bytes == pytest.approx(scaled.weight_bytes + 2 * scaled.output_bytes)
    assert (serial.edge_bytes == scaled.edge_bytes).all()
    assert (serial.regime, serial.latency_weight, serial.energy_weight, serial.contiguous) == ("serial", 1, 0, False)
    assert (stream.regime, stream.latency_weight, stream.energy_weight, stream.contiguous) == ("pipelined", 1, 0, True)
    energy = table.mapping_problem("energy", regime="pipelined")
    assert (energy.regime, energy.latency_weight, energy.energy_weight) == ("pipelined", 0, 1)
    both = table.mapping_problem(weights=(0.3, 0.7), regime="pipelined")
    assert (both.regime, both.latency_weight, both.energy_weight) == ("pipelined", 0.3, 0.7)
    assert serial.static_w == table.system.static_w
    assert (serial.capacity_bytes == table.system.capacity_bytes).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "learnt"}, "no cost model is called 'learnt'"),
        ({"precision": "fp12"}, r"no precision is called 'fp12'.*fp16"),
        ({"reduce": "mean"}, "no reduction is called 'mean'"),
    ],
)
def test_unknown_words_are_errors(options, message):
    with pytest.raises(DseError, match=message):
        segment_costs(hand_made(), [CHIPS["big_core"]], **options)


def test_two_chips_of_one_name_are_an_error_and_one_twice_is_not():
    chip = CHIPS["big_core"]
    assert segment_costs(hand_made(), [chip, chip]).latency_ms.shape[1] == 1
    with pytest.raises(DseError, match="two different chips are called 'big_core'"):
        segment_costs(hand_made(), [chip, replace(chip, tdp_w=1.0)])


def test_a_system_with_a_chip_that_has_no_costs_is_an_error():
    costs = segment_costs(hand_made(), [CHIPS["big_core"]])
    with pytest.raises(DseError, match="'small_core' of the system has no costs"):
        CostTable.of(costs, two_by_two("small_core"))


def test_an_objective_of_the_other_regime_is_an_error():
    table = cost_table(hand_made(), two_by_two("big_core"))
    with pytest.raises(DseError, match="'latency' is of the serial regime"):
        table.mapping_problem("latency", regime="pipelined")
