"""The gated attention of MossFormer: quadratic within groups of frames, linear over all of them, one head.

Sources: Zhao, Ma, "MossFormer", 2023 (arXiv 2302.11824: attention jointly local and global, convolutions in the
projections, the triple gate); Hua et al., "Transformer Quality in Linear Time", 2022 (arXiv 2202.10447: FLASH, which
mixes both attentions of one shared projection, and token shift by its public implementations); Su et al., "RoFormer",
2021 (arXiv 2104.09864: rotary positions); Nguyen, Salazar 2019 (arXiv 1910.05895: ScaleNorm). Sizes and order of
operations are those of the authors' public release (modelscope/ClearerVoice-Studio, MossFormer2_SS_16K).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.errors import WorkloadError


class ScaleNorm(nn.Module):
    """Each vector over its root mean square, times one learned gain (arXiv 1910.05895)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.scale, self.eps = channels**-0.5, eps
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """[..., channels] to the same."""
        rms: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * self.scale
        return x / rms.clamp(min=self.eps) * self.gain


class ConvProjection(nn.Module):
    """Norm, linear layer, SiLU, and a residual depthwise convolution over time (ConvM in arXiv 2302.11824)."""

    def __init__(self, inputs: int, outputs: int, norm: nn.Module, *, kernel: int = 17, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm = norm
        self.linear = nn.Linear(inputs, outputs)
        self.conv = nn.Conv1d(outputs, outputs, kernel, padding=kernel // 2, groups=outputs, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, inputs] to [B, L, outputs]."""
        x = F.silu(self.linear(self.norm(x)))
        x = x + self.conv(x.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.dropout(x)
        return out


class RotaryPositions(nn.Module):
    """Angles by which `rotate` turns pairs of channels: pair i of D / 2 at position p by p 10000^(-2 i / D).

    The frequencies are a parameter that does not learn, as in the public release, where they count as D / 2 parameters.
    """

    def __init__(self, channels: int, max_period: float = 10000.0) -> None:
        super().__init__()
        rates = max_period ** (-torch.arange(0, channels, 2) / channels)
        self.frequencies = nn.Parameter(rates, requires_grad=False)

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine [length, channels / 2]."""
        positions = torch.arange(length, device=self.frequencies.device, dtype=self.frequencies.dtype)
        angles = positions[:, None] * self.frequencies
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn the first pairs of neighbouring channels of `x` [..., L, channels]; the channels beyond them stay."""
    turned = 2 * cosine.shape[-1]
    pairs = x[..., :turned].view(*x.shape[:-1], -1, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    mixed = torch.stack([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return torch.cat([mixed.flatten(-2), x[..., turned:]], dim=-1)


def joint_attention(
    local_query: Tensor,
    local_key: Tensor,
    global_query: Tensor,
    global_key: Tensor,
    values: Tensor,
    *,
    group: int,
    dropout: float = 0.0,
) -> Tensor:
    """Sum of quadratic attention within groups of frames and linear attention over all frames (arXiv 2202.10447).

    Queries and keys [B, L, D], values [B, L, E], result [B, L, E]. Local: relu(q k / group)^2 v over the frames of the
    query's own group, with `dropout` of its weights. Global: q (k^T v) / L. Zeros pad L to a multiple of `group`, and
    add nothing to either.
    """
    length = values.shape[1]
    pad = (0, 0, 0, -length % group)  # also where there is nothing to pad: the graph is one for all lengths
    local_query, local_key, global_query, global_key, values = (
        F.pad(x, pad) for x in (local_query, local_key, global_query, global_key, values)
    )
    query, key, value = (x.view(x.shape[0], -1, group, x.shape[-1]) for x in (local_query, local_key, values))
    weights = F.dropout(F.relu(query @ key.transpose(-1, -2) / group).square(), dropout, training=dropout > 0)
    local = (weights @ value).flatten(1, 2)
    context = global_key.transpose(1, 2) @ values / length
    return (local + global_query @ context)[:, :length]


class GatedAttention(nn.Module):
    """Gated single-head attention with joint local and global attention (arXiv 2302.11824).

    Half of the channels come from the frame before (token shift). Of `expansion` x channels projected, one half is v
    and one u; of a vector a frame, four learned scales and offsets make both queries and both keys. Triple gate:
    (A u) v sigmoid((A v) u), projected, on a residual connection.

    Raises WorkloadError for sizes that do not fit together.
    """

    def __init__(
        self,
        channels: int,
        *,
        group: int = 256,
        query_key_dim: int = 128,
        expansion: int = 4,
        kernel: int = 17,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if channels % 2:
            raise WorkloadError(f"{channels} channels of the attention", "an even number: one half is shifted in time")
        self.group, self.shifted, self.dropout = group, channels // 2, dropout
        hidden = channels * expansion
        self.to_values = ConvProjection(channels, hidden, ScaleNorm(channels), kernel=kernel, dropout=dropout)
        self.to_query_key = ConvProjection(channels, query_key_dim, ScaleNorm(channels), kernel=kernel, dropout=dropout)
        self.scale = nn.Parameter(0.02 * torch.randn(4, 1, 1, query_key_dim))
        self.offset = nn.Parameter(torch.zeros(4, 1, 1, query_key_dim))
        self.to_out = ConvProjection(hidden // 2, channels, ScaleNorm(hidden // 2), kernel=kernel, dropout=dropout)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """[B, L, channels] to the same; cosine and sine [L, D] of RotaryPositions."""
        late, now = x[..., : self.shifted], x[..., self.shifted :]
        shifted = torch.cat([F.pad(late, (0, 0, 1, -1)), now], dim=-1)
        values, query_key = self.to_values(shifted), self.to_query_key(shifted)
        local_query, global_query, local_key, global_key = rotate(
            query_key * self.scale + self.offset, cosine, sine
        ).unbind(0)
        attended = joint_attention(
            local_query,
            local_key,
            global_query,
            global_key,
            values,
            group=self.group,
            dropout=self.dropout if self.training else 0.0,
        )
        (v, u), (attended_v, attended_u) = values.chunk(2, dim=-1), attended.chunk(2, dim=-1)
        out: Tensor = x + self.to_out(attended_u * v * torch.sigmoid(attended_v * u))
        return out
