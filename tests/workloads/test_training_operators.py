"""Operators that a training step meets in nets beyond the catalogue's: what they cost, and that the step runs."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tests.workloads.tracing_help import matrix_macs, only
from tests.workloads.training_help import allocated_peak
from workloads import WorkloadError, WorkloadGraph, peak_memory, trace_training
from workloads.fingerprint import TRACER_FILES


class Net(nn.Module):
    """A layer, and a function of the layer's output and the further inputs."""

    def __init__(self, layer: nn.Module, function) -> None:
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x: torch.Tensor, *inputs: torch.Tensor):
        return self.function(self.layer(x), *inputs)


def step(module: nn.Module, *inputs: torch.Tensor) -> WorkloadGraph:
    graph = trace_training(module, inputs, cache=False)
    assert not graph.refused
    return graph


class Experts(nn.Module):
    """Three experts for 32 rows in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.experts = nn.Parameter(torch.randn(3, 16, 8))
        self.register_buffer("ends", torch.tensor([4, 8, 32], dtype=torch.int32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.grouped_mm(self.layer(x), self.experts, offs=self.ends)


def restored(y: torch.Tensor) -> torch.Tensor:
    window = torch.hann_window(128)
    spectrum = torch.stft(y.flatten(1), 128, 32, window=window, return_complex=True)
    return torch.istft(spectrum * spectrum.abs(), 128, 32, window=window, length=4000)


def spoken(y: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    steps, batch = y.shape[:2]
    return F.ctc_loss(y.log_softmax(-1), labels, torch.full((batch,), steps), torch.full((batch,), labels.shape[1]))


NETS = {
    "istft": lambda: (Net(nn.Conv1d(1, 1, 9, padding=4), restored), (torch.randn(4, 1, 4000),)),
    "ctc": lambda: (Net(nn.Linear(32, 20), spoken), (torch.randn(50, 4, 32), torch.randint(1, 20, (4, 10)))),
    "experts": lambda: (Experts(), (torch.randn(32, 16),)),
    "bags": lambda: (Net(nn.EmbeddingBag(200, 32, mode="mean", max_norm=1.0), F.relu), (torch.randint(200, (64, 9)),)),
}


@pytest.mark.parametrize("name", NETS)
def test_the_step_runs_and_its_peak_is_what_torch_allocates(name: str) -> None:
    module, inputs = NETS[name]()
    assert peak_memory(step(module, *inputs)).bytes == pytest.approx(allocated_peak(module, inputs), rel=0.15)


def test_each_row_meets_one_expert_forward_and_backward() -> None:
    """Torch's counter leaves grouped products out: rows x k x n for the output, as much for each gradient."""
    module, x = Experts(), torch.randn(32, 16)
    graph = step(module, x)
    with FlopCounterMode(display=False) as counter:
        module(x).square().mean().backward()
    assert 2 * matrix_macs(graph) == counter.get_total_flops() + 2 * 3 * 32 * 16 * 8


def test_a_bilinear_layer_costs_its_forward_for_each_gradient() -> None:
    module = Net(nn.Linear(16, 16, bias=False), None)
    bilinear = nn.Bilinear(16, 12, 8)
    module.bilinear, module.function = bilinear, bilinear
    graph = step(module, torch.randn(64, 16), torch.randn(64, 12))
    each = [la.macs for la in graph.layers if la.operator == "aten._trilinear.default"]
    assert each == [64 * 16 * 12 * 8] * 3  # output, gradient of the first input, of the weight


def test_ctc_counts_a_cell_of_its_table() -> None:
    """50 steps, 4 sequences, 10 labels with 11 blanks; 20 log probabilities a step."""
    module, inputs = NETS["ctc"]()
    graph = step(module, *inputs)
    cells = 50 * 4 * (2 * 10 + 1)
    assert only(graph, "aten._ctc_loss.").flops == 13 * cells
    assert only(graph, "aten._ctc_loss_backward").flops == 18 * cells + 3 * 50 * 4 * 20


@pytest.mark.parametrize(("mode", "work"), [("sum", 64 * 9 * 32), ("mean", 2 * 64 * 9 * 32), ("max", 64 * 32)])
def test_a_bag_gives_its_gradient_to_its_rows(mode: str, work: int) -> None:
    graph = step(nn.EmbeddingBag(200, 32, mode=mode), torch.randint(200, (64, 9)))
    assert only(graph, "aten._embedding_bag_backward").flops == work


def image(y: torch.Tensor) -> torch.Tensor:
    return y.view(2, 1, 32, 32)


@pytest.mark.parametrize(
    ("function", "operator", "flops"),
    [
        (F.hardshrink, "hardshrink_backward", 2 * 2048),
        (F.softshrink, "softshrink_backward", 2 * 2048),
        (lambda y: F.rrelu(y, training=True), "rrelu_with_noise_backward", 2048),
        (lambda y: F.interpolate(image(y), scale_factor=2, mode="nearest-exact"), "_upsample_nearest_exact2d", 8192),
        (lambda y: F.fractional_max_pool2d(image(y), 2, 16), "fractional_max_pool2d_backward", 2048),
        # half as large: 4 taps of a triangle twice as wide, columns of 32 rows, then rows of 16
        (
            lambda y: F.interpolate(image(y), scale_factor=0.5, mode="bilinear", antialias=True),
            "_upsample_bilinear2d_aa_backward",
            2 * 2 * 16 * 4 * (32 + 16),
        ),
        (lambda y: F.soft_margin_loss(y, torch.ones_like(y)), "soft_margin_loss_backward", 6 * 2048),
        (lambda y: F.multi_margin_loss(y, torch.zeros(64, dtype=torch.int64)), "multi_margin_loss_backward", 4 * 2048),
        (F.pdist, "_pdist_backward", 4 * 32 * 64 * 63 // 2),
        (lambda y: torch.cdist(y, y), "_euclidean_dist", 3 * 32 * 64 * 64),
        (lambda y: y.renorm(2, 0, 1.0), "renorm", 3 * 2048),
        (lambda y: y.diagonal(), "diagonal_backward", 0),
        (
            lambda y: torch.fake_quantize_per_tensor_affine(y, 0.1, 0, -128, 127),
            "fake_quantize_per_tensor_affine_cachemask",
            7 * 2048,
        ),
        (lambda y: torch.linalg.householder_product(y, y[0]), "linalg_householder_product", 2 * 32**2 * (64 - 32 / 3)),
    ],
)
def test_estimates_of_gradients(function, operator: str, flops: float) -> None:
    graph = step(Net(nn.Linear(32, 32), function), torch.randn(64, 32))
    layers = [la for la in graph.layers if la.operator.startswith(f"aten.{operator}")]
    assert layers[-1].flops == round(flops)


@dataclass
class Answer:
    logits: torch.Tensor
    note: str = ""


def test_outputs_in_an_object_are_trained() -> None:
    x = torch.randn(4, 8)
    in_class = step(Net(nn.Linear(8, 8), lambda y: Answer(y.relu())), x)
    assert in_class.layers == step(Net(nn.Linear(8, 8), lambda y: [y.relu()]), x).layers


def test_lengths_as_numbers_are_explained() -> None:
    module = Net(nn.Linear(8, 5), lambda y: F.ctc_loss(y, torch.ones(2, 3, dtype=torch.int64), (6, 6), (3, 3)))
    with pytest.raises(WorkloadError) as error:
        trace_training(module, torch.randn(6, 2, 8), cache=False)
    assert "ctc_loss" in error.value.hint
    assert "Python numbers" in error.value.message


def test_a_comparison_of_the_users_is_no_check() -> None:
    module = Net(nn.Linear(8, 8), lambda y: y if torch.equal(y.sum() > 0, y.mean() > 0) else -y)
    with pytest.raises(WorkloadError, match="depends on the values"):
        trace_training(module, torch.randn(2, 8), cache=False)


def test_a_loss_may_view_labels_that_it_holds() -> None:
    """They are an input of the step: there once, from start to end."""
    labels = torch.randint(8, (4, 6))
    module, x = nn.Linear(8, 8), torch.randn(4, 6, 8)

    def loss(y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(y.flatten(0, 1), labels.view(-1)) + F.cross_entropy(y.transpose(1, 2), labels)

    graph = trace_training(module, (x,), loss=loss, cache=False)
    assert not graph.refused
    kept, end = graph.allocations[:, 2] == labels.nbytes, len(graph.layers) - 1
    assert graph.allocations[kept][:, :2].tolist() == [[0, end]]


def test_the_cache_knows_every_file_that_a_trace_runs() -> None:
    """A graph kept by another version of any of them is traced anew; errors, modes and the cache decide nothing."""
    folder = Path(trace_training.__code__.co_filename).parent
    met, ahead = set(), ["trace", "training_step"]
    while ahead:
        if (name := ahead.pop()) in met:
            continue
        met.add(name)
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("workloads"):
                names = [node.module.partition(".")[2], *(alias.name for alias in node.names)]
                ahead += [name for name in names if (folder / f"{name}.py").is_file()]
    assert met - {"cache", "errors", "run_mode"} <= set(TRACER_FILES)
