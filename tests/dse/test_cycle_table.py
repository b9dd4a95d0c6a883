"""The cycle rules against the vendor's own test values, published inference times, and chips that have none."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import workloads
from chiplib import System, load_library
from chiplib.chip import Precision
from chiplib.features import chip_features
from dse import Study
from dse.cost_table import cost_table, segment_costs
from dse.errors import DseError
from dse.proxy.cycle_table import MODEL, CycleTable, fft_butterflies
from dse.proxy.model import Bound, LayerCostModel, LayerQuestion, cost_model
from dse.simulate import simulate
from workloads.graph import KIND_CODES, LAYER_FEATURES, OperatorKind

LIBRARY = load_library("reference")
MAX78000, MAX78002 = LIBRARY.chip("max78000"), LIBRARY.chip("max78002")
RULES = MAX78000.cycle_rules
assert RULES is not None


def traced(layers: list[nn.Module], *shape: int) -> workloads.WorkloadGraph:
    return workloads.trace(nn.Sequential(*layers).to("meta"), (torch.zeros(shape, device="meta"),), name="net")


def cycles(graph: workloads.WorkloadGraph) -> float:
    """Cycles of an inference on a MAX78000, and one to start."""
    reads, writes = MODEL.cycles(graph.features, chip_features([MAX78000], Precision.INT8))
    return 1.0 + float(reads.sum() + writes.sum())


def conv(channels: int, outputs: int, kernel: int = 3, padding: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(channels, outputs, kernel, padding=padding, bias=False), nn.ReLU()]


def conv1d(channels: int, outputs: int, kernel: int, padding: int = 0) -> list[nn.Module]:
    return [nn.Conv1d(channels, outputs, kernel, padding=padding, bias=False), nn.ReLU()]


HALF, HALF1D = nn.MaxPool2d(2), nn.MaxPool1d(2)


@pytest.mark.parametrize(
    ("layers", "shape", "expected"),  # analogdevicesinc/ai8x-synthesis@0b98b545, izer/test/test_cycles.py
    [
        ([HALF, *conv(64, 16, 3, 2)], (64, 20, 20), 3049),
        ([nn.MaxPool2d(16, 4), *conv(3, 32)], (3, 65, 65), 49010),
        (conv(3, 64), (3, 32, 32), 67981),
        (conv(3, 64, 3, 0), (3, 32, 32), 59773),
        ([HALF, *conv(3, 64, 3, 0)], (3, 32, 32), 13885),
        ([HALF, *conv(128, 16)], (128, 8, 8), 773),
        (conv(128, 16), (128, 8, 8), 2485),
        (conv(128, 16, 3, 0), (128, 8, 8), 1437),
        (conv(1, 8), (1, 28, 28), 8189),
        ([nn.ConvTranspose2d(3, 64, 3, 2, 1, 1)], (3, 7, 9), 16837),
        ([nn.ReLU(), nn.Flatten(), nn.Linear(192, 10)], (12, 4, 4), 193),
        ([nn.ReLU(), nn.Flatten(), nn.Linear(12, 17)], (12, 1, 1), 20),
        (conv(79, 1, 3, 0), (79, 11, 11), 687),
        (conv(1, 1), (1, 1, 1), 29),
        ([nn.Conv1d(5, 11, 3, padding=7, dilation=7)], (5, 217), 3062),  # folded into 31 x 7 there
    ],
)
def test_cycles_of_a_layer_are_those_of_the_vendors_tests(
    layers: list[nn.Module], shape: tuple[int, ...], expected: int
) -> None:
    assert cycles(traced(layers, 1, *shape)) == expected


class Add(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return left + right


@pytest.mark.parametrize(("channels", "expected"), [(4, 721), (68, 1441)])  # one pass and two, of the same file
def test_an_addition_of_its_own_reads_both_operands(channels: int, expected: int) -> None:
    x = torch.zeros(1, channels, 12, 12, device="meta")
    assert cycles(workloads.trace(Add(), (x, x), name="add")) == expected


def test_pools_are_read_in_flight_by_what_follows_an_activation_too() -> None:
    """At the end of a network a pool of four values is a layer of its own: five cycles to read, one to write."""
    before, behind = [nn.ReLU(), HALF, *conv(8, 8)], [HALF, nn.ReLU(), *conv(8, 8)]
    assert cycles(traced(before, 1, 8, 16, 16)) == cycles(traced(behind, 1, 8, 16, 16))
    assert cycles(traced([*conv(8, 8), HALF], 1, 8, 16, 16)) - cycles(traced(conv(8, 8), 1, 8, 16, 16)) == 64 * 6


def classifier(channels: int, size: int, outputs: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(channels * size, outputs)]


NET5 = [HALF, *conv(60, 56), nn.AvgPool2d(2), *conv(56, 12), *classifier(12, 16, 10)]
MNIST = [*conv(1, 60), HALF, *conv(60, 60, 3, 2), *NET5]
CIFAR10 = [*conv(3, 60), HALF, *conv(60, 60), *NET5]
CIFAR100 = [
    *(*conv(3, 16), *conv(16, 20), *conv(20, 20), *conv(20, 20), HALF, *conv(20, 20), *conv(20, 20), *conv(20, 44)),
    *(HALF, *conv(44, 48), *conv(48, 48), HALF, *conv(48, 96), HALF, *conv(96, 512, 1, 0), *conv(512, 128, 1, 0)),
    *(HALF, *conv(128, 128), *conv(128, 100, 1, 0)),
]
KEYWORDS = [
    *(*conv1d(128, 100, 1), *conv1d(100, 96, 3), HALF1D, *conv1d(96, 64, 3, 1), *conv1d(64, 48, 3), HALF1D),
    *(*conv1d(48, 64, 3, 1), *conv1d(64, 96, 3), nn.AvgPool1d(2), *conv1d(96, 100, 3, 1), HALF1D),
    *(*conv1d(100, 64, 6, 1), *classifier(64, 4, 21)),
]


@pytest.mark.parametrize(
    ("layers", "shape", "expected", "published_us"),
    [
        (MNIST, (1, 28, 28), 70157, 1410),  # msdk/mnist/README.md; layers: its cnn.c
        (CIFAR10, (3, 32, 32), 85265, 1712),  # msdk/cifar-10/README.md; ai8x-synthesis networks/cifar10-hwc-ai85.yaml
        (CIFAR100, (3, 32, 32), 129319, 2593),  # msdk/cifar-100/README.md; networks/cifar100-simple.yaml
        (KEYWORDS, (128, 128), 71782, 1442),  # msdk/kws20_v3/README.md; layers: its cnn.c
    ],
    ids=["mnist", "cifar-10", "cifar-100", "kws20-v3"],
)
def test_published_inference_times(
    layers: list[nn.Module], shape: tuple[int, ...], expected: int, published_us: float
) -> None:
    """Published by analogdevicesinc/msdk, Examples/MAX78000/CNN (msdk/ above); layers from there or ai8x-synthesis.

    Errors -0.49, -0.39, -0.26, -0.45 %: 6.4 to 6.9 us less each, which is what starting an inference takes.
    """
    graph = traced(layers, 1, *shape)
    assert cycles(graph) == expected
    predicted_us = 1e3 * predicted(graph).latency_ms.sum()
    assert predicted_us == pytest.approx(published_us, rel=0.005)
    assert 6.0 < published_us - predicted_us < 7.5
    share = graph.macs / expected / 576  # of the 64 x 9 multiply-accumulates a cycle; M. Giordano et al.: 117 of 576
    assert 0.1 < share < 0.3


def predicted(graph, chip=MAX78000, model=MODEL):
    segments = workloads.build_segments(graph, count=1).at(1)
    return model.predict(LayerQuestion.of(segments, [chip], Precision.INT8))


def test_energy_is_power_at_work_times_time() -> None:
    """M. Giordano et al., AICAS 2022: 0.09 mJ in 1.4 ms. Static power is charged apart; both are what it draws."""
    costs = predicted(traced(MNIST, 1, 1, 28, 28))
    total_mj = costs.energy_mj.sum() + MAX78000.idle_w * costs.latency_ms.sum()
    assert total_mj == pytest.approx(0.064 * costs.latency_ms.sum(), rel=1e-12)
    assert total_mj * 1.4 / costs.latency_ms.sum() == pytest.approx(0.09, abs=0.005)


def test_loading_weights_is_an_option() -> None:
    graph = traced(MNIST, 1, 1, 28, 28)
    warm, cold = predicted(graph), predicted(graph, model=CycleTable(load_weights=True))
    weights = 9 * (60 + 60 * 60 + 60 * 56 + 56 * 12) + 192 * 10 + 10
    loading_ms = 1e3 * weights / RULES.weight_load_bytes_s
    assert cold.latency_ms.sum() - warm.latency_ms.sum() == pytest.approx(loading_ms)
    assert cold.energy_mj.sum() > warm.energy_mj.sum()


def test_a_batch_runs_image_by_image_and_the_faster_clock_counts() -> None:
    one, four = (predicted(traced(CIFAR10, images, 3, 32, 32)).latency_ms.sum() for images in (1, 4))
    assert four == pytest.approx(4 * one)
    faster = predicted(traced(CIFAR10, 1, 3, 32, 32), MAX78002).latency_ms.sum()
    assert faster == pytest.approx(one / 4)


def test_an_image_larger_than_a_processors_memory_streams() -> None:
    small, large = traced(conv(3, 16), 1, 3, 128, 64), traced(conv(3, 16), 1, 3, 129, 64)
    per_row = cycles(small) / 128
    assert cycles(large) / 129 == pytest.approx(1.5 * per_row, rel=0.01)


def test_depthwise_convolutions_write_one_value_a_cycle() -> None:
    """A channel is one output value a cycle, as for any other convolution; twice the channels take twice as long."""
    graph = traced([nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False)], 1, 64, 16, 16)
    dense = traced([nn.Conv2d(64, 64, 3, padding=1, bias=False)], 1, 64, 16, 16)
    assert cycles(graph) == cycles(dense)
    wide = traced([nn.Conv2d(128, 128, 3, padding=1, groups=128, bias=False)], 1, 128, 16, 16)
    assert cycles(wide) == pytest.approx(2 * cycles(graph), rel=0.01)


@given(
    st.integers(1, 200), st.integers(1, 150), st.sampled_from([1, 3]), st.integers(0, 1), st.integers(4, 20),
    st.integers(4, 20),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_no_convolution_beats_one_output_value_a_cycle(
    channels: int, outputs: int, kernel: int, padding: int, height: int, width: int
) -> None:
    layer = np.zeros(1, LAYER_FEATURES)
    values = {"kind": KIND_CODES[OperatorKind.CONV], "images": 1, "axes": 2, "groups": 1, "in_channels": channels}
    values |= {"out_channels": outputs, "kernel_rows": kernel, "kernel_cols": kernel, "in_rows": height}
    values |= {"padding_rows": padding, "padding_cols": padding, "in_cols": width}
    values |= {"out_rows": height + 2 * padding - kernel + 1, "out_cols": width + 2 * padding - kernel + 1}
    for name, value in values.items():
        layer[name] = value
    reads, writes = MODEL.cycles(layer, chip_features([MAX78000], Precision.INT8))
    passes = math.ceil(channels / 64)
    written = values["out_rows"] * values["out_cols"] * outputs
    assert written * passes <= writes <= (written * passes) * 4 + height + 2
    assert reads >= 2 * passes * height * width
    macs = written * channels * kernel**2
    assert macs / (reads + writes) <= 576


def test_fourier_transforms_run_on_the_cpu() -> None:
    """Cycles of microfft, Cortex-M4F: luojia65/microfft-rs, bench/README.md; CMSIS-DSP: see the datasheet's source."""
    real = fft_butterflies(np.array([256.0, 512.0, 1024.0]), np.ones(3))
    assert real * 42 == pytest.approx([23182, 53610, 117375], rel=0.05)
    complex_points = fft_butterflies(np.array([512.0, 1024.0]), np.zeros(2))
    assert complex_points.tolist() == [256 * 9, 512 * 10]
    window_s = 3001 * 56001 / 84e6
    measured = window_s * 168e6 / np.array([7113, 2924])
    assert complex_points * RULES.cpu_cycles_per_butterfly == pytest.approx(measured, rel=0.08)

    class Spectrum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.view_as_real(torch.stft(x, 512, 128, window=torch.ones(512), return_complex=True))

    graph = workloads.trace(Spectrum(), (torch.zeros(1, 4096),), name="stft")
    costs = predicted(graph)
    (at,) = [index for index, layer in enumerate(graph.layers) if layer.kind == OperatorKind.FFT]
    frames = 4096 // 128 + 1
    assert costs.latency_ms[at, 0] == pytest.approx(1e3 * frames * (128 * 8 + 256) * 22 / 100e6)
    assert costs.bound[at, 0] == Bound.VECTOR


def test_a_datasheet_without_cycle_rules_is_named() -> None:
    assert isinstance(cost_model("cycle_table"), LayerCostModel)
    segments = workloads.build_segments(traced(MNIST, 1, 1, 28, 28), count=2)
    with pytest.raises(
        DseError, match=r"chip 'h100_sxm.*gives no cycle_rules, which cost model 'cycle_table'"
    ) as caught:
        name = next(chip for chip in LIBRARY.chips if chip.startswith("h100_sxm"))
        segment_costs(segments, [MAX78000, LIBRARY.chip(name)], model="cycle_table", precision="int8")
    assert "roofline" in caught.value.hint


def test_what_neither_accelerator_nor_cpu_computes_takes_for_ever() -> None:
    costs = predicted(traced([nn.LayerNorm(16)], 1, 8, 16))
    assert np.isinf(costs.latency_ms).all() and np.isinf(costs.energy_mj).all()


def chain(count: int) -> workloads.WorkloadGraph:
    return traced([layer for _ in range(count) for layer in conv(4, 4)], 1, 4, 8, 8)


def test_layers_of_a_chip_are_counted_over_all_its_segments() -> None:
    segments = workloads.build_segments(chain(40), segment_size=20)
    system = System.build(package="interposer_2x2", chips=["max78000", "max78000"], library=LIBRARY)
    table = cost_table(segments, system, model="cycle_table", precision="int8")
    assert table.allowed[:, :2].all()
    one, two = np.zeros(len(segments), int), np.arange(len(segments)) // 2
    assert table.crowded(one) == (
        "slot 0 (max78000): network: layers <= 32; its layers have together 40 layers of conv, linear on one chip, "
        "the chip allows at most 32",
    )
    with pytest.raises(DseError, match="breaks a rule of a chip: slot 0"):
        simulate(segments, one, system, table=table)
    assert table.crowded(two) == ()
    timeline = simulate(segments, two, system, table=table)
    assert timeline.makespan_ms >= table.latency_ms[:, 0].sum()
    whole = segment_costs(
        workloads.build_segments(chain(40), count=1), [MAX78000, MAX78002], model="cycle_table", precision="int8"
    )
    assert whole.allowed.tolist() == [[False, True]]  # 128 layers there


def test_conv_tasnet_is_refused_for_the_right_reasons() -> None:
    graph = workloads.load("conv-tasnet")
    costs = segment_costs(workloads.build_segments(graph, count=1), [MAX78000], model="cycle_table", precision="int8")
    said = " | ".join(dict.fromkeys(refusal.reason for refusal in costs.refusals))
    for reason in (
        "conv: groups in {1}; the layer has groups 64",  # depthwise
        "together 76 layers of conv, linear on one chip, the chip allows at most 32",
        "conv: kernel <= 9; the layer has kernel_w 32",
        "conv: stride in {1}; the layer has stride_w 16",
        "conv: transposed in {0}; the layer has transposed 1",
        "the layer has operation prelu",
        "the layer has operation sigmoid",
        "the layer has operation mul",  # the mask's product
        "the layer has operation pad",  # causal padding
    ):
        assert reason in said
    assert not costs.allowed.any()


NET = """
import torch
from torch import nn

def net():
    layers = [nn.Conv2d(1, 60, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(60, 12, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * 14 * 14, 10)), (torch.zeros(1, 1, 28, 28),)
"""


def test_a_study_of_microcontrollers_refuses_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,352 inputs of the linear layer are too many; with a pool in front of it 588 are not."""
    monkeypatch.syspath_prepend(str(tmp_path))
    study = {
        "name": "mcu",
        "segments": {"count": 2},
        "library": "reference",
        "model": "cycle_table",
        "regime": "serial",
        "objectives": ["latency_ms", "energy_mj"],
        "space": {
            "max_chips": 1,
            "chips": ["max78000", "max78002"],
            "packages": ["interposer_2x2"],
            "precisions": ["int8"],
        },
    }
    (tmp_path / "mcu_large.py").write_text(NET)
    (tmp_path / "mcu_small.py").write_text(
        NET.replace("nn.Flatten()", "nn.AvgPool2d(2), nn.Flatten()").replace("14 * 14", "7 * 7")
    )
    found = {}
    for size in ("large", "small"):
        path = tmp_path / f"{size}.yaml"
        path.write_text(json.dumps(study | {"workload": f"mcu_{size}:net"}))
        found[size] = Study.load(path).run(out=tmp_path / size).front
    assert found["large"] == []
    latency_ms = {row["params"]["chips"][0]: row["metrics"]["latency_ms"] for row in found["small"]}
    graph = traced([*conv(1, 60), HALF, *conv(60, 12), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(588, 10)], 1, 1, 28, 28)
    assert latency_ms["max78002"] == pytest.approx((cycles(graph) - 1) / 200e6 * 1e3)
