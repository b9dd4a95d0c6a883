"""The recurrence-free recurrent module of MossFormer2: a gated feedforward sequential memory network (FSMN).

Sources: Zhao et al., "MossFormer2", 2023 (arXiv 2312.11825: gated convolutional units around a dilated FSMN, in a
bottleneck); Zhang et al., "Deep-FSMN", 2018 (arXiv 1803.05030: memory as a learned filter over the frames before and
after, on a low-rank projection). Sizes and order of operations are those of the authors' public release
(modelscope/ClearerVoice-Studio, MossFormer2_SS_16K).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.errors import WorkloadError
from workloads.models.mossformer2_attention import ConvProjection


class DilatedMemory(nn.Module):
    """Filters of 2 `order` - 1 taps over time, one after the other, each denser and wider than the one before it.

    Filter d has dilation 2^d and reads the outputs of all before it with the input, newest first: channel c of its
    output filters the channels (d + 1) c to (d + 1) c + d of that concatenation. Instance norm and PReLU follow.
    """

    def __init__(self, channels: int, *, order: int, layers: int) -> None:
        super().__init__()
        taps = 2 * order - 1
        self.filters = nn.ModuleList(
            nn.Conv1d(
                channels * (d + 1),
                channels,
                taps,
                dilation=2**d,
                padding=2**d * (order - 1),
                groups=channels,
                bias=False,
            )
            for d in range(layers)
        )
        self.norms = nn.ModuleList(nn.InstanceNorm1d(channels, affine=True) for _ in range(layers))
        self.activations = nn.ModuleList(nn.PReLU(channels) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, L] to the same."""
        known = x
        for tap, norm, activation in zip(self.filters, self.norms, self.activations, strict=True):
            x = activation(norm(tap(known)))
            known = torch.cat([x, known], dim=1)
        return x


class FSMN(nn.Module):
    """Two linear layers with ReLU between them, then the memory, on a residual connection (arXiv 1803.05030)."""

    def __init__(self, channels: int, *, order: int, layers: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels, bias=False)
        self.memory = DilatedMemory(channels, order=order, layers=layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, channels] to the same."""
        remembered: Tensor = self.memory(self.project(F.relu(self.linear(x))).transpose(1, 2))
        return x + remembered.transpose(1, 2)


class GatedFSMN(nn.Module):
    """Bottleneck of `width` channels in which one projection, with memory, gates another (arXiv 2312.11825).

    Raises WorkloadError for sizes below 1.
    """

    def __init__(
        self,
        channels: int,
        width: int = 256,
        *,
        order: int = 20,
        layers: int = 2,
        kernel: int = 17,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value in (("bottleneck_dim", width), ("fsmn_order", order), ("fsmn_layers", layers)):
            if value < 1:
                raise WorkloadError(f"{name} is {value}", "at least 1")
        self.reduce, self.activation, self.norm_in = nn.Conv1d(channels, width, 1), nn.PReLU(), nn.LayerNorm(width)
        self.to_memory, self.to_gate = (
            ConvProjection(width, width, nn.LayerNorm(width), kernel=kernel, dropout=dropout) for _ in range(2)
        )
        self.fsmn = FSMN(width, order=order, layers=layers)
        self.norm_out, self.restore = nn.LayerNorm(width), nn.Conv1d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, channels] to the same."""
        inner = self.norm_in(self.activation(self.reduce(x.transpose(1, 2))).transpose(1, 2))
        inner = self.norm_out(inner + self.to_gate(inner) * self.fsmn(self.to_memory(inner)))
        out: Tensor = x + self.restore(inner.transpose(1, 2)).transpose(1, 2)
        return out
