"""Transformer whose attention costs O(N D^2) instead of O(N^2 D): Katharopoulos et al. 2020 (arXiv 2006.16236).

softmax(Q K^T) V becomes phi(Q) (phi(K)^T V) with the positive feature map phi(x) = elu(x) + 1: the D x D matrix
phi(K)^T V is made once for all queries, and no N x N scores are. Sizes follow the specification of HTDemucs_n.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-6
"""Added to the sum of a query's scores before it divides them, as the specification has it."""


def linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """phi(Q) (phi(K)^T V) / (phi(Q) sum phi(K) + EPSILON) of tensors [..., N, D], keys and values of any length M."""
    query, key = F.elu(query) + 1, F.elu(key) + 1
    total = query @ key.sum(-2).unsqueeze(-1)  # [..., N, 1]
    return query @ (key.transpose(-1, -2) @ value) / (total + EPSILON)


class LinearAttention(nn.Module):
    """Multi-head linear self-attention: `heads` of `head_dim`, which need not multiply to `channels`."""

    def __init__(self, channels: int, *, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(channels, heads * head_dim, bias=False) for _ in range(3))
        self.out = nn.Linear(heads * head_dim, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, channels] to the same."""
        query, key, value = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        out: Tensor = self.out(linear_attention(query, key, value).transpose(1, 2).flatten(-2))
        return out


class LinearTransformerLayer(nn.Module):
    """Pre-norm linear attention and GELU feed-forward of `hidden_scale` x channels, each with a residual."""

    def __init__(self, channels: int, *, heads: int, head_dim: int, hidden_scale: int) -> None:
        super().__init__()
        hidden = hidden_scale * channels
        self.norm_attention, self.norm_feedforward = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = LinearAttention(channels, heads=heads, head_dim=head_dim)
        self.feedforward = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, channels] to the same."""
        x = x + self.attention(self.norm_attention(x))
        out: Tensor = x + self.feedforward(self.norm_feedforward(x))
        return out


class LearnedPositions(nn.Module):
    """A learned vector for each of `positions` places of a sequence, resampled to the sequence's length.

    A token's place is relative: the table spans every sequence from end to end and is interpolated linearly to its
    length, as vision transformers resize theirs (arXiv 2010.11929, section 3.2). So every length has positions, also
    beyond `positions` tokens, a place means the same at all lengths, and no row of the table stays untrained.
    """

    def __init__(self, positions: int, channels: int) -> None:
        super().__init__()
        self.table = nn.Parameter(0.02 * torch.randn(positions, channels))

    def forward(self, x: Tensor) -> Tensor:
        """`x` [B, N, channels] with the vector of each place added."""
        table = F.interpolate(self.table.T[None], size=x.shape[1], mode="linear", align_corners=False)
        return x + table.transpose(1, 2)


class LinearTransformer(nn.Module):
    """Learned positions and `layers` layers. Input and output [B, N, channels]."""

    def __init__(
        self,
        channels: int = 768,
        *,
        layers: int = 5,
        heads: int = 8,
        head_dim: int = 64,
        hidden_scale: int = 4,
        positions: int = 8000,
    ) -> None:
        super().__init__()
        self.positions = LearnedPositions(positions, channels)
        self.layers = nn.ModuleList(
            LinearTransformerLayer(channels, heads=heads, head_dim=head_dim, hidden_scale=hidden_scale)
            for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, channels] to the same."""
        x = self.positions(x)
        for layer in self.layers:
            x = layer(x)
        return x
