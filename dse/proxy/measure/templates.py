"""Operators that the catalogue lacks, at a middling size: the spread of shapes is drawn round these, too."""

from __future__ import annotations

from collections.abc import Iterator

from dse.proxy.layer_rows import Row

_TOKENS: Row = {"batch": 1, "heads": 8, "kv_heads": 8, "head_dim": 64, "seq_q": 256, "seq_kv": 256}
_LINE: Row = {"rows": 512, "cols": 512}
_PLANE: Row = {"batch": 64, "hin": 56, "win": 56}

REDUCTIONS = ("var", "amax", "argmax", "cumsum", "logsumexp")
UNARY = ("exp", "log", "sqrt", "rsqrt", "erf", "softplus", "leaky_relu", "hardswish", "reciprocal")
BINARY = ("add", "mul", "div", "maximum")


def _templates() -> Iterator[Row]:
    yield from _matrix()
    yield {"op_type": "layernorm", "op_name": "rmsnorm", **_LINE}
    for name in ("softmax", "log_softmax"):
        yield {"op_type": "softmax", "op_name": name, **_LINE, "inner": 1}
    for name in REDUCTIONS:
        yield {"op_type": "reduction", "op_name": name, **_LINE, "inner": 1}
    for name in UNARY:
        yield {"op_type": "elementwise", "op_name": name, "batch": 1, **_LINE, "operands": 1, "broadcast": 0}
    for name in BINARY:
        for bits in (0, 2, 4):
            yield {"op_type": "elementwise", "op_name": name, "batch": 1, **_LINE, "operands": 2, "broadcast": bits}
    yield from _planes()
    for name in ("rfft", "fft", "ifft"):
        yield {"op_type": "fft", "op_name": name, "rows": 200, "cols": 1024}
    yield {"op_type": "fft", "op_name": "istft", "rows": 251, "cols": 1024, "stride": 256, "batch": 1, "win": 64000}
    yield {"op_type": "embedding", "op_name": "embedding", "rows": 512, "cols": 512, "n": 8000}
    yield {"op_type": "copy", "op_name": "index_select", **_LINE, "inner": 1, "operands": 2}
    yield {"op_type": "copy", "op_name": "clone", **_LINE, "inner": 1, "operands": 1}
    heads = {"rows": 128, "cols": 8, "inner": 64, "layout": 1}
    for permuted in (heads, {**_LINE, "inner": 1, "layout": 2}):
        yield {"op_type": "copy", "op_name": "contiguous", "operands": 1, **permuted}


def _matrix() -> Iterator[Row]:
    yield {"op_type": "matmul", "op_name": "bmm", "batch": 16, "m": 256, "n": 256, "k": 64}
    yield {"op_type": "attn_prefill", "op_name": "attn", **_TOKENS}
    yield {"op_type": "attn_decode", "op_name": "attn", **_TOKENS, "seq_q": 1, "seq_kv": 1024}
    yield {"op_type": "linear_attention", "op_name": "linear", **_TOKENS}
    for name in ("lstm", "gru"):
        for ways in (1, 2):
            sizes = {"batch": 4, "seq_q": 50, "cin": 128, "cout": 128, "layers": 1, "directions": ways}
            yield {"op_type": "recurrent", "op_name": name, **sizes}
    volume: Row = {"op_type": "conv3d", "op_name": "conv", "batch": 1, "cin": 16, "cout": 32, "groups": 1}
    for axis, end in (("d", "_d"), ("h", ""), ("w", "_w")):
        volume |= {f"k{axis}": 3, f"{axis}in": 16, f"{axis}out": 16}
        volume |= {f"stride{end}": 1, f"pad{end}": 1, f"dilation{end}": 1}
    yield volume
    depthwise: Row = {"op_type": "conv1d", "op_name": "conv", "batch": 1, "cin": 64, "cout": 64, "groups": 64}
    depthwise |= {"kh": 1, "kw": 3, "hin": 1, "hout": 1, "win": 2000, "wout": 2000, "stride": 1, "stride_w": 1}
    for reach in (1, 4):
        yield depthwise | {"pad": reach, "pad_w": reach, "dilation": reach, "dilation_w": reach}


def _planes() -> Iterator[Row]:
    halved: Row = {"kh": 2, "kw": 2, "stride": 2, "stride_w": 2, "pad": 0, "pad_w": 0, "hout": 28, "wout": 28}
    yield {"op_type": "pool", "op_name": "avg_pool2d", **_PLANE, **halved}
    line: Row = {"batch": 64, "hin": 1, "win": 4000, "hout": 1, "wout": 2000, "kh": 1}
    yield {"op_type": "pool", "op_name": "max_pool1d", **halved, **line}
    yield {"op_type": "resample", "op_name": "upsample_nearest2d", **_PLANE, "hout": 112, "wout": 112}


TEMPLATES: tuple[Row, ...] = tuple(_templates())
"""Rows without type and layout where these are the plain ones, and without FLOPs and bytes."""
