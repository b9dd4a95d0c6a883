"""What each operator costs: fvcore's handles, exact handles of ours, named estimates, movement; the rest is refused.

One register, `RULES`, maps an operator's name (without overload and without the trailing underscore of its in-place
form; with its namespace where that is not aten) to a `Rule`. Where fvcore has a handle, the handle itself is called on
values that look to it like those of a jit trace, so that a graph's count equals `FlopCountAnalysis.total()`. fvcore is
not followed where it is wrong: broadcast matrix products, einsum (four significant digits), convolutions padded by
name (which it misses) and complex operands of matrix products, which it counts as if they were real.

Counting convention: a multiply-accumulate is one MAC and two operations. In estimates every arithmetic operation,
comparison and elementary function (exp, erf, sqrt, ...) is one operation; composites count the operations of their
definition in the PyTorch documentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from workloads.backward_flops import BACKWARD
from workloads.calls import Call, Constant, Count, Rule, TensorSpec, named
from workloads.estimates import ESTIMATES, elementwise, estimate, per_input
from workloads.graph import Counting, OperatorKind
from workloads.linear_algebra import LINEAR_ALGEBRA
from workloads.operators import custom_rule

COMPLEX_PRODUCTS = {OperatorKind.CONV: 3}
"""Real products of one complex product, by kind; 4 for all others.

Matrix products run as cgemm: 4. Convolutions run as three real ones, Gauss's trick: with a = Re w * Re x and
b = Im w * Im x, the real part is a - b and the imaginary part (Re w + Im w) * (Re x + Im x) - a - b
(`complex_convolution` in PyTorch's aten/src/ATen/native/Convolution.cpp, on any device). The additions that it takes
are not counted, as those of a bias are not.
"""


def _exact(kind: OperatorKind, counting: Counting, macs: int, formula: str = "") -> Count:
    return Count(kind=kind, counting=counting, macs=macs, flops=2 * macs, formula=formula)


def _complex(call: Call, kind: OperatorKind, counting: Counting, macs: int, formula: str = "") -> Count:
    """Count a matrix product or convolution, where a complex product is several real ones."""
    if call.output.is_complex:
        products = COMPLEX_PRODUCTS.get(kind, 4)
        note = f"a complex product is {products} real ones"
        return _exact(kind, "handle", products * macs, f"{formula}; {note}" if formula else note)
    return _exact(kind, counting, macs, formula)


@cache
def _fvcore_handles() -> Mapping[str, Callable[..., Any]]:
    from fvcore.nn.flop_count import _DEFAULT_SUPPORTED_OPS

    return {name.removeprefix("aten::"): handle for name, handle in _DEFAULT_SUPPORTED_OPS.items()}


def _fvcore_macs(call: Call, inputs: int | None = None) -> int | None:
    """Return what fvcore's handle says, or None where its assertions do not hold (such as a norm of six dimensions)."""
    values = [v if isinstance(v, TensorSpec) else Constant(v) for v in call.arguments.values()][:inputs]
    try:
        return int(_fvcore_handles()[call.operator](values, list(call.outputs)))
    except AssertionError:
        return None


# --- matrix products -------------------------------------------------------------------------------------------------


def product_kind(call: Call) -> OperatorKind:
    """LINEAR where one operand is a weight, else MATMUL."""
    return OperatorKind.LINEAR if any(t.weight and len(t.shape) >= 2 for t in call.tensors) else OperatorKind.MATMUL


def _linear(call: Call) -> Count:
    macs = call.tensor("input").numel * math.prod(call.tensor("weight").shape[:-1])
    return _complex(call, product_kind(call), "fvcore" if macs == _fvcore_macs(call) else "handle", macs)


def _matmul(left: str, right: str, formula: str = "prod(batch) m n k, operands broadcast") -> Rule:
    def rule(call: Call) -> Count:
        macs = call.output.numel * call.tensor(left).shape[-1]
        # fvcore multiplies the left operand's own shape, and needs two matrices
        theirs = None
        if call.operator in _fvcore_handles() and all(len(call.tensor(side).shape) >= 2 for side in (left, right)):
            theirs = _fvcore_macs(call, 3 if call.operator == "addmm" else 2)
        return (
            _complex(call, product_kind(call), "fvcore", macs)
            if macs == theirs
            else _complex(call, product_kind(call), "handle", macs, formula)
        )

    return rule


def _addbmm(call: Call) -> Count:
    b, m, k = call.tensor("batch1").shape
    return _complex(call, product_kind(call), "handle", b * m * k * call.tensor("batch2").shape[-1], "b m n k")


def _tensordot(call: Call) -> Count:
    left, right = call.tensor("self"), call.tensor("other")
    contracted = math.prod(left.shape[d] for d in call.arguments["dims_self"])
    macs = left.numel * right.numel // max(contracted, 1)
    return _complex(call, product_kind(call), "handle", macs, "numel(left) numel(right) / contracted")


def _bilinear(call: Call) -> Count:
    macs = call.tensor("input1").numel // call.tensor("input1").shape[-1] * call.tensor("weight").numel
    return _complex(call, product_kind(call), "handle", macs, "rows out in1 in2")


def _trilinear(call: Call) -> Count:
    """The kernel of `bilinear` and its gradients: for all indices at once, the product of two operands and its sum.

    The product with the third, one index smaller, is not counted, as it is not in `bilinear`.
    """
    sizes: list[int] = []
    for number in ("1", "2", "3"):
        shape = list(call.tensor(f"i{number}").shape)
        for dim in sorted(call.arguments[f"expand{number}"]):
            shape.insert(dim, 1)
        sizes = [max(pair) for pair in zip(sizes or shape, shape, strict=True)]
    return _complex(call, product_kind(call), "handle", math.prod(sizes), "rows out in1 in2")


def _grouped_mm(call: Call) -> Count:
    """MoE: rows of the left operand go to one expert each, so an expert's matrix meets only its own rows.

    [T, K] x [G, K, N] is T K N; [G, M, K] x [K, T] is M K T; [M, T] x [T, N] (groups along T) is M T N;
    [G, M, K] x [G, K, N] is G M K N. All rows count, also those behind the last offset.
    """
    left, right = (tensor.shape for tensor in call.tensors[:2])
    macs = math.prod(left) * right[-1] if len(right) == 3 or len(left) == 2 else left[1] * left[2] * right[-1]
    return _complex(call, product_kind(call), "handle", macs, "rows k n, each row meets one group")


def _matrix_power(call: Call) -> Count:
    """Squarings, and a product for each further bit of the exponent."""
    exponent, x = abs(int(call.arguments["n"])), call.tensor("self")
    products = max(exponent.bit_length() - 1, 0) + max(exponent.bit_count() - 1, 0)
    return _complex(call, product_kind(call), "handle", products * x.numel * x.shape[-1], "n³ a product, by squaring")


def einsum_macs(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    """Multiply-accumulates of `torch.einsum`, which contracts its operands from left to right, two at a time.

    An index that stands in one operand only and not in the result is summed away before the product (no MACs). A
    product that sums over no index is element-wise and has no MACs either.

    >>> einsum_macs("bct,bdt->bcd", [(2, 3, 5), (2, 4, 5)])
    120
    """
    terms, wanted, sizes = _einsum_indices(equation, shapes)
    macs = 0
    held = terms[0]
    for position, term in enumerate(terms[1:], start=1):
        later = wanted.union(*terms[position + 1 :])
        pair = {index for index in held | term if index in later or (index in held and index in term)}
        if pair - later:
            macs += math.prod(sizes[index] for index in pair)
        held = (held | term) & later
    return macs


def _einsum_indices(equation: str, shapes: Sequence[Sequence[int]]) -> tuple[list[set[str]], set[str], dict[str, int]]:
    """Return the indices of each operand and of the result, and their sizes; "..." becomes numbered indices."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    terms: list[set[str]] = []
    for term, shape in zip(left.split(","), shapes, strict=True):
        before, dots, after = term.partition("...")
        hidden = len(shape) - len(before) - len(after)
        names = [*before, *(f"...{hidden - i}" for i in range(hidden if dots else 0)), *after]
        for index, size in zip(names, shape, strict=True):
            sizes[index] = max(sizes.get(index, 1), size)
        terms.append(set(names))
    dotted = {index for index in sizes if index.startswith(".")}
    if arrow:
        return terms, set(result.replace("...", "")) | (dotted if "..." in result else set()), sizes
    letters = left.replace(",", "").replace("...", "")  # implicit result: every index that occurs once
    return terms, {index for index in letters if letters.count(index) == 1} | dotted, sizes


def _einsum(call: Call) -> Count:
    operands: list[TensorSpec] = list(call.arguments["tensors"])
    macs = einsum_macs(call.arguments["equation"], [t.shape for t in operands])
    if not macs:  # permutations, sums and element-wise products
        work = max(t.numel for t in (*operands, *call.outputs))
        return estimate(OperatorKind.ELEMENTWISE, work, "1 per element of the largest operand or result")
    return _complex(call, product_kind(call), "handle", macs, "product of the indices of each pairwise contraction")


def _convolution(call: Call) -> Count:
    from fvcore.nn.jit_handles import conv_flop_count

    x, weight, out = call.tensor("input"), call.tensor("weight"), call.output
    transposed = "transpose" in call.operator or bool(call.arguments.get("transposed", False))
    unbatched = len(x.shape) < len(weight.shape)
    x_shape = (1, *x.shape) if unbatched else x.shape
    out_shape = (1, *out.shape) if unbatched else out.shape
    macs = conv_flop_count(list(x_shape), list(weight.shape), list(out_shape), transposed=transposed)
    if isinstance(call.arguments.get("padding"), str):  # "same": the jit trace has another operator there
        return _complex(call, OperatorKind.CONV, "handle", int(macs), "as fvcore, which misses padding by name")
    return _complex(call, OperatorKind.CONV, "fvcore", int(macs))


def _attention(call: Call) -> Count:
    query, key, value, out = call.tensor("query"), call.tensor("key"), call.tensor("value"), call.output
    rows = out.numel // out.shape[-1]  # batch, heads and query positions; keys and values broadcast over them
    macs = rows * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    return _exact(OperatorKind.ATTENTION, "handle", macs, "batch heads q kv (d_qk + d_v); causal masks not halved")


def _recurrent(call: Call) -> Count:
    """LSTM, GRU, RNN: each weight matrix of each layer and direction meets every sample of every step once."""
    steps = call.tensor("data") if "data" in call.arguments else call.tensor("input")
    weights = [t for t in call.arguments["params"] if len(t.shape) == 2]
    rows = steps.numel // steps.shape[-1]
    macs = rows * sum(t.numel for t in weights)
    return _complex(call, OperatorKind.RECURRENT, "handle", macs, "steps batch numel(weight matrices)")


def _recurrent_cell(call: Call) -> Count:
    x = call.tensor("input")
    macs = x.numel // x.shape[-1] * (call.tensor("w_ih").numel + call.tensor("w_hh").numel)
    return _complex(call, OperatorKind.RECURRENT, "handle", macs, "batch numel(weight matrices)")


# --- fvcore where it stands, movement --------------------------------------------------------------------------------


def fvcore_or(kind: OperatorKind, per_element: int) -> Rule:
    """Return fvcore's count, or `per_element` operations an input element where fvcore's handle does not apply."""

    def rule(call: Call) -> Count:
        macs = _fvcore_macs(call)
        if macs is None:
            return per_input(kind, per_element)(call)
        return _exact(kind, "fvcore", macs)

    return rule


def _core_batch_norm(call: Call) -> Count:
    """Batch norm in evaluation as core ATen calls it: counted as fvcore counts `batch_norm`."""
    affine = call.arguments.get("weight") is not None
    macs = call.tensor("input").numel * (1 + affine)
    return _exact(OperatorKind.NORM, "handle", macs, "1 an element, 2 with weight and bias")


def moved(kind: OperatorKind = OperatorKind.COPY) -> Rule:
    """Return the rule of an operator that moves data and computes nothing."""

    def rule(call: Call) -> Count:
        return Count(kind=kind, counting="moved")

    return rule


RULES: dict[str, Rule] = {
    # products and convolutions
    "linear": _linear,
    "matmul": _matmul("self", "other"),
    "mm": _matmul("self", "mat2"),
    "bmm": _matmul("self", "mat2"),
    "linalg_matmul": _matmul("self", "other"),
    **named("_int_mm _scaled_mm _weight_int8pack_mm _weight_int4pack_mm", _matmul("self", "mat2")),
    "_weight_int4pack_mm_for_cpu": _matmul("self", "mat2"),
    **named("matrix_power linalg_matrix_power", _matrix_power),
    "addmm": _matmul("mat1", "mat2"),
    "baddbmm": _matmul("batch1", "batch2"),
    "addmv": _matmul("mat", "vec"),
    "addbmm": _addbmm,
    "mv": _matmul("self", "vec"),
    "dot": _matmul("self", "tensor"),
    "vdot": _matmul("self", "other"),
    "inner": _matmul("self", "other"),
    "linalg_vecdot": _matmul("x", "y"),
    "tensordot": _tensordot,
    "einsum": _einsum,
    "bilinear": _bilinear,
    "_trilinear": _trilinear,
    **named("_grouped_mm transformers::grouped_mm_fallback", _grouped_mm),
    "scaled_dot_product_attention": _attention,
    **named("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d", _convolution),
    **named("convolution _convolution", _convolution),
    **named("lstm gru rnn_tanh rnn_relu", _recurrent),
    **named("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell", _recurrent_cell),
    # counted by fvcore in operations an element
    "batch_norm": fvcore_or(OperatorKind.NORM, 2),
    "_native_batch_norm_legit_no_training": _core_batch_norm,
    **named("layer_norm group_norm instance_norm", fvcore_or(OperatorKind.NORM, 5)),
    "adaptive_avg_pool2d": fvcore_or(OperatorKind.POOL, 1),
    **named("upsample_nearest2d upsample_bilinear2d grid_sampler", fvcore_or(OperatorKind.OTHER, 4)),
    **ESTIMATES,
    **LINEAR_ALGEBRA,
    **BACKWARD,
    # movement
    "embedding": moved(OperatorKind.EMBEDDING),
    **named(
        "cat concat concatenate stack hstack vstack dstack clone contiguous reshape flatten unflatten view_as", moved()
    ),
    **named("_stack column_stack row_stack diagflat fft_fftshift fft_ifftshift _unsafe_index _unsafe_view", moved()),
    **named("to _to_copy type_as copy fill zero lift_fresh_copy", moved()),
    **named("pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d", moved()),
    **named("replication_pad2d replication_pad3d _pad_circular _pad_enum im2col unfold pixel_shuffle", moved()),
    **named("pixel_unshuffle channel_shuffle index index_select", moved()),
    **named("index_copy index_fill gather take", moved()),
    **named("put pad_sequence max_unpool2d max_unpool3d nonzero_static", moved()),
    **named("take_along_dim scatter slice_scatter select_scatter diagonal_scatter as_strided_scatter", moved()),
    **named(
        "masked_select masked_scatter nonzero one_hot repeat repeat_interleave tile roll flip fliplr flipud", moved()
    ),
    **named("rot90 tril triu tril_indices triu_indices diag diag_embed block_diag meshgrid expand_copy", moved()),
    **named("resolve_conj resolve_neg complex view_as_real view_as_complex combinations cartesian_prod", moved()),
    **named(
        "empty empty_like empty_strided empty_permuted new_empty zeros zeros_like new_zeros ones ones_like", moved()
    ),
    **named("new_ones full full_like new_full arange range eye scalar_tensor", moved()),
}
"""Operator name -> rule. An operator that torch tags as element-wise needs no entry: one operation an element."""

IDENTITIES = frozenset(
    ["dropout", "feature_dropout", "alpha_dropout", "detach", "alias", "lift", "lift_fresh", "requires_grad"]
)
"""Operators that hand their input on unchanged in evaluation, whatever their output's storage."""


GATHERS = frozenset(["index_select", "index", "_unsafe_index", "gather", "take", "take_along_dim"])
"""Operators that read no more of their first argument than they write."""


def looked_up(call: Call) -> int | None:
    """Return how many elements a lookup reads of its table at most, rows asked for twice counted twice, else None."""
    if call.operator in ("embedding", "embedding_bag", "_embedding_bag"):
        return call.tensor("indices").numel * call.tensor("weight").shape[-1]
    return call.output.numel if call.operator in GATHERS else None


def count(call: Call) -> Count:
    """Return kind, MACs and operations of one call; `counting` is "refused" where nothing here understands it."""
    rule = RULES.get(call.operator) or custom_rule(call.operator)
    if rule is None and call.pointwise:
        rule = elementwise()
    if rule is None or not call.outputs:
        return Count(kind=OperatorKind.OTHER, counting="refused")
    return rule(call)
