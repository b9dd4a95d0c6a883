"""Streaming Conv-TasNet: causal separation of one microphone into sources, small enough for a microcontroller.

Time-domain masking after Luo and Mesgarani 2018 (Conv-TasNet, arXiv 1809.07454), cut down to what a convolution
accelerator has: a learned filterbank, causal dilated depthwise blocks without norms or biases, sigmoid masks. The
default sizes have 241,024 weights and 36 PReLU slopes, and take 0.2428 GMACs a second of audio at 16 kHz.

The model is causal in frames: frame k reads samples [k stride, k stride + kernel) and nothing after, so that
`workloads.streaming.StreamingSeparator` can run it on a stream and give what `ConvTasNet` gives for the whole signal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.errors import WorkloadError


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvTasNetConfig:
    """Sizes of the network and of the audio blocks around it (letters as in the paper).

    Raises WorkloadError where a size is not a positive integer, or where they do not fit: filters overlap by half, a
    hop and a frame are whole numbers of filter strides, and a hop is no longer than a frame.
    """

    sample_rate: int = 16_000  # Hz
    frame_ms: int = 20  # window of frame-wise processing
    hop_ms: int = 10  # step between two such windows; what an audio device hands over at a time
    kernel: int = 32  # L, samples: 2 ms
    filters: int = 64  # N
    bottleneck: int = 64  # B
    hidden: int = 64  # H
    taps: int = 3  # P, of a depthwise convolution
    blocks: int = 6  # X, dilations 1, 2, 4, ... of one repeat
    repeats: int = 3  # R
    sources: int = 2  # C

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise WorkloadError(f"Conv-TasNet: {each.name} is {value!r}", "a positive integer")
        if self.kernel % 2:
            raise WorkloadError(f"Conv-TasNet: kernel {self.kernel} is odd", "an even kernel: filters overlap by half")
        for name in ("frame_ms", "hop_ms"):
            samples = self.sample_rate * getattr(self, name)
            if samples % 1000 or samples // 1000 % self.stride:
                raise WorkloadError(
                    f"Conv-TasNet: {name} {getattr(self, name)} is {samples / 1000:g} samples at {self.sample_rate} Hz",
                    f"a multiple of the filters' stride, kernel / 2 = {self.stride}",
                )
        if self.hop_ms > self.frame_ms:
            raise WorkloadError(
                f"Conv-TasNet: hop_ms {self.hop_ms} is above frame_ms {self.frame_ms}", "at most one frame"
            )

    @property
    def stride(self) -> int:
        """Samples between two filter positions."""
        return self.kernel // 2

    @property
    def frame(self) -> int:
        """Samples of a frame."""
        return self.sample_rate * self.frame_ms // 1000

    @property
    def hop(self) -> int:
        """Samples of a hop."""
        return self.sample_rate * self.hop_ms // 1000

    @property
    def dilations(self) -> tuple[int, ...]:
        """Dilation of each block, in order: 1, 2, 4, ... and again in every repeat."""
        return self.repeats * tuple(2**index for index in range(self.blocks))

    @property
    def receptive_field(self) -> int:
        """Samples that one frame's masks depend on, the frame included, all in the past."""
        return self.stride * (self.taps - 1) * sum(self.dilations) + self.kernel


class Encoder(nn.Module):
    """Learned analysis filterbank: strided convolution without bias, ReLU."""

    def __init__(self, filters: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, filters, kernel, kernel // 2, bias=False)
        nn.init.normal_(self.conv.weight, std=kernel**-0.5)  # features as large as the signal

    def forward(self, wave: Tensor) -> Tensor:
        """[B, 1, T] to [B, filters, 1 + (T - kernel) / stride]."""
        return F.relu(self.conv(wave))

    def of_frames(self, frames: Tensor) -> Tensor:
        """The same of a signal that is cut into frames already, [B, 1, K, kernel] to [B, filters, K]."""
        return F.relu(self.conv.weight[:, 0] @ frames[:, 0].transpose(1, 2))


class Decoder(nn.Module):
    """Learned synthesis filterbank: the transposed convolution that mirrors the encoder."""

    def __init__(self, filters: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(filters, 1, kernel, kernel // 2, bias=False)
        nn.init.normal_(self.conv.weight, std=filters**-0.5)

    def forward(self, features: Tensor) -> Tensor:
        """[B, filters, K] to [B, 1, stride (K - 1) + kernel]."""
        wave: Tensor = self.conv(features)
        return wave

    def to_frames(self, features: Tensor) -> Tensor:
        """The same before frames are overlapped and added, [B, filters, K] to [B, K, kernel]."""
        return features.transpose(1, 2) @ self.conv.weight[:, 0]


class Block(nn.Module):
    """1x1 convolution, causal dilated depthwise convolution, each with PReLU; 1x1 to a residual and to a skip."""

    def __init__(self, channels: int, hidden: int, taps: int, dilation: int) -> None:
        super().__init__()
        self.past = dilation * (taps - 1)  # frames to the left that the depthwise convolution reads
        self.expand = nn.Sequential(nn.Conv1d(channels, hidden, 1, bias=False), nn.PReLU())
        self.depthwise = nn.Sequential(
            nn.Conv1d(hidden, hidden, taps, dilation=dilation, groups=hidden, bias=False), nn.PReLU()
        )
        self.residual = nn.Conv1d(hidden, channels, 1, bias=False)
        self.skip = nn.Conv1d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, channels, K] to input plus residual, and skip, both of the same shape; zeros lie before frame 0."""
        return self._finish(x, F.pad(self.expand(x), (self.past, 0)))

    def advance(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next K frames of a stream, after those that left `past` [B, hidden, past]; also return the new past."""
        hidden = torch.cat([past, self.expand(x)], dim=-1)
        return *self._finish(x, hidden), hidden[..., hidden.shape[-1] - self.past :]

    def _finish(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.depthwise(hidden)
        return x + self.residual(hidden), self.skip(hidden)


class Separator(nn.Module):
    """A mask of each source over the encoder's features: bottleneck, repeated dilated blocks, 1x1 over their skips.

    Every block has its residual, the last one too, which nothing reads: the specification counts it (18 x 12,480
    weights), so its 4,096 weights and their work are there, and get no gradient.
    """

    def __init__(self, config: ConvTasNetConfig) -> None:
        super().__init__()
        self.sources = config.sources
        self.bottleneck = nn.Conv1d(config.filters, config.bottleneck, 1, bias=False)
        blocks = [Block(config.bottleneck, config.hidden, config.taps, dilation) for dilation in config.dilations]
        self.blocks = nn.ModuleList(blocks)
        self.masks = nn.Conv1d(config.bottleneck, config.filters * config.sources, 1, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        with torch.no_grad():  # no norms hold the sums: that of n residuals, and of n skips, starts as large as one
            for block in blocks:
                block.residual.weight *= len(blocks) ** -0.5
                block.skip.weight *= len(blocks) ** -0.5

    def forward(self, features: Tensor) -> Tensor:
        """[B, filters, K] to masks [B, sources, filters, K] in (0, 1)."""
        x = self.bottleneck(features)
        total = torch.zeros_like(x)
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        return self._masks(total)

    def advance(self, features: Tensor, pasts: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Masks of the next K frames of a stream, and what the blocks remember after them."""
        x = self.bottleneck(features)
        total, kept = torch.zeros_like(x), []
        for block, past in zip(cast("Iterable[Block]", self.blocks), pasts, strict=True):
            x, skip, remembered = block.advance(x, past)
            total = total + skip
            kept.append(remembered)
        return self._masks(total), kept

    def start(self, features: Tensor) -> list[Tensor]:
        """What the blocks remember before the first frame of [B, filters, K]: zeros."""
        batch = features.shape[0]
        blocks = cast("Iterable[Block]", self.blocks)
        return [features.new_zeros(batch, block.residual.in_channels, block.past) for block in blocks]

    def _masks(self, total: Tensor) -> Tensor:
        masks = torch.sigmoid(self.masks(total))
        return masks.view(masks.shape[0], self.sources, -1, masks.shape[-1])


class ConvTasNet(nn.Module):
    """Encoder, separator, decoder. Input [B, 1, T], any T >= 1; output [B, sources, T].

    A signal that does not fill its last frame is padded with zeros to the right, and the output cut to its length.
    Raises WorkloadError for an input of another shape.
    """

    def __init__(self, config: ConvTasNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or ConvTasNetConfig()
        self.encoder = Encoder(self.config.filters, self.config.kernel)
        self.separator = Separator(self.config)
        self.decoder = Decoder(self.config.filters, self.config.kernel)

    def forward(self, mix: Tensor) -> Tensor:
        """[B, 1, T] to [B, sources, T]."""
        if mix.dim() != 3 or mix.shape[1] != 1 or not mix.shape[2]:
            raise WorkloadError(f"ConvTasNet got an input of shape {tuple(mix.shape)}", "[B, 1, T], T at least 1")
        length, kernel, stride = mix.shape[-1], self.config.kernel, self.config.stride
        missing = max(kernel - length, (kernel - length) % stride)
        features = self.encoder(F.pad(mix, (0, missing)) if missing else mix)
        masked = self.separator(features) * features[:, None]
        wave: Tensor = self.decoder(masked.flatten(0, 1))
        return wave.view(mix.shape[0], self.config.sources, -1)[..., :length]


def conv_tasnet(**sizes: int) -> ConvTasNet:
    """ConvTasNet of these sizes, by their names in `ConvTasNetConfig`; the specification's where none is given."""
    return ConvTasNet(ConvTasNetConfig(**sizes))
