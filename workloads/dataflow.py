"""From an exported program to layers and edges: views become edges, bodies are walked in place, updates are ordered."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from workloads.calls import Call, Count
from workloads.errors import WorkloadError
from workloads.flops import IDENTITIES, RULES, count, looked_up
from workloads.graph import EDGE_PART, Layer, OperatorKind, Phase, WorkloadGraph
from workloads.shapes import SequenceFeatures, sequence_features, shape_parameters
from workloads.sources import source_of
from workloads.traffic import changes
from workloads.values import (
    Storage,
    Value,
    float_bytes,
    identity,
    itemsize,
    spans,
    spec_of,
    specs_in,
    tensors_in,
    values_in,
    view_of,
    weight_traffic,
    what_is_read,
)

BODIES = frozenset({"wrap_with_autocast", "wrap_with_set_grad_enabled", "invoke_subgraph", "tag_activation_checkpoint"})
"""Higher-order operators whose body runs once, in place."""

DENSE_HINT = (
    "write it with dense tensors: a batch dimension instead of vmap, padding instead of nesting; of a function, not of "
    "its derivative (--mode train traces a training step)"
)

OVERWRITES = frozenset(
    ["copy", "fill", "zero", "uniform", "normal", "random", "exponential", "geometric", "cauchy", "log_normal"]
)
"""In-place operators that do not read what they write."""


@dataclass(slots=True)
class Walker:
    """The state of one walk over an exported program."""

    layers: list[Layer] = field(default_factory=list)
    reads: dict[tuple[int, int, int, int], tuple[int, int]] = field(default_factory=dict)  # fields of EDGE_PART
    numbers: dict[tuple[Any, ...], int] = field(default_factory=dict)  # of tensors, and of parts of them
    aliases: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)
    phase: Phase = "forward"

    def walk(self, module: fx.GraphModule, inputs: Sequence[Any], scope: tuple[str, str] = ("", "")) -> Any:
        """Walk a graph module with its placeholders bound to `inputs`; return what it returns."""
        values: dict[fx.Node, Any] = {}
        bound = iter(inputs)
        for node in module.graph.nodes:
            _check_dense(node, scope)
            if node.op == "placeholder":
                values[node] = next(bound)
            elif node.op == "get_attr":
                values[node] = _attribute(module, str(node.target))
            elif node.op == "output":
                return _resolve(node.args[0], values)
            else:
                here = _scope(node, scope)
                try:
                    values[node] = self._call(node, values, here)
                except GuardOnDataDependentSymNode:
                    raise WorkloadError(
                        f"the size of what {node.target} returns {_place(node, scope)} depends on the data, so its "
                        "cost has no number",
                        "give it a fixed size: torch.where, topk or a mask instead of nonzero or boolean indexing",
                    ) from None
        return None

    def _call(self, node: fx.Node, values: Mapping[fx.Node, Any], scope: tuple[str, str]) -> Any:
        target: Any = node.target
        args, kwargs = _resolve(node.args, values), _resolve(node.kwargs, values)
        if target is operator.getitem:
            return args[0][args[1]]
        if isinstance(target, torch._ops.HigherOrderOperator):
            return self._higher_order(node, args, kwargs, scope)
        if isinstance(target, torch._ops.OpOverload):
            return self._operator(node, target, args, kwargs, values, scope)
        if not tensors_in(node.meta.get("val")):  # arithmetic on sizes and scalars, done by the host
            self.aliases[_name(target)] += 1
            return None
        return self._refuse(node, _name(target), values_in([args, kwargs]), scope)

    def _higher_order(self, node: fx.Node, args: Any, kwargs: Any, scope: tuple[str, str]) -> Any:
        name = str(node.target)
        bodies = [(i, a) for i, a in enumerate(args) if isinstance(a, fx.GraphModule)]
        if name in BODIES and bodies:
            position, body = bodies[0]
            return self.walk(body, [a for a in args[position + 1 :] if not isinstance(a, str)], scope)
        if name == "cond":
            return self._costlier([body for _, body in bodies], list(args[3]), scope)
        return self._refuse(node, name, values_in([args, kwargs]), scope)

    def _costlier(self, branches: Sequence[fx.GraphModule], operands: list[Any], scope: tuple[str, str]) -> Any:
        """Keep the branch of `torch.cond` that costs more operations: the count is an upper bound."""
        results = []
        for branch in branches:
            trial = Walker(
                list(self.layers),
                dict(self.reads),
                dict(self.numbers),
                Counter(self.aliases),
                Counter(self.refused),
                set(self.names),
            )
            results.append((trial, trial.walk(branch, operands, scope)))
        trial, result = max(results, key=lambda r: sum(layer.flops for layer in r[0].layers))
        for name in ("layers", "reads", "numbers", "aliases", "refused", "names"):
            setattr(self, name, getattr(trial, name))
        self.aliases["cond (the costlier branch is counted)"] += 1
        return result

    def _refuse(self, node: fx.Node, name: str, inputs: list[Value], scope: tuple[str, str]) -> Any:
        self.refused[name] += 1
        return self._layer(node, name, Count(kind=OperatorKind.OTHER, counting="refused"), None, inputs, [], scope)

    def _operator(
        self,
        node: fx.Node,
        target: torch._ops.OpOverload,
        args: Any,
        kwargs: Any,
        values: Mapping[fx.Node, Any],
        scope: tuple[str, str],
    ) -> Any:
        name, schema = str(target), target._schema.arguments
        bound = {a.name: kwargs.get(a.name, a.default_value) for a in schema}
        bound |= {a.name: value for a, value in zip(schema, args, strict=False)}
        packet = target._schema.name.removeprefix("aten::")
        plain = packet if packet.endswith("__") else packet.rstrip("_")
        outputs = tensors_in(node.meta.get("val"))
        if not outputs:  # assertions on metadata and the like
            self.aliases[name] += 1
            return None
        inputs = values_in(bound)
        written = []
        if plain in IDENTITIES:
            if not bound.get("train", False):
                self.aliases[name] += 1
                return inputs[0]
        else:
            written = [v for a in schema if a.is_write for v in values_in(bound[a.name])]
        if not written and (shared := _shared(node, values)) is not None:
            self.aliases[name] += 1
            return shared
        call = Call(
            operator=plain,
            arguments={key: specs_in(value) for key, value in bound.items()},
            outputs=[spec_of(t) for t in outputs],
            pointwise=torch.Tag.pointwise in target.tags,
        )
        figures = count(call)
        if figures.counting == "refused":
            return self._refuse(node, name, inputs, scope)
        if plain in OVERWRITES:
            inputs = [v for v in inputs if v not in written]
        known = call if plain in RULES or call.pointwise else None  # a custom operator's arguments may mean anything
        return self._layer(node, name, figures, known, inputs, written, scope)

    def _layer(
        self,
        node: fx.Node,
        name: str,
        figures: Count,
        call: Call | None,
        inputs: list[Value],
        written: list[Value],
        scope: tuple[str, str],
    ) -> Any:
        """Append a layer with its edges; return its output values."""
        index, made = len(self.layers), node.meta.get("val")
        outputs = tensors_in(made)
        weights, activations = what_is_read(inputs)
        elements = looked_up(call) if call is not None else None  # a lookup's first argument is its table
        traffic = weight_traffic(weights, inputs[0] if elements is not None else None, elements or 0)
        parts = spans(weights)
        for value in inputs:
            self._note_read(index, value, value.nbytes)
        for value in written:  # what a partial update leaves of the tensor flows through it
            self._note_read(index, value, value.storage.nbytes - value.nbytes, "rest")
        for value in written:
            value.storage.producer, value.storage.weight = index, ""
        shape = shape_parameters(call, figures.kind) if call is not None else {}
        features = sequence_features(call, figures.kind, shape) if call is not None else SequenceFeatures()
        self.layers.append(
            Layer(
                name=self._unique(node.name),
                operator=name,
                kind=figures.kind,
                module=scope[0],
                module_type=scope[1],
                shape=shape,
                output_shape=spec_of(outputs[0]).shape if outputs else (),
                dtype=spec_of(outputs[0]).dtype if outputs else "",
                macs=figures.macs,
                flops=figures.flops,
                parameters=sum(v.nbytes // itemsize(v.spec) for v in weights if v.storage.trainable),
                weight_bytes=traffic,
                weights=parts,
                input_bytes=sum(activations.values()),
                output_bytes=sum(t.numel() * t.element_size() for t in outputs),
                float_bytes=float_bytes([*map(spec_of, outputs), *(v.spec for v in inputs)]),
                counting=figures.counting,
                formula=figures.formula,
                phase=self.phase,
                source=source_of(node) if figures.counting == "refused" else "",
                seq_len=features.seq_len,
                embed_dim=features.embed_dim,
                num_heads=features.num_heads,
                mlp_ratio=features.mlp_ratio,
            )
        )
        if written:
            return written[0] if isinstance(made, torch.Tensor) else written
        results = [view_of(t, Storage(t.numel() * t.element_size(), producer=index)) for t in outputs]
        return results[0] if isinstance(made, torch.Tensor) else results

    def _note_read(self, consumer: int, value: Value, nbytes: int, what: str = "view") -> None:
        """Note that a layer reads of an activation; equal views of a storage are one part of it."""
        storage = value.storage
        if storage.producer is None or nbytes <= 0:
            return
        tensor = self.numbers.setdefault((storage,), len(self.numbers))
        part = self.numbers.setdefault((storage, itemsize(value.spec), value.where, what), len(self.numbers))
        self.reads[storage.producer, consumer, tensor, part] = nbytes, storage.nbytes

    def _unique(self, name: str) -> str:
        unique, number = name, 1
        while unique in self.names:
            number += 1
            unique = f"{name}@{number}"
        self.names.add(unique)
        return unique


def _resolve(argument: Any, values: Mapping[fx.Node, Any]) -> Any:
    """Replace the nodes in an argument by their values, keeping lists, tuples and dicts."""
    if isinstance(argument, fx.Node):
        return values[argument]
    if isinstance(argument, list | tuple):
        return [_resolve(item, values) for item in argument]
    if isinstance(argument, dict):
        return {key: _resolve(item, values) for key, item in argument.items()}
    return argument


def _attribute(module: fx.GraphModule, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    if isinstance(value, torch.Tensor):
        return view_of(value, Storage(value.numel() * value.element_size(), weight=path))
    return value


def _scope(node: fx.Node, outer: tuple[str, str]) -> tuple[str, str]:
    """Return dotted path and class name of the innermost module that called the operator."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return outer
    path, kind = list(stack.values())[-1]
    return str(path), (kind if isinstance(kind, str) else kind.__qualname__).rsplit(".", 1)[-1]


def _place(node: fx.Node, outer: tuple[str, str]) -> str:
    """Return in words where the operator was called: module, and source line where it is known."""
    source = source_of(node)
    return f"in module {_scope(node, outer)[0] or '(the model itself)'}" + (f" ({source})" if source else "")


def _name(target: Any) -> str:
    """Return what the ledger calls an operator: "aten.add.Tensor", or the name of a Python function."""
    return str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))


def _check_dense(node: fx.Node, outer: tuple[str, str]) -> None:
    """Raise WorkloadError where a node makes tensors without a memory layout of their own: counts would be wrong."""
    for tensor in tensors_in(node.meta.get("val")):
        if kind := without_layout(tensor):
            what = (
                f"the input or weight {node.target} is"
                if node.op == "placeholder"
                else (f"{_name(node.target)} {_place(node, outer)} makes")
            )
            raise WorkloadError(f"{what} a tensor {kind}, whose work and bytes cannot be counted", DENSE_HINT)


def without_layout(tensor: torch.Tensor) -> str:
    """Return in words what hides a tensor's memory layout, empty where nothing does."""
    if torch._C._functorch.is_batchedtensor(tensor):
        return "of torch.vmap"
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return "of torch.func"
    if tensor.is_nested:
        return "nested"
    return "" if tensor.layout is torch.strided else f"of {tensor.layout}"


def _shared(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """Return the outputs as views of the inputs where every output lies in an input's storage, else None."""
    held = {
        tensor.untyped_storage()._cdata: value
        for argument in node.all_input_nodes
        for tensor, value in zip(tensors_in(argument.meta.get("val")), values_in(values[argument]), strict=False)
    }
    views = []
    for tensor in tensors_in(node.meta["val"]):
        source = held.get(tensor.untyped_storage()._cdata)
        if source is None:
            return None
        views.append(view_of(tensor, source.storage, source.nbytes))
    return views[0] if isinstance(node.meta["val"], torch.Tensor) else views


def build_graph(program: ExportedProgram, name: str, walker: Walker | None = None) -> WorkloadGraph:
    """Return the workload graph of an exported program, of which only shapes, dtypes and storages matter.

    A `walker` of one's own sees every layer as it is met.
    Parameters, those that nothing uses included, count once each, however many names they have; `weight_bytes` are
    those of the parameters and buffers that some layer reads.
    """
    inputs, input_shapes = _placeholders(program)
    if input_shapes and input_shapes[0][:1] == (0,):
        raise WorkloadError(f"the first input of {name} has shape {input_shapes[0]}", "a batch of at least 1 example")
    used = {v.storage.weight: v.storage.nbytes for v in inputs if isinstance(v, Value) and v.storage.weight}
    walker = walker or Walker()
    walker.walk(program.graph_module, inputs)
    read = {weight for layer in walker.layers for weight in layer.weights}
    edges, edge_bytes, edge_parts = edges_of(walker)
    parameters = {identity(p): p.numel() for p in program.state_dict.values() if isinstance(p, torch.nn.Parameter)}
    return WorkloadGraph(
        name=name,
        layers=tuple(walker.layers),
        edges=edges,
        edge_bytes=edge_bytes,
        edge_parts=edge_parts,
        parameters=sum(parameters.values()),
        weight_bytes=sum(nbytes for weight, nbytes in used.items() if weight in read),
        input_shapes=input_shapes,
        batch=input_shapes[0][0] if input_shapes and input_shapes[0] else 1,
        aliases=dict(sorted(walker.aliases.items())),
        refused=dict(sorted(walker.refused.items())),
    )


def edges_of(walker: Walker) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.void]]:
    """Return `edges`, `edge_bytes` and `edge_parts` of the WorkloadGraph: what layers read of each other."""
    rows = np.array(sorted((*key, *sizes) for key, sizes in walker.reads.items()), np.int64).reshape(-1, 6)
    for column in (2, 3):  # numbers of tensors and parts: from 0 on
        rows[:, column] = np.unique(rows[:, column], return_inverse=True)[1]
    producer, consumer, tensor, _, nbytes, tensor_bytes = rows.T
    new_tensor, new_edge = changes(producer, consumer, tensor), changes(producer, consumer)
    read = np.minimum(np.add.reduceat(nbytes, np.flatnonzero(new_tensor)), tensor_bytes[new_tensor])
    edge_bytes = np.add.reduceat(read, np.flatnonzero(new_edge[new_tensor]))
    return rows[new_edge, :2], edge_bytes, np.array([tuple(row) for row in rows.tolist()], EDGE_PART)


def _placeholders(program: ExportedProgram) -> tuple[list[Any], tuple[tuple[int, ...], ...]]:
    """Return the value of each placeholder, and the shapes of the tensor inputs."""
    held = {name: item for name, item in program.constants.items() if isinstance(item, torch.Tensor)}
    held |= program.state_dict
    storages: dict[Any, Storage] = {}
    nodes = [node for node in program.graph_module.graph.nodes if node.op == "placeholder"]
    values: list[Any] = []
    input_shapes = []
    for node, spec in zip(nodes, program.graph_signature.input_specs, strict=True):
        tensor = node.meta.get("val")
        if not isinstance(tensor, torch.Tensor):
            values.append(tensor)
            continue
        size = tensor.numel() * tensor.element_size()
        if spec.kind == InputKind.USER_INPUT:
            input_shapes.append(spec_of(tensor).shape)
            values.append(view_of(tensor, Storage(size)))
            continue
        target = str(spec.target)
        if target in held and (kind := without_layout(held[target])):
            raise WorkloadError(f"{target} is a tensor {kind}, whose work and bytes cannot be counted", DENSE_HINT)
        key = identity(held[target]) if target in held else target
        trainable = spec.kind == InputKind.PARAMETER
        storage = storages.setdefault(key, Storage(size, weight=target, trainable=trainable))
        values.append(view_of(tensor, storage))
    return values, tuple(input_shapes)
