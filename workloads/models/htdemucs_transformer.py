"""Parts of Demucs that its descendants share: residual convolutions, positions and the cross-domain transformer.

Sources: Defossez, "Hybrid Spectrogram and Waveform Source Separation", 2021 (arXiv 2111.03600) for the residual
branches; Rouard, Massa, Defossez, "Hybrid Transformers for Music Source Separation", 2022 (arXiv 2211.08553) for the
transformer; Vaswani et al. 2017 for sinusoidal positions; Touvron et al. 2021 (arXiv 2103.17239) for layer scale.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.errors import WorkloadError


class LayerScale(nn.Module):
    """Learned gain a channel, small at first so that a residual branch starts near the identity.

    `channel_dim` is the dimension of the channels, counted from the end.
    """

    def __init__(self, channels: int, init: float, *, channel_dim: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((channels,), init))
        self.trailing = -1 - channel_dim

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`."""
        return x * self.gain.view(-1, *[1] * self.trailing)


class DConv(nn.Module):
    """Residual branches of dilated convolutions over time, through a bottleneck (arXiv 2111.03600).

    Branch d: convolution of dilation 2^d to channels/compress, GELU, 1x1 convolution to 2 x channels, GLU, layer scale.
    Input and output [B, channels, T].
    """

    def __init__(
        self, channels: int, *, compress: int = 8, depth: int = 2, init: float = 1e-3, kernel: int = 3
    ) -> None:
        super().__init__()
        hidden = channels // compress
        if hidden < 1:
            raise WorkloadError(f"dconv_comp {compress} leaves none of {channels} channels", f"at most {channels}")
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(channels, hidden, kernel, dilation=2**d, padding=2**d * (kernel // 2)),
                nn.GroupNorm(1, hidden),
                nn.GELU(),
                nn.Conv1d(hidden, 2 * channels, 1),
                nn.GroupNorm(1, 2 * channels),
                nn.GLU(1),
                LayerScale(channels, init, channel_dim=-2),
            )
            for d in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, T] to the same."""
        for branch in self.branches:
            x = x + branch(x)
        return x


def sinusoid_1d(length: int, channels: int, device: torch.device, max_period: float = 10000.0) -> Tensor:
    """Positions [length, channels]: cosines in the first half of the channels, sines in the second.

    Half h of H has the angular frequency max_period^(-h / (H - 1)).
    """
    half = torch.arange(channels // 2, device=device)
    rate = max_period ** (-half / (channels // 2 - 1))
    phase = torch.arange(length, device=device)[:, None] * rate
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def sinusoid_2d(height: int, width: int, channels: int, device: torch.device, max_period: float = 10000.0) -> Tensor:
    """Positions [height, width, channels]: the first half of the channels tells the column, the second the row.

    Sines and cosines alternate; pair i of a half of H channels has the angular frequency max_period^(-2 i / H).
    """
    half = channels // 2
    rate = torch.exp(torch.arange(0, half, 2, device=device) * (-math.log(max_period) / half))
    column, row = (
        torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(-2)
        for phase in (torch.arange(n, device=device)[:, None] * rate for n in (width, height))
    )
    return torch.cat([column.expand(height, width, half), row[:, None].expand(height, width, half)], dim=-1)


class Attention(nn.Module):
    """Multi-head scaled dot-product attention of queries [B, N, C] on a context [B, M, C]."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise WorkloadError(f"{heads} heads do not divide {channels} channels", "channels a multiple of heads")
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))
        for projection in (self.query, self.key, self.value):
            # Glorot over the three matrices as one, as nn.MultiheadAttention does: bound sqrt(6 / (C + 3 C))
            nn.init.uniform_(projection.weight, -math.sqrt(1.5 / channels), math.sqrt(1.5 / channels))
        for projection in (self.query, self.key, self.value, self.out):
            nn.init.zeros_(projection.bias)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[B, N, C]."""
        query, key, value = (
            projection(source).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection, source in ((self.query, x), (self.key, context), (self.value, context))
        )
        out: Tensor = self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2))
        return out


class TransformerLayer(nn.Module):
    """Pre-norm attention and feed-forward with layer scale, then GroupNorm over the whole example (`norm_out`).

    With `cross` the keys and values come from another sequence, which has a norm of its own.
    """

    def __init__(self, channels: int, heads: int, hidden: int, *, cross: bool, scale_init: float = 1e-4) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(channels)
        self.norm_context = nn.LayerNorm(channels) if cross else None
        self.attention = Attention(channels, heads)
        self.scale_attention = LayerScale(channels, scale_init, channel_dim=-1)
        self.norm_feedforward = nn.LayerNorm(channels)
        self.feedforward = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
        self.scale_feedforward = LayerScale(channels, scale_init, channel_dim=-1)
        self.norm_out = nn.GroupNorm(1, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[B, N, C]; `context` [B, M, C] is read only by a cross layer."""
        query = self.norm_query(x)
        source = query if self.norm_context is None else self.norm_context(context)
        x = x + self.scale_attention(self.attention(query, source))
        x = x + self.scale_feedforward(self.feedforward(self.norm_feedforward(x)))
        out: Tensor = self.norm_out(x.transpose(1, 2))
        return out.transpose(1, 2)


class CrossTransformer(nn.Module):
    """Spectrogram and waveform attend to themselves and to each other in turn (arXiv 2211.08553, figure 1).

    Layers 0, 2, ... are self-attention, 1, 3, ... cross-attention; both branches of a layer read the other's input.
    """

    def __init__(self, channels: int, *, layers: int = 5, heads: int = 8, hidden_scale: float = 4.0) -> None:
        super().__init__()
        if channels % 4:
            raise WorkloadError(f"{channels} channels of the transformer", "a multiple of 4, for 2-D positions")
        hidden = int(channels * hidden_scale)
        self.norm_frequency, self.norm_time = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.frequency, self.time = (
            nn.ModuleList(TransformerLayer(channels, heads, hidden, cross=index % 2 == 1) for index in range(layers))
            for _ in range(2)
        )

    def forward(self, spectrogram: Tensor, wave: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, F, T1] and [B, C, T2] to the same."""
        _, channels, bins, frames = spectrogram.shape
        x = self.norm_frequency(spectrogram.permute(0, 3, 2, 1).flatten(1, 2))  # tokens frame by frame
        x = x + sinusoid_2d(bins, frames, channels, x.device).transpose(0, 1).flatten(0, 1).to(x.dtype)
        y = self.norm_time(wave.transpose(1, 2))
        y = y + sinusoid_1d(wave.shape[-1], channels, y.device).to(y.dtype)
        for frequency, time in zip(self.frequency, self.time, strict=True):
            x, y = frequency(x, y), time(y, x)
        return x.unflatten(1, (frames, bins)).permute(0, 3, 2, 1), y.transpose(1, 2)
