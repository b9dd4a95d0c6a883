"""Bottleneck advice: each rule speaks where its figure crosses its threshold, and its gains are recomputed here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workloads.advice
from workloads import catalog
from workloads.advice import Advice, advise, arithmetic, record, storage, traffic
from workloads.advice.arithmetic import line_buffer_values
from workloads.graph import Layer, OperatorKind, WorkloadGraph
from workloads.memory import live_activation_bytes


def layer(kind: str, **fields: Any) -> Layer:
    """A layer that moves `moved` bytes in and as many out, of a module of its own unless one is named."""
    moved = fields.pop("moved", 0)
    defaults = {"name": "", "operator": f"aten.{kind}.default", "input_bytes": moved, "output_bytes": moved}
    return Layer(kind=OperatorKind(kind), **defaults | fields)


def graph_of(
    *layers: Layer, edges: Any = None, mode: Any = "inference", weight_bytes: int | None = None
) -> WorkloadGraph:
    """A chain of layers, or a graph with these edges (producer, consumer); an edge carries the producer's output."""
    named = tuple(
        Layer(**{name: getattr(each, name) for name in Layer.__slots__} | {"name": str(at)})
        for at, each in enumerate(layers)
    )
    pairs = np.array(edges if edges is not None else [(i, i + 1) for i in range(len(layers) - 1)], np.int64).reshape(
        -1, 2
    )
    return WorkloadGraph(
        name="made up",
        layers=named,
        edges=pairs,
        edge_bytes=np.array([named[u].output_bytes for u, _ in pairs], np.int64),
        parameters=sum(each.parameters for each in layers),
        weight_bytes=sum(each.weight_bytes for each in layers) if weight_bytes is None else weight_bytes,
        mode=mode,
    )


def advice_on(subject: str, *layers: Layer, seconds: float | None = None, **options: Any) -> Advice | None:
    found = [each for each in advise(graph_of(*layers, **options), seconds) if each.subject == subject]
    assert len(found) <= 1
    return found[0] if found else None


def conv(flops: int, **fields: Any) -> Layer:
    shape = {
        "batch": 1, "in_channels": 8, "out_channels": 8, "groups": 1, "transposed": 0, "axes": 2,
        "kernel_h": 3, "kernel_w": 3, "in_h": 10, "in_w": 20, "out_h": 10, "out_w": 20,
        "stride_h": 1, "stride_w": 1, "padding_h": 1, "padding_w": 1, "dilation_h": 1, "dilation_w": 1,
    }  # fmt: skip
    defaults = {"weight_bytes": 4 * 8 * 8 * 9, "moved": 4 * 8 * 200, "shape": shape | fields.pop("shape", {})}
    return layer("conv", flops=flops, macs=flops // 2, **defaults | fields)


def test_no_model_is_known_by_name() -> None:
    folder = Path(workloads.advice.__file__).parent
    text = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py")).lower()
    for name in {*catalog.names(), *(name.split("-")[0] for name in catalog.names())} - {"conv"}:
        assert not re.search(rf"\b{re.escape(name)}\b", text), name


@pytest.mark.parametrize(
    ("part", "speaks"), [(arithmetic.ARITHMETIC_SHARE - 0.01, False), (arithmetic.ARITHMETIC_SHARE + 0.01, True)]
)
def test_convolutions_speak_from_a_tenth_of_the_flops(part: float, speaks: bool) -> None:
    advice = advice_on("convolutions", conv(int(1e6 * part)), layer("linear", flops=int(1e6 * (1 - part)), moved=1000))
    assert (advice is not None) == speaks
    if advice:
        assert advice.severity == pytest.approx(part, rel=1e-3)


def test_gains_of_a_convolution_are_those_of_its_sizes() -> None:
    advice = advice_on("convolutions", conv(2 * 8 * 8 * 9 * 200))
    assert advice is not None
    once, nine_taps = 4 * 8 * 10 * 20, 4 * 8 * 10 * 20 * 9
    assert (advice.figures["input_bytes_once"], advice.figures["input_bytes_fetched"]) == (once, nine_taps)
    # the least of both orders: two rows of 10 and two more positions, the current one included, of 8 channels
    assert advice.figures["line_buffer_bytes"] == (2 * 10 + 2 + 1) * 8
    intensity = 2 * 8 * 8 * 9 * 200 / (4 * 8 * 8 * 9 + 2 * 4 * 8 * 200)
    assert advice.figures["intensity"] == pytest.approx(intensity)
    assert advice.bound == "compute"
    assert "200 multiplications" in advice.gain  # one a position


def reach_by_walking(shape: Mapping[str, int]) -> int:
    """Positions between the first and the last tap of a kernel, of the better of two scans, by listing them."""
    spans = []
    for inner, outer in (("h", "w"), ("w", "h")):
        taps = [
            o * shape[f"dilation_{outer}"] * shape[f"in_{inner}"] + i * shape[f"dilation_{inner}"]
            for o in range(shape[f"kernel_{outer}"])
            for i in range(shape[f"kernel_{inner}"])
        ]
        spans.append(max(taps) - min(taps) + 1)
    return min(spans)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3)),
    field=st.tuples(st.integers(9, 60), st.integers(9, 60)),
    channels=st.integers(1, 64),
)
def test_line_buffers_hold_from_the_first_tap_to_the_last(
    sizes: tuple[int, int, int, int], field: tuple[int, int], channels: int
) -> None:
    names = ("kernel_h", "kernel_w", "dilation_h", "dilation_w")
    shape = dict(zip(names, sizes, strict=True)) | {"in_h": field[0], "in_w": field[1], "in_channels": channels}
    expected = 0 if sizes[:2] == (1, 1) else reach_by_walking(shape) * channels
    assert line_buffer_values(shape) == expected


def test_a_transposed_convolution_sees_one_tap_in_its_stride() -> None:
    shape = {"kernel_w": 8, "dilation_w": 1, "stride_w": 4, "in_w": 100, "in_channels": 3, "transposed": 1}
    assert line_buffer_values(shape) == 2 * 3  # 8 taps of stride 4 meet 2 inputs


def test_the_smaller_operand_is_held() -> None:
    small = conv(10**6, weight_bytes=100, moved=10_000)
    large = conv(10**6, weight_bytes=1_000_000, moved=100)
    for each, word, share in ((small, "weight-stationary", 1.0), (large, "output-stationary", 0.0)):
        advice = advice_on("convolutions", each)
        assert advice is not None and word in advice.measure
        assert advice.figures["weight_stationary_share"] == share


@pytest.mark.parametrize(
    ("intensity", "bound"), [(record.RIDGE_LOW / 2, "bandwidth"), (2 * record.RIDGE_HIGH, "compute")]
)
def test_intensity_tells_what_binds(intensity: float, bound: str) -> None:
    advice = advice_on("convolutions", conv(int(intensity * 3000), weight_bytes=1000, moved=1000))
    assert advice is not None and advice.bound == bound


def projection(flops: int, weight_bytes: int = 0) -> Layer:
    return layer(
        "linear", module="attn", flops=flops, weight_bytes=weight_bytes, moved=64, weights={"w": (0, weight_bytes)}
    )


def kernel(heads: int = 1, length: int = 16, flops: int = 0) -> Layer:
    shape = {"batch": 1, "heads": heads, "seq_q": length, "seq_kv": length, "head_dim": 8, "value_dim": 8}
    return layer("attention", module="attn", shape=shape, flops=flops, moved=64)


@pytest.mark.parametrize(
    ("part", "weight_part", "speaks"), [(0.05, 0.05, False), (0.15, 0.05, True), (0.05, 0.15, True)]
)
def test_projections_speak_by_flops_or_by_weights(part: float, weight_part: float, speaks: bool) -> None:
    own, other = int(1e6 * part), int(1e6 * (1 - part))
    weights = int(1e6 * weight_part), int(1e6 * (1 - weight_part))
    layers = [projection(own, weights[0]), kernel(), conv(other, weight_bytes=weights[1])]
    advice = advice_on("attention projections", *layers)
    assert (advice is not None) == speaks
    if advice:
        assert advice.severity == pytest.approx(max(part, weight_part), rel=1e-3)


def test_projections_that_read_one_input_save_its_second_and_third_reading() -> None:
    layers = [layer("copy", moved=64), projection(100), projection(100), projection(100), kernel()]
    edges = [(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)]
    advice = advice_on("attention projections", *layers, edges=edges)
    assert advice is not None and advice.figures["input_bytes_saved"] == 2 * 64


@pytest.mark.parametrize("kind", ["matmul", "attention"])
def test_products_of_attention_speak_by_their_flops(kind: str) -> None:
    product = (
        layer("matmul", module="attn", flops=2000, macs=1000, moved=100) if kind == "matmul" else kernel(flops=2000)
    )
    for rest, speaks in ((9000, True), (40_000, False)):
        advice = advice_on("attention products", product, kernel(flops=2000), conv(rest))
        assert (advice is not None) == speaks
        if advice:
            assert advice.severity == pytest.approx(4000 / (4000 + rest))
            assert "weight" not in advice.gain
    assert advice_on("attention products", layer("matmul", module="mlp", flops=2000, moved=100)) is None


@pytest.mark.parametrize("name", ["conv-tasnet", "bcctn", "htdemucs_n-fast", "videovit-tiny"])
def test_no_large_part_of_the_flops_goes_unmentioned(name: str) -> None:
    """Kinds of work under a tenth are left out: that is little in all."""
    kinds = ("convolutions", "matrix products", "attention projections", "attention products")
    shares = [each.figures["flops_share"] for each in advise(catalog.load(name)) if each.subject in kinds]
    assert 0.9 < sum(shares) <= 1


def test_weights_that_several_layers_read_lie_in_memory_once() -> None:
    shared = layer("linear", module="attn", flops=100, weight_bytes=60, moved=64, weights={"qkv": (0, 60)})
    part = layer("linear", module="attn", flops=100, weight_bytes=40, moved=64, weights={"qkv": (40, 80)})
    advice = advice_on("attention projections", shared, shared, part, kernel(), weight_bytes=100)
    assert advice is not None
    assert advice.figures["weight_bytes"] == 80  # 0 to 60, and 60 to 80 of the overlapping part
    assert advice.severity <= 1


def test_both_ears_of_a_shared_attention_hold_its_weights_once() -> None:
    graph = catalog.load("bcctn")
    advice = next(each for each in advise(graph) if each.subject == "attention projections")
    # two nets of attention (real, imaginary), four projections of 1024 x 1024 with their biases
    assert advice.figures["weight_bytes"] == 2 * 4 * 4 * (1024 * 1024 + 1024)
    assert advice.figures["weight_share"] == pytest.approx(advice.figures["weight_bytes"] / graph.weight_bytes)


@pytest.mark.parametrize("length", [353, 354])
def test_scores_speak_where_they_leave_the_smallest_chip(length: int) -> None:
    heads = 1
    size = 4 * heads * length * length
    advice = advice_on("attention scores", kernel(heads, length), conv(10**6))
    assert (advice is not None) == (size > storage.ON_CHIP)
    if advice:
        assert advice.figures["score_bytes"] == size
        assert advice.figures["score_traffic_bytes"] == 4 * size


def test_transforms_are_held_against_products() -> None:
    length, many = 512, 1000
    butterflies = 5 * length * 9 * many
    fft = layer("fft", shape={"length": length, "transforms": many}, flops=butterflies, moved=1000)
    dense = many * (length // 2 + 1) * 4 * length  # a real row of N with N/2 + 1 complex columns: 4 operations each
    for rest in (dense * 60, dense * 40):  # a share of 1.6 and of 2.4 %
        advice = advice_on("Fourier transforms", fft, conv(rest), seconds=2.0)
        assert (advice is not None) == (dense / (dense + rest) >= arithmetic.TRANSFORM_SHARE)
    assert advice is not None
    assert advice.figures["dense_flops"] == dense
    assert advice.figures["transforms_per_second"] == many / 2.0
    assert advice.figures["memory_bytes"] == 4 * (2 * length + length / 2)


@pytest.mark.parametrize("steps", [63, 64])
def test_recurrences_wait_a_step_at_a_time(steps: int) -> None:
    shape = {"batch": 3, "steps": steps, "in": 5, "hidden": 7, "layers": 1, "directions": 1}
    lstm = layer("recurrent", operator="aten.lstm.input", shape=shape, flops=10**6, weight_bytes=4000, moved=100)
    advice = advice_on("recurrences", lstm)
    assert (advice is not None) == (steps >= arithmetic.SEQUENTIAL_STEPS)
    if advice:
        assert advice.figures["weight_bytes_reread"] == 4000 * steps
        assert advice.figures["state_bytes"] == 4 * 2 * 7 * 3  # hidden and cell


def test_four_real_products_are_one_complex_product() -> None:
    def part(weight: str, kind: str = "conv") -> Layer:
        own = conv(1000, module=f"block.{weight}", weights={weight: (0, 10)})
        return own if kind == "conv" else layer(kind, flops=1, moved=1)

    products = [part(weight) for weight in ("re", "im", "re", "im")]
    advice = advice_on("complex arithmetic", *products)
    assert advice is not None
    assert advice.figures["real_products"] == 4
    assert advice.gain.startswith("1 kFLOPs")  # one of four
    assert advice_on("complex arithmetic", *[part(weight) for weight in ("a", "b", "c", "d")]) is None
    assert advice_on("complex arithmetic", *[part("a") for _ in range(4)]) is None


@pytest.mark.parametrize("size", [2_000_000, 2_000_004])
def test_weights_speak_where_at_8_bit_they_leave_the_smallest_chip(size: int) -> None:
    advice = advice_on("weight storage", layer("linear", flops=10, weight_bytes=size, moved=100))
    assert (advice is not None) == (size / 4 > storage.ON_CHIP)
    if advice:
        assert advice.figures["weight_bytes"] - advice.figures["narrow_weight_bytes"] == 0.75 * size


@pytest.mark.parametrize(("float_bytes", "bits"), [(4, 8), (2, 8), (1, 4)])
def test_what_is_narrow_already_is_made_narrower_still(float_bytes: int, bits: int) -> None:
    heavy = layer("linear", flops=10, weight_bytes=8_000_000, moved=2_000_000, float_bytes=float_bytes)
    advice = advice_on("weight storage", heavy)
    assert advice is not None and advice.gain.startswith(f"{bits}-bit weights save ")
    assert advice.figures["narrow_weight_bytes"] == 8_000_000 * bits / 8 / float_bytes
    for each in advise(graph_of(heavy, heavy)):
        assert not re.search(r"\b0 B", each.gain), each.gain


def test_a_training_step_keeps_gradients_and_state_beside_the_weights() -> None:
    graph = graph_of(
        *(layer("linear", flops=10, moved=10, weight_bytes=10**6, phase=p) for p in ("forward", "optimizer"))
    )
    # weights 1 MB and state 2 MB all the time; gradients 1 MB and activations 0.5 MB at the peak
    kept = np.array([[0, 1, 10**6, 0], [0, 1, 2 * 10**6, 2], [1, 1, 10**6, 1], [0, 1, 5 * 10**5, 3]])
    names = ("name", "layers", "edges", "edge_bytes", "parameters", "weight_bytes")
    trained = WorkloadGraph(**{name: getattr(graph, name) for name in names}, mode="train", allocations=kept)
    found = {each.subject: each for each in advise(trained)}
    state = found["weights and optimiser state"]
    assert state.figures == {"kept_bytes": 4e6, "state_bytes": 2e6}
    assert state.severity == pytest.approx(4 / 4.5)
    assert "8-bit state saves 1.5 MB of 2 MB" in state.gain
    assert "weight storage" not in found


def test_a_table_that_is_multiplied_by_as_well_is_no_table() -> None:
    table = layer("embedding", weights={"table": (0, 1000)}, weight_bytes=10, moved=10)
    head = layer("linear", weights={"table": (0, 1000)}, weight_bytes=1000, flops=10, moved=10)
    other = layer("linear", weights={"other": (0, 500)}, weight_bytes=500, flops=10, moved=10)
    advice = advice_on("embedding tables", table, other, weight_bytes=1500)
    assert advice is not None and advice.figures["table_bytes"] - advice.figures["read_bytes"] == 990
    assert advice_on("embedding tables", table, head, weight_bytes=1000) is None
    assert advice_on("embedding tables", table, other, weight_bytes=11_000) is None  # under a tenth


def test_live_tensors_are_the_peak_of_the_schedule() -> None:
    chain = [layer("elementwise", moved=1_200_000) for _ in range(3)]
    advice = advice_on("live tensors", *chain)
    assert advice is not None
    assert advice.figures["peak_bytes"] == live_activation_bytes(graph_of(*chain)).max()
    assert advice.figures["bank_bytes_8_bit"] == 2 * 1_200_000 / 4
    assert advice_on("live tensors", *[layer("elementwise", moved=1000) for _ in range(3)]) is None


@pytest.mark.parametrize("skip", [True, False])
def test_a_skip_connection_waits_for_its_reader(skip: bool) -> None:
    size = 400_000
    chain = [layer("elementwise", moved=size) for _ in range(20)]
    edges = [(i, i + 1) for i in range(19)] + ([(1, 18)] if skip else [])
    advice = advice_on("skip connections", *chain, edges=edges)
    assert (advice is not None) == skip
    if advice:
        assert advice.figures["waiting_bytes"] == size
        assert advice.figures["longest_layers"] == 17
        # 17 layers of one tensor, of 18 others that live for one, and the output
        assert advice.figures["byte_layers_share"] == pytest.approx(17 / (17 + 19))
        assert "1 tensor of 400 kB waits for up to 17" in advice.evidence
        small = [layer("elementwise", moved=1000) for _ in range(20)]  # no bottleneck of any chip's memory
        assert advice_on("skip connections", *small, edges=edges) is None


def test_a_training_step_waits_for_its_backward_pass() -> None:
    phases = ["forward"] * 10 + ["backward"] * 9 + ["optimizer"]
    chain = [layer("elementwise", moved=100_000, phase=phase) for phase in phases]
    edges = [(i, i + 1) for i in range(19)] + [(i, 18 - i) for i in range(1, 9)] + [(11, 19)]
    graph = graph_of(*chain, edges=edges)
    trained = WorkloadGraph(
        **{
            name: getattr(graph, name)
            for name in ("name", "layers", "edges", "edge_bytes", "parameters", "weight_bytes")
        },
        mode="train",
        allocations=np.array([[0, 19, 2_000_000, 3]]),
    )
    (advice,) = (each for each in advise(trained) if each.subject == "saved activations")
    # those of layers 1 to 7 live for more than two layers; a gradient that waits for the optimiser is none
    assert advice.figures["tensors"] == 7
    assert "recomputation" in advice.measure
    assert "350 kB of 700 kB by 16 bit" in advice.gain  # float32 to bfloat16


def test_streamed_weights_name_the_batch_that_reaches_the_ridge() -> None:
    head = layer("linear", flops=2_000_000, weight_bytes=4_000_000, moved=100)
    advice = advice_on("streamed weights", head)
    assert advice is not None
    intensity = 2_000_000 / 4_000_200
    assert advice.figures["intensity"] == pytest.approx(intensity)
    assert f"batch {int(np.ceil(10 / intensity))} times" in advice.gain
    assert advice_on("streamed weights", layer("linear", flops=10**9, weight_bytes=4_000_000, moved=100)) is None


def test_fusing_saves_a_write_and_a_read_an_element_wise_layer() -> None:
    chain = [conv(1000, weight_bytes=0, moved=100), *(layer("elementwise", moved=100, flops=1) for _ in range(3))]
    advice = advice_on("element-wise work and norms", *chain)
    assert advice is not None and advice.figures["fused_bytes"] == 3 * (100 + 100)
    # a residual sum reads two tensors and is fused behind the later one; what others read is still written
    edges = [(0, 1), (1, 2), (0, 3), (2, 3)]
    advice = advice_on("element-wise work and norms", *chain, edges=edges)
    assert advice is not None and advice.figures["fused_bytes"] == 100 + 200 + 200
    norm = layer("norm", operator="aten.batch_norm.default", moved=100)
    for mode, saved in (("inference", 200), ("train", 0)):
        figures = record.Figures(graph=graph_of(conv(1000, moved=100), norm, mode=mode))
        assert traffic.fused_bytes(figures) == saved


@pytest.mark.parametrize(("part", "speaks"), [(0.09, False), (0.11, True)])
def test_copies_speak_from_a_tenth_of_the_bytes(part: float, speaks: bool) -> None:
    layers = [layer("copy", moved=int(1e6 * part)), layer("matmul", flops=1, moved=int(1e6 * (1 - part)))]
    assert (advice_on("copies", *layers) is not None) == speaks


def test_functions_count_values_not_operators() -> None:
    gelu = layer("elementwise", operator="aten.gelu.default", output_shape=(10, 100), flops=5000, moved=4000)
    for rest in (20 * 1000 * 120, 20 * 1000 * 80):
        advice = advice_on("elementary functions", gelu, conv(rest))
        assert (advice is not None) == (20_000 / (20_000 + rest) >= traffic.FUNCTION_SHARE)
    assert advice is not None and advice.figures["values"] == 1000
    assert (
        advice_on("elementary functions", layer("elementwise", operator="aten.add.Tensor", output_shape=(9,))) is None
    )


def test_functions_are_named_by_their_number_of_values() -> None:
    shapes = {"aten.cos.default": (10,), "aten.gelu.default": (10, 100), "aten._softmax.default": (10, 50)}
    layers = [layer("elementwise", operator=name, output_shape=shape, moved=10) for name, shape in shapes.items()]
    advice = advice_on("elementary functions", *layers, kernel(heads=2, length=16))
    assert advice is not None and "values of gelu, softmax of attention, softmax, cos an input" in advice.evidence


@pytest.mark.parametrize(("microseconds", "speaks"), [(14.9, True), (15.1, False)])
def test_tiny_kernels_speak_where_launches_take_a_quarter(microseconds: float, speaks: bool) -> None:
    flops = int(microseconds * 1e-6 * record.GPU_FLOPS)
    assert (advice_on("tiny kernels", *(conv(flops) for _ in range(5))) is not None) == speaks


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_graph_gets_sound_advice(data: st.DataObject) -> None:
    """Whatever the figures: shares are shares, texts are there, the order is by severity, and no rule fails."""
    kinds = ["conv", "linear", "matmul", "attention", "norm", "softmax", "elementwise", "copy", "fft", "embedding"]
    size = st.integers(0, 10**10)
    layers = []
    for _ in range(data.draw(st.integers(1, 12))):
        kind = data.draw(st.sampled_from(kinds))
        fields = {"flops": data.draw(size), "weight_bytes": data.draw(size), "moved": data.draw(size)}
        layers.append(conv(**fields) if kind == "conv" else kernel() if kind == "attention" else layer(kind, **fields))
    found = advise(graph_of(*layers))
    assert [each.severity for each in found] == sorted((each.severity for each in found), reverse=True)
    for each in found:
        assert 0 < each.severity <= 1
        assert each.evidence and each.measure and each.gain and each.share_of
        assert all(np.isfinite(value) and value >= 0 for value in each.figures.values())


def test_an_empty_graph_gets_none() -> None:
    assert advise(graph_of()) == ()


def test_the_net_of_the_owners_table_gets_the_owners_findings() -> None:
    """spec: convolutions over 80 % of the FLOPs, QKV and scores, the FFT, SRAM, parameters, complex numbers."""
    found = {each.subject: each for each in advise(catalog.load("bcctn-table"), 1.0)}
    assert found["convolutions"].severity > 0.8
    assert "5x1 kernels do 100 %" in found["convolutions"].evidence
    assert found["complex arithmetic"].figures["real_products"] == 4 * 12  # six blocks down, six up
    assert found["weight storage"].figures["weight_bytes"] == pytest.approx(4 * 4_278_912, rel=0.01)  # 17 MB
    assert found["attention scores"].figures["score_bytes"] == 4 * 32 * 157**2
    assert found["Fourier transforms"].figures["length"] == 512
    assert {"attention projections", "live tensors"} <= found.keys()
