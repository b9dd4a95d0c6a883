"""Pieces of tensors as raw bytes: what one member holds and another one wants, permuted channels included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dse.mapped_model.memory import Memory, Part
from workloads.layer_program import View
from workloads.sharding.permute import ChannelPermute


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Region:
    """Elements of a tensor, `base`: those at all `picks` (dimension -> indices), and of these the bytes of `part`.

    With `perm` of a dimension it is the tensor with its channels in that order which the indices are of: so does a
    split hand it on (see `SegmentSplit.rewire_meta`).
    """

    base: View
    picks: dict[int, NDArray[np.int64]]
    part: Part | None = None  # all where None
    perm: tuple[int, NDArray[np.int64]] | None = None

    def gather(self, memory: Memory, *, as_made: bool = False) -> Tensor:
        """Return the bytes [n] of uint8; `as_made`: the tensor lies there as its maker left it, permuted."""
        here = memory.bytes_of(self.base)
        return self._cut(here if as_made else self._handed_on(here), memory)

    def scatter(self, memory: Memory, content: Tensor) -> None:
        """Write what `gather` gave elsewhere to where the tensor has it: permuted channels are put back in order."""
        here = memory.bytes_of(self.base)
        there = self._handed_on(here)
        if self.part is None:
            sizes = {dim: len(indices) for dim, indices in self.picks.items()}
            piece = content.reshape([sizes.get(dim, size) for dim, size in enumerate(there.shape)])
        else:
            piece = _picked(there, self.picks)
            piece[_picked(self._handed_on(memory.mask(self.part, self.base)), self.picks)] = content
        _put(there, list(self.picks.items()), piece)
        if self.perm is not None:
            dim, perm = self.perm
            here.copy_(ChannelPermute(torch.from_numpy(np.argsort(perm)), dim)(there))

    def _handed_on(self, tensor: Tensor) -> Tensor:
        if self.perm is None:
            return tensor
        dim, perm = self.perm
        permuted: Tensor = ChannelPermute(torch.from_numpy(perm), dim)(tensor)
        return permuted

    def _cut(self, tensor: Tensor, memory: Memory) -> Tensor:
        """Return of a tensor [*shape, bytes] what the region is, flat."""
        cut = _picked(tensor, self.picks)
        if self.part is None:
            return cut.reshape(-1)
        return cut[_picked(self._handed_on(memory.mask(self.part, self.base)), self.picks)]


def _put(tensor: Tensor, picks: Sequence[tuple[int, NDArray[np.int64]]], piece: Tensor) -> None:
    """Write a piece to where `_picked` takes it from, with no more memory than it and the pieces on the way have."""
    if not picks:
        if piece is not tensor:
            tensor.copy_(piece)
        return
    (dim, indices), *further = picks
    where = torch.from_numpy(indices)
    if further:
        outer = tensor.index_select(dim, where)
        _put(outer, further, piece)
        piece = outer
    tensor.index_copy_(dim, where, piece)


def _picked(tensor: Tensor, picks: dict[int, NDArray[np.int64]]) -> Tensor:
    for dim, indices in picks.items():
        tensor = tensor.index_select(dim, torch.from_numpy(indices))
    return tensor
