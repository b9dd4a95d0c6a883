"""The products of real modules: their multiply-accumulates are those that are counted, their extents those of numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import workloads
from workloads.graph import MATRIX_KINDS


class Attention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(x, x[:, :, :7], x[:, :, :7])


class Batched(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ x.transpose(-1, -2)


# of each matrix layer: batch, steps, m, n, k of its products
MODULES = {
    "conv": (lambda: nn.Conv2d(6, 8, (3, 5), stride=2, padding=1), (2, 6, 9, 11), [(1, 1, 2 * 5 * 5, 8, 6 * 15)]),
    "grouped": (lambda: nn.Conv1d(6, 12, 3, groups=3), (2, 6, 10), [(3, 1, 2 * 8, 4, 2 * 3)]),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6), (1, 6, 5, 5), [(6, 1, 9, 1, 9)]),
    "transposed": (lambda: nn.ConvTranspose1d(6, 4, 5, stride=2), (2, 6, 10), [(1, 1, 2 * 10, 4 * 5, 6)]),
    "conv3d": (lambda: nn.Conv3d(2, 3, 3), (1, 2, 4, 5, 6), [(1, 1, 2 * 3 * 4, 3, 2 * 27)]),
    "linear": (lambda: nn.Linear(8, 5), (2, 7, 8), [(1, 1, 14, 5, 8)]),
    "batched": (Batched, (3, 4, 5, 6), [(12, 1, 5, 5, 6)]),
    "attention": (Attention, (2, 3, 9, 4), [(6, 1, 9, 7, 4), (6, 1, 9, 4, 7)]),
    "lstm": (
        lambda: nn.LSTM(8, 5, num_layers=2, bidirectional=True, batch_first=True),
        (2, 7, 8),
        [(2, 1, 14, 20, 8), (4, 7, 2, 20, 5), (2, 1, 14, 20, 10)],
    ),
    "gru": (lambda: nn.GRU(8, 5), (7, 2, 8), [(1, 1, 14, 15, 8), (1, 7, 2, 15, 5)]),
}


@pytest.mark.parametrize("name", MODULES)
def test_products_of_a_module_are_those_written_down(name):
    build, shape, expected = MODULES[name]
    graph = workloads.trace(build(), torch.rand(shape), cache=False)
    rows = graph.features[[layer.kind in MATRIX_KINDS for layer in graph.layers]]
    assert len(rows) == 1
    columns = [rows[f"gemm_{name}"][0] for name in ("batch", "steps", "m", "n", "k")]
    found = np.stack(columns, axis=1)
    assert found[: len(expected)].tolist() == [list(map(float, row)) for row in expected]
    assert not found[len(expected) :].any()
    assert found.prod(axis=1).sum() == graph.macs


def test_every_matrix_layer_of_real_models_has_products_that_make_its_macs():
    for model, mode in (("videovit-tiny", "inference"), ("resnet18", "train")):
        graph = workloads.load(model, mode=mode)
        rows = graph.features
        products = np.prod([rows[f"gemm_{name}"] for name in ("batch", "steps", "m", "n", "k")], axis=0).sum(axis=1)
        assert products[rows["matrix"]] == pytest.approx(rows["macs"][rows["matrix"]])
        assert not products[~rows["matrix"]].any()


class Spectrum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames = torch.stft(x, 64, 16, window=torch.ones(64), return_complex=True)
        return frames.real + torch.fft.rfft(x[..., :130]).real.sum()


def test_transforms_are_counted_by_length():
    graph = workloads.trace(Spectrum(), torch.rand(2, 160), cache=False)
    rows = graph.features[[layer.kind == "fft" for layer in graph.layers]]
    assert rows["fft_length"].tolist() == [64, 130] and rows["transforms"].tolist() == [2 * 11, 2]
    assert not graph.features["transforms"][graph.features["matrix"]].any()
