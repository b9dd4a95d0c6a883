"""Channels in another order: what a split by channels does to its output, and what undoes it (version_c.md 9.3)."""

from __future__ import annotations

from torch import Tensor, nn


class ChannelPermute(nn.Module):
    """Put the indices of one dimension into the order `perm`: index i of the result is index perm[i] of the input.

    The split of `SegmentSplit.rewire_meta` hands on a tensor as if `ChannelPermute(perm, dim)` ran at its exit;
    `ChannelPermute(inv_perm, dim)` at the entry of every segment that reads the tensor gives the original back.
    """

    def __init__(self, perm: Tensor, dim: int = 1) -> None:
        super().__init__()
        self.perm: Tensor
        self.register_buffer("perm", perm)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """A tensor to the same in another order."""
        return x.index_select(self.dim, self.perm)
