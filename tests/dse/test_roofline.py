from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiplib import load_library
from chiplib.chip import Precision
from chiplib.features import CHIP_FEATURES
from dse.errors import DseError
from dse.proxy.model import Bound, LayerCostModel, LayerCosts, LayerQuestion, cost_model, cost_models
from tests.dse.real import hand_made
from workloads.graph import LAYER_FEATURES, OperatorKind

GRAPH = hand_made().graph  # which the models asked here do not read

positive = st.floats(1e-3, 1e15)
layers_strategy = st.lists(
    st.tuples(st.booleans(), st.one_of(st.just(0.0), positive), *[st.floats(0, 1e12)] * 3), min_size=1, max_size=6
)
chips_strategy = st.lists(
    st.tuples(
        st.floats(1e9, 1e16),  # matrix peak
        st.floats(1e8, 1e15),  # vector peak
        st.floats(1e8, 1e14),  # bandwidth
        st.floats(0.05, 1.0),
        st.floats(0.05, 1.0),
        st.floats(0, 100),  # pJ/flop
        st.floats(0, 1000),  # pJ/byte
        st.floats(0, 300),  # static
        st.floats(1, 1500),  # tdp
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


def records(layers, chips):
    rows = np.zeros(len(layers), LAYER_FEATURES)
    for row, values in zip(rows, layers, strict=True):
        row["matrix"], row["flops"], row["weight_bytes"], row["input_bytes"], row["output_bytes"] = values
    parts = np.zeros(len(chips), CHIP_FEATURES)
    names = "peak_flops vector_flops peak_bw achievable achievable_bw pj_per_flop pj_per_byte static_w tdp_w supported"
    for part, values in zip(parts, chips, strict=True):
        for name, value in zip(names.split(), values, strict=True):
            part[name] = value
    return rows, parts


def asked(model: LayerCostModel, rows: np.ndarray, parts: np.ndarray) -> LayerCosts:
    """The costs of rows of LAYER_FEATURES on rows of CHIP_FEATURES, at fp16."""
    return model.predict(LayerQuestion(layers=rows, chips=parts, precision=Precision.FP16, graph=GRAPH, types=()))


@given(layers_strategy, chips_strategy)
def test_each_pair_is_what_the_formula_says(layers, chips):
    rows, parts = records(layers, chips)
    costs = asked(cost_model("roofline"), rows, parts)
    for n, (matrix, flops, *moved) in enumerate(layers):
        for c, (peak, vector, bw, reach, reach_bw, pj_flop, pj_byte, static, tdp, supported) in enumerate(chips):
            if not supported:
                assert costs.latency_ms[n, c] == costs.energy_mj[n, c] == math.inf
                continue
            compute_s = flops / (reach * (peak if matrix else vector))
            memory_s = sum(moved) / (reach_bw * bw)
            seconds = max(compute_s, memory_s)
            joule = min(flops * pj_flop * 1e-12 + sum(moved) * pj_byte * 1e-12, seconds * max(tdp - static, 0))
            assert costs.latency_ms[n, c] == pytest.approx(seconds * 1e3, rel=1e-12)
            assert costs.energy_mj[n, c] == pytest.approx(joule * 1e3, rel=1e-12)
            assert costs.memory_bytes[n, c] == sum(moved)
            if abs(compute_s - memory_s) > 1e-12 * seconds:
                limit = (Bound.COMPUTE if matrix else Bound.VECTOR) if compute_s > memory_s else Bound.MEMORY
                assert costs.bound[n, c] == limit


@given(layers_strategy, chips_strategy)
def test_one_call_equals_a_loop_of_calls(layers, chips):
    rows, parts = records(layers, chips)
    model = cost_model("roofline")
    together = asked(model, rows, parts)
    for n in range(len(rows)):
        for c in range(len(parts)):
            alone = asked(model, rows[n : n + 1], parts[c : c + 1])
            for name in ("latency_ms", "energy_mj", "memory_bytes", "bound"):
                assert getattr(alone, name)[0, 0] == getattr(together, name)[n, c], name


def test_a_matrix_product_on_an_a100_by_hand():
    # 4096^3 in fp16 on 312 Tflop/s and 1555 GB/s: 137.4 Gflop -> 0.4405 ms; 3 x 33.55 MB -> 0.0647 ms
    rows, parts = records(
        [(True, 2 * 4096.0**3, 4096.0**2 * 2, 4096.0**2 * 2, 4096.0**2 * 2)],
        [(312e12, 19.5e12, 1555e9, 1.0, 1.0, 0.5, 30.0, 80.0, 400.0, True)],
    )
    costs = asked(cost_model("roofline"), rows, parts)
    assert costs.latency_ms[0, 0] == pytest.approx(0.44051, rel=1e-4)
    assert costs.energy_mj[0, 0] == pytest.approx(68.72 + 3.02, rel=1e-3)
    assert costs.bound[0, 0] == Bound.COMPUTE


def test_a_chip_never_draws_more_than_its_design_power():
    rows, parts = records(
        [(True, 1e12, 1e6, 1e6, 1e6), (False, 0.0, 0.0, 1e9, 1e9)],
        [(1e14, 1e13, 1e12, 1.0, 1.0, 9.0, 500.0, 50.0, 250.0, True)],  # 900 W of compute, 500 W of memory
    )
    costs = asked(cost_model("roofline"), rows, parts)
    assert costs.energy_mj / costs.latency_ms == pytest.approx(np.full((2, 1), 200.0))


def test_a_layer_that_does_nothing_costs_nothing_even_without_vector_units():
    rows, parts = records([(False, 0.0, 0.0, 0.0, 0.0)], [(1e12, 0.0, 1e12, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0, True)])
    costs = asked(cost_model("roofline"), rows, parts)
    assert costs.latency_ms[0, 0] == costs.energy_mj[0, 0] == 0.0


def test_every_cost_model_that_is_found_keeps_the_interface():
    layers = tuple(layer for layer in GRAPH.layers if layer.kind != OperatorKind.NORM)[:3]  # one has no rule for norms
    graph = replace(GRAPH, layers=layers, edges=np.zeros((0, 2), np.int64), edge_bytes=np.zeros(0, np.int64))
    types = [load_library("chiplets").chip(name) for name in ("big_core", "sram_7nm")]
    _, parts = records(
        [],
        [(1e14, 1e13, 1e12, 0.7, 0.8, 0.5, 30.0, 50.0, 250.0, True), (0.0, 1e13, 1e12, 1, 1, 0, 30, 5, 25, False)],
    )
    parts["pe_rows"] = parts["pe_columns"] = parts["pe_arrays"] = 64  # what models of NPUs read
    parts["pe_clock_hz"] = parts["vector_clock_hz"] = 1e9
    parts["vector_lanes"] = 64
    for name in [name for name in CHIP_FEATURES.names if name.startswith("cycle_")]:  # and of microcontrollers
        parts[name] = 1e6
    assert {"roofline", "systolic", "cycle_table"} <= set(cost_models())
    for name, model in cost_models().items():
        assert isinstance(model, LayerCostModel) and model.name == name and model.source
        costs = model.predict(
            LayerQuestion(layers=graph.features, chips=parts, precision=Precision.FP32, graph=graph, types=types)
        )
        for field in ("latency_ms", "energy_mj", "memory_bytes", "bound"):
            assert getattr(costs, field).shape == (3, 2), (name, field)
        assert np.isfinite(costs.latency_ms[:, 0]).all() and np.isinf(costs.latency_ms[:, 1]).all()
        assert set(np.unique(costs.bound)) <= set(Bound) and costs.bound.dtype == np.int8


def test_an_unknown_model_is_an_error_that_names_what_there_is():
    with pytest.raises(DseError, match=r"'rofline'.*did you mean 'roofline'"):
        cost_model("rofline")
