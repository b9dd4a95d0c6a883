"""Which part of an exported program belongs to each segment: its operator calls, what it reads and what it makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from workloads.dataflow import Walker, _placeholders
from workloads.errors import WorkloadError
from workloads.segments import SegmentGraph

HARMLESS = frozenset({"aten::detach_"})
"""In-place operators that change no value: torch.export calls this one on constants that `forward` makes."""

FLAT_HINT = "export it so that it calls operators only: program.run_decompositions({})"


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentPart:
    """The part of an exported program that computes one segment.

    `nodes` are its operator calls in order: its layers, and the views that lead from `inputs` to them (a view belongs
    to whoever reads it). `inputs` are tensors that layers of other segments made, or inputs of the model; `outputs` are
    tensors made here that another segment or the model's answer reads, through whatever views. `weights` are
    placeholders of parameters, buffers and constants, by their names in the program. `layers` maps calls to layers.
    """

    segment: int
    nodes: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    weights: dict[fx.Node, str]
    layers: dict[fx.Node, int]


class _LayerWalker(Walker):
    """Keeps which call each layer is of."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[fx.Node] = []

    def _layer(self, node: Any, *rest: Any) -> Any:
        self.calls.append(node)
        return super()._layer(node, *rest)


def layer_nodes(program: ExportedProgram) -> list[fx.Node]:
    """Return the call that each layer of the program's workload graph is of, in the order of the layers.

    Raises WorkloadError where the program is not a flat list of calls that leave their arguments alone.
    """
    for node in program.graph.nodes:
        if node.op == "get_attr" or isinstance(node.target, torch._ops.HigherOrderOperator):
            raise WorkloadError(f"the program runs {node.target} as a graph of its own", FLAT_HINT)
        target = node.target
        if (
            isinstance(target, torch._ops.OpOverload)
            and target._schema.is_mutable
            and target._schema.name not in HARMLESS
        ):
            raise WorkloadError(f"the program writes in place by {node.target}, {node.name}", FLAT_HINT)
    walker = _LayerWalker()
    walker.walk(program.graph_module, _placeholders(program)[0])
    return walker.calls


def segment_parts(program: ExportedProgram, segments: SegmentGraph) -> tuple[SegmentPart, ...]:
    """Return the parts of the program that compute each of the segments of its graph.

    Raises WorkloadError where the segments are of another graph, or as `layer_nodes`.
    """
    calls = layer_nodes(program)
    if len(calls) != len(segments.graph.layers):
        raise WorkloadError(
            f"the program has {len(calls)} layers, the segments' graph {segments.graph.name} has "
            f"{len(segments.graph.layers)}",
            "segments of the graph that this program makes",
        )
    layers = {node: index for index, node in enumerate(calls)}
    home = {node: int(segments.segment_of_layer[index]) for node, index in layers.items()}
    for node in program.graph.nodes:  # one of several results of a layer stands for a tensor that the layer made
        if _is_item(node) and node.args[0] in layers:
            home[node] = home[node.args[0]]
    weights = _weights(program)
    graph = program.graph
    position = {node: index for index, node in enumerate(graph.nodes)}
    read = _read_elsewhere(home)
    parts = []
    for segment in range(len(segments)):
        mine = [node for node, index in layers.items() if segments.segment_of_layer[index] == segment]
        nodes, inputs, used = set(mine), set[fx.Node](), dict[fx.Node, str]()
        made = {node for node, where in home.items() if where == segment}
        waiting = [*mine, *made]
        while waiting:
            node = waiting.pop()
            nodes.add(node)
            for source in node.all_input_nodes:
                if source in weights:
                    used[source] = weights[source]
                elif source.op == "placeholder" or home.get(source, segment) != segment:
                    inputs.add(source)
                elif source not in nodes:
                    waiting.append(source)
        ordered = sorted(nodes, key=position.__getitem__)
        parts.append(
            SegmentPart(
                segment=segment,
                nodes=tuple(ordered),
                inputs=tuple(sorted(inputs, key=position.__getitem__)),
                outputs=tuple(sorted((node for node in made if node in read), key=position.__getitem__)),
                weights={node: used[node] for node in sorted(used, key=position.__getitem__)},
                layers={node: layers[node] for node in mine},
            )
        )
    return tuple(parts)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape of the tensor that a call returns."""
    return tuple(int(size) for size in node.meta["val"].shape)


def _is_item(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", "") == "getitem"


def _weights(program: ExportedProgram) -> dict[fx.Node, str]:
    """Placeholders that are not inputs of the model, with the names of what they hold."""
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    specs = program.graph_signature.input_specs
    return {
        node: str(spec.target)
        for node, spec in zip(placeholders, specs, strict=True)
        if spec.kind != InputKind.USER_INPUT
    }


def _read_elsewhere(home: dict[fx.Node, int]) -> set[fx.Node]:
    """Tensors that layers make and that, through views, another segment or the model's answer reads."""
    found = set()
    for node in home:
        if not isinstance(node.meta.get("val"), torch.Tensor):
            continue
        waiting, seen = list(node.users), set[fx.Node]()
        while waiting:
            user = waiting.pop()
            if user in seen:
                continue
            seen.add(user)
            if user.op == "output" or home.get(user, home[node]) != home[node]:
                found.add(node)
                break
            if user not in home:
                waiting.extend(user.users)
    return found
