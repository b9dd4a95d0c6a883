"""What lies where at the boundary of segments that teams run, and what a team moves within itself to use it.

A tensor reaches a team as the team itself would have made it: cut as the split of its maker on this team cuts it. Where
its maker cannot run on the team it comes as the reader wants it, or in even pieces where that wants all of it. Then the
members bring it among themselves to where the reader wants it. So what a reader costs does not depend on where its
inputs come from, and nothing moves outside of these two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from workloads.sharding import SegmentSplit, TensorLayout

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Laid:
    """A tensor on the members of a team: member g holds the indices `pieces[g]` of `dim`; all whole if that is None."""

    shape: tuple[int, ...]
    dim: int | None
    pieces: tuple[Indices, ...]

    def share(self, member: int) -> float:
        """Part of the tensor's elements that a member holds."""
        return 1.0 if self.dim is None else len(self.pieces[member]) / max(self.shape[self.dim], 1)

    def picks(self, member: int) -> dict[int, Indices]:
        """Dimension -> indices that a member holds; empty: all."""
        return {} if self.dim is None else {self.dim: self.pieces[member]}


def wanted(layout: TensorLayout) -> Laid:
    """How a split's members use one of its inputs, or hold one of its outputs."""
    pieces = () if layout.full else layout.pieces
    return Laid(shape=layout.shape or (1,), dim=layout.dim, pieces=pieces)


def arriving(layout: TensorLayout, made: Mapping[str, TensorLayout], groups: int) -> Laid:
    """How an input of a split reaches its team, where `made` are the tensors that the team's own splits make."""
    if layout.tensor in made:
        return wanted(made[layout.tensor])
    return even_pieces(layout.shape, groups) if layout.full else wanted(layout)


def even_pieces(shape: Sequence[int], groups: int) -> Laid:
    """Runs of the largest dimension that `groups` divides; where there is none, of the largest, as even as it goes."""
    shape = tuple(shape) or (1,)
    dim = max(range(len(shape)), key=lambda d: (shape[d] % groups == 0, shape[d]))
    return Laid(shape=shape, dim=dim, pieces=tuple(np.array_split(np.arange(shape[dim]), groups)))


def moved(source: Laid, member: int, target: Laid, other: int) -> dict[int, Indices] | None:
    """Indices by dimension that one member holds and another one wants; None: not any, empty: all of the tensor."""
    picks = source.picks(member)
    for dim, indices in target.picks(other).items():
        picks[dim] = picks[dim][np.isin(picks[dim], indices)] if dim in picks else indices
    return None if any(not len(indices) for indices in picks.values()) else picks


def share_moved(source: Laid, member: int, target: Laid, other: int) -> float:
    """Part of the tensor that one member holds and another one wants."""
    picks = moved(source, member, target, other)
    return 0.0 if picks is None else math.prod(len(i) / source.shape[dim] for dim, i in picks.items())


@dataclass(frozen=True, kw_only=True, eq=False)
class Relay:
    """An input of a split that its members pass on among themselves before they start."""

    layout: TensorLayout
    source: Laid
    target: Laid

    @cached_property
    def sent_bytes(self) -> NDArray[np.float64]:
        """[members] bytes that each sends, at the traced dtype."""
        members = range(len(self.source.pieces))
        sent = [sum(share_moved(self.source, i, self.target, j) for j in members if j != i) for i in members]
        rounded: NDArray[np.float64] = np.rint(np.array(sent) * self.layout.nbytes)
        return rounded


def relays(split: SegmentSplit, made: Mapping[str, TensorLayout]) -> tuple[Relay, ...]:
    """What a split's members pass on: inputs that do not reach the team as they use them. Inputs of the model do."""
    found = (
        Relay(
            layout=layout,
            source=arriving(layout, made, split.groups),
            target=wanted(layout),
        )
        for layout in split.inputs
        if not layout.given
    )
    return tuple(relay for relay in found if relay.sent_bytes.any())


def made_by(splits: Mapping[tuple[int, int], SegmentSplit], team: int) -> dict[str, TensorLayout]:
    """Tensors that the splits on a team make, by name."""
    return {layout.tensor: layout for (_, where), split in splits.items() if where == team for layout in split.outputs}
