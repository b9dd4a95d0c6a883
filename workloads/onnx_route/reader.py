"""What an ONNX file holds, checked: nodes, initialisers, inputs. Weights stay on disk unless they are asked for."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from workloads.errors import WorkloadError
from workloads.inputs import parse_input
from workloads.onnx_route.operators import FOLDED, OPERATORS, Node
from workloads.onnx_route.types import torch_dtype

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

STANDARD = ("", "ai.onnx")
CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
SIGNATURE = "pkg.torch.export.ExportedProgram.graph_signature"
SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file's graph. `initializers` and `constants` (of Constant nodes) hold protos, whose data may lie elsewhere."""

    path: Path
    nodes: tuple[Node, ...]
    initializers: Mapping[str, TensorProto]
    constants: Mapping[str, TensorProto]
    inputs: tuple[ValueInfoProto, ...]
    outputs: tuple[str, ...]
    signature: Mapping[
        str, str
    ]  # of values, where the exporter says it: PARAMETER, BUFFER, CONSTANT_TENSOR, USER_INPUT

    def array(self, tensor: TensorProto) -> NDArray[Any] | None:
        """Return a tensor's values; None where they lie in a file that is not there."""
        from onnx import numpy_helper
        from onnx.external_data_helper import uses_external_data

        outside = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if uses_external_data(tensor) and not (self.path.parent / outside).is_file():
            return None
        try:
            return np.asarray(numpy_helper.to_array(tensor, base_dir=str(self.path.parent)))
        except Exception as error:  # whatever the library makes of damaged data
            raise WorkloadError(
                f"{self.path}: the values of {tensor.name!r} cannot be read: {error}", "export the model again"
            ) from None


def read(path: Path) -> File:
    """Read a file without its weights.

    Raises
    ------
    WorkloadError
        If it is no ONNX model, breaks the standard, or holds operators that are not understood (all of them by name).
    """
    model = _parse(path)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    opset = next((opsets[domain] for domain in STANDARD if domain in opsets), 0)
    graph = model.graph
    if not opset:
        raise WorkloadError(f"{path} is not an ONNX model", "a file that torch.onnx.export or onnx.save wrote")
    if not graph.node:
        raise WorkloadError(f"{path} holds no operators", "what depends on no input is computed when it is exported")
    _refuse_unknown(path, graph)
    constants: dict[str, TensorProto] = {}
    nodes = []
    for position, proto in enumerate(graph.node):
        if proto.op_type == "Constant":
            constants[proto.output[0]] = _constant(path, proto)
        else:
            nodes.append(_node(path, proto, position, opset))
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    file = File(
        path=path,
        nodes=tuple(nodes),
        initializers=initializers,
        constants=constants,
        inputs=tuple(value for value in graph.input if value.name not in initializers),
        outputs=tuple(value.name for value in graph.output),
        signature=_signature(graph),
    )
    _check_names(file)
    return file


def _parse(path: Path) -> ModelProto:
    try:
        import onnx
    except ModuleNotFoundError:
        raise WorkloadError(f"{path}: ONNX models need the package onnx", "pip install 'chipfront[onnx]'") from None
    from onnx import inliner

    try:
        model = onnx.load(str(path), load_external_data=False)
        return inliner.inline_local_functions(model) if model.functions else model
    except OSError as error:
        raise WorkloadError(f"{path} cannot be read: {error.strerror or error}", "the path of an ONNX file") from None
    except Exception as error:  # the parser's own, and the inliner's
        hint = "a file that torch.onnx.export or onnx.save wrote"
        raise WorkloadError(f"{path} is not an ONNX model: {error}", hint) from None


def _refuse_unknown(path: Path, graph: GraphProto) -> None:
    """Raise WorkloadError that names every operator without a function here, and its first node."""
    first: dict[str, str] = {}
    calls: Counter[str] = Counter()
    for position, node in enumerate(graph.node):
        standard = node.domain in STANDARD
        if standard and (node.op_type in OPERATORS or node.op_type in FOLDED or node.op_type == "Constant"):
            continue
        name = node.op_type if standard else f"{node.domain}::{node.op_type}"
        calls[name] += 1
        first.setdefault(name, node.name or f"node {position}")
    if not calls:
        return
    listed = ", ".join(f"{name} ({count}x, first {first[name]!r})" for name, count in sorted(calls.items()))
    if set(calls) & CONTROL_FLOW:
        hint = "which branch runs, or how often, depends on data: export the model with fixed sizes and without loops"
    elif any("::" in name for name in calls):
        hint = "only the standard's own operators have a known cost: export without a runtime's fusions"
    else:
        hint = "export them as other operators of the standard, or trace the PyTorch model instead"
    raise WorkloadError(f"{path} holds operators that are not understood: {listed}", hint)


def _node(path: Path, proto: NodeProto, position: int, opset: int) -> Node:
    name = proto.name or f"{proto.op_type}_{position}"
    return Node(
        name=name,
        operator=proto.op_type,
        opset=opset,
        scope=scope_of(proto),
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attributes={a.name: _attribute(path, name, a) for a in proto.attribute},
    )


def _attribute(path: Path, node: str, attribute: AttributeProto) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, TensorProto):
        torch_dtype(value.data_type)
        return np.asarray(numpy_helper.to_array(value))
    if isinstance(value, int | float | str):
        return value
    items = [item.decode(errors="replace") if isinstance(item, bytes) else item for item in value]
    if not all(isinstance(item, int | float | str) for item in items):
        raise WorkloadError(f"{path}: node {node!r}: attribute {attribute.name!r} is not supported", "a plain value")
    return items


def _constant(path: Path, proto: NodeProto) -> TensorProto:
    from onnx import helper, numpy_helper

    for attribute in proto.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            return value  # type: ignore[no-any-return]
        if attribute.name in ("value_int", "value_ints"):
            return numpy_helper.from_array(np.array(value, dtype=np.int64))
        if attribute.name in ("value_float", "value_floats"):
            return numpy_helper.from_array(np.array(value, dtype=np.float32))
    raise WorkloadError(f"{path}: node {proto.name!r} (Constant) holds no tensor that can be traced", "dense numbers")


def scope_of(proto: NodeProto) -> str:
    """Return the dotted path of the module that a node came from.

    PyTorch's newer exporter writes it into the node's metadata, the older one into its name:
    "/layer1/layer1.0/conv1/Conv" is a node of layer1.0.conv1. Others name nodes by their own paths of this form.
    """
    written = next((entry.value for entry in proto.metadata_props if entry.key == SCOPES), "")
    try:
        scopes = ast.literal_eval(written) if written else []
    except (ValueError, SyntaxError):
        scopes = []
    if isinstance(scopes, list) and len(scopes) > 1:
        return ".".join(_identifier(part) for part in str(scopes[-2]).split(".") if part)
    if "/" not in proto.name:
        return ""
    path: list[str] = []
    for part in proto.name.strip("/").split("/")[:-1]:
        if path and part.startswith(f"{path[-1]}."):  # a child of a container repeats the container's name
            path.pop()
        path.append(part)
    return ".".join(_identifier(piece) for part in path for piece in part.split(".") if piece)


def _identifier(part: str) -> str:
    """Return a name that a module may give to a child."""
    name = re.sub(r"\W", "_", part)
    return f"{name}_" if hasattr(nn.Module, name) or name in vars(nn.Module()) else name


def _signature(graph: GraphProto) -> dict[str, str]:
    signature = next((entry.value for entry in graph.metadata_props if entry.key == SIGNATURE), "")
    held = re.findall(r"(PARAMETER|BUFFER|CONSTANT_TENSOR) target='([^']+)'", signature)
    return {name: kind for kind, name in held} | dict.fromkeys(
        re.findall(r"(\S+): USER_INPUT", signature), "USER_INPUT"
    )


def _check_names(file: File) -> None:
    """Raise WorkloadError where a node reads a value that no node before it makes."""
    known = {"", *file.initializers, *file.constants, *(value.name for value in file.inputs)}
    for node in file.nodes:
        for name in node.inputs:
            if name not in known:
                raise WorkloadError(
                    f"{file.path}: node {node.name!r} ({node.operator}) reads {name!r}, which nothing before it makes",
                    "onnx.checker.check_model finds files that break the standard",
                )
        known.update(node.outputs)
    for name in file.outputs:
        if name not in known:
            raise WorkloadError(f"{file.path}: nothing makes its output {name!r}", "export the model again")


def input_specs(file: File, inputs: Sequence[str] | None) -> list[tuple[tuple[int, ...], str]]:
    """Return shape and name of the dtype of each input, with the sizes that the file leaves open from `inputs`.

    Raises
    ------
    WorkloadError
        If there are not as many, one contradicts the file, or a size that the file leaves open is not given.
    """
    if inputs and len(inputs) != len(file.inputs):
        names = ", ".join(value.name for value in file.inputs)
        raise WorkloadError(
            f"{file.path} has {len(file.inputs)} inputs, {len(inputs)} shapes were given",
            f"one each, in order: {names}",
        )
    given = list(inputs) if inputs else [None] * len(file.inputs)
    sizes: dict[str, int] = {}
    return [_input(file, value, text, sizes) for value, text in zip(file.inputs, given, strict=True)]


def _input(file: File, value: ValueInfoProto, text: str | None, sizes: dict[str, int]) -> tuple[tuple[int, ...], str]:
    kind = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type":
        raise WorkloadError(f"{file.path}: input {value.name!r} is not a tensor", "export with tensors as inputs")
    dtype = str(torch_dtype(kind.elem_type)).removeprefix("torch.")
    dims = list(_dims(value)) if kind.HasField("shape") else None
    shown = "x".join("?" if d == "" else str(d) for d in dims) if dims is not None else "any shape"
    if text is None:
        if dims is None:
            raise WorkloadError(f"{file.path} says no shape of input {value.name!r}", "give it: --input 1x3x224x224")
        wild = [d for d in dims if not isinstance(d, int)]
        if wild:
            raise WorkloadError(
                f"{file.path} leaves the size {wild[0] or '?'!r} of input {value.name!r} open ({shown})",
                "give every input's shape, such as --input 1x3x224x224",
            )
        return tuple(d for d in dims if isinstance(d, int)), dtype
    shape, asked = parse_input(text)
    if ":" in text and asked != dtype:
        raise WorkloadError(f"input {value.name!r} of {file.path} is {dtype}, not {asked}", "leave the dtype out")
    fits = dims is None or (
        len(dims) == len(shape)
        and all(
            sizes.setdefault(d, n) == n if isinstance(d, str) and d else d in (n, "")
            for d, n in zip(dims, shape, strict=True)
        )
    )
    if not fits:
        raise WorkloadError(
            f"the shape {text!r} does not fit input {value.name!r} of {file.path} ({shown})",
            "sizes that the file fixes stay; export with dynamic axes to choose them",
        )
    return shape, dtype


def _dims(value: ValueInfoProto) -> Iterator[int | str]:
    """Yield each size: a number, the name of an open one, or "" for one without a name."""
    for dim in value.type.tensor_type.shape.dim:
        yield dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else dim.dim_param
