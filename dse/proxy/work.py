"""Work of measured operators: FLOPs, bytes and weight bytes from their shapes, by the conventions of the tidy table."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dse.proxy.columns import DTYPES, SHAPES, VECTOR_OPERATORS, WORK

Array = NDArray[np.float64]

UNARY = {
    **dict.fromkeys(("abs", "addu", "divu", "mulu", "powu", "neg", "relu", "sqrt", "rsqrt", "clamp", "square"), 1.0),
    **dict.fromkeys(("exp", "log", "sigmoid", "tanh", "gelu", "silu", "elu", "softplus", "sin", "cos", "erf"), 10.0),
}
"""FLOPs an element of operators that read one tensor and write one (the `u` of NeuSight: tensor with a scalar)."""

BINARY = dict.fromkeys(("add", "sub", "mul", "div", "pow", "maximum", "minimum"), 1.0) | {
    "silu_mul": 5.0,
    "act_fn": 5.0,
}
"""FLOPs an element of operators that read two tensors and write one."""

NORM_FLOPS = {"rmsnorm": 4.0, "ln": 8.0} | dict.fromkeys(("layernorm", "groupnorm", "batchnorm", "instancenorm"), 8.0)
SOFTMAX_FLOPS = 5.0


def work_of_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Compute flops, bytes and weight_bytes of every row from its op_type, op_name, dtype and shapes.

    FLOPs are 2 x multiply-accumulates. Bytes count every input, weight and output once, which is the least that DRAM
    must move. A `linear` adds its bias. Attention counts 4 FLOPs for each head, channel and pair of query and key that
    the mask and the window let meet; its bytes are all of q, k, v and o. A mixture of experts has three matrices an
    expert, of which min(experts, tokens x topk) are touched. Norms and element-wise operators count no weights.

    Returns the three columns [N], float64, NaN where no rule is known (op_type or op_name) or a shape is missing.
    """
    work = {name: np.full(len(frame), np.nan) for name in WORK}
    types = np.asarray(frame["op_type"], dtype=object)
    for op_type in frame["op_type"].dropna().unique():
        rule = _RULES.get(op_type)
        if rule is None:
            continue
        index = np.flatnonzero(types == op_type)
        flops, moved, weights = rule(_Rows(frame.iloc[index]))
        work["flops"][index], work["bytes"][index], work["weight_bytes"][index] = flops, moved, weights
    return pd.DataFrame(work, index=frame.index)


def compute_dtypes(op_type: pd.Series, dtype: pd.Series) -> NDArray[np.object_]:
    """Return what each row [N] computes in: its dtype's type on matrix units, fp32 on vector units."""
    compute = dtype.astype(object).map({name: sizes.compute for name, sizes in DTYPES.items()}).to_numpy(dtype=object)
    compute[op_type.isin(VECTOR_OPERATORS).to_numpy()] = "fp32"
    unknown = pd.isna(compute)
    compute[unknown] = dtype.astype(object).to_numpy()[unknown]
    return compute


class _Rows:
    """Rows of one op_type: shape columns as float64 [N], missing ones NaN; bytes of a number by its role."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self.op_type = str(frame["op_type"].iloc[0])

    def __getattr__(self, name: str) -> Array:
        if name not in SHAPES:
            raise AttributeError(name)
        return self.shape(name)

    def shape(self, name: str, missing: float = np.nan) -> Array:
        """Return a shape column; `missing` where a row leaves it out."""
        if name not in self.frame:
            return np.full(len(self.frame), missing)
        values = np.array(self.frame[name], np.float64)
        values[np.isnan(values)] = missing
        return values

    def by_name(self, values: dict[str, float]) -> Array:
        """Return what `values` gives for each op_name, NaN for others."""
        return self._mapped("op_name", values)

    def size(self, role: str) -> Array:
        """Return bytes of one activation, weight, output or kv number."""
        return self._mapped("dtype", {name: float(getattr(sizes, role)) for name, sizes in DTYPES.items()})

    def _mapped(self, column: str, values: dict[str, float]) -> Array:
        return np.array(self.frame[column].astype(object).map(values), np.float64)


def _matmul(r: _Rows) -> tuple[Array, Array, Array]:
    batch = r.shape("batch", 1.0)
    name = r.frame["op_name"].astype(object)
    shared = (batch == 1.0) & (name != "bmm").to_numpy()  # the right matrix is a weight
    bias = np.where((name == "linear").to_numpy(), 1.0, 0.0)
    right = r.k * r.n * np.where(shared, r.size("weight"), r.size("activation"))
    weights = np.where(shared, right, 0.0)
    moved = batch * (r.m * r.k * r.size("activation") + right + r.m * r.n * r.size("output"))
    return batch * r.m * r.n * (2 * r.k + bias), moved + bias * r.n * r.size("activation"), weights


def _moe(r: _Rows) -> tuple[Array, Array, Array]:
    touched = np.minimum(r.experts, r.m * r.topk)
    weights = touched * 3 * r.n * r.k * r.size("weight")
    return 6 * r.m * r.topk * r.n * r.k, weights + r.m * r.k * (r.size("activation") + r.size("output")), weights


def _convolution(r: _Rows) -> tuple[Array, Array, Array]:
    kernel = r.shape("kd", 1.0) * r.shape("kh", 1.0) * r.kw
    read = r.cin * r.shape("din", 1.0) * r.shape("hin", 1.0) * r.win
    written = r.cout * r.shape("dout", 1.0) * r.shape("hout", 1.0) * r.wout
    groups = r.shape("groups", 1.0)
    # each output needs cin / groups x kernel products; transposed, each input gives cout / groups x kernel
    macs = r.batch * (read * r.cout if r.op_type.startswith("conv_transpose") else written * r.cin) / groups * kernel
    weights = r.cin * r.cout / groups * kernel * r.size("weight")
    return 2 * macs, r.batch * (read + written) * r.size("activation") + weights, weights


def _attention(r: _Rows) -> tuple[Array, Array, Array]:
    queries, keys = r.seq_q, r.seq_kv
    causal = r.op_type == "attn_prefill"
    pairs = _causal_pairs(queries, keys, r.shape("window", 0.0)) if causal else queries * keys
    query_output = r.batch * r.heads * queries * r.head_dim * 2 * r.size("activation")
    cache = r.batch * r.kv_heads * keys * r.head_dim * 2 * r.size("kv")
    return 4 * r.batch * r.heads * r.head_dim * pairs, query_output + cache, np.zeros(len(queries))


def _causal_pairs(queries: Array, keys: Array, window: Array) -> Array:
    """Pairs under a causal mask, the last query seeing the last key; a query sees at most `window` keys (0: all)."""
    seen = np.where(window > 0, np.minimum(window, keys), keys)
    first = keys - queries + 1  # keys that the first query sees
    growing = np.clip(seen - first, 0, queries)  # queries that see fewer than `seen`
    return growing * first + growing * (growing - 1) / 2 + (queries - growing) * seen


def _norm(r: _Rows) -> tuple[Array, Array, Array]:
    return _along_rows(r, r.by_name(NORM_FLOPS), 2 * r.size("activation"))


def _softmax(r: _Rows) -> tuple[Array, Array, Array]:
    return _along_rows(r, np.full(len(r.frame), SOFTMAX_FLOPS), 2 * r.size("activation"))


def _elementwise(r: _Rows) -> tuple[Array, Array, Array]:
    size = r.size("activation")
    flops = r.by_name(UNARY | BINARY | {"quant_fp8": 2.0})
    moved = r.by_name(dict.fromkeys(UNARY, 2.0) | dict.fromkeys(BINARY, 3.0)) * size
    quantised = (r.frame["op_name"] == "quant_fp8").to_numpy()
    return _along_rows(r, flops, np.where(quantised, size + 1, moved))


def _along_rows(r: _Rows, flops: Array, moved: Array) -> tuple[Array, Array, Array]:
    elements = r.shape("batch", 1.0) * r.rows * r.cols * r.shape("inner", 1.0)
    return elements * flops, elements * moved, np.where(np.isnan(elements * flops), np.nan, 0.0)


_RULES = {
    "matmul": _matmul,
    "moe": _moe,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "conv_transpose1d": _convolution,
    "conv_transpose2d": _convolution,
    "attn_decode": _attention,
    "attn_prefill": _attention,
    "attn_encoder": _attention,
    "layernorm": _norm,
    "softmax": _softmax,
    "elementwise": _elementwise,
}
