"""SegmentSplit: a segment over several members, what each computes, keeps and sends, and how its tensors lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads.graph import WorkloadGraph
from workloads.precision import scaled
from workloads.sharding.flow import Way
from workloads.sharding.members import Member
from workloads.weights import weight_bytes_of_groups


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TensorLayout:
    """How a tensor of the program (by its node's name) lies on the members: whole, or cut evenly along `dim`.

    Member g holds the indices `pieces[g]` of `dim`. Joined along `dim`, the pieces are the tensor in the order `perm`;
    `perm` is None where that is its own order. An input of the model is `given` to every member whole.
    """

    tensor: str
    shape: tuple[int, ...]
    nbytes: int  # of all of it
    float_bytes: int = 0  # of one real number, 0 of whole numbers
    dim: int | None = None
    pieces: tuple[NDArray[np.int64], ...] = ()
    perm: NDArray[np.int64] | None = None
    given: bool = False

    @property
    def full(self) -> bool:
        """Whether every member has all of it."""
        return self.dim is None

    def piece(self, tensor: Tensor, member: int) -> Tensor:
        """Return what a member holds of the tensor."""
        if self.dim is None:
            return tensor
        return tensor.index_select(self.dim, torch.from_numpy(self.pieces[member]).to(tensor.device))

    def join(self, pieces: Sequence[Tensor]) -> Tensor:
        """Return the tensor that the members hold."""
        if self.dim is None:
            return pieces[0]
        whole = torch.cat(list(pieces), self.dim)
        if self.perm is None:
            return whole
        return whole.index_select(self.dim, torch.from_numpy(np.argsort(self.perm)).to(whole.device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """A collective of a split: what each member sends, for the layer that waits for it (of the whole graph)."""

    kind: str  # all_gather, reduce_scatter, all_reduce, all_to_all, halo
    sent_bytes: tuple[int, ...]
    layer: int
    float_bytes: int  # of one real number of what is sent, 0 of whole numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicated:
    """A layer that computes something and that every member runs whole, and why."""

    layer: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SplitSizes:
    """What the members of a split cost, as arrays: the seam to cost models.

    `rows` are LAYER_FEATURES [layers of the member] of each member, `weight_bytes` [members] what it keeps,
    `workspace_bytes` [members] its live activations at their peak, `sent_bytes` [collectives, members] what it sends.
    """

    rows: tuple[NDArray[np.void], ...]
    weight_bytes: NDArray[np.float64]
    workspace_bytes: NDArray[np.float64]
    sent_bytes: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SegmentSplit:
    """A segment over `groups` members. One that is not `valid` has the `reason`, and no more.

    `flops_share` [members, layers of the segment] is the part of each layer's operations that a member runs, 0 where it
    has none. All bytes are those of the traced dtypes; `at` tells those at another precision.
    """

    segment: int
    way: Way
    groups: int
    reason: str = ""
    layers: tuple[int, ...] = ()
    members: tuple[Member, ...] = ()
    flops_share: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    largest_share: float = 1.0  # of the segment's operations
    collectives: tuple[Collective, ...] = ()
    inputs: tuple[TensorLayout, ...] = ()
    outputs: tuple[TensorLayout, ...] = ()
    replicated: tuple[Replicated, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether the members can run it."""
        return not self.reason

    @property
    def sent_bytes(self) -> int:
        """What the member that sends most sends in collectives."""
        return max(map(sum, zip(*(c.sent_bytes for c in self.collectives), strict=True)), default=0)

    def at(self, float_bytes: int) -> SplitSizes:
        """Return the arrays that a cost model reads, with floating values of `float_bytes`."""
        sized = [scaled(member.graph, float_bytes) for member in self.members]
        together = [np.zeros(len(member.graph.layers), np.int64) for member in self.members]
        rates = [_growth(member.graph, float_bytes) for member in self.members]
        sent = [
            np.array(c.sent_bytes, float) * (float_bytes / c.float_bytes if c.float_bytes else 1.0)
            for c in self.collectives
        ]
        return SplitSizes(
            rows=tuple(one.rows for one in sized),
            weight_bytes=np.array(
                [
                    weight_bytes_of_groups(member.graph, one.growth, group, 1)[0]
                    for member, one, group in zip(self.members, sized, together, strict=True)
                ]
            ),
            workspace_bytes=np.array([m.workspace_bytes * rate for m, rate in zip(self.members, rates, strict=True)]),
            sent_bytes=np.array(sent).reshape(len(sent), self.groups),
        )

    @property
    def rewire_meta(self) -> tuple[dict[str, Any], ...]:
        """What puts the channels back in order, an entry for each output whose joined pieces are permuted.

        `ChannelPermute(perm, dim)` is what the split does to the tensor at the segment's exit,
        `ChannelPermute(inv_perm, dim)` undoes it at the entry of each segment that reads it (version_c.md 9.3).
        """
        return tuple(
            {
                "segment_id": self.segment,
                "tensor": layout.tensor,
                "dim": layout.dim,
                "perm": torch.from_numpy(layout.perm),
                "inv_perm": torch.from_numpy(np.argsort(layout.perm)),
                "groups": self.groups,
                "way": self.way,
            }
            for layout in self.outputs
            if layout.perm is not None
        )


def real_bytes(dtype: torch.dtype) -> int:
    """Bytes of one real number of a dtype, 0 of whole numbers."""
    return dtype.itemsize // (2 if dtype.is_complex else 1) if dtype.is_complex or dtype.is_floating_point else 0


def _growth(graph: WorkloadGraph, float_bytes: int) -> float:
    """How much larger activations are with values of `float_bytes`: as that of the layer with the largest output."""
    largest = max(graph.layers, key=lambda layer: layer.output_bytes if layer.float_bytes else 0, default=None)
    return float_bytes / largest.float_bytes if largest is not None and largest.float_bytes else 1.0
