"""Layers of a traced graph as rows of the tidy table, in which operators are measured and predicted.

A row tells an operator by its type, name and shape columns alone, so that `dse.proxy.measure.operators` can build it
again: whether a convolution has a bias follows from its bytes, for example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dse.proxy.columns import DTYPES, SHAPES, VECTOR_OPERATORS, WORK
from workloads.extents import JOINS
from workloads.graph import Layer, OperatorKind, WorkloadGraph

if TYPE_CHECKING:
    import pandas as pd

LAYER_COLUMNS = ("op_type", "op_name", "dtype", "compute_dtype", *SHAPES, *WORK)
"""Columns of `layer_rows`."""

SHORT_TYPES = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float64": "fp64",
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8",
}
"""Names of torch's types in the tidy table, where they are not the same."""

NORMS = {
    **dict.fromkeys(("layer_norm", "native_layer_norm", "native_layer_norm_backward"), "ln"),
    **dict.fromkeys(("rms_norm", "_fused_rms_norm", "_fused_rms_norm_backward"), "rmsnorm"),
    **dict.fromkeys(("group_norm", "native_group_norm", "native_group_norm_backward"), "groupnorm"),
    "instance_norm": "instancenorm",
}
"""op_name of a normalisation; all others are those of batch norm."""

Row = dict[str, Any]


def layer_rows(graph: WorkloadGraph) -> pd.DataFrame:
    """Return one row a layer, in order: LAYER_COLUMNS, NaN where a shape column does not apply.

    flops, bytes and weight_bytes are the layer's own, but that causal attention counts only the pairs that it meets,
    as the public measurements do. Layers of equal operator, shape and bytes are worked out once.
    """
    import numpy as np
    import pandas as pd

    unique: dict[tuple[Any, ...], int] = {}
    rows: list[Row] = []
    index = np.empty(len(graph.layers), np.int64)
    for position, layer in enumerate(graph.layers):
        key = (layer.operator, tuple(layer.shape.items()), layer.dtype, layer.output_shape, layer.flops, layer.bytes)
        found = unique.setdefault((*key, layer.weight_bytes), len(rows))
        if found == len(rows):
            rows.append(layer_row(layer))
        index[position] = found
    table = pd.DataFrame(rows, columns=list(LAYER_COLUMNS))
    table[[*SHAPES, *WORK]] = table[[*SHAPES, *WORK]].astype(np.float64)
    return table.iloc[index].reset_index(drop=True)


def layer_row(layer: Layer) -> Row:
    """Return the row of one layer; shape columns that do not apply are left out."""
    dtype = SHORT_TYPES.get(layer.dtype, layer.dtype)
    row: Row = {"op_name": layer.operation, "dtype": dtype}
    row |= {"flops": layer.flops, "bytes": layer.bytes, "weight_bytes": layer.weight_bytes}
    if "layout" in layer.shape:  # which all have that are traced but custom operators
        row |= _BY_KIND[layer.kind](layer, row["op_name"])
        row["layout"] = layer.shape["layout"]
    else:
        row["op_type"] = "other"
    row["compute_dtype"] = "fp32" if row["op_type"] in VECTOR_OPERATORS else compute_type(row["dtype"])
    return row


def compute_type(dtype: str) -> str:
    """Return what matrix units compute in for operands of that type."""
    return DTYPES[dtype].compute if dtype in DTYPES else dtype


def _convolution(layer: Layer, name: str) -> Row:
    shape = layer.shape
    axes = "dhw"[3 - shape["axes"] :]
    row: Row = {
        "op_type": f"conv{'_transpose' if shape['transposed'] else ''}{shape['axes']}d",
        "op_name": "conv",
        "batch": shape["batch"],
        "cin": shape["in_channels"],
        "cout": shape["out_channels"],
        "groups": shape["groups"],
    }
    if "backward" in name:  # one call makes the gradients of the weight and, but for the first layer, of the input
        taps = shape["in_channels"] * shape["out_channels"] // shape["groups"]
        taps *= _product(shape, "kernel") * shape["batch"]
        once = taps * _product(shape, "in" if shape["transposed"] else "out")
        row["op_name"] = "conv_bwd_data" if layer.macs > 1.5 * once else "conv_bwd_filter"
    for axis in axes:
        row |= {
            f"k{axis}": shape[f"kernel_{axis}"],
            f"{axis}in": shape[f"in_{axis}"],
            f"{axis}out": shape[f"out_{axis}"],
        }
    row = {"kh": 1, "hin": 1, "hout": 1, **row}
    for name, short in (("stride", "stride"), ("padding", "pad"), ("dilation", "dilation")):
        row[short] = shape[f"{name}_{'h' if 'h' in axes else 'w'}"]
        row[f"{short}_w"] = shape[f"{name}_w"]
        if "d" in axes:
            row[f"{short}_d"] = shape[f"{name}_d"]
    return row


def _product(shape: Mapping[str, int], name: str) -> int:
    product = 1
    for axis in "dhw":
        product *= shape.get(f"{name}_{axis}", 1)
    return product


def _matmul(layer: Layer, name: str) -> Row:
    shape = dict(layer.shape)
    if "m" not in shape:  # einsum: the product that has as many operations
        cols = layer.output_shape[-1] if layer.output_shape else 1
        rows = max(_numel(layer) // max(cols, 1), 1)
        shape |= {"batch": 1, "m": rows, "n": cols, "k": max(layer.flops // max(2 * rows * cols, 1), 1)}
    size = layer.output_bytes / max(_numel(layer), 1)
    if shape["batch"] > 1 and layer.bytes <= size * (
        shape["batch"] * shape["m"] * (shape["k"] + shape["n"]) + (shape["k"] + 1) * shape["n"]
    ):  # the batch shares its right operand: rows of one product
        shape |= {"batch": 1, "m": shape["batch"] * shape["m"]}
    linear = layer.kind is OperatorKind.LINEAR and name in ("linear", "addmm", "mm", "matmul")
    row: Row = {"op_type": "matmul", "op_name": "linear" if linear and shape["batch"] == 1 else "bmm"}
    return row | {column: shape[column] for column in ("batch", "m", "n", "k")}


def _numel(layer: Layer) -> int:
    product = 1
    for size in layer.output_shape:
        product *= size
    return product


def _attention(layer: Layer, name: str) -> Row:
    shape = layer.shape
    causal = shape["causal"] and shape["seq_q"] > 1
    row: Row = {"op_name": "attn", "op_type": "attn_prefill" if causal else "attn_encoder"}
    if shape["seq_q"] == 1:
        row["op_type"] = "attn_decode"
    if causal:  # query i meets the keys up to i
        row["flops"] = layer.flops * causal_share(shape["seq_q"], shape["seq_kv"])
    columns = ("batch", "heads", "kv_heads", "head_dim", "value_dim", "seq_q", "seq_kv")
    return row | {column: shape[column] for column in columns}


def causal_share(seq_q: int, seq_kv: int) -> float:
    """Share of the pairs (query, key) that a causal mask leaves, which lets query i meet keys 0 to i."""
    met = min(seq_q, seq_kv)
    return (met * (met + 1) / 2 + (seq_q - met) * seq_kv) / (seq_q * seq_kv)


def _recurrent(layer: Layer, name: str) -> Row:
    shape = layer.shape
    gates = next((gate for gate in ("lstm", "gru") if gate in name), "lstm" if "mkldnn" in name else "rnn")
    return {
        "op_type": "recurrent",
        "op_name": gates,
        "batch": shape["batch"],
        "seq_q": shape["steps"],
        "cin": shape["in"],
        "cout": shape["hidden"],
        "layers": shape["layers"],
        "directions": shape["directions"],
    }


def _norm(layer: Layer, name: str) -> Row:
    shape, norm = layer.shape, NORMS.get(name, "batchnorm")
    row: Row = {"op_type": "layernorm", "op_name": norm}
    if "batch" not in shape:
        return row | {"rows": shape["rows"], "cols": shape["channels"]}
    batch, channels = max(shape["batch"], 1), shape["channels"]
    positions = max(shape["rows"] // batch, 1)
    groups = shape.get("groups", 1) if norm == "groupnorm" else channels
    row |= {"batch": batch, "cin": channels, "groups": groups}
    return row | {"rows": batch * groups, "cols": channels // groups * positions}


def _along(layer: Layer, name: str) -> Row:
    shape = layer.shape
    kind = "softmax" if layer.kind is OperatorKind.SOFTMAX else "reduction"
    row: Row = {"op_type": kind, "op_name": "softmax" if name in ("_softmax", "softmax") else name}
    return row | {"rows": shape["rows"], "cols": shape["length"], "inner": shape["inner"]}


def _elementwise(layer: Layer, name: str) -> Row:
    columns = ("batch", "rows", "cols", "operands", "broadcast")
    return {"op_type": "elementwise", **{column: layer.shape[column] for column in columns}}


def _planes(layer: Layer, name: str, op_type: str) -> Row:
    shape = layer.shape
    row: Row = {"op_type": op_type, "batch": shape["batch"], "hin": shape["in_h"], "win": shape["in_w"]}
    row |= {"hout": shape["out_h"], "wout": shape["out_w"]}
    if "kernel_w" in shape:
        across = "h" if "kernel_h" in shape else "w"
        row |= {"kh": shape.get("kernel_h", 1), "kw": shape["kernel_w"]}
        row |= {"stride": shape[f"stride_{across}"], "stride_w": shape["stride_w"]}
        row |= {"pad": shape[f"padding_{across}"], "pad_w": shape["padding_w"]}
    return row


def _fft(layer: Layer, name: str) -> Row:
    shape = layer.shape
    short = name.removeprefix("fft_")
    row: Row = {"op_type": "fft", "op_name": short, "rows": shape["transforms"], "cols": shape["length"]}
    if layer.dtype == "complex64":  # of real numbers of that type
        row["dtype"] = "fp32"
    if "hop" in shape:
        row |= {"stride": shape["hop"], "batch": shape["signals"], "win": shape["samples"]}
    return row


def _embedding(layer: Layer, name: str) -> Row:
    shape = layer.shape
    return {"op_type": "embedding", "rows": shape["lookups"], "cols": shape["width"], "n": shape["rows"]}


def _copy(layer: Layer, name: str) -> Row:
    shape = layer.shape
    if "in_w" in shape:
        return _planes(layer, name, "copy") | {"operands": shape["operands"]}
    columns = ("rows", "cols", "inner", "operands")
    short = "cat" if name in JOINS else name
    return {"op_type": "copy", "op_name": short, **{column: shape[column] for column in columns}}


_BY_KIND: Mapping[OperatorKind, Callable[[Layer, str], Row]] = {
    OperatorKind.CONV: _convolution,
    OperatorKind.LINEAR: _matmul,
    OperatorKind.MATMUL: _matmul,
    OperatorKind.ATTENTION: _attention,
    OperatorKind.RECURRENT: _recurrent,
    OperatorKind.NORM: _norm,
    OperatorKind.SOFTMAX: _along,
    OperatorKind.ELEMENTWISE: _elementwise,
    OperatorKind.REDUCTION: _along,
    OperatorKind.POOL: lambda layer, name: _planes(layer, name, "pool"),
    OperatorKind.FFT: _fft,
    OperatorKind.EMBEDDING: _embedding,
    OperatorKind.COPY: _copy,
    OperatorKind.OTHER: lambda layer, name: _planes(layer, name, "resample" if "upsample" in name else "other"),
}
