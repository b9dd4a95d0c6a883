"""Operators of vector units from rows: norms, softmax, element-wise, reductions, pools, FFTs, embeddings, copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from dse.proxy.measure.operators import Operand, Operator, Problem, with_optional
from workloads.extents import DENSE, GAPS, REPEATED, TRANSPOSED

SCALAR = 1.7
"""The number that an operator takes where its second operand is none of the tensors."""


def _high(dtype: torch.dtype) -> int:
    """Bound of the integers that are drawn; 0 of other types."""
    return 0 if dtype.is_floating_point or dtype.is_complex else 100


def _plain(p: Problem, *shape: int, **options: Any) -> Operand:
    """An activation of this shape that lies as the row says."""
    rank = len(shape)
    if p.layout == TRANSPOSED and rank > 1:
        options["order"] = (*range(rank - 2), rank - 1, rank - 2)
    elif p.layout == GAPS:
        options["gap"] = min(shape[-1], 64)
    return Operand(**{"shape": shape, "dtype": p.dtype, **options})


# --- norms, softmax, reductions ---------------------------------------------------------------------------------------


def norm(p: Problem) -> Operator:
    """Layer, RMS, group, instance or batch norm (in evaluation), with weights where the bytes say so."""
    rows, cols = p.rows, p.cols
    if p.op_name in ("ln", "layernorm", "rmsnorm"):
        x = _plain(p, rows, cols)
        pair = (Operand(shape=(cols,), dtype=p.dtype, weight=True),) * (1 if p.op_name == "rmsnorm" else 2)
        operands = (x, *pair[: with_optional(p, (x,), x.nbytes, pair)])
        if p.op_name == "rmsnorm":
            return Operator(operands=operands, call=lambda x, w=None: F.rms_norm(x, (cols,), w))
        return Operator(operands=operands, call=lambda x, w=None, b=None: F.layer_norm(x, (cols,), w, b))
    batch, channels = p.batch, p.cin
    x = _plain(p, batch, channels, rows * cols // (batch * channels))
    each = Operand(shape=(channels,), dtype=p.dtype, weight=True)
    if p.op_name == "batchnorm":  # running mean and variance, then weight and bias
        affine = with_optional(p, (x, each, each), x.nbytes, (each, each)) == 2
        operands = (x, each, each, *((each, each) if affine else ()))
        return Operator(operands=operands, call=lambda x, mean, var, w=None, b=None: F.batch_norm(x, mean, var, w, b))
    affine = with_optional(p, (x,), x.nbytes, (each, each)) == 2
    operands = (x, each, each) if affine else (x,)
    if p.op_name == "instancenorm":
        return Operator(operands=operands, call=lambda x, w=None, b=None: F.instance_norm(x, weight=w, bias=b))
    if p.op_name == "groupnorm":
        groups = p.groups
        return Operator(operands=operands, call=lambda x, w=None, b=None: F.group_norm(x, groups, w, b))
    raise p.refuse("no norm of that name is known here")


def _along(p: Problem, outer: int) -> Operand:
    """What runs along the middle of [outer, cols, inner]; along the last axis where inner is 1."""
    inner = p.get("inner", 1)
    shape = (outer, p.cols) if inner == 1 else (outer, p.cols, inner)
    return _plain(p, *shape, weight=p.weight_bytes > 0)


def softmax(p: Problem) -> Operator:
    """Softmax (or its logarithm) along one axis."""
    function = F.log_softmax if "log" in p.op_name else F.softmax
    x = _along(p, p.rows // p.get("inner", 1))
    return Operator(operands=(x,), call=lambda x: function(x, 1))


REDUCTIONS: Mapping[str, Callable[[Any], Any]] = {
    "sum": lambda x: x.sum(1),
    "mean": lambda x: x.mean(1),
    "std": lambda x: x.std(1),
    "var": lambda x: x.var(1),
    "amax": lambda x: x.amax(1),
    "amin": lambda x: x.amin(1),
    "argmax": lambda x: x.argmax(1),
    "cumsum": lambda x: x.cumsum(1),
    "linalg_vector_norm": lambda x: torch.linalg.vector_norm(x, dim=1),
    "logsumexp": lambda x: x.logsumexp(1),
}


def reduction(p: Problem) -> Operator:
    """Reduction of one axis."""
    if p.op_name not in REDUCTIONS:
        raise p.refuse("no reduction of that name is known here")
    return Operator(operands=(_along(p, p.rows // p.get("inner", 1)),), call=REDUCTIONS[p.op_name])


# --- element-wise ----------------------------------------------------------------------------------------------------

UNARY: Mapping[str, Callable[[Any], Any]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "elu": F.elu,
    "leaky_relu": F.leaky_relu,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "erf": torch.erf,
    "abs": torch.abs,
    "neg": torch.neg,
    "square": torch.square,
    "reciprocal": torch.reciprocal,
    "angle": torch.angle,
    "clamp": lambda x: x.clamp(min=0.1),
}

BINARY: Mapping[str, Callable[[Any, Any], Any]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "atan2": torch.atan2,
}

TERNARY: Mapping[str, Callable[[Any, Any, Any], Any]] = {
    "addcmul": torch.addcmul,
    "addcdiv": torch.addcdiv,
}


def elementwise(p: Problem) -> Operator:
    """An element-wise operator on [batch, rows, cols]; the smaller operand is repeated as the row says."""
    shape, name = (p.get("batch", 1), p.rows, p.cols), p.op_name
    broadcast, count = p.get("broadcast", 0), p.get("operands", 2 if name in BINARY else 1)
    numel = shape[0] * shape[1] * shape[2]
    own = p.weight_bytes > 0
    if name == "hann_window":
        device = p.device
        return Operator(operands=(), call=lambda: torch.hann_window(numel, device=device))
    if name == "glu":
        x = _plain(p, shape[0] * shape[1], 2 * shape[2])
        return Operator(operands=(x,), call=lambda x: F.glu(x, 1))
    if name == "upsample_linear1d":
        before = int(p.bytes / p.dtype.itemsize - numel) // max(shape[0] * shape[1], 1)
        x = Operand(shape=(1, shape[0] * shape[1], before), dtype=p.dtype, weight=own)
        return Operator(operands=(x,), call=lambda x: F.interpolate(x, shape[2], mode="linear"))
    if name == "prelu":
        weights = 1 if broadcast & REPEATED["rows"] else shape[1]
        slope = Operand(shape=(weights,), dtype=p.dtype, weight=own)
        return Operator(operands=(_plain(p, *shape), slope), call=F.prelu)
    dtype = p.dtype
    if name in ("abs", "angle") and p.bytes > 2.5 * numel * dtype.itemsize:  # real results of complex numbers
        dtype = torch.complex64
    high = _high(dtype)
    if name in UNARY or name == "pow":
        x = _plain(p, *shape, dtype=dtype, weight=own and count == 1, high=high)
        return Operator(operands=(x,), call=UNARY.get(name, lambda x: torch.pow(2.0, x)))
    full = Operand(shape=shape, dtype=dtype, high=high)
    if name in TERNARY:
        return Operator(operands=(full, full, _plain(p, *shape, high=high)), call=TERNARY[name])
    if name == "lerp":
        return Operator(operands=(full, _plain(p, *shape, high=high)), call=lambda x, y: torch.lerp(x, y, 0.1))
    if name not in BINARY:
        raise p.refuse("no element-wise operator of that name is known here")
    function = BINARY[name]
    if count < 2:
        x = _plain(p, *shape, weight=own, high=high)
        return Operator(operands=(x,), call=lambda x: function(x, SCALAR))
    if broadcast:
        bits = REPEATED.values()
        small = tuple(1 if broadcast & bit else size for size, bit in zip(shape, bits, strict=True))
        repeated = Operand(shape=small, dtype=p.dtype, weight=own, high=high)
        return Operator(operands=(_plain(p, *shape, high=high), repeated), call=function)
    if p.layout == DENSE and p.bytes < 2.5 * full.nbytes:  # of a tensor with itself
        return Operator(operands=(full,), call=lambda x: function(x, x))
    return Operator(operands=(full, _plain(p, *shape, weight=own, high=high)), call=function)


# --- planes, spectra, tables -----------------------------------------------------------------------------------------


def pool(p: Problem) -> Operator:
    """Pooling of planes; of sequences as planes of one row."""
    x = _plain(p, 1, p.batch, p.hin, p.win)
    out = (p.hout, p.wout)
    if "adaptive" in p.op_name:
        adaptive = F.adaptive_max_pool2d if "max" in p.op_name else F.adaptive_avg_pool2d
        return Operator(operands=(x,), call=lambda x: adaptive(x, out))
    function = F.max_pool2d if "max" in p.op_name else F.avg_pool2d
    high = p.kh > 1 or p.hin > 1
    kernel = (p.kh, p.kw)
    stride = (p.stride if high else 1, p.get("stride_w", p.stride))
    padding = (p.get("pad", 0) if high else 0, p.get("pad_w", p.get("pad", 0)))
    return Operator(operands=(x,), call=lambda x: function(x, kernel, stride, padding))


def resample(p: Problem) -> Operator:
    """Resampling of planes to another size."""
    modes = {"nearest": "nearest", "bilinear": "bilinear", "bicubic": "bicubic"}
    mode = next((mode for sign, mode in modes.items() if sign in p.op_name), None)
    if mode is None or not p.op_name.startswith("upsample"):
        raise p.refuse("no resampling of that name is known here")
    out = (p.hout, p.wout)
    x = _plain(p, 1, p.batch, p.hin, p.win)
    return Operator(operands=(x,), call=lambda x: F.interpolate(x, out, mode=mode))


def fft(p: Problem) -> Operator:
    """FFT, real FFT and its inverse along rows; short-time FFT and its inverse of signals."""
    rows, length, name = p.rows, p.cols, p.op_name
    bins = length // 2 + 1
    if name in ("stft", "istft"):
        return _short_time(p, bins)
    transforms: dict[str, tuple[Callable[..., Any], int, torch.dtype]] = {
        "rfft": (torch.fft.rfft, length, torch.float32),
        "irfft": (lambda x: torch.fft.irfft(x, n=length), bins, torch.complex64),
        "fft": (torch.fft.fft, length, torch.complex64),
        "ifft": (torch.fft.ifft, length, torch.complex64),
    }
    if name not in transforms:
        raise p.refuse("no transform of that name is known here")
    call, width, dtype = transforms[name]
    return Operator(operands=(_plain(p, rows, width, dtype=dtype),), call=call)


def _short_time(p: Problem, bins: int) -> Operator:
    signals, samples, size, hop = p.batch, p.win, p.cols, p.stride
    frames = p.rows // signals
    signal = Operand(shape=(signals, samples))
    spectrum = Operand(shape=(signals, bins, frames), dtype=torch.complex64, order=(0, 2, 1))
    window = Operand(shape=(size,), weight=p.weight_bytes > 0)
    held = (signal, spectrum) if p.op_name == "stft" else (spectrum, signal)
    windowed = bool(with_optional(p, held[:1], held[1].nbytes, (window,)))
    operands = (held[0], window) if windowed else held[:1]
    centred = frames == 1 + samples // hop
    if p.op_name == "stft":
        options: dict[str, Any] = {"center": centred, "return_complex": True}
        return Operator(operands=operands, call=lambda x, w=None: torch.stft(x, size, hop, window=w, **options))

    def inverse(x: Any, w: Any = None) -> Any:
        return torch.istft(x, size, hop, window=w, length=samples)

    return Operator(operands=operands, call=inverse, result=signal)


def embedding(p: Problem) -> Operator:
    """Rows of a table."""
    table = Operand(shape=(p.n, p.cols), dtype=p.dtype, weight=True, read=p.rows * p.cols)
    indices = Operand(shape=(p.rows,), dtype=torch.int64, high=p.n)
    return Operator(operands=(indices, table), call=F.embedding)


def copy(p: Problem) -> Operator:
    """What moves data and computes nothing."""
    name = p.op_name
    if "hin" in p.columns:
        return _pad(p)
    rows, cols, inner = p.rows, p.cols, p.get("inner", 1)
    high = _high(p.dtype)
    if name == "cat":
        parts = max(p.operands, 1)
        widths = [cols // parts + (1 if part < cols % parts else 0) for part in range(parts)]
        last = _plain(p, rows, widths[-1], high=high)
        first = [Operand(shape=(rows, width), dtype=p.dtype, high=high) for width in widths[:-1]]
        return Operator(operands=(*first, last), call=lambda *parts: torch.cat(parts, 1))
    numel, dtype, device = rows * cols * inner, p.dtype, p.device
    if name == "complex":
        return Operator(operands=(Operand(shape=(rows, cols)),) * 2, call=torch.complex)
    if name == "arange":
        return Operator(operands=(), call=lambda: torch.arange(numel, dtype=dtype, device=device))
    if name in ("zeros", "zeros_like", "ones", "ones_like", "full", "full_like", "fill"):
        return Operator(operands=(), call=lambda: torch.zeros(numel, dtype=dtype, device=device))
    if name == "index_select":
        table, chosen = _plain(p, rows, cols), Operand(shape=(rows,), dtype=torch.int64, high=rows)
        return Operator(operands=(table, chosen), call=lambda x, i: x.index_select(0, i))
    if name not in ("contiguous", "clone", "reshape", "flatten", "_unsafe_view", "copy"):
        raise p.refuse("no copy of that name is known here")
    if p.layout == DENSE:
        x = Operand(shape=(rows, cols * inner), dtype=dtype, high=high)
    elif min(rows, cols) == 1:  # runs with gaps between them
        shape = (rows * cols, inner)
        x = Operand(shape=shape, dtype=dtype, gap=min(inner, 64), high=high)
    else:
        x = Operand(shape=(rows, cols, inner), dtype=dtype, order=(1, 0, 2), high=high)
    return Operator(operands=(x,), call=lambda x: x.clone(memory_format=torch.contiguous_format))


def _pad(p: Problem) -> Operator:
    x = _plain(p, p.batch, p.hin, p.win)
    down, across = p.hout - p.hin, p.wout - p.win
    sides = [across // 2, across - across // 2, down // 2, down - down // 2]
    mode = next((mode for sign, mode in (("reflect", "reflect"), ("replic", "replicate")) if sign in p.op_name), None)
    return Operator(operands=(x,), call=lambda x: F.pad(x, sides[: 4 if down else 2], mode or "constant"))


VECTOR_BUILDERS: Mapping[str, Callable[[Problem], Operator]] = {
    "layernorm": norm,
    "softmax": softmax,
    "reduction": reduction,
    "elementwise": elementwise,
    "pool": pool,
    "resample": resample,
    "fft": fft,
    "embedding": embedding,
    "copy": copy,
}
