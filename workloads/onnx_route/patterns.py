"""Operators of PyTorch that its exporters write as several of ONNX, put together again so that they count as one.

A linear layer (MatMul, Add), group normalisation (Reshape, InstanceNormalization, Reshape, Mul, Add) and GELU before
opset 20 (Div, Erf, Add, Mul, Mul). Everything else that a file writes out is counted as written.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from workloads.onnx_route.module import Array
from workloads.onnx_route.operators import Node

Shapes = Mapping[str, tuple[int, ...]]
Found = tuple[Node, Sequence[Node]]
"""The one node, and those whose place it takes, in the file's order."""


class Graph:
    """Who makes and who reads each value, the shapes of the parameters, and the values that are known."""

    def __init__(self, nodes: Sequence[Node], outputs: Sequence[str], parameters: Shapes, known: Mapping[str, Array]):
        self.nodes, self.parameters, self.known = nodes, parameters, known
        self.maker = {name: node for node in nodes for name in node.outputs if name}
        self.readers: dict[str, list[Node]] = defaultdict(list)
        for node in nodes:
            for name in node.inputs:
                self.readers[name].append(node)
        for name in outputs:  # a value that leaves the graph has to stay
            self.readers[name] += [Node(name="", operator="", opset=0)] * 2

    def after(self, node: Node, operator: str) -> tuple[Node, str] | None:
        """Return the only reader of a node's output, if it is this binary operator, and its other input."""
        readers = self.readers[node.outputs[0]]
        if len(readers) != 1 or readers[0].operator != operator:
            return None
        others = [name for name in readers[0].inputs if name != node.outputs[0]]
        return (readers[0], others[0]) if len(others) == 1 else None

    def is_number(self, name: str, value: float) -> bool:
        """Whether a value is known to be this number, as an array of one or of equal elements."""
        array = self.known.get(name)
        return array is not None and array.size > 0 and bool((abs(array - value) < 1e-4).all())


def _linear(graph: Graph, node: Node) -> Found | None:
    weight = graph.parameters.get(node.inputs[1], ())
    if len(weight) != 2 or (added := graph.after(node, "Add")) is None:
        return None
    add, bias = added
    if graph.parameters.get(bias) != weight[1:]:
        return None
    return replace(node, inputs=(*node.inputs, bias), outputs=add.outputs), (node, add)


def _group_norm(graph: Graph, node: Node) -> Found | None:
    before, scale, bias = graph.maker.get(node.inputs[0]), *node.inputs[1:3]
    if before is None or before.operator != "Reshape" or len(graph.readers[node.inputs[0]]) != 1:
        return None
    shape = graph.known.get(before.inputs[1])
    if shape is None or len(shape) != 3 or shape[0] != 0 or shape[2] != -1:
        return None
    after = graph.readers[node.outputs[0]]
    if len(after) != 1 or after[0].operator != "Reshape":
        return None
    if not (graph.is_number(scale, 1.0) and graph.is_number(bias, 0.0)):
        return None
    product = graph.after(after[0], "Mul")
    total = graph.after(product[0], "Add") if product is not None else None
    if product is None or total is None or product[1] not in graph.parameters or total[1] not in graph.parameters:
        return None
    sizes = {math.prod(graph.parameters[name]) for name in (product[1], total[1])}
    if len(sizes) != 1 or sizes.pop() % int(shape[1]):
        return None
    one = replace(
        node,
        operator="GroupNormalization",
        opset=21,
        inputs=(before.inputs[0], product[1], total[1]),
        outputs=total[0].outputs,
        attributes={**node.attributes, "num_groups": int(shape[1])},
    )
    return one, (before, node, after[0], product[0], total[0])


def _gelu(graph: Graph, node: Node) -> Found | None:
    """x / 2 (1 + erf(x / sqrt 2)), the half multiplied before or after x."""
    scaled = graph.maker.get(node.inputs[0])
    if scaled is None or len(scaled.inputs) != 2 or len(graph.readers[node.inputs[0]]) != 1:
        return None
    x, factor = scaled.inputs
    if not graph.is_number(factor, {"Div": math.sqrt(2), "Mul": math.sqrt(0.5)}.get(scaled.operator, math.nan)):
        return None
    total = graph.after(node, "Add")
    if total is None or not graph.is_number(total[1], 1.0):
        return None
    first = graph.after(total[0], "Mul")
    second = graph.after(first[0], "Mul") if first is not None else None
    if first is None or second is None:
        return None
    a, b = first[1], second[1]
    if not ((a == x and graph.is_number(b, 0.5)) or (b == x and graph.is_number(a, 0.5))):
        return None
    one = replace(node, operator="Gelu", inputs=(x,), outputs=second[0].outputs, attributes={})
    return one, (scaled, node, total[0], first[0], second[0])


PATTERNS: Mapping[str, Callable[[Graph, Node], Found | None]] = {
    "MatMul": _linear,
    "InstanceNormalization": _group_norm,
    "Erf": _gelu,
}
"""Operator that a pattern is looked for at -> what finds it."""


def put_together(
    nodes: Sequence[Node], outputs: Sequence[str], parameters: Shapes, known: Mapping[str, Array]
) -> tuple[Node, ...]:
    """Return the nodes with each pattern's in one, at the place of its last."""
    graph = Graph(nodes, outputs, parameters, known)
    instead: dict[int, Node | None] = {}
    for node in nodes:
        found = PATTERNS[node.operator](graph, node) if node.operator in PATTERNS else None
        if found is not None and not any(id(part) in instead for part in found[1]):
            instead |= dict.fromkeys(map(id, found[1]))
            instead[id(found[1][-1])] = found[0]
    return tuple(kept for node in nodes if (kept := instead.get(id(node), node)) is not None)
