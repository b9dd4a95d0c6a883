"""What each layer of a graph calls: the traced model as a list of operator calls that can be run one by one, anywhere.

Every tensor is a view of a numbered storage (a flat piece of memory), laid out as in the trace. So views cost nothing
and need no call, in-place operators write where they should, and a layer can run in any process that holds the bytes
which it reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

from workloads.calls import Call, Count
from workloads.dataflow import Walker, build_graph
from workloads.errors import WorkloadError
from workloads.graph import WorkloadGraph
from workloads.trace import check_arguments, export
from workloads.values import Storage, Value, flatten, tensors_in, values_in


@dataclass(frozen=True, slots=True)
class View:
    """A tensor: where it lies in its storage, in elements of its dtype."""

    storage: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    conjugate: bool = False  # lazily, as torch.conj marks it
    negative: bool = False

    @property
    def end(self) -> int:
        """Bytes from the storage's begin to the last element."""
        if 0 in self.shape:
            return 0
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True))
        return (last + 1) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Read:
    """What a layer reads of one storage: a view, or with `rest` all that is not in the view, which it overwrites.

    `producer` is the layer that wrote it last; None where it is a model input or weight. `nbytes` is what it counts.
    """

    view: View
    producer: int | None
    nbytes: int
    rest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCall:
    """One layer: an operator and its arguments, in which a View stands for each tensor."""

    operator: str  # "aten::convolution.default"
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    reads: tuple[Read, ...]
    writes: tuple[View, ...]  # in place
    outputs: tuple[View, ...]  # new storages; empty for an operator that works in place
    autocast: tuple[Any, ...] = ()  # arguments of torch.autocast: device type, dtype, enabled


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerProgram:
    """A model as calls [N], one for each layer of `graph`, and the storages [M] that they work on.

    `extents` [M] are the storages' bytes; `base` [M] is the view that fills each; `given` are tensors that are there
    before the first call (model inputs, weights, constants) by the storage they lie in. An output is a view with the
    layer that wrote it last (None: it is given), or a number or None. `tensors` are what the nodes of the exported
    program make and take, `weights` its parameters, buffers and constants, by name.
    """

    graph: WorkloadGraph
    calls: tuple[LayerCall, ...]
    base: tuple[View, ...]
    extents: tuple[int, ...]
    given: Mapping[int, torch.Tensor]
    outputs: tuple[Read | Any, ...]
    tensors: Mapping[str, View]
    weights: Mapping[str, View]


def layer_program(
    module: nn.Module,
    args: Sequence[Any] | torch.Tensor,
    *,
    name: str = "",
    kwargs: Mapping[str, Any] | None = None,
    weights: nn.Module | None = None,
) -> LayerProgram:
    """Return the layers of a module, in evaluation, as calls on these inputs.

    The graph is that of `workloads.trace`, layer by layer. How tensors lie in memory, and with that which copies are
    made, differs between devices: for the layers of a trace on the meta device give that module, and as `weights` the
    same module with values.

    Raises WorkloadError where the model cannot be traced, or a layer cannot be run for itself: torch.cond, a
    higher-order operator that is not walked, an operator that both writes in place and returns something new, a
    constant without a value.
    """
    positional, named = check_arguments(module, args, kwargs)
    name = name or type(module).__name__
    program = export(module, positional, named, name)
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves((positional, named)) if isinstance(leaf, torch.Tensor)]
    held = (
        dict([*weights.named_parameters(remove_duplicate=False), *weights.named_buffers(remove_duplicate=False)])
        if weights is not None
        else {}
    )
    return lowered(program, leaves, name, held)


def lowered(
    program: ExportedProgram,
    inputs: Sequence[torch.Tensor],
    name: str,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> LayerProgram:
    """Return an exported program as calls on these tensor inputs; see `layer_program`.

    `weights` by name take the place of the program's own parameters, buffers and constants.
    """
    walker = _CallRecorder(name)
    graph = build_graph(program, name, walker)
    specs = zip(walker.placeholders, program.graph_signature.input_specs, strict=True)
    return LayerProgram(
        graph=graph,
        calls=tuple(walker.calls),
        base=tuple(walker.base),
        extents=tuple(walker.extents),
        given=dict(_given(program, walker, inputs, weights or {})),
        outputs=tuple(_outputs(program, walker)),
        tensors=walker.tensors,
        weights={
            str(spec.target): walker._view(value)
            for value, spec in specs
            if isinstance(value, Value) and spec.target is not None
        },
    )


class _CallRecorder(Walker):
    """Records the call behind each layer while the layers are made."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.calls: list[LayerCall] = []
        self.base: list[View] = []
        self.extents: list[int] = []
        self.placeholders: list[Any] = []
        self.results: list[tuple[Any, Any]] = []  # value, and the tensor of the trace
        self.tensors: dict[str, View] = {}
        self._number: dict[Storage, int] = {}
        self._pending: tuple[Any, Any] | None = None
        self._autocast: tuple[Any, ...] = ()
        self._depth = 0

    def walk(self, module: fx.GraphModule, inputs: Sequence[Any], scope: tuple[str, str] = ("", "")) -> Any:
        """Walk a body; of the outermost one keep what goes in and comes out."""
        outermost, self._depth = not self._depth, self._depth + 1
        nodes = [node for node in module.graph.nodes if node.op == "placeholder"]
        for node, value in zip(nodes, inputs, strict=False):
            self._views(value, node.meta.get("val"))
            self._name(node, value)
        result = super().walk(module, inputs, scope)
        self._depth -= 1
        if outermost:
            self.placeholders = list(inputs)
            (output,) = (node for node in module.graph.nodes if node.op == "output")
            metas = [item.meta.get("val") if isinstance(item, fx.Node) else item for item in flatten(output.args[0])]
            self.results = list(zip(flatten(result), metas, strict=True))
        return result

    def _call(self, node: fx.Node, values: Mapping[fx.Node, Any], scope: tuple[str, str]) -> Any:
        result = super()._call(node, values, scope)
        made = node.meta.get("val")
        self._name(node, result)
        return made if result is None and isinstance(made, bool | int | float) else result  # computed by the host

    def _name(self, node: fx.Node, value: Any) -> None:
        if isinstance(value, Value) and self._depth == 1:  # names of bodies are their own
            self.tensors[node.name] = self._view(value, node.meta.get("val"))

    def _higher_order(self, node: fx.Node, args: Any, kwargs: Any, scope: tuple[str, str]) -> Any:
        name, outer = str(node.target), self._autocast
        if name == "cond":
            raise WorkloadError(f"{self.name} cannot be run layer by layer: torch.cond decides on data", "torch.where")
        if name == "wrap_with_autocast":
            self._autocast = (args[0], args[1], args[2])
        try:
            return super()._higher_order(node, args, kwargs, scope)
        finally:
            self._autocast = outer

    def _operator(
        self,
        node: fx.Node,
        target: torch._ops.OpOverload,
        args: Any,
        kwargs: Any,
        values: Mapping[fx.Node, Any],
        scope: tuple[str, str],
    ) -> Any:
        self._pending = self._bound(node.args, values), self._bound(node.kwargs, values)
        return super()._operator(node, target, args, kwargs, values, scope)

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
        target: Any = node.target
        if self._pending is None or not isinstance(target, torch._ops.OpOverload):
            raise WorkloadError(f"{self.name} cannot be run layer by layer: {name} holds what it runs", "plain modules")
        if written and any(a.alias_info is None for a in target._schema.returns):
            why = f"{name} writes in place and returns something new"
            raise WorkloadError(f"{self.name} cannot be run layer by layer: {why}", "evaluation mode, plain operators")
        (args, kwargs), self._pending = self._pending, None
        reads = [self._read(value) for value in inputs]
        reads += [self._read(value, rest=True) for value in written]
        result = super()._layer(node, name, figures, call, inputs, written, scope)
        outputs = () if written else self._views(values_in([result]), tensors_in(node.meta.get("val")))
        self.calls.append(
            LayerCall(
                operator=f"{target._schema.name}.{target._overloadname}",
                args=tuple(args),
                kwargs=kwargs,
                reads=tuple(reads),
                writes=tuple(self._view(value) for value in written),
                outputs=tuple(outputs),
                autocast=self._autocast,
            )
        )
        return result

    def _read(self, value: Value, *, rest: bool = False) -> Read:
        nbytes = value.storage.nbytes - value.nbytes if rest else value.nbytes
        return Read(self._view(value), value.storage.producer, nbytes, rest)

    def _bound(self, argument: Any, values: Mapping[fx.Node, Any]) -> Any:
        """Put views in the place of nodes."""
        if isinstance(argument, fx.Node):
            value, made = values[argument], argument.meta.get("val")
            if isinstance(value, Value):
                return self._view(value, made)
            return self._views(value, made) if isinstance(value, list) else value
        if isinstance(argument, torch.device):
            return torch.device("cpu")
        if isinstance(argument, list | tuple):
            return [self._bound(item, values) for item in argument]
        if isinstance(argument, dict):
            return {key: self._bound(item, values) for key, item in argument.items()}
        return argument

    def _views(self, values: Any, made: Any) -> list[View]:
        return [self._view(v, t) for v, t in zip(values_in([values]), tensors_in([made]), strict=False)]

    def _view(self, value: Value, made: Any = None) -> View:
        """Return a value as a view of its numbered storage, which the first view of it fills."""
        number = self._number.setdefault(value.storage, len(self.base))
        offset, shape, stride = value.where
        lazily = isinstance(made, torch.Tensor)
        view = View(
            storage=number,
            dtype=getattr(torch, value.dtype),
            shape=shape,
            stride=tuple(stride),
            offset=int(offset),
            conjugate=lazily and made.is_conj(),
            negative=lazily and made.is_neg(),
        )
        if number == len(self.base):
            self.base.append(view)
            self.extents.append(0)
        self.extents[number] = max(self.extents[number], view.end)
        return view


def _given(
    program: ExportedProgram,
    walker: _CallRecorder,
    inputs: Sequence[torch.Tensor],
    weights: Mapping[str, torch.Tensor],
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield storage and tensor of each model input, weight and constant."""
    held = {name: item for name, item in program.constants.items() if isinstance(item, torch.Tensor)}
    held |= program.state_dict
    held |= weights
    tensors = iter(inputs)
    for value, spec in zip(walker.placeholders, program.graph_signature.input_specs, strict=True):
        if isinstance(value, Value):
            tensor = held[str(spec.target)] if spec.target is not None else next(tensors)
            if tensor.is_meta:
                why = f"{spec.target} has no value"
                raise WorkloadError(f"{walker.name} cannot be run: {why}", "constants as buffers of the module")
            yield walker._number[value.storage], tensor.detach()


def _outputs(program: ExportedProgram, walker: _CallRecorder) -> Iterator[Any]:
    """Yield what the model returns, flat; values that are written back to buffers and inputs are none of it."""
    for (value, made), spec in zip(walker.results, program.graph_signature.output_specs, strict=True):
        if spec.kind is OutputKind.USER_OUTPUT:
            yield (
                Read(walker._view(value, made), value.storage.producer, value.nbytes)
                if isinstance(value, Value)
                else made
            )
