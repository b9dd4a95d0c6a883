"""A torch module that runs the nodes of an ONNX graph, folding what is known without data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from workloads.errors import WorkloadError
from workloads.onnx_route.operators import OPERATORS, Call, Node, Operator
from workloads.onnx_route.types import tensor_of

Array = NDArray[Any]

FOLD_LIMIT = 4096
"""Elements up to which a tensor's values are kept at hand and computed with before the model runs: shapes and indices,
not weights or masks, whose computation counts."""


class Scope(nn.Module):
    """The module that a node came from: it holds that module's weights, and calls inside it are traced as of it."""

    def forward(self, function: Any, *arguments: Any) -> Any:
        """Return what the function returns."""
        return function(*arguments)


class OnnxModule(nn.Module):
    """The graph of an ONNX file. `forward` takes the file's inputs in order and returns its outputs.

    `tensors` says where in the tree of modules the parameters and buffers are, by name of the graph's value; a list of
    places makes a list of tensors.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        constants: Mapping[str, Array],
        inputs: Sequence[str],
        outputs: Sequence[str],
        file: str,
    ) -> None:
        super().__init__()
        self.nodes = tuple(nodes)
        self.constants = dict(constants)
        self.inputs, self.outputs, self.file = tuple(inputs), tuple(outputs), file
        self.tensors: dict[str, str | list[str]] = {}
        self.weights: set[str] = set()
        self.collecting = False  # known values that are asked for as tensors become buffers
        for node in nodes:
            self.scope(node.scope)

    def scope(self, path: str) -> nn.Module:
        """Return the module at a dotted path, made where it is missing."""
        module: nn.Module = self
        for part in filter(None, path.split(".")):
            if part not in module._modules:
                module.add_module(part, Scope())
            module = module._modules[part]  # type: ignore[assignment]
        return module

    def hold(self, name: str, tensor: torch.Tensor, path: str, attribute: str, *, parameter: bool) -> str:
        """Keep a tensor as a parameter or buffer of the module at `path`; return the dotted path of the tensor."""
        owner = self.scope(path)
        attribute = attribute.replace(".", "_") or "value"
        while hasattr(owner, attribute):
            attribute += "_"
        if parameter:
            trainable = tensor.is_floating_point()
            owner.register_parameter(attribute, nn.Parameter(tensor, requires_grad=trainable))
            self.weights.add(name)
        else:
            owner.register_buffer(attribute, tensor)
        return f"{path}.{attribute}" if path else attribute

    def forward(self, *inputs: Any) -> Any:
        """Run the nodes in the file's order."""
        if len(inputs) != len(self.inputs):
            raise WorkloadError(
                f"{self.file} has {len(self.inputs)} inputs, {len(inputs)} were given", f"{', '.join(self.inputs)}"
            )
        device = next((x.device for x in inputs if isinstance(x, torch.Tensor)), torch.device("cpu"))
        values: dict[str, Any] = {"": None, **self.constants, **dict(zip(self.inputs, inputs, strict=True))}
        for name, where in self.tensors.items():
            values[name] = [self._at(w) for w in where] if isinstance(where, list) else self._at(where)
        for node in self.nodes:
            found = self._run(node, [values[name] for name in node.inputs], device)
            for name, value in zip(node.outputs, found, strict=False):
                values[name] = value
        results = tuple(self._tensor(values[name], name, device) for name in self.outputs)
        return results[0] if len(results) == 1 else results

    def _at(self, where: str) -> torch.Tensor:
        path, _, attribute = where.rpartition(".")
        tensor: torch.Tensor = getattr(self.get_submodule(path), attribute)
        return tensor

    def _run(self, node: Node, arguments: list[Any], device: torch.device) -> Sequence[Any]:
        """Return the outputs of a node, folded where all its inputs are known."""
        entry = OPERATORS.get(node.operator)
        try:
            if (entry is None or entry.pure) and all(x is None or isinstance(x, np.ndarray) for x in arguments):
                folded = fold(node, arguments, required=entry is None)
                if folded is not None and (entry is None or all(x.size <= FOLD_LIMIT for x in folded)):
                    return folded
            if entry is None:
                raise WorkloadError("the size of its result depends on data", "export without it: torch.where, topk")
            given = list(self._arguments(node, entry, arguments, device))
            positions = frozenset(i for i, name in enumerate(node.inputs) if name in self.weights)
            call = Call(node=node, device=device, training=self.training, weights=positions)
            scope = self.get_submodule(node.scope)
            found = entry.run(call, *given) if scope is self else scope(entry.run, call, *given)
        except Exception as error:
            raise self._explain(error, node) from error
        return found if isinstance(found, tuple) else (found,)

    def _explain(self, error: Exception, node: Node) -> WorkloadError:
        """Return the error that names the file, the node and what is wrong with it."""
        where = f"{self.file}: node {node.name!r} ({node.operator})"
        if isinstance(error, WorkloadError):
            return error if self.file in error.message else WorkloadError(f"{where}: {error.message}", error.hint)
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        hint = "the input shapes must fit the model; onnx.checker.check_model finds files that break the standard"
        return WorkloadError(f"{where} cannot be computed: {type(error).__name__}: {first}", hint)

    def _arguments(self, node: Node, entry: Operator, given: list[Any], device: torch.device) -> Iterator[Any]:
        """Yield the inputs as the operator's function takes them."""
        rank = max(
            (x.ndim for i, x in enumerate(given) if i in entry.numbers and isinstance(x, torch.Tensor)), default=-1
        )
        if node.operator == "Gather":  # an index of rank 0 takes the axis away, one of rank 1 keeps it
            rank = 0
        for i, (name, value) in enumerate(zip(node.inputs, given, strict=True)):
            if value is None or isinstance(value, list):
                yield value
            elif entry.is_known(i):
                if not isinstance(value, np.ndarray):
                    raise WorkloadError(
                        f"its input {name!r} has to be known before the model runs, and depends on data",
                        "export with fixed sizes, and with the file's external data beside it",
                    )
                yield value
            elif i in entry.numbers and isinstance(value, np.ndarray) and value.size == 1 and value.ndim <= rank:
                yield value.item()
            else:
                yield self._tensor(value, name, device)

    def _tensor(self, value: Any, name: str, device: torch.device) -> Any:
        """Return a known array as a tensor: a buffer of this module where it is one."""
        if not isinstance(value, np.ndarray):
            return value
        held = self.tensors.get(name)
        known = self.constants.get(f"{name} as a buffer")
        if isinstance(held, str) and known is not None and np.array_equal(known, value):
            return self._at(held)
        tensor = tensor_of(value).to(device)
        if self.collecting:
            self.constants[f"{name} as a buffer"] = value
            self.tensors[name] = self.hold(name, tensor, "", "constant", parameter=False)
        return tensor


def fold(node: Node, arguments: Sequence[Array | None], *, required: bool) -> tuple[Array, ...] | None:
    """Return the outputs of a node for known inputs, by the reference implementation of the standard.

    None where they would be large, or the reference implementation fails and is not `required`: torch will do.
    """
    if _size(node.operator, arguments) > FOLD_LIMIT:
        return None
    try:
        return _evaluate(
            node.operator,
            node.opset,
            len(node.outputs),
            tuple((name, _frozen(value)) for name, value in sorted(node.attributes.items())),
            tuple(None if x is None else _frozen(x) for x in arguments),
        )
    except Exception:
        if required:
            raise
        return None


def _size(operator: str, arguments: Sequence[Array | None]) -> int:
    """Return how many elements an operator makes whose result may be far larger than its inputs; else 0."""
    first, second = (*arguments, None, None)[:2]
    if operator == "ConstantOfShape" and first is not None:
        return math.prod(int(n) for n in first)
    if operator == "Expand" and second is not None:
        return math.prod(int(n) for n in second)
    if operator == "Tile" and first is not None and second is not None:
        return first.size * math.prod(int(n) for n in second)
    if operator == "Range" and first is not None and second is not None and arguments[2] is not None:
        return math.ceil(abs(float(second - first) / (float(arguments[2]) or 1.0)))
    if operator == "OneHot" and first is not None and second is not None:
        return first.size * int(second.reshape(-1)[0])
    return 0


def _frozen(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return (value.dtype, value.shape, value.tobytes())
    return tuple(value) if isinstance(value, list) else value


def _thawed(value: Any) -> Any:
    if isinstance(value, tuple) and len(value) == 3 and isinstance(value[0], np.dtype):
        dtype, shape, content = value
        return np.frombuffer(content, dtype).reshape(shape)
    return value


@lru_cache(maxsize=1 << 14)
def _evaluate(
    operator: str, opset: int, outputs: int, attributes: tuple[tuple[str, Any], ...], inputs: tuple[Any, ...]
) -> tuple[Array, ...]:
    from onnx import ValueInfoProto, helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    names = [f"x{i}" if value is not None else "" for i, value in enumerate(inputs)]
    made = [f"y{i}" for i in range(outputs)]
    plain = {name: _thawed(value) for name, value in attributes}
    plain = {n: numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for n, v in plain.items()}
    node = helper.make_node(operator, names, made, **plain)
    graph = helper.make_graph(
        [node],
        "fold",
        [ValueInfoProto(name=name) for name in names if name],
        [ValueInfoProto(name=name) for name in made],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    given = {name: _thawed(value) for name, value in zip(names, inputs, strict=True) if name}
    return tuple(np.asarray(value) for value in ReferenceEvaluator(model).run(None, given))
