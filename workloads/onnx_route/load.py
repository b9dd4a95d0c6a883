"""An ONNX file as a module and its example inputs."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from workloads.errors import WorkloadError
from workloads.inputs import example_input
from workloads.onnx_route.module import FOLD_LIMIT, Array, OnnxModule
from workloads.onnx_route.operators import OPERATORS, Node
from workloads.onnx_route.operators.recurrent import GATES, torch_parameters
from workloads.onnx_route.patterns import put_together
from workloads.onnx_route.reader import File, input_specs, read
from workloads.onnx_route.types import tensor_of, torch_dtype

if TYPE_CHECKING:
    from onnx import TensorProto

PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
"""A name that PyTorch gives to a parameter: the path of its module, and its own."""

INTEGER_WEIGHTS = frozenset(
    {
        ("DequantizeLinear", 0),
        ("MatMulInteger", 1),
        ("ConvInteger", 1),
        ("QLinearConv", 3),
        ("QLinearConv", 8),
        ("QLinearMatMul", 3),
    }
)
"""Operators and positions at which an initialiser of integers is a weight."""


def load_onnx(
    path: str | Path, inputs: Sequence[str] | None = None, *, weights: bool = False
) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Return the module that an ONNX file describes, and example inputs.

    The module runs the file's operators with torch, in submodules named as the modules that the nodes came from.
    Initialisers are its parameters and buffers. A file does not say which were parameters: floating-point ones are,
    and integers that a quantised product reads, except running statistics, scales, single numbers, and what the
    exporter names as a buffer. Of what PyTorch's newer exporter computed beforehand, weights of products are
    parameters; masks and tables are not.

    Parameters
    ----------
    path
        Data in files beside it is read only where values are needed.
    inputs
        Shapes such as "1x3x224x224", one for each input of the file in order; needed where the file leaves sizes open.
    weights
        Load the weights' values, on the CPU; else the module and the inputs are on the meta device.

    Raises
    ------
    WorkloadError
        If the file is no ONNX model, holds operators that are not understood, or does not run on these inputs.
    """
    device = torch.device("cpu" if weights else "meta")
    try:
        file = read(Path(path))
        specs = input_specs(file, inputs)
        examples = tuple(torch.ones_like(example_input(shape, dtype, str(device))) for shape, dtype in specs)
        module = _module(file, weights)
    except WorkloadError as error:
        if str(path) in error.message:
            raise
        raise WorkloadError(f"{path}: {error.message}", error.hint) from None
    module.eval()
    module.collecting = True
    with torch.no_grad():
        module(*examples)
    module.collecting = False
    return module, examples


def _module(file: File, weights: bool) -> OnnxModule:
    candidates = {
        name: tuple(proto.dims)
        for name, proto in file.initializers.items()
        if torch_dtype(proto.data_type).is_floating_point and _size(proto) > 1
    }
    nodes = put_together(file.nodes, file.outputs, candidates, _SmallValues(file))
    readers: dict[str, list[tuple[Node, int]]] = defaultdict(list)
    for node in nodes:
        for position, name in enumerate(node.inputs):
            readers[name].append((node, position))
    parameters = {name for name in file.initializers if _is_parameter(file, name, readers[name])}
    parameters |= {name for name in file.constants if _is_integer_weight(file.constants[name], readers[name])}
    tied = _tied(file, parameters)
    parameters -= set(tied)
    nodes = (*(Node(name=m, operator="Transpose", opset=1, inputs=(t,), outputs=(m,)) for m, t in tied.items()), *nodes)
    nodes, recurrent = _with_torch_weights(nodes, parameters)
    used = {name for node in nodes for name in node.inputs} | set(file.outputs)
    constants: dict[str, Array] = {}
    held: dict[str, torch.Tensor] = {}
    for name, proto in {**file.constants, **file.initializers}.items():
        if name in tied:
            continue
        if name in parameters or (name in used and _size(proto) > FOLD_LIMIT):
            held[name] = _tensor(file, name, weights)
        elif name in used:
            array = file.array(proto)
            if array is None:
                held[name] = _tensor(file, name, weights)
            else:
                torch_dtype(proto.data_type)
                constants[name] = array
    module = OnnxModule(
        nodes,
        constants=constants,
        inputs=[value.name for value in file.inputs],
        outputs=file.outputs,
        file=str(file.path),
    )
    for name, tensor in held.items():
        if name in used:
            first = readers[name][0][0].scope if readers[name] else ""
            path, attribute = _place(name, first)
            module.tensors[name] = module.hold(name, tensor, path, attribute, parameter=name in parameters)
    for value, node in recurrent.items():
        _hold_recurrent(module, value, node, [held.get(name) for name in node.inputs[1:4]])
    return module


class _SmallValues(Mapping[str, Array]):
    """Values of the file's small tensors by name, read when they are asked for."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.protos = {
            name: proto for name, proto in {**file.constants, **file.initializers}.items() if _size(proto) <= FOLD_LIMIT
        }

    def __getitem__(self, name: str) -> Array:
        array = self.file.array(self.protos[name])
        if array is None:
            raise KeyError(name)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.protos)

    def __len__(self) -> int:
        return len(self.protos)


def _tied(file: File, parameters: set[str]) -> dict[str, str]:
    """Return matrices that are another one transposed, under a name that the exporter made up, and that other one.

    So an exporter writes the word table of a language model that is also its last matrix. Values that lie in a file
    that is not there are no one's.
    """
    matrices = {name: tuple(file.initializers[name].dims) for name in parameters if name in file.initializers}
    named: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, shape in matrices.items():
        if len(shape) == 2 and PATH.fullmatch(name):
            named[shape].append(name)
    found = {}
    for name, shape in matrices.items():
        for other in named[shape[::-1]] if not PATH.fullmatch(name) else ():
            matrix, table = file.array(file.initializers[name]), file.array(file.initializers[other])
            if matrix is None or table is None or not np.array_equal(matrix[0], table[:, 0]):
                continue
            if np.array_equal(matrix, table.T):
                found[name] = other
    return found


def _size(proto: TensorProto) -> int:
    return math.prod(proto.dims)


def _is_parameter(file: File, name: str, readers: Sequence[tuple[Node, int]]) -> bool:
    proto = file.initializers[name]
    places = [(OPERATORS[node.operator], node.operator, i) for node, i in readers if node.operator in OPERATORS]
    open_places = [(op, kind, i) for op, kind, i in places if not (op.is_known(i) or i in op.state)]
    if not open_places or file.signature.get(name, "PARAMETER") != "PARAMETER":
        return False
    as_weight = any(i in op.weights for op, _, i in open_places)
    if file.signature and name not in file.signature:  # made by the exporter: of a weight, or a mask or table
        lost = any(kind == "PARAMETER" and held not in file.initializers for held, kind in file.signature.items())
        return as_weight and lost
    if not torch_dtype(proto.data_type).is_floating_point:
        return _is_integer_weight(proto, readers)
    return _size(proto) > 1 or as_weight


def _is_integer_weight(proto: TensorProto, readers: Sequence[tuple[Node, int]]) -> bool:
    """Whether a quantised operator reads integers as a weight; exporters of quantised models may write a Constant."""
    return not torch_dtype(proto.data_type).is_floating_point and any(
        (node.operator, i) in INTEGER_WEIGHTS for node, i in readers
    )


def _tensor(file: File, name: str, weights: bool) -> torch.Tensor:
    proto = file.initializers[name] if name in file.initializers else file.constants[name]
    dtype = torch_dtype(proto.data_type)
    if not weights:
        return torch.empty(tuple(proto.dims), dtype=dtype, device="meta")
    array = file.array(proto)
    if array is None:
        where = next((entry.value for entry in proto.external_data if entry.key == "location"), "")
        raise WorkloadError(
            f"{file.path}: the values of {name!r} lie in {where!r}, which is not there", "put it beside the model"
        )
    return tensor_of(array)


def _place(name: str, scope: str) -> tuple[str, str]:
    """Return module path and attribute of an initialiser: by its own name if that is one of PyTorch's, else by use."""
    if PATH.fullmatch(name):
        path, _, attribute = name.rpartition(".")
        if not any(hasattr(nn.Module, part) for part in path.split(".")):
            return path, attribute
    return scope, re.sub(r"\W+", "_", name)


def _with_torch_weights(nodes: Sequence[Node], parameters: set[str]) -> tuple[tuple[Node, ...], dict[str, Node]]:
    """Let recurrent nodes read their weights in torch's layout, as one list; return those lists' nodes by name too."""
    lists: dict[str, Node] = {}
    found = []
    for node in nodes:
        names = [name for name in node.inputs[1:4] if name]
        if node.operator not in GATES or not parameters.issuperset(names):
            found.append(node)
            continue
        value = " ".join(("recurrent weights of", *names))
        lists.setdefault(value, node)
        found.append(replace(node, inputs=(node.inputs[0], value, "", "", *node.inputs[4:])))
    return tuple(found), lists


def _hold_recurrent(module: OnnxModule, value: str, node: Node, given: Sequence[torch.Tensor | None]) -> None:
    weight, recurrence, bias = (*given, None)[:3]
    assert weight is not None and recurrence is not None
    names = ["weight_ih_l0", "weight_hh_l0", *(["bias_ih_l0", "bias_hh_l0"] if bias is not None else [])]
    names += [f"{name}_reverse" for name in names]
    tensors = torch_parameters(node.operator, weight, recurrence, bias)
    module.tensors[value] = [
        module.hold(value, tensor, node.scope, name, parameter=True)
        for name, tensor in zip(names, tensors, strict=False)
    ]
