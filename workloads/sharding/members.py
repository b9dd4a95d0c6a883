"""A member of a split: the program that it runs, and what that costs by the rules that count every traced model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from workloads.calls import Call, Count
from workloads.dataflow import Walker, _resolve
from workloads.graph import Layer, WorkloadGraph
from workloads.memory import peak_memory
from workloads.segments import SegmentGraph
from workloads.sharding.flow import Flow
from workloads.sharding.layout import Full, Placement, Shard
from workloads.sharding.team import Team
from workloads.values import Storage, Value, view_of, what_is_read


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightPiece:
    """What a member keeps of a parameter, buffer or constant: all of it, or `indices` of dimension `dim`."""

    name: str
    dim: int = -1
    indices: NDArray[np.int64] | None = None

    def of(self, weight: Tensor) -> Tensor:
        """Return the piece of the weight."""
        if self.indices is None:
            return weight
        return weight.index_select(self.dim, torch.from_numpy(self.indices).to(weight.device))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Member:
    """One member's program, and its workload graph.

    `program` takes the member's Team, its `inputs` (by the names of the program's nodes, each whole or a slice as the
    split says), its pieces of `weights`, in these orders, and returns its pieces of the split's outputs. `graph` holds
    the layers that it runs; `layer_of` [N] is the layer of the whole graph whose work each does, -1 for what only the
    split needs. `workspace_bytes` is the peak of its live activations.
    """

    number: int
    program: fx.GraphModule
    inputs: tuple[str, ...]
    weights: tuple[WeightPiece, ...]
    graph: WorkloadGraph
    layer_of: NDArray[np.int64]
    weight_bytes: int
    workspace_bytes: int

    def run(self, team: Team, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Run the program on pieces of the inputs, with weights cut from the model's `tensors` by name."""
        pieces = [piece.of(tensors[piece.name]) for piece in self.weights]
        made: tuple[Tensor, ...] = self.program(team, *inputs, *pieces)
        return made


class _MemberWalker(Walker):
    """Counts a member's program: what the team brings is read as an input is."""

    def __init__(self) -> None:
        super().__init__()
        self.origins: list[int] = []
        self.traffic: dict[tuple[int, int], int] = {}  # producer and consumer -> bytes

    def _call(self, node: fx.Node, values: Mapping[fx.Node, Any], scope: tuple[str, str]) -> Any:
        if node.op == "call_method":
            tensor = node.meta["val"]
            return view_of(tensor, Storage(tensor.numel() * tensor.element_size()))
        counted = node.meta.get("counted")
        if counted is not None:  # it calls the team; its work is that of the operator on the member's piece
            args = _resolve(node.args[1:], values)[: len(counted._schema.arguments)]
            return self._operator(node, counted, args, {}, values, scope)
        return super()._call(node, values, scope)

    def _layer(self, node: Any, name: str, figures: Count, call: Call | None, inputs: list[Value], *rest: Any) -> Any:
        for storage, nbytes in what_is_read(inputs)[1].items():
            if storage.producer is not None and nbytes:
                pair = storage.producer, len(self.layers)
                self.traffic[pair] = self.traffic.get(pair, 0) + nbytes
        self.origins.append(node.meta["layer"])
        return super()._layer(node, name, figures, call, inputs, *rest)


def build_member(flow: Flow, number: int, outputs: Sequence[fx.Node], segments: SegmentGraph) -> Member:
    """Return member `number` of a flow whose pieces of the segment's outputs are `outputs`."""
    graph = flow.graphs[number]
    root = nn.Module()
    for name, order in flow.orders.items():
        root.register_buffer(name, order)
    names = [node.name for node in flow.part.inputs if node.name in flow.inputs]
    placeholders = {str(node.target): node for node in graph.nodes if node.op == "placeholder"}
    graph.output(tuple(outputs))
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or node.meta.get("kept", False))
    cuts = {name: cut for name, cut in flow.cuts.items() if placeholders[name].users}
    _arrange(graph, placeholders, ["team", *names, *cuts])
    program = fx.GraphModule(root, graph)
    walker = _MemberWalker()
    held: list[Any] = [None]
    for name in names:
        tensor = placeholders[name].meta["val"]
        held.append(view_of(tensor, Storage(tensor.numel() * tensor.element_size())))
    pieces = []
    for name, (weight, placement) in cuts.items():
        tensor = placeholders[name].meta["val"]
        size = tensor.numel() * tensor.element_size()
        held.append(view_of(tensor, Storage(size, weight=f"{weight} ({name})", trainable=False)))
        pieces.append(_piece(weight, placement, number))
    walker.walk(program, held)
    edges = sorted(walker.traffic)
    whole = segments.graph
    mine = WorkloadGraph(
        name=f"{whole.name}, segment {flow.part.segment}, member {number}",
        layers=tuple(walker.layers),
        edges=np.array(edges, dtype=np.int64).reshape(-1, 2),
        edge_bytes=np.array([walker.traffic[edge] for edge in edges], dtype=np.int64),
        parameters=0,
        weight_bytes=_resident(walker.layers),
        input_shapes=tuple(value.shape for value in held if isinstance(value, Value) and not value.storage.weight),
        batch=whole.batch,
        aliases=dict(sorted(walker.aliases.items())),
        refused=dict(sorted(walker.refused.items())),
    )
    return Member(
        number=number,
        program=program,
        inputs=tuple(names),
        weights=tuple(pieces),
        graph=mine,
        layer_of=np.array(walker.origins, dtype=np.int64),
        weight_bytes=mine.weight_bytes,
        workspace_bytes=peak_memory(mine).activation_bytes,
    )


def _arrange(graph: fx.Graph, placeholders: Mapping[str, fx.Node], order: Sequence[str]) -> None:
    """Put the placeholders into this order, and drop the others."""
    for name, node in placeholders.items():
        if name not in order:
            graph.erase_node(node)
    first = next(iter(graph.nodes))
    for name in order:
        if placeholders[name] is first:
            first = first.next
        else:
            first.prepend(placeholders[name])


def _piece(weight: str, placement: Placement, number: int) -> WeightPiece:
    if isinstance(placement, Full):
        return WeightPiece(name=weight)
    assert isinstance(placement, Shard)
    return WeightPiece(name=weight, dim=placement.dim, indices=placement.cut.pieces[number])


def _resident(layers: Sequence[Layer]) -> int:
    """Bytes of the weights, and of the index tensors of permutations, that the layers read."""
    ends: dict[str, int] = {}
    for layer in layers:
        for name, (_, end) in layer.weights.items():
            ends[name] = max(ends.get(name, 0), end)
    return sum(ends.values())
