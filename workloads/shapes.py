"""Shape parameters of an operator call (kernel, stride, m, n, k, heads, ...) and the sequence features of the proxy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workloads.calls import Call
from workloads.extents import copied, elementwise_extents, layout, planes, reduced
from workloads.graph import OperatorKind

AXES = {1: "w", 2: "hw", 3: "dhw"}
"""Names of the spatial axes, by their number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceFeatures:
    """The specification's features of a layer (version C, 7.2); 0 where they make no sense."""

    seq_len: int = 0
    embed_dim: int = 0
    num_heads: int = 0
    mlp_ratio: float = 0.0


def _each(value: Any, axes: str) -> list[int]:
    """Spread an int, a one-element list or a full list over the axes."""
    items = [value] if isinstance(value, int) else list(value)
    return [int(items[0])] * len(axes) if len(items) == 1 else [int(item) for item in items]


def _convolution(call: Call) -> dict[str, int]:
    x, weight, arguments = call.tensor("input"), call.tensor("weight"), call.arguments
    out = call.tensor("grad_output") if "grad_output" in arguments else call.output  # of a backward, the forward's
    axes = AXES[len(weight.shape) - 2]
    groups = int(arguments["groups"])
    transposed = "transpose" in call.operator or bool(arguments.get("transposed", False))
    rank = len(weight.shape)
    shape = {
        "batch": x.shape[0] if len(x.shape) == rank else 1,
        "in_channels": weight.shape[0] if transposed else weight.shape[1] * groups,
        "out_channels": weight.shape[1] * groups if transposed else weight.shape[0],
        "groups": groups,
        "transposed": int(transposed),
        "axes": len(axes),
    }
    spans = {"kernel": weight.shape[2:], "in": x.shape[-len(axes) :], "out": out.shape[-len(axes) :]}
    for name in ("stride", "padding", "dilation"):
        value = arguments[name]
        if isinstance(value, str):  # "valid", "same": half of what the dilated kernel spans
            dilation = _each(arguments["dilation"], axes)
            value = [
                (d * (k - 1) + 1) // 2 if value == "same" else 0
                for d, k in zip(dilation, weight.shape[2:], strict=True)
            ]
        spans[name] = tuple(_each(value, axes))
    for name, sizes in spans.items():
        shape |= {f"{name}_{axis}": size for axis, size in zip(axes, sizes, strict=True)}
    return shape


def _product(call: Call) -> dict[str, int]:
    """Return batch, m, n, k of a matrix product; `linear` folds all leading dimensions into m."""
    if call.operator == "einsum":
        return {"operands": len(call.tensors)}
    if call.operator == "linear":
        x, weight = call.tensor("input"), call.tensor("weight")
        k = x.shape[-1]
        return {"batch": 1, "m": x.numel // max(k, 1), "n": math.prod(weight.shape[:-1]), "k": k}
    grouped = "grouped_mm" in call.operator
    named_first = grouped or call.operator.startswith(("_scaled", "_weight"))  # scales and offsets follow
    matrices = call.tensors[:2] if named_first else [t for t in call.tensors if len(t.shape) >= 1][-2:]
    out, left = call.output, matrices[0]
    m = out.shape[-2] if len(out.shape) >= 2 else 1
    n = out.shape[-1] if out.shape else 1
    shape = {"batch": out.numel // max(m * n, 1), "m": m, "n": n, "k": left.shape[-1]}
    return shape | ({"groups": matrices[1].shape[0]} if grouped else {})


def _attention(call: Call) -> dict[str, int]:
    query, key, value = call.tensor("query"), call.tensor("key"), call.tensor("value")
    heads = query.shape[-3] if len(query.shape) >= 3 else 1
    return {
        "batch": math.prod(query.shape[:-3]),
        "heads": heads,
        "kv_heads": key.shape[-3] if len(key.shape) >= 3 else 1,
        "seq_q": query.shape[-2],
        "seq_kv": key.shape[-2],
        "head_dim": query.shape[-1],
        "value_dim": value.shape[-1],
        "causal": int(bool(call.arguments.get("is_causal", False))),
    }


def _recurrent(call: Call) -> dict[str, int]:
    if call.operator.endswith("_cell"):
        x, weight = call.tensor("input"), call.tensor("w_hh")
        rows = x.numel // x.shape[-1]
        return {"batch": rows, "steps": 1, "in": x.shape[-1], "hidden": weight.shape[1], "layers": 1, "directions": 1}
    if call.operator.startswith("mkldnn"):  # one layer in one direction, [steps, batch, in]
        steps, batch, width = call.tensor("input").shape
        hidden = int(call.arguments["hidden_size"])
        return {"batch": batch, "steps": steps, "in": width, "hidden": hidden, "layers": 1, "directions": 1}
    packed = "data" in call.arguments
    x = call.tensor("data" if packed else "input")
    hidden = [t for t in call.arguments["params"] if len(t.shape) == 2][1].shape[1]
    steps, batch = 1, x.numel // x.shape[-1]
    if not packed and len(x.shape) == 3:
        steps, batch = (x.shape[1], x.shape[0]) if call.arguments["batch_first"] else (x.shape[0], x.shape[1])
    directions = 2 if call.arguments["bidirectional"] else 1
    layers = int(call.arguments["num_layers"])
    return {
        "batch": batch,
        "steps": steps,
        "in": x.shape[-1],
        "hidden": hidden,
        "layers": layers,
        "directions": directions,
    }


def _norm(call: Call) -> dict[str, int]:
    x = call.tensors[0]
    normalized = call.arguments.get("normalized_shape")
    width = math.prod(normalized) if normalized is not None else x.shape[1]
    shape = {"rows": x.numel // max(width, 1), "channels": width}
    if normalized is None:  # statistics over positions: of batch, group and instance norm
        shape["batch"] = x.shape[0]
    groups = call.arguments.get("num_groups", call.arguments.get("group"))
    return shape | ({"groups": int(groups)} if groups is not None else {})


def _pool(call: Call) -> dict[str, int]:
    axes = AXES[int(call.operator.partition("pool")[2][0])] if "pool" in call.operator else ""
    shape = planes(call)
    kernel = call.arguments.get("kernel_size")
    if kernel is None or not axes:
        return shape
    sizes = _each(kernel, axes)
    stride = call.arguments.get("stride")
    strides = _each(stride, axes) if stride or isinstance(stride, int) else sizes
    padding = _each(call.arguments.get("padding", 0), axes)
    for name, values in (("kernel", sizes), ("stride", strides), ("padding", padding)):
        shape |= {f"{name}_{axis}": value for axis, value in zip(axes, values, strict=True)}
    return shape


def _fft(call: Call) -> dict[str, int]:
    """Return points of a transform, how many there are, and the hop of a short-time one."""
    x, out = call.tensors[0], call.output
    if "n_fft" in call.arguments:
        size = int(call.arguments["n_fft"])
        hop = call.arguments["hop_length"]
        spectrum = x if call.operator == "istft" else out  # [..., bins, frames], complex or with a last pair
        shape = spectrum.shape if spectrum.is_complex else spectrum.shape[:-1]
        transforms = math.prod(shape) // max(shape[-2], 1)
        signal = out if call.operator == "istft" else x
        return {
            "length": size,
            "hop": int(hop) if hop is not None else size // 4,
            "transforms": transforms,
            "signals": signal.numel // max(signal.shape[-1], 1),
            "samples": signal.shape[-1],
        }
    dims = call.arguments.get("dim", -1)
    chosen = [dims] if isinstance(dims, int) else list(dims or range(len(x.shape)))
    full = [max(a, b) for a, b in zip(x.shape, out.shape, strict=True)]
    length = math.prod(full[dim] for dim in chosen)
    return {"length": length, "transforms": math.prod(full) // max(length, 1)}


def _embedding(call: Call) -> dict[str, int]:
    table, indices = call.tensor("weight"), call.tensor("indices")
    return {"rows": table.shape[0], "width": table.shape[-1], "lookups": indices.numel}


_BY_KIND: Mapping[OperatorKind, Callable[[Call], dict[str, int]]] = {
    OperatorKind.CONV: _convolution,
    OperatorKind.LINEAR: _product,
    OperatorKind.MATMUL: _product,
    OperatorKind.ATTENTION: _attention,
    OperatorKind.RECURRENT: _recurrent,
    OperatorKind.NORM: _norm,
    OperatorKind.SOFTMAX: reduced,
    OperatorKind.REDUCTION: reduced,
    OperatorKind.ELEMENTWISE: elementwise_extents,
    OperatorKind.COPY: copied,
    OperatorKind.OTHER: planes,
    OperatorKind.POOL: _pool,
    OperatorKind.FFT: _fft,
    OperatorKind.EMBEDDING: _embedding,
}


def shape_parameters(call: Call, kind: OperatorKind) -> dict[str, int]:
    """Return the integers that name this call's problem size, such as kernel_h, groups or m, n, k.

    `layout` says how its activations lie in memory (workloads.extents).
    """
    return _BY_KIND[kind](call) | {"layout": layout(call, kind)}


def sequence_features(call: Call, kind: OperatorKind, shape: Mapping[str, int]) -> SequenceFeatures:
    """Return sequence length, width, heads and MLP ratio of layers that work on sequences.

    A linear layer of widths k -> n has embed_dim = min(k, n) and mlp_ratio = max(k, n) / min(k, n), which is the MLP
    ratio for both layers of a transformer's MLP and 1 for its projections. Convolutions have none of these.
    """
    match kind:
        case OperatorKind.ATTENTION:
            heads = shape["heads"]
            return SequenceFeatures(seq_len=shape["seq_q"], embed_dim=heads * shape["head_dim"], num_heads=heads)
        case OperatorKind.LINEAR if call.operator == "linear":
            k, n = max(shape["k"], 1), max(shape["n"], 1)
            x = call.tensor("input").shape
            return SequenceFeatures(seq_len=_tokens(x), embed_dim=min(k, n), mlp_ratio=max(k, n) / min(k, n))
        case OperatorKind.LINEAR | OperatorKind.MATMUL if "m" in shape:
            return SequenceFeatures(seq_len=shape["m"], embed_dim=shape["k"])
        case OperatorKind.RECURRENT:
            return SequenceFeatures(seq_len=shape["steps"], embed_dim=shape["hidden"])
        case OperatorKind.NORM if call.operator in ("layer_norm", "rms_norm", "_fused_rms_norm"):
            return SequenceFeatures(seq_len=_tokens(call.tensors[0].shape), embed_dim=shape["channels"])
        case OperatorKind.SOFTMAX if "length" in shape:
            return SequenceFeatures(seq_len=shape["length"])
        case OperatorKind.EMBEDDING:
            return SequenceFeatures(seq_len=_tokens(call.output.shape), embed_dim=shape["width"])
    return SequenceFeatures()


def _tokens(shape: Sequence[int]) -> int:
    return shape[-2] if len(shape) >= 3 else 1
