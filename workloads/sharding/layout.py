"""How a tensor lies on the members of a team: whole on each, cut along a dimension, or as a sum still to be done.

The three states are those of GSPMD (arXiv 2105.04663) and of Megatron-LM (arXiv 1909.08053).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

LARGEST_VIEW = 1 << 22
"""Indices up to which a cut is followed through a view that mixes dimensions."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A partition of the indices of a dimension of `size`: `pieces[g]` are those of member g, in its own order."""

    size: int
    pieces: tuple[NDArray[np.int64], ...]
    key: bytes = field(init=False)
    bounds: tuple[int, ...] | None = field(init=False)  # [members + 1] where each piece is a run and they follow

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", b"|".join(piece.tobytes() for piece in self.pieces))
        edges = np.cumsum([0, *(len(piece) for piece in self.pieces)])
        runs = bool(np.array_equal(self.order, np.arange(self.size)))
        object.__setattr__(self, "bounds", tuple(edges.tolist()) if runs else None)

    @property
    def order(self) -> NDArray[np.int64]:
        """All indices, member by member: what lies where once the pieces are joined."""
        return np.concatenate(self.pieces)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Indices of each member."""
        return tuple(len(piece) for piece in self.pieces)

    @property
    def even(self) -> bool:
        """Whether all members hold as much."""
        return len(set(self.lengths)) == 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cut) and self.size == other.size and self.key == other.key

    def __hash__(self) -> int:
        return hash((self.size, self.key))


@dataclass(frozen=True, slots=True)
class Full:
    """Whole on every member."""


@dataclass(frozen=True, slots=True)
class Partial:
    """Each member holds a tensor of the whole shape; their sum is the tensor."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Cut along `dim` (never negative)."""

    dim: int
    cut: Cut


Placement = Full | Partial | Shard

FULL, PARTIAL = Full(), Partial()


@lru_cache(maxsize=256)
def even_cut(size: int, members: int) -> Cut | None:
    """Equal runs, None where `members` does not divide `size`."""
    return None if size % members or not size else run_cut(tuple(g * size // members for g in range(members + 1)))


@lru_cache(maxsize=256)
def run_cut(bounds: tuple[int, ...]) -> Cut:
    """Runs between `bounds` [members + 1], which start at 0."""
    return Cut(bounds[-1], tuple(np.arange(start, end) for start, end in pairwise(bounds)))


@lru_cache(maxsize=256)
def parts_cut(parts: tuple[int, ...], members: int, granule: int = 1, seed: int | None = None) -> Cut | None:
    """Cut each of consecutive `parts` of a dimension evenly: a member holds its share of every part.

    Runs of `granule` indices (a head, a group of channels) stay together. With a `seed` they are dealt out by a random
    permutation, the same in parts of the same size. None where the sizes do not divide.
    """
    import torch

    if any(part % (members * granule) for part in parts) or not sum(parts):
        return None
    pieces: list[list[NDArray[np.int64]]] = [[] for _ in range(members)]
    start = 0
    for part in parts:
        count = part // granule
        if seed is None:
            order = np.arange(count)
        else:
            order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()
        indices = start + (order[:, None] * granule + np.arange(granule)).reshape(members, -1)
        for piece, mine in zip(pieces, indices, strict=True):
            piece.append(mine)
        start += part
    return Cut(start, tuple(np.concatenate(piece) for piece in pieces))


def joined_cut(cuts: Sequence[Cut]) -> Cut:
    """The cut of tensors that are concatenated along the dimension in which each is cut."""
    starts = np.cumsum([0, *(cut.size for cut in cuts)])
    members = len(cuts[0].pieces)
    pieces = (
        np.concatenate([start + cut.pieces[g] for start, cut in zip(starts, cuts, strict=False)])
        for g in range(members)
    )
    return Cut(int(starts[-1]), tuple(pieces))


def groups_of(old: Sequence[int], new: Sequence[int]) -> list[tuple[range, range]]:
    """Dimensions that a view of shape `old` as `new` keeps apart: pairs of ranges with the same number of elements."""
    found: list[tuple[range, range]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        start_i, start_j = i, j
        left = right = 1
        if i < len(old):
            left, i = old[i], i + 1
        if j < len(new):
            right, j = new[j], j + 1
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        found.append((range(start_i, i), range(start_j, j)))
    return found


def through_view(old: Sequence[int], shard: Shard, new: Sequence[int]) -> Shard | None:
    """Where a cut of a tensor of shape `old` lies in its view of shape `new`, whose pieces are views of the pieces.

    None where a piece is not cut along one dimension of the view.
    """
    if 0 in old:
        return None
    ours, theirs = next(pair for pair in groups_of(old, new) if shard.dim in pair[0])
    outer, inner = math.prod(old[ours.start : shard.dim]), math.prod(old[shard.dim + 1 : ours.stop])
    for dim in theirs:
        size = new[dim]
        if size == old[shard.dim] and outer == math.prod(new[theirs.start : dim]):
            return Shard(dim, shard.cut)
        cut = _mapped(shard.cut, outer, inner, math.prod(new[theirs.start : dim]), size)
        if size > 1 and cut is not None:
            return Shard(dim, cut)
    return None


def _mapped(cut: Cut, outer: int, inner: int, new_outer: int, new_size: int) -> Cut | None:
    """The cut of the middle one of (new_outer, new_size, rest) that is that of the middle of (outer, size, inner)."""
    total = outer * cut.size * inner
    new_inner = total // (new_outer * new_size)
    shared = math.gcd(inner, new_inner)
    inner, new_inner = inner // shared, new_inner // shared
    shared = math.gcd(outer, new_outer)
    outer, new_outer = outer // shared, new_outer // shared
    if outer * cut.size * inner > LARGEST_VIEW:
        return None
    pieces = []
    for piece in cut.pieces:
        flat = _grid(outer, cut.size, inner, piece)
        if len(flat) % (new_outer * new_inner) or not len(flat):
            return None
        mine = flat.reshape(new_outer, -1, new_inner)[0, :, 0] // new_inner % new_size
        if not np.array_equal(_grid(new_outer, new_size, new_inner, mine), flat):
            return None
        pieces.append(mine)
    return Cut(new_size, tuple(pieces))


def _grid(outer: int, size: int, inner: int, piece: NDArray[np.int64]) -> NDArray[np.int64]:
    """Flat indices into (outer, size, inner) of all whose middle index is in `piece`, in order."""
    rows = np.arange(outer)[:, None, None] * (size * inner)
    flat: NDArray[np.int64] = (rows + piece[None, :, None] * inner + np.arange(inner)).ravel()
    return flat
