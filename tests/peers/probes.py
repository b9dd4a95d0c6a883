"""Fifteen one-block models whose work is counted by hand, for the tests and for the side-by-side run with peers.

`macs` are multiply-accumulates of convolutions, matrix products and recurrent layers. Blocks without any (norms,
activations) have the operations an element of their definition: `flops`, by the conventions of workloads/flops.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

OPSET = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A block, the shape of its input, and what it computes, counted by hand."""

    name: str
    block: Callable[[], nn.Module]
    shape: tuple[int, ...]
    macs: int = 0
    flops: int = 0

    def module(self) -> nn.Module:
        """Return the block in evaluation, with weights of a fixed seed (no value is zero, so no exporter drops one)."""
        torch.manual_seed(0)
        module = self.block().eval()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.uniform_(0.1, 0.9)
        return module

    def export(self, folder: Path, *, dynamo: bool = False) -> Path:
        """Write the block as an ONNX file and return its path."""
        path = folder / f"{self.name}.onnx"
        torch.onnx.export(
            self.module(), (torch.rand(self.shape),), path, opset_version=OPSET, dynamo=dynamo, verbose=False
        )
        return path


class BidirectionalLstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 48, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.lstm(x)[0]
        return y


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.attention(x, x, x, need_weights=False)[0]
        return y


class TasNetBlock(nn.Module):
    """One dilated block of Conv-TasNet (Luo and Mesgarani, arXiv 1809.07454): widen, filter each channel, narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Sequential(nn.Conv1d(32, 64, 1), nn.PReLU(), nn.GroupNorm(1, 64))
        self.filter = nn.Sequential(
            nn.Conv1d(64, 64, 3, padding=2, dilation=2, groups=64), nn.PReLU(), nn.GroupNorm(1, 64)
        )
        self.narrow = nn.Conv1d(64, 32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.narrow(self.filter(self.widen(x)))


PROBES = (
    # outputs x channels in x taps
    Probe(name="conv1d", block=lambda: nn.Conv1d(16, 32, 5, padding=2), shape=(1, 16, 100), macs=100 * 32 * 16 * 5),
    Probe(
        name="conv1d_depthwise",
        block=lambda: nn.Conv1d(32, 32, 3, padding=1, groups=32),
        shape=(1, 32, 100),
        macs=100 * 32 * 3,
    ),
    Probe(
        name="conv2d",
        block=lambda: nn.Conv2d(16, 32, 3, padding=1),
        shape=(1, 16, 28, 28),
        macs=28 * 28 * 32 * 16 * 3 * 3,
    ),
    Probe(
        name="conv3d",
        block=lambda: nn.Conv3d(8, 16, 3, padding=1),
        shape=(1, 8, 8, 16, 16),
        macs=8 * 16 * 16 * 16 * 8 * 3 * 3 * 3,
    ),
    # inputs x channels out x taps: each input meets each tap, those that fall off the edges too
    Probe(
        name="conv_transpose1d",
        block=lambda: nn.ConvTranspose1d(32, 16, 8, stride=4, padding=2),
        shape=(1, 32, 50),
        macs=50 * 32 * 16 * 8,
    ),
    # 5 MACs, so 10 operations an element, as fvcore counts normalisations
    Probe(name="group_norm", block=lambda: nn.GroupNorm(4, 32), shape=(1, 32, 64), flops=10 * 32 * 64),
    Probe(name="layer_norm", block=lambda: nn.LayerNorm(64), shape=(1, 50, 64), flops=10 * 50 * 64),
    Probe(name="prelu", block=lambda: nn.PReLU(32), shape=(1, 32, 64), flops=32 * 64),
    Probe(name="glu", block=lambda: nn.GLU(1), shape=(1, 64, 50), flops=5 * 32 * 50),  # sigmoid 4, product 1
    Probe(name="gelu", block=nn.GELU, shape=(1, 50, 64), flops=5 * 50 * 64),
    # steps x directions x gates x hidden x (inputs + hidden)
    Probe(name="lstm_bidirectional", block=BidirectionalLstm, shape=(1, 20, 32), macs=20 * 2 * 4 * 48 * (32 + 48)),
    # four projections; queries x keys x width for the scores, the same for the weighted sum
    Probe(
        name="multi_head_attention", block=SelfAttention, shape=(1, 30, 64), macs=4 * 30 * 64 * 64 + 2 * 30 * 30 * 64
    ),
    Probe(name="linear_2_axes", block=lambda: nn.Linear(128, 64), shape=(8, 128), macs=8 * 128 * 64),
    Probe(name="linear_3_axes", block=lambda: nn.Linear(128, 64), shape=(2, 25, 128), macs=2 * 25 * 128 * 64),
    Probe(name="tasnet_block", block=TasNetBlock, shape=(1, 32, 200), macs=200 * (32 * 64 + 64 * 3 + 64 * 32)),
)
