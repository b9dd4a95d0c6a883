"""Run the calls of a segment on a team, placed by one policy, and record what came of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, fx

from workloads.graph import OperatorKind
from workloads.segments import SegmentGraph
from workloads.sharding.flow import Flow, Policy
from workloads.sharding.held import Each, Held
from workloads.sharding.layout import Full, Placement, Shard, parts_cut
from workloads.sharding.members import build_member
from workloads.sharding.program import SegmentPart, shape_of
from workloads.sharding.record import Collective, Replicated, SegmentSplit, TensorLayout, real_bytes
from workloads.sharding.rules import run
from workloads.sharding.views import is_list_of_views, view_of

PRODUCTS = frozenset({OperatorKind.ATTENTION, OperatorKind.MATMUL})
"""Kinds of the layers that attention is made of."""

NO_ATTENTION = "the segment has no attention whose heads could be shared out"


def partition(part: SegmentPart, segments: SegmentGraph, groups: int, policy: Policy) -> SegmentSplit:
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
    layers, replicated = segments.graph.layers, []
    if flow.policy.way == "heads" and not PRODUCTS & {layers[layer].kind for layer in part.layers.values()}:
        return NO_ATTENTION
    values |= {node: flow.weight(node, name) for node, name in part.weights.items()}
    values |= {node: flow.input(node) for node in part.inputs}
    heads = False
    flow.layer = min(part.layers.values())
    for node in part.nodes:
        layer = part.layers.get(node, -1)
        flow.layer = layer if layer >= 0 else flow.layer
        if is_list_of_views(node) or (not _tensors(node) and layer < 0):
            continue
        found = view_of(node)
        if found is not None:
            source, view = found
            values[node] = Held(
                shape=shape_of(node), dtype=node.meta["val"].dtype, source=values[source], view=view, layer=layer
            )
            continue
        if getattr(node.target, "__name__", "") == "getitem":
            source, index = node.all_input_nodes[0], node.args[1]
            values[node] = values[source][index]
            continue
        kind = layers[layer].kind if layer >= 0 else None
        values[node], reason = run(flow, node, values, layer, kind)
        if not node.users:  # what a model computes and does not use costs as much
            _keep(values[node])
        if reason and layer >= 0 and layers[layer].flops:
            replicated.append(Replicated(layer=layer, reason=reason))
        if kind is OperatorKind.ATTENTION and flow.policy.way == "heads":
            by_heads = len(values[node].shape) - 3
            if not all(isinstance(form, Shard) and form.dim == by_heads for form in values[node].own):
                count = values[node].shape[by_heads]
                return f"{layers[layer].name} has {count} heads, which {flow.members} does not divide"
            heads = True
    if flow.policy.way == "heads" and not heads and not _heads_by_products(flow, segments, values):
        return NO_ATTENTION
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
    """Whether products of activations, as attention that is written out, are cut by heads: parts of the channels."""
    layers = segments.graph.layers
    for node, layer in flow.part.layers.items():
        if layers[layer].kind is not OperatorKind.MATMUL or len(values[node].shape) < 4:
            continue
        heads = len(values[node].shape) - 3
        cut = next((form for form in values[node].own if isinstance(form, Shard) and form.dim == heads), None)
        if cut is not None and any(_of_channels(values[source], cut) for source in node.all_input_nodes):
            return True
    return False


def _of_channels(held: Held, shard: Shard) -> bool:
    """Whether a cut of a view is one of the channels, the last dimension, of what it is a view of."""
    placement: Placement | None = shard
    while held.source is not None and held.view is not None and isinstance(placement, Shard):
        placement, held = held.view.inverse(placement), held.source
    return isinstance(placement, Shard) and held.kind == "made" and placement.dim == len(held.shape) - 1


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
    known = {entry.layer for entry in replicated}
    overlapping = [
        Replicated(layer=layer, reason="members' pieces of what it reads overlap")
        for layer, total in zip(layers, share.sum(0).tolist(), strict=True)
        if total > 1 + 1e-9 and layer not in known
    ]
    replicated = sorted([*replicated, *overlapping], key=lambda entry: entry.layer)
    split = SegmentSplit(
        segment=flow.part.segment,
        way=flow.policy.way,
        groups=flow.members,
        layers=layers,
        members=members,
        flops_share=share,
        largest_share=largest,
        collectives=tuple(
            Collective(kind=e.kind, sent_bytes=e.sent_bytes, layer=e.layer, float_bytes=real_bytes(e.source.dtype))
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
    dtype, shape = node.meta["val"].dtype, shape_of(node)
    whole = TensorLayout(
        tensor=node.name,
        shape=shape,
        nbytes=math.prod(shape) * dtype.itemsize,
        float_bytes=real_bytes(dtype),
        given=node.op == "placeholder",
    )
    if isinstance(placement, Full):
        return whole
    assert isinstance(placement, Shard)
    cut = placement.cut
    perm = None if cut.bounds is not None else cut.order
    return replace(whole, dim=placement.dim, pieces=cut.pieces, perm=perm)
