"""Split a segment over several slots: by heads, by channels or along the sequence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import product
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.export import ExportedProgram

from workloads.errors import WorkloadError
from workloads.graph import OperatorKind
from workloads.segments import SegmentGraph
from workloads.sharding.flow import Each, Flow, Held, Policy, Way
from workloads.sharding.layout import FULL, Full, Placement, Shard, parts_cut
from workloads.sharding.members import Member, build_member
from workloads.sharding.program import SegmentPart, segment_parts
from workloads.sharding.rules import run
from workloads.sharding.views import is_list_of_views, view_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TensorLayout:
    """How a tensor of the program (by its node's name) lies on the members: whole, or cut evenly along `dim`.

    Member g holds the indices `pieces[g]` of `dim`. Joined along `dim`, the pieces are the tensor in the order `perm`;
    `perm` is None where that is its own order.
    """

    tensor: str
    shape: tuple[int, ...]
    nbytes: int
    dim: int | None = None
    pieces: tuple[NDArray[np.int64], ...] = ()
    perm: NDArray[np.int64] | None = None

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicated:
    """A layer that computes something and that every member runs whole, and why."""

    layer: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SegmentSplit:
    """A segment over `groups` members. One that is not `valid` has the `reason`, and no more.

    `flops_share` [members, layers of the segment] is the part of each layer's operations that a member runs, 0 where it
    has none. Weights and activations take the bytes of the traced dtypes.
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
                "perm": layout.perm,
                "inv_perm": np.argsort(layout.perm),
                "groups": self.groups,
                "way": self.way,
            }
            for layout in self.outputs
            if layout.perm is not None
        )


class Splitter:
    """Splits the segments of one exported program; what is known of the program is worked out once.

    Raises WorkloadError where the segments are of another graph, or the program is not a flat list of operator calls.
    """

    def __init__(self, program: ExportedProgram, segments: SegmentGraph) -> None:
        self.segments = segments
        self.parts = segment_parts(program, segments)

    def split(self, segment_id: int, *, groups: int, way: Way, permute_seed: int | None = None) -> SegmentSplit:
        """Return the split of a segment; see `split_segment`."""
        self._check(segment_id, groups, way)
        if permute_seed is not None and way != "channels":
            raise WorkloadError(f"channels of a split by {way} are not dealt out", "way='channels', or no permute_seed")
        part = self.parts[segment_id]
        tries = [_try(part, self.segments, groups, policy) for policy in _policies(way, permute_seed)]
        found = [split for split in tries if split.valid]
        return min(found, key=_rank) if found else tries[0]

    def ways(self, segment_id: int, *, groups: int) -> tuple[SegmentSplit, ...]:
        """Return the valid splits of a segment, best first; see `split_ways`."""
        splits = [self.split(segment_id, groups=groups, way=way) for way in get_args(Way)]
        known: set[tuple[Any, ...]] = set()
        found = []
        for split in splits:
            signature = (split.way == "sequence", split.largest_share, split.sent_bytes, len(split.collectives))
            if split.valid and signature not in known:
                known.add(signature)
                found.append(split)
        return tuple(sorted(found, key=lambda split: (split.largest_share, split.sent_bytes)))

    def _check(self, segment_id: int, groups: int, way: str) -> None:
        if not 0 <= segment_id < len(self.parts):
            raise WorkloadError(f"there is no segment {segment_id}", f"0 to {len(self.parts) - 1}")
        if isinstance(groups, bool) or not isinstance(groups, int) or groups < 2:
            raise WorkloadError(f"groups is {groups!r}", "a whole number, at least 2")
        if way not in get_args(Way):
            close = get_close_matches(way, get_args(Way), n=1)
            hint = f"did you mean {close[0]!r}?" if close else " or ".join(get_args(Way))
            raise WorkloadError(f"there is no way {way!r} to split a segment", hint)


def split_segment(
    program: ExportedProgram,
    segments: SegmentGraph,
    segment_id: int,
    *,
    groups: int,
    way: Way,
    permute_seed: int | None = None,
) -> SegmentSplit:
    """Return a segment split over `groups` members.

    Parameters
    ----------
    program
        What the segments' graph was made of; on any device, the meta device included.
    way
        "heads": attention by heads, the projections before and after it and other products by channels, as Megatron-LM
        (arXiv 1909.08053); valid where the segment holds attention whose heads `groups` divides. "channels":
        convolutions and products by output or input channels. "sequence": along a time, space or token axis; keys and
        values are gathered, convolutions read a halo.
    permute_seed
        Deal the channels of a split by channels out by a random permutation where no layer of the segment depends on
        their order (version_c.md 9.3).

    Raises
    ------
    WorkloadError
        If the program is not the segments', or the arguments are out of range. A segment that cannot be split so is no
        error: the split says why.
    """
    return Splitter(program, segments).split(segment_id, groups=groups, way=way, permute_seed=permute_seed)


def split_ways(
    program: ExportedProgram, segments: SegmentGraph, segment_id: int, *, groups: int
) -> tuple[SegmentSplit, ...]:
    """Return the valid splits of a segment, best first by the largest member's share of operations, then bytes sent.

    Ways that come to the same split are listed once, under the first of their names. Raises as `split_segment`.
    """
    return Splitter(program, segments).ways(segment_id, groups=groups)


def _policies(way: Way, seed: int | None) -> Iterator[Policy]:
    if way == "sequence":
        for axis in (1, 2):
            yield Policy(way=way, axis=axis)
    else:
        for eager in (False, True):
            yield Policy(way=way, eager=eager, seed=seed)


def _rank(split: SegmentSplit) -> tuple[float, int]:
    """Least work of a member to a hundredth, then least bytes."""
    return round(split.largest_share, 2), split.sent_bytes


def _try(part: SegmentPart, segments: SegmentGraph, groups: int, policy: Policy) -> SegmentSplit:
    """Split by one policy. Inputs that turn out to be gathered from slices are asked for whole."""
    full: frozenset[str] = frozenset()
    while True:
        flow = Flow(part, groups, policy, full)
        flowed = _flow(flow, segments)
        if isinstance(flowed, str):
            return SegmentSplit(segment=part.segment, way=policy.way, groups=groups, reason=flowed)
        gathered = {
            exchange.source.root.name
            for exchange in flow.exchanges
            if exchange.kind in ("all_gather", "all_to_all") and exchange.source.root.kind == "input"
        }
        if gathered <= full:
            return _finish(flow, segments, *flowed)
        full |= gathered


def _flow(
    flow: Flow, segments: SegmentGraph
) -> tuple[list[tuple[fx.Node, Held, Placement, Each]], list[Replicated]] | str:
    """Run all calls of the segment on the members; return its outputs and what ran whole, or why it cannot be."""
    part, values = flow.part, dict[fx.Node, Any]()
    values |= {node: flow.weight(node, name) for node, name in part.weights.items()}
    values |= {node: flow.input(node) for node in part.inputs}
    layers, replicated = segments.graph.layers, []
    heads = False
    for node in part.nodes:
        layer = part.layers.get(node, -1)
        flow.layer = layer if layer >= 0 else flow.layer
        if is_list_of_views(node) or (not _tensors(node) and layer < 0):
            continue
        found = view_of(node)
        if found is not None:
            value = node.meta["val"]
            shape = tuple(int(size) for size in value.shape)
            values[node] = Held(shape=shape, dtype=value.dtype, source=values[found[0]], view=found[1], layer=layer)
            continue
        if getattr(node.target, "__name__", "") == "getitem":
            values[node] = values[node.args[0]][node.args[1]]
            continue
        kind = layers[layer].kind if layer >= 0 else None
        values[node], reason = run(flow, node, values, layer, kind)
        if not node.users:  # what a model computes and does not use costs as much
            _keep(values[node])
        if reason and layer >= 0 and layers[layer].flops:
            replicated.append(Replicated(layer=layer, reason=reason))
        if kind is OperatorKind.ATTENTION and flow.policy.way == "heads":
            if reason or not all(isinstance(form, Shard) and form.dim == len(values[node].shape) - 3 for form in values[node].own):
                count = values[node].shape[-3]
                return f"{layers[layer].name} has {count} heads, which {flow.members} does not divide"
            heads = True
    if flow.policy.way == "heads" and not heads and not _heads_by_products(flow, segments, values):
        return "the segment has no attention whose heads could be shared out"
    outputs = []
    for node in part.outputs:
        held = values[node]
        placement = _even(flow, held)
        if placement is None:
            return f"{flow.members} divides no dimension of {node.name}, of shape {'x'.join(map(str, held.shape))}"
        outputs.append((node, held, placement, flow.place(held, placement)))
    return outputs, replicated


def _keep(made: Held | list[Held]) -> None:
    for held in made if isinstance(made, list) else [made]:
        for pieces in held.own.values():
            for piece in pieces:
                piece.meta["kept"] = True


def _tensors(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value))


def _heads_by_products(flow: Flow, segments: SegmentGraph, values: dict[fx.Node, Any]) -> bool:
    """Whether a product of activations, as attention that is written out, is cut by heads."""
    layers = segments.graph.layers
    for node, layer in flow.part.layers.items():
        if layers[layer].kind is OperatorKind.MATMUL and isinstance(held := values.get(node), Held):
            rank = len(held.shape)
            if rank >= 4 and any(isinstance(form, Shard) and form.dim == rank - 3 for form in held.own):
                return True
    return False


def _even(flow: Flow, held: Held) -> Placement | None:
    """The even cut along one dimension in which members come to hold an output at the least cost."""
    candidates: list[Shard] = [f for f in held.forms() if isinstance(f, Shard) and f.cut.even]
    preferred = held.preferred
    if preferred is not None and preferred.cut.even:
        candidates.append(preferred)
    for dim in sorted(range(len(held.shape)), key=lambda dim: -held.shape[dim]):
        cut = parts_cut((held.shape[dim],), flow.members)
        if cut is not None:
            candidates.append(Shard(dim, cut))
    return min(candidates, key=lambda shard: flow.cost(held, shard), default=None)


def _finish(
    flow: Flow,
    segments: SegmentGraph,
    outputs: Sequence[tuple[fx.Node, Held, Placement, Each]],
    replicated: Sequence[Replicated],
) -> SegmentSplit:
    members = tuple(
        build_member(flow, number, [pieces[number] for *_, pieces in outputs], segments)
        for number in range(flow.members)
    )
    alive = set(members[0].program.graph.nodes)
    exchanges = [exchange for exchange in flow.exchanges if exchange.calls[0] in alive]
    layers = tuple(segments.segments[flow.part.segment].layer_indices)
    position = {layer: index for index, layer in enumerate(layers)}
    whole = np.array([segments.graph.layers[layer].flops for layer in layers], float)
    flops = np.zeros((len(members), len(layers)))
    for member in members:
        for layer, origin in zip(member.graph.layers, member.layer_of.tolist(), strict=True):
            if origin >= 0:
                flops[member.number, position[origin]] += layer.flops
    share = np.divide(flops, whole, out=np.zeros_like(flops), where=whole > 0)
    largest = float(flops.sum(1).max() / whole.sum()) if whole.sum() else 1.0
    ran = defaultdict(list)
    for entry in replicated:
        ran[entry.layer].append(entry)
    split = SegmentSplit(
        segment=flow.part.segment,
        way=flow.policy.way,
        groups=flow.members,
        layers=layers,
        members=members,
        flops_share=share,
        largest_share=largest,
        collectives=tuple(
            Collective(kind=e.kind, sent_bytes=e.sent_bytes, layer=e.layer if e.layer >= 0 else layers[-1])
            for e in exchanges
        ),
        inputs=tuple(
            _layout(node, flow.inputs[node.name]) for node in flow.part.inputs if node.name in members[0].inputs
        ),
        outputs=tuple(_layout(node, placement) for node, _, placement, _ in outputs),
        replicated=tuple(replicated),
    )
    if largest < 1.0:
        return split
    reason = "; ".join(f"{segments.graph.layers[r.layer].name}: {r.reason}" for r in replicated[:3])
    return SegmentSplit(
        segment=split.segment,
        way=split.way,
        groups=split.groups,
        reason=reason or "the segment computes nothing that could be shared out",
    )


def _layout(node: fx.Node, placement: Placement) -> TensorLayout:
    value = node.meta["val"]
    shape = tuple(int(size) for size in value.shape)
    size = int(np.prod(shape, dtype=np.int64)) * value.dtype.itemsize
    if isinstance(placement, Full):
        return TensorLayout(tensor=node.name, shape=shape, nbytes=size)
    assert isinstance(placement, Shard)
    cut = placement.cut
    perm = None if cut.bounds is not None else cut.order
    return TensorLayout(tensor=node.name, shape=shape, nbytes=size, dim=placement.dim, pieces=cut.pieces, perm=perm)


__all__ = ["FULL", "Collective", "Member", "SegmentSplit", "Splitter", "TensorLayout", "split_segment", "split_ways"]
