"""Operators of matrix units from rows: convolutions, matrix products, attention, recurrent layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from dse.proxy.measure.operators import Operand, Operator, Problem, with_optional
from workloads.extents import DENSE, GAPS, TRANSPOSED


def _swapped(rank: int, layout: int) -> tuple[int, ...]:
    """Order of the axes in memory of a tensor whose last two lie the other way round, if it is transposed."""
    return (*range(rank - 2), rank - 1, rank - 2) if layout == TRANSPOSED else ()


def _gap(layout: int, extent: int) -> int:
    return min(extent, 64) if layout == GAPS else 0


def convolution(p: Problem) -> Operator:
    """Convolution of one to three axes, transposed or not, forward or both gradients."""
    axes = "dhw"[3 - int(p.op_type[-2]) :]
    transposed = "transpose" in p.op_type
    sizes = {name: tuple(getattr(p, f"{axis}{name}") for axis in axes) for name in ("in", "out")}
    kernel = tuple(getattr(p, f"k{axis}") for axis in axes)
    only = len(axes) == 1

    def each(name: str, default: int) -> tuple[int, ...]:
        first = p.get(name, default)
        columns = {"h": name, "w": name if only else f"{name}_w", "d": f"{name}_d"}
        return tuple(p.get(columns[axis], first) for axis in axes)

    stride, padding, dilation = each("stride", 1), each("pad", 0), each("dilation", 1)
    cin, cout, groups = p.cin, p.cout, p.get("groups", 1)
    if cin % groups or cout % groups:
        raise p.refuse(f"{groups} groups do not divide {cin} and {cout} channels")
    rank = len(axes) + 2
    x = Operand(
        shape=(p.batch, cin, *sizes["in"]),
        dtype=p.dtype,
        order=_swapped(rank, p.layout),
        gap=_gap(p.layout, sizes["in"][-1]),
    )
    channels = (cin, cout // groups) if transposed else (cout, cin // groups)
    own = p.weight_bytes > 0
    weight = Operand(shape=(*channels, *kernel), dtype=p.dtype, weight=own)
    bias = Operand(shape=(cout,), dtype=p.dtype, weight=own)
    y_bytes = p.batch * cout * math.prod(sizes["out"]) * p.dtype.itemsize
    spare = tuple(
        out - ((n - 1) * s - 2 * q + d * (k - 1) + 1)
        for n, out, k, s, q, d in zip(sizes["in"], sizes["out"], kernel, stride, padding, dilation, strict=True)
    )
    made = tuple(
        (n + 2 * q - d * (k - 1) - 1) // s + 1
        for n, k, s, q, d in zip(sizes["in"], kernel, stride, padding, dilation, strict=True)
    )
    if transposed and not all(0 <= extra < max(s, d) for extra, s, d in zip(spare, stride, dilation, strict=True)):
        raise p.refuse(f"sizes {sizes['in']} do not give {sizes['out']}")
    pad: Any = padding
    if not transposed and made != sizes["out"]:
        if set(stride) != {1} or sizes["in"] != sizes["out"]:
            raise p.refuse(f"sizes {sizes['in']} give {made}, not {sizes['out']}")
        pad = "same"
    if p.op_name.startswith("conv_bwd"):
        y = Operand(shape=(p.batch, cout, *sizes["out"]), dtype=p.dtype)
        mask = [p.op_name == "conv_bwd_data", True, False]
        options = (list(stride), list(padding), list(dilation), transposed, list(spare if transposed else ()), groups)
        rest = (*options[:4], options[4] or [0] * len(axes), groups, mask)
        backward = torch.ops.aten.convolution_backward.default
        return Operator(operands=(y, x, weight), call=lambda y, x, w: backward(y, x, w, None, *rest))
    operands = (x, weight, bias)[: 2 + with_optional(p, (x, weight), y_bytes, (bias,))]
    if transposed:
        function: Callable[..., Any] = getattr(F, f"conv_transpose{len(axes)}d")

        def call(x: Any, w: Any, b: Any = None) -> Any:
            return function(x, w, b, stride, padding, spare, groups, dilation)
    else:
        function = getattr(F, f"conv{len(axes)}d")

        def call(x: Any, w: Any, b: Any = None) -> Any:
            return function(x, w, b, stride, pad, dilation, groups)

    return Operator(operands=operands, call=call)


def matmul(p: Problem) -> Operator:
    """Product with a weight (linear, its bias if there is one) or of two batches of matrices (bmm)."""
    batch, m, n, k = p.get("batch", 1), p.m, p.n, p.k
    if p.op_name == "bmm":
        left = Operand(shape=(batch, m, k), dtype=p.dtype, order=_swapped(3, p.layout), gap=_gap(p.layout, k))
        right = Operand(shape=(batch, k, n), dtype=p.dtype, weight=p.weight_bytes > 0)
        return Operator(operands=(left, right), call=torch.bmm)
    if batch != 1:
        raise p.refuse(f"a product with a weight has no batch ({batch}): its rows are m")
    x = Operand(shape=(m, k), dtype=p.dtype, order=_swapped(2, p.layout), gap=_gap(p.layout, k))
    weight = Operand(shape=(n, k), dtype=p.dtype, weight=p.weight_bytes > 0)
    if p.dtype == torch.int8:  # sums in int32
        return Operator(operands=(x, weight), call=lambda x, w: torch._int_mm(x, w.t()))
    bias = Operand(shape=(n,), dtype=p.dtype, weight=p.weight_bytes > 0)
    optional = with_optional(p, (x, weight), m * n * p.dtype.itemsize, (bias,))
    return Operator(operands=(x, weight, bias)[: 2 + optional], call=F.linear)


def attention(p: Problem) -> Operator:
    """Fused scaled dot-product attention, full, causal, or of one query (decode); with a mask where bytes say so."""
    heads, dim = p.heads, p.head_dim
    kv_heads, value_dim = p.get("kv_heads", heads), p.get("value_dim", dim)
    order = (0, 2, 1, 3) if p.layout != DENSE else ()

    def tokens(count: int, length: int, width: int) -> Operand:
        return Operand(shape=(p.batch, count, length, width), dtype=p.dtype, order=order)

    operands = (
        tokens(heads, p.seq_q, dim),
        tokens(kv_heads, p.seq_kv, dim),
        tokens(kv_heads, p.seq_kv, value_dim),
    )
    causal, grouped = p.op_type == "attn_prefill", kv_heads != heads
    mask = Operand(shape=(p.seq_q, p.seq_kv), dtype=p.dtype)
    out_bytes = p.batch * heads * p.seq_q * value_dim * p.dtype.itemsize
    masked = not causal and with_optional(p, operands, out_bytes, (mask,))

    def call(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=grouped)

    return Operator(operands=(*operands, mask) if masked else operands, call=call)


def linear_attention(p: Problem) -> Operator:
    """q (k' v): attention whose products are taken the other way round, linear in the sequence (arXiv 2006.16236)."""
    q, kv = (Operand(shape=(p.batch * p.heads, length, p.head_dim), dtype=p.dtype) for length in (p.seq_q, p.seq_kv))
    return Operator(operands=(q, kv, kv), call=lambda q, k, v: torch.bmm(q, torch.bmm(k.transpose(1, 2), v)))


def recurrent(p: Problem) -> Operator:
    """LSTM or GRU of some layers, one way or both, from zero states."""
    gates = {"lstm": 4, "gru": 3}.get(p.op_name)
    if gates is None:
        raise p.refuse("only lstm and gru are")
    layers, directions, hidden = p.get("layers", 1), p.get("directions", 1), p.cout
    x = Operand(shape=(p.seq_q, p.batch, p.cin), dtype=p.dtype)
    state = Operand(shape=(layers * directions, p.batch, hidden), dtype=p.dtype)
    weights = []
    for layer in range(layers):
        width = p.cin if layer == 0 else hidden * directions
        shapes = ((gates * hidden, width), (gates * hidden, hidden), (gates * hidden,), (gates * hidden,))
        weights += [Operand(shape=shape, dtype=p.dtype, weight=True) for shape in shapes * directions]
    states = (state, state) if gates == 4 else (state,)

    def call(x: Any, *rest: Any) -> Any:
        options = (True, layers, 0.0, False, directions == 2, False)
        if gates == 4:
            return torch.lstm(x, rest[:2], rest[2:], *options)
        return torch.gru(x, rest[0], rest[1:], *options)

    return Operator(operands=(x, *states, *weights), call=call)


MATRIX_BUILDERS: Mapping[str, Callable[[Problem], Operator]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), convolution),
    "matmul": matmul,
    **dict.fromkeys(("attn_encoder", "attn_prefill", "attn_decode"), attention),
    "linear_attention": linear_attention,
    "recurrent": recurrent,
}
