"""The layer proxy as a cost model: what a study, a mapping and a report get of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import workloads
from chiplib import load_library
from chiplib.chip import ChipType, Precision
from chiplib.features import chip_features
from dse.cost_table import SegmentCosts, segment_costs
from dse.errors import DseError
from dse.proxy import predict_frame
from dse.proxy.chips import device_table
from dse.proxy.layer_rows import layer_rows
from dse.proxy.model import DEFAULT, Bound, Outside
from dse.proxy.predict import shipped
from dse.proxy.software import EAGER_VERSIONS, TIMERS, Software, known_software
from dse.proxy.vocabulary import SEPARATOR
from dse.workload import workload_graph
from tests.dse.real import hand_made
from workloads import SegmentGraph
from workloads.precision import at_precision

REFERENCE, CHIPLETS = load_library("reference"), load_library("chiplets")
H100, V100 = REFERENCE.chip("h100_sxm_80gb"), REFERENCE.chip("v100_sxm2_16gb")


@pytest.fixture(scope="module")
def segments() -> SegmentGraph:
    return workloads.build_segments(workloads.load("resnet18"), count=6)


@pytest.fixture(scope="module")
def costs(segments: SegmentGraph) -> SegmentCosts:
    """On every chip that ships."""
    return segment_costs(segments, [*CHIPLETS.chips.values(), *REFERENCE.chips.values()])


def test_it_is_the_default_and_says_what_it_rests_on(costs: SegmentCosts) -> None:
    assert costs.model == DEFAULT == "learned"
    evidence = costs.layers.evidence
    assert evidence is not None and evidence.coverage == 0.9 and evidence.fingerprint
    assert dict(evidence.data) == shipped().card["data"]["source"]
    assert len(evidence.software) == len(costs.chips)


def test_intervals_hold_the_latency_of_layers_and_of_segments(costs: SegmentCosts) -> None:
    for low, latency, high in (
        (costs.layers.low_ms, costs.layers.latency_ms, costs.layers.high_ms),
        (costs.low_ms, costs.latency_ms, costs.high_ms),
    ):
        assert low is not None and high is not None
        assert (low <= latency).all() and (latency <= high).all()
        usable = np.isfinite(latency)
        assert (low[usable] < high[usable]).all() and not np.isfinite(low[~usable]).any()


def test_chips_of_makers_that_were_not_measured_are_flagged(costs: SegmentCosts) -> None:
    assert costs.layers.outside is not None
    strange = ((costs.layers.outside & Outside.CHIP) > 0).all(axis=0)
    for column, chip in enumerate(costs.chips):
        measured = chip.kind == "gpu" and chip.vendor.lower() in ("nvidia", "amd")
        assert strange[column] != measured, chip.name
        assert ((costs.layers.outside[:, column] & Outside.CHIP) > 0).any() == strange[column]


def test_an_operator_that_was_never_measured_is_flagged_and_costs_time() -> None:
    graph = hand_made(layers=6).graph  # of custom operators
    found = segment_costs(workloads.build_segments(graph, segment_size=2), [H100], precision="fp32")
    assert found.layers.outside is not None
    assert ((found.layers.outside[:, 0] & Outside.OPERATOR) > 0).all()
    assert (found.layers.latency_ms > 0).all()


def test_every_layer_is_predicted_as_predict_frame_does(segments: SegmentGraph) -> None:
    chips = [H100, V100]
    found = segment_costs(segments, chips, precision="fp16", framework="vllm-vidur")
    table = device_table(chips)
    rows = layer_rows(at_precision(segments.graph, "fp16")).assign(
        source="made up", framework="vllm-vidur", timer=TIMERS["vllm-vidur"]
    )
    for column, device in enumerate(table.index):
        alone = predict_frame(rows.assign(device=device), table)
        assert found.layers.latency_ms[:, column] == pytest.approx(alone["latency_ms"].to_numpy(), rel=1e-4)
        assert found.layers.low_ms is not None
        assert found.layers.low_ms[:, column] == pytest.approx(alone["latency_low_ms"].to_numpy(), rel=1e-4)


def test_a_better_chip_is_never_slower(segments: SegmentGraph) -> None:
    def latencies(chip: ChipType) -> np.ndarray:
        return segment_costs(segments, [chip]).layers.latency_ms

    for chip in (H100, CHIPLETS.chip("big_core")):
        before = latencies(chip)
        wide = replace(chip, peak_bw=2 * chip.peak_bw)
        fast = replace(wide, peak_flops={name: 2 * peak for name, peak in chip.peak_flops.items()})
        for better in (wide, fast):
            after = latencies(better)
            assert (after <= before * (1 + 1e-5)).all()
            assert (after < before).any()
            before = after


def test_no_layer_beats_its_chip(segments: SegmentGraph) -> None:
    chips = [H100, V100, CHIPLETS.chip("sram_7nm")]
    found = segment_costs(segments, chips, precision="fp32")
    rows, parts = found.segments.features, chip_features(chips, Precision.FP32)
    peak = np.where(rows["matrix"][:, None], parts["peak_flops"], parts["vector_flops"])
    winograd = np.where(rows["kind"] == 0, 2.25, 1.0)[:, None]  # a convolution may do with fewer operations
    assert (found.layers.latency_ms >= rows["flops"][:, None] / peak / winograd * 1e3 * (1 - 1e-5)).all()
    dynamic_w = parts["tdp_w"] - parts["static_w"]
    assert (found.layers.energy_mj <= found.layers.latency_ms * dynamic_w * (1 + 1e-6)).all()
    assert (found.layers.energy_mj >= 0).all()


def test_small_layers_are_bound_by_their_launch_and_large_ones_are_not() -> None:
    def bounds(batch: int) -> np.ndarray:
        graph = workload_graph("resnet18", batch=batch)
        return segment_costs(workloads.build_segments(graph, count=2), [H100]).layers.bound[:, 0]

    small, large = bounds(1), bounds(256)
    assert (small == Bound.LAUNCH).mean() > 0.9
    assert (large == Bound.LAUNCH).mean() < 0.5


def test_what_neither_computes_nor_moves_costs_nothing(segments: SegmentGraph) -> None:
    graph = segments.graph
    idle = replace(graph.layers[1], flops=0, macs=0, weight_bytes=0, input_bytes=0, output_bytes=0)
    layers = (graph.layers[0], idle, *graph.layers[2:])
    found = segment_costs(workloads.build_segments(replace(graph, layers=layers), count=6), [H100])
    assert found.layers.latency_ms[1, 0] == found.layers.energy_mj[1, 0] == found.layers.outside[1, 0] == 0
    nothing = replace(graph, layers=tuple(replace(idle, name=layer.name) for layer in graph.layers))
    assert segment_costs(workloads.build_segments(nothing, segment_size=9), [H100]).high_ms.sum() == 0


def test_a_layer_larger_than_all_that_was_measured_is_flagged(segments: SegmentGraph) -> None:
    graph = segments.graph
    huge = replace(graph.layers[0], flops=10**16, macs=5 * 10**15)  # the largest of the data has 2.2e14
    layers = (huge, *graph.layers[1:])
    found = segment_costs(workloads.build_segments(replace(graph, layers=layers), count=6), [H100])
    assert ((found.layers.outside[:, 0] & Outside.SIZE) > 0).nonzero()[0].tolist() == [0]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp8", "int8"])
def test_every_precision_has_an_answer(segments: SegmentGraph, precision: str) -> None:
    found = segment_costs(segments, [H100], precision=precision)
    assert np.isfinite(found.high_ms).all() and found.layers.outside is not None
    numbers = (found.layers.outside & Outside.NUMBERS) > 0
    assert numbers.any() == (precision != "fp32")  # element-wise operators were measured in floating numbers alone


def test_frameworks_of_the_data_are_known_with_their_timers() -> None:
    known = shipped().vocabulary.known
    frameworks = {text.split(SEPARATOR)[0] for text in known["framework"]}  # known with a kind of operator
    assert set(TIMERS) == frameworks and set(TIMERS.values()) == set(known["timer"])
    assert set(EAGER_VERSIONS.values()) <= set(TIMERS)


def test_eager_pytorch_is_that_of_the_chip(segments: SegmentGraph) -> None:
    amd = REFERENCE.chip("mi210")
    found = segment_costs(segments, [H100, amd])
    assert [each.framework for each in found.layers.evidence.software] == ["torch2.1.0", "torch2.4.1-rocm"]
    served = segment_costs(segments, [H100, amd], framework="vllm-0.24.0")
    assert [str(each) for each in served.layers.evidence.software] == ["vllm-0.24.0, timed by cudagraph_mean"] * 2
    assert not np.allclose(found.latency_ms, served.latency_ms)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"framework": "torch2.1"}, r"no framework is called 'torch2.1'.*did you mean 'torch2.1.0'"),
        ({"timer": "cudagraph"}, r"no timer is called 'cudagraph'.*did you mean 'cudagraph_mean'"),
        ({"model": "roofline", "framework": "torch"}, r"framework is 'torch'.*'roofline'"),
    ],
)
def test_unknown_software_is_refused(segments: SegmentGraph, options: dict[str, str], message: str) -> None:
    with pytest.raises(DseError, match=message):
        segment_costs(segments, [H100], **options)


def test_software_that_is_not_named_is_eager_pytorch() -> None:
    assert known_software(Software()) == Software(framework="torch")


def test_two_chips_under_one_measured_name_are_refused(segments: SegmentGraph) -> None:
    with pytest.raises(DseError, match=r"'h100_sxm_80gb' and 'other' are both measured as"):
        segment_costs(segments, [H100, replace(H100, name="other")])


def test_a_stored_calibration_of_a_chip_is_used(segments: SegmentGraph, tmp_path: Path) -> None:
    from dse.proxy.calibration import Calibration, Cell, calibration_file, fingerprint
    from dse.proxy.network import TIMES

    proxy = shipped()
    nothing = tuple((0.0,) * TIMES for _ in proxy.models)
    twice = tuple((float(np.log(2.0)),) * TIMES for _ in proxy.models)
    cell = Cell(
        framework="torch2.1.0", op_type="conv2d", rows=10, offset=0.7, error_before=50, error_after=5, half_width=0.1,
        shifts=nothing,
    )  # fmt: skip
    calibration = Calibration(
        device=H100.measured_as,
        weights=fingerprint(proxy),
        embedding=tuple((0.0,) * model.hidden.in_features for model in proxy.models),
        common=twice,
        kinds={},
        cells=(cell,),
        error_before=50.0,
        error_after=5.0,
    )
    calibration.save(calibration_file(tmp_path, H100.measured_as))
    chips = [H100, V100]
    plain, own = (segment_costs(segments, chips, calibrations=folder) for folder in (None, tmp_path))
    slower = own.layers.latency_ms / plain.layers.latency_ms
    assert slower[:, 0] == pytest.approx(2.0, rel=1e-3) and slower[:, 1] == pytest.approx(1.0, rel=1e-6)
    assert own.layers.evidence.calibrated == ("h100_sxm_80gb",) and plain.layers.evidence.calibrated == ()
    assert own.layers.evidence.fingerprint != plain.layers.evidence.fingerprint
    convolutions = own.segments.features["kind"] == 0
    factor = (own.layers.high_ms / own.layers.latency_ms)[convolutions, 0]
    assert factor == pytest.approx(np.exp(0.1), rel=1e-4)
