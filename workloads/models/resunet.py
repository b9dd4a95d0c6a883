"""ResUNet++ with attention gates, its encoder and decoder apart so that another net can stand between them.

Sources: Jha et al. 2019, "ResUNet++" (arXiv 1911.07067), whose residual units stride; squeeze-and-excitation of Hu et
al. 2018 (arXiv 1709.01507); attention gates of Oktay et al. 2018, "Attention U-Net" (arXiv 1804.03999). Widths and
kernels are those of the specification of HTDemucs_n.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.errors import WorkloadError


class ResidualBlock(nn.Module):
    """Conv 3x3, BatchNorm, ReLU, conv 3x3, BatchNorm; a 1x1 shortcut added; ReLU. The first convolution strides."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        return F.relu(self.body(x) + self.shortcut(x))


class SqueezeExcitation(nn.Module):
    """A gain in (0, 1) a channel, from the means of all channels through a bottleneck of channels / reduction."""

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        if channels < reduction:
            raise WorkloadError(
                f"squeeze-and-excitation with reduction {reduction} leaves none of {channels} channels",
                f"at least {reduction} channels",
            )
        hidden = channels // reduction
        self.gain = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] to the same."""
        gain: Tensor = self.gain(x.mean((2, 3)))
        return x * gain[:, :, None, None]


class AttentionGate(nn.Module):
    """What passes of a skip connection at each place: sigmoid of a 1x1 net of the decoder's features and the skip."""

    def __init__(self, gate: int, skip: int) -> None:
        super().__init__()
        hidden = max(1, skip // 2)
        self.of_gate, self.of_skip = nn.Conv2d(gate, hidden, 1), nn.Conv2d(skip, hidden, 1)
        self.openness = nn.Sequential(nn.ReLU(), nn.Conv2d(hidden, 1, 1), nn.Sigmoid())

    def forward(self, gate: Tensor, skip: Tensor) -> Tensor:
        """[B, gate, H, W] and [B, skip, H, W] to [B, skip, H, W]."""
        openness: Tensor = self.openness(self.of_gate(gate) + self.of_skip(skip))
        return skip * openness


class EncoderStage(nn.Module):
    """A residual block of stride 2, and squeeze-and-excitation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block = ResidualBlock(inputs, outputs, stride=2)
        self.excitation = SqueezeExcitation(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / 2, W / 2]."""
        out: Tensor = self.excitation(self.block(x))
        return out


class DecoderStage(nn.Module):
    """Transposed convolution to twice the size, the gated skip concatenated, a residual block."""

    def __init__(self, inputs: int, outputs: int, *, skip: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(inputs, outputs, 2, 2)
        self.gate = AttentionGate(outputs, skip)
        self.block = ResidualBlock(outputs + skip, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, inputs, H / 2, W / 2] and [B, skip, H, W] to [B, outputs, H, W]."""
        x = self.upsample(x)
        out: Tensor = self.block(torch.cat([x, self.gate(x, skip)], dim=1))
        return out


class ResUNetEncoder(nn.Module):
    """`depth` stages, each of half the size and twice the channels of the one before; the first gives `base`."""

    def __init__(self, inputs: int, *, base: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.widths = [inputs, *(base * 2**index for index in range(depth))]
        self.stages = nn.ModuleList(
            EncoderStage(before, after) for before, after in zip(self.widths, self.widths[1:], strict=False)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """[B, inputs, H, W] to [B, base 2^(depth - 1), ceil(H / 2^depth), ceil(W / 2^depth)] and the stages' inputs.

        Zeros fill up H and W to multiples of 2^depth.
        """
        step = 2 ** len(self.stages)
        x = F.pad(x, (0, -x.shape[-1] % step, 0, -x.shape[-2] % step))
        skips = []
        for stage in self.stages:
            skips.append(x)
            x = stage(x)
        return x, skips


class ResUNetDecoder(nn.Module):
    """The mirror of an encoder of the same `widths`, and a 1x1 convolution to `outputs` channels."""

    def __init__(self, widths: list[int], outputs: int) -> None:
        super().__init__()
        skips = widths[-2::-1]
        made = [*widths[-2:0:-1], widths[1]]  # the last stage keeps the width of the one before
        self.stages = nn.ModuleList(
            DecoderStage(before, after, skip=skip)
            for before, after, skip in zip([widths[-1], *made], made, skips, strict=False)
        )
        self.head = nn.Conv2d(made[-1], outputs, 1)

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """[B, widths[-1], H / 2^depth, W / 2^depth] and the encoder's skips to [B, outputs, H, W]."""
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            x = stage(x, skip)
        out: Tensor = self.head(x)
        return out
