"""The tidy schema of operator measurements: its columns, their units, and the operators and number types it knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["name", "label", "shape", "work", "measure", "flag", "id"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the tidy table.

    A name is text that every row has, a label text that a row may lack. A shape is a whole multiple of `step`, at
    least `least`. Work is known of every row, a measure where it was taken (latency: always), and is more than zero.
    """

    kind: Kind
    unit: str
    meaning: str
    least: float = 1.0
    step: float = 1.0


def _name(meaning: str) -> Column:
    return Column(kind="name", unit="", meaning=meaning)


def _label(meaning: str) -> Column:
    return Column(kind="label", unit="", meaning=meaning)


def _shape(meaning: str, *, least: float = 1.0, step: float = 1.0) -> Column:
    return Column(kind="shape", unit="elements", meaning=meaning, least=least, step=step)


COLUMNS: dict[str, Column] = {
    "source": _name("the set that the row is from"),
    "framework": _name("library and version that ran the operator: versions differ by 20 to 50 % on one chip"),
    "timer": _name("how the time was taken; a wall clock holds the launch as well"),
    "device": _name("row of the device table"),
    "op_type": _name("kind of operator, one of OPERATORS"),
    "op_name": _name("the operator within its kind: linear, bmm, gelu, rmsnorm, ..."),
    "dtype": _name("number type of the operands, one of DTYPES"),
    "compute_dtype": _name("number type of the arithmetic, one of COMPUTE_DTYPES"),
    "m": _shape("rows of the left matrix; tokens of a mixture of experts"),
    "n": _shape("columns of the right matrix; inner size of an expert"),
    "k": _shape("contracted size; hidden size of a mixture of experts"),
    "batch": _shape("matrices of a batched product, images, sequences"),
    "cin": _shape("input channels"),
    "cout": _shape("output channels"),
    "kd": _shape("kernel depth"),
    "kh": _shape("kernel height"),
    "kw": _shape("kernel width"),
    "stride": _shape("stride of the height, or of the only axis"),
    "stride_w": _shape("stride of the width"),
    "stride_d": _shape("stride of the depth"),
    "pad": _shape("padding of each side; a half where one side has one more", least=0.0, step=0.5),
    "pad_w": _shape("padding of the width's sides", least=0.0, step=0.5),
    "pad_d": _shape("padding of the depth's sides", least=0.0, step=0.5),
    "dilation": _shape("dilation of the height, or of the only axis"),
    "dilation_w": _shape("dilation of the width"),
    "dilation_d": _shape("dilation of the depth"),
    "groups": _shape("channel groups"),
    "din": _shape("input depth"),
    "hin": _shape("input height"),
    "win": _shape("input width"),
    "dout": _shape("output depth"),
    "hout": _shape("output height"),
    "wout": _shape("output width"),
    "heads": _shape("query heads"),
    "kv_heads": _shape("key and value heads"),
    "head_dim": _shape("size of a head"),
    "value_dim": _shape("size of a head's values, where it is another"),
    "seq_q": _shape("query tokens"),
    "seq_kv": _shape("key and value tokens"),
    "window": _shape("tokens that a query sees; 0: all", least=0.0),
    "rows": _shape("rows of an operator that works along rows"),
    "cols": _shape("elements of a row"),
    "inner": _shape("elements that stay neighbours, or lie between two of one result"),
    "operands": _shape("tensors that are read", least=0.0),
    "broadcast": _shape("along which of batch (1), rows (2) and cols (4) an operand is repeated", least=0.0),
    "layout": _shape("0: rows without gaps; 1: with gaps; 2: neighbours lie apart", least=0.0),
    "layers": _shape("layers of a recurrent network"),
    "directions": _shape("directions of a recurrent network"),
    "experts": _shape("experts"),
    "topk": _shape("experts a token goes to"),
    "flops": Column(
        kind="work", unit="FLOP", meaning="2 x multiply-accumulates; a convolution's are direct", least=0.0
    ),
    "bytes": Column(kind="work", unit="B", meaning="inputs, weights and outputs, each moved once"),
    "weight_bytes": Column(kind="work", unit="B", meaning="weights; 0 for a product of activations", least=0.0),
    "latency_ms": Column(kind="measure", unit="ms", meaning="time of one call"),
    "power_w": Column(kind="measure", unit="W", meaning="mean power of the board"),
    "energy_mj": Column(kind="measure", unit="mJ", meaning="power x time"),
    "mem_mb": Column(kind="measure", unit="MB", meaning="peak memory"),
    "footprint_mb": Column(kind="measure", unit="MB", meaning="bytes, in MB"),
    "kernel_source": _label("kernel that ran"),
    "split_src": _label("the source's own split: train or test"),
    "l2_resident": Column(kind="flag", unit="", meaning="bytes are fewer than the last-level cache holds"),
    "power_ok": Column(kind="flag", unit="", meaning="there is a power, of a run of 0.05 ms or more"),
    "chip_family": _label("family of the device"),
    "vendor": _label("vendor of the device"),
    "row_id": Column(kind="id", unit="", meaning="number of the row in its first table"),
}
"""Every column of the table, in its order."""

NAMES = tuple(name for name, column in COLUMNS.items() if column.kind == "name")
SHAPES = tuple(name for name, column in COLUMNS.items() if column.kind == "shape")
WORK = tuple(name for name, column in COLUMNS.items() if column.kind == "work")
TEXTS = tuple(name for name, column in COLUMNS.items() if column.kind in ("name", "label"))
NUMBERS = tuple(name for name, column in COLUMNS.items() if column.kind in ("shape", "work", "measure"))
REQUIRED = tuple(name for name in NAMES if name != "compute_dtype")
"""What a table of rows must have; compute_dtype and work follow from the rest, latency_ms only a measured row has."""

UNITS: dict[str, tuple[str, dict[str, float]]] = {
    "latency": ("latency_ms", {"ms": 1.0, "us": 1e-3, "ns": 1e-6, "s": 1e3}),
    "power": ("power_w", {"w": 1.0, "mw": 1e-3}),
    "mem": ("mem_mb", {"mb": 1.0, "bytes": 1e-6}),
}
"""Quantity -> its column, and what one of each unit that it may come in is in that column's unit."""

_IMAGE = ("batch", "cin", "cout", "kh", "kw", "hin", "win", "hout", "wout")
_LINE = ("batch", "cin", "cout", "kw", "win", "wout")
_PLANES = ("batch", "hin", "win", "hout", "wout")
_VOLUME = (*_IMAGE, "kd", "din", "dout")
_HEADS = ("batch", "heads", "kv_heads", "head_dim", "seq_q", "seq_kv")
_ROWS = ("rows", "cols")

OPERATORS: dict[str, tuple[str, ...]] = {
    "matmul": ("m", "n", "k"),
    "moe": ("m", "n", "k", "experts", "topk"),
    "conv1d": _LINE,
    "conv2d": _IMAGE,
    "conv3d": _VOLUME,
    "conv_transpose1d": _LINE,
    "conv_transpose2d": _IMAGE,
    "attn_decode": _HEADS,
    "attn_prefill": _HEADS,
    "attn_encoder": _HEADS,
    "linear_attention": _HEADS,
    "layernorm": _ROWS,
    "softmax": _ROWS,
    "elementwise": _ROWS,
    "reduction": _ROWS,
    "pool": _PLANES,
    "resample": _PLANES,
    "fft": _ROWS,
    "recurrent": ("batch", "seq_q", "cin", "cout"),
    "embedding": _ROWS,
    "copy": (),
    "other": (),
}
"""Operator kind -> the shape columns that a row of it must have. A copy is of rows or of planes."""

_CONV_DEFAULTS = {"stride": 1.0, "pad": 0.0, "dilation": 1.0, "groups": 1.0}
DEFAULTS: dict[str, dict[str, float]] = {
    "matmul": {"batch": 1.0},
    "conv1d": _CONV_DEFAULTS,
    "conv2d": _CONV_DEFAULTS,
    "conv3d": _CONV_DEFAULTS,
    "conv_transpose1d": _CONV_DEFAULTS,
    "conv_transpose2d": _CONV_DEFAULTS,
    "attn_decode": {"window": 0.0},
    "attn_prefill": {"window": 0.0},
}
"""Operator kind -> shape columns that mean this where a row leaves them out."""

VECTOR_OPERATORS = ("layernorm", "softmax", "elementwise", "reduction", "pool", "resample", "fft", "embedding", "copy")
"""Operator kinds that run on a chip's vector units, in fp32; the others run on its matrix units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dtype:
    """Bytes that one number takes, and what matrix units compute in.

    Activations stay at 2 bytes where only the weights or the key-value cache are narrower; what comes out of an int8
    product is 2 bytes wide.
    """

    activation: float
    weight: float
    output: float
    kv: float
    compute: str


def _dtype(size: float, compute: str, **wide: float) -> Dtype:
    sizes = {"activation": size, "weight": size, "output": size, "kv": size} | wide
    return Dtype(compute=compute, **sizes)


DTYPES: dict[str, Dtype] = {
    "fp64": _dtype(8, "fp64"),
    "complex64": _dtype(8, "fp32"),
    "complex128": _dtype(16, "fp64"),
    "fp32": _dtype(4, "fp32"),
    "tf32": _dtype(4, "tf32"),
    "fp16": _dtype(2, "fp16"),
    "bf16": _dtype(2, "bf16"),
    "bf16_kvfp8": _dtype(2, "bf16", kv=1),
    "fp8": _dtype(2, "fp8", weight=1, kv=1),
    "nvfp4": _dtype(2, "nvfp4", weight=0.5625),  # 4 bits, and an 8-bit scale of every 16
    "int8": _dtype(1, "int8", output=2),
    "int8_wo": _dtype(2, "bf16", weight=1),
    "int4_wo": _dtype(2, "bf16", weight=0.5),
    "int16": _dtype(2, "int16"),
    "int32": _dtype(4, "int32"),
    "int64": _dtype(8, "int64"),
    "uint8": _dtype(1, "uint8"),
    "bool": _dtype(1, "bool"),
}
"""Number type of the operands -> its sizes."""

COMPUTE_DTYPES = tuple(dict.fromkeys([*(dtype.compute for dtype in DTYPES.values()), *DTYPES]))
