"""Estimates: operations of what fvcore leaves at zero, each with a named formula.

Every arithmetic operation, comparison and elementary function (exp, erf, sqrt, ...) is one operation; composites count
the operations of their definition in the PyTorch documentation. Estimates have no MACs.
"""

from __future__ import annotations

import math

from workloads.calls import Call, Count, Rule, named
from workloads.graph import OperatorKind


def estimate(kind: OperatorKind, flops: float, formula: str) -> Count:
    """Return an estimate of `flops` operations by `formula`."""
    return Count(kind=kind, counting="estimated", flops=round(flops), formula=formula)


COMPLEX_ELEMENTWISE = {"mul": 6, "div": 11, "abs": 4, "reciprocal": 6, "exp": 4, "polar": 4, "angle": 1}
"""Real operations of one complex element; 2 for all others (addition, negation)."""


def elementwise(per_element: int = 1) -> Rule:
    """Return a rule of `per_element` operations an output element."""

    def rule(call: Call) -> Count:
        cost, note = per_element, ""
        if any(t.is_complex for t in (*call.tensors, *call.outputs)):
            both = sum(t.is_complex for t in call.tensors) > 1 or len(call.tensors) == 1
            cost = COMPLEX_ELEMENTWISE.get(call.operator, 2 * per_element) if both else 2 * per_element
            note = " (complex)"
        return estimate(OperatorKind.ELEMENTWISE, cost * call.output.numel, f"{cost} per element{note}")

    return rule


def per_input(kind: OperatorKind, per_element: int) -> Rule:
    """Return a rule of `per_element` operations an element of the first tensor argument."""

    def rule(call: Call) -> Count:
        real = 2 if call.tensors[0].is_complex else 1
        return estimate(kind, real * per_element * call.tensors[0].numel, f"{real * per_element} per input element")

    return rule


def _sorting(call: Call) -> Count:
    x, dim = call.tensors[0], call.arguments.get("dim")
    length = x.shape[dim] if isinstance(dim, int) and x.shape else x.numel  # along no dimension: of all elements
    depth = math.log2(max(2, min(length, int(call.arguments.get("k") or length))))
    return estimate(OperatorKind.REDUCTION, x.numel * depth, "n log2(k), k kept of n")


def _window_pool(call: Call) -> Count:
    kernel, spatial = call.arguments["kernel_size"], int(call.operator.partition("pool")[2][0])
    sizes = [kernel] if isinstance(kernel, int) else list(kernel)
    taps = math.prod(sizes) ** (spatial if len(sizes) == 1 else 1)
    return estimate(OperatorKind.POOL, taps * call.output.numel, "kernel size per output element")


def antialiased(radius: int) -> Rule:
    """Return the rule of a resampling filter, an axis at a time, that widens as the image shrinks; or of its gradient,
    which has the same taps."""

    def rule(call: Call) -> Count:
        before, after = call.tensors[0], call.output
        if call.operator.endswith("_backward"):
            before, after = after, before
        (*_, rows, columns), (*_, new_rows, new_columns) = before.shape, after.shape
        images = after.numel // max(new_rows * new_columns, 1)
        across, down = (math.ceil(2 * radius * max(1.0, a / b)) for a, b in ((columns, new_columns), (rows, new_rows)))
        flops = 2 * images * new_columns * (rows * across + new_rows * down)
        return estimate(OperatorKind.OTHER, flops, "2 per tap, columns then rows")

    return rule


def _affine_grid(call: Call) -> Count:
    work = 2 * call.tensors[0].shape[-1] * call.output.numel
    return estimate(OperatorKind.OTHER, work, "2 (d + 1) per coordinate")


def transform_flops(length: int) -> float:
    """Return 5 N log2 N, the operations of one FFT of `length` points (the convention of benchFFT, fftw.org/speed)."""
    return 5.0 * length * math.log2(max(length, 2))


def _fft(call: Call) -> Count:
    """Count one-dimensional transforms along each transformed dimension of the larger of input and output."""
    x, out = call.tensors[0], call.output
    dims = call.arguments.get("dim", -1)
    if dims is None:
        dims = list(range(len(x.shape)))
    dims = [dims] if isinstance(dims, int) else list(dims) or list(range(len(x.shape)))
    flops = 0.0
    full = [max(a, b) for a, b in zip(x.shape, out.shape, strict=True)]
    for dim in dims:
        flops += math.prod(full) // max(full[dim], 1) * transform_flops(full[dim])
    return estimate(OperatorKind.FFT, flops, "5 N log2 N per transform")


def _stft(call: Call) -> Count:
    size = int(call.arguments["n_fft"])
    complex_out = bool(call.output.is_complex)
    shape = call.output.shape if complex_out else call.output.shape[:-1]  # [batch, bins, frames]
    transforms = math.prod(shape) // shape[-2]
    flops = transforms * (transform_flops(size) + size)
    return estimate(OperatorKind.FFT, flops, "frames (5 N log2 N + N for the window)")


def _istft(call: Call) -> Count:
    size = int(call.arguments["n_fft"])
    shape = call.tensors[0].shape
    transforms = math.prod(shape) // shape[-2]
    flops = transforms * (transform_flops(size) + 3 * size)
    return estimate(OperatorKind.FFT, flops, "frames (5 N log2 N + 3 N for window and overlap-add)")


def _embedding_bag(call: Call) -> Count:
    rows, width = call.tensor("indices").numel, call.tensor("weight").shape[-1]
    return estimate(OperatorKind.EMBEDDING, rows * width, "1 per element of each row that is looked up")


def _cdist(call: Call) -> Count:
    width = call.tensors[0].shape[-1]
    return estimate(OperatorKind.OTHER, 3 * width * call.output.numel, "3 d per pair")


def reduction(per_element: int) -> Rule:
    """Return the rule of a reduction of `per_element` operations an input element."""
    return per_input(OperatorKind.REDUCTION, per_element)


ESTIMATES: dict[str, Rule] = {
    # estimates: square, sum, scale, weight
    **named("rms_norm _fused_rms_norm", per_input(OperatorKind.NORM, 4)),
    # maximum, subtract, exp, sum, divide
    **named("softmax _softmax log_softmax _log_softmax _safe_softmax", per_input(OperatorKind.SOFTMAX, 5)),
    **named("special_softmax special_log_softmax", per_input(OperatorKind.SOFTMAX, 5)),
    **named(
        "relu neg abs sign floor ceil round trunc sqrt rsqrt exp log sin cos tanh erf add sub mul div", elementwise()
    ),
    **named("relu6 hardtanh clamp leaky_relu prelu threshold rsub logical_not square fmod remainder", elementwise()),
    **named(
        "maximum minimum where masked_fill pow reciprocal expm1 log1p atan2 polar outer copysign angle", elementwise()
    ),
    **named("__and__ __or__ __xor__ __lshift__ __rshift__ __iand__ __ior__ __ixor__", elementwise()),
    **named("bitwise_not eq ne lt le gt ge isnan isinf isfinite isin bucketize searchsorted", elementwise()),
    **named("absolute negative subtract multiply divide true_divide floor_divide greater less", elementwise()),
    **named("greater_equal less_equal not_equal isclose kron addr ger diff fix arctan2", elementwise()),
    **named("_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d", elementwise()),
    **named("arccos arccosh arcsin arcsinh arctan arctanh special_erf special_erfc special_erfinv", elementwise()),
    **named("special_exp2 special_expm1 special_log1p special_round special_digamma special_psi", elementwise()),
    **named("special_gammaln special_polygamma special_i0 heaviside gcd lcm", elementwise()),
    **named("cross linalg_cross rand rand_like randn randn_like randint randint_like randperm", elementwise()),
    **named("bernoulli normal uniform random exponential geometric cauchy log_normal poisson", elementwise()),
    **named("linspace logspace fft_fftfreq fft_rfftfreq", elementwise()),
    **named("xlogy special_xlogy", elementwise(2)),
    **named("special_ndtr special_sinc", elementwise(3)),
    **named("hann_window hamming_window blackman_window kaiser_window", elementwise(4)),
    **named("addcmul addcdiv lerp elu selu celu hardsigmoid", elementwise(3)),
    **named("sigmoid softplus hardswish log_sigmoid logit logaddexp logaddexp2", elementwise(4)),
    **named("special_expit special_logit", elementwise(4)),
    # divide, round, add, clamp; subtract, multiply
    **named("fake_quantize_per_tensor_affine fake_quantize_per_channel_affine", elementwise(6)),
    **named("_fake_quantize_learnable_per_tensor_affine", elementwise(6)),
    **named("_fake_quantize_learnable_per_channel_affine", elementwise(6)),
    **named("silu gelu glu mish", elementwise(5)),  # gelu: x/2 (1 + erf(x / sqrt 2)); silu: x / (1 + exp(-x))
    **named("dropout feature_dropout alpha_dropout", elementwise(2)),  # only where it is active in evaluation
    **named("upsample_nearest1d upsample_nearest3d", elementwise()),
    **named("upsample_linear1d", elementwise(3)),
    **named("upsample_trilinear3d", elementwise(15)),
    **named("upsample_bicubic2d", elementwise(32)),  # 16 taps, a product and a sum each
    "_upsample_bilinear2d_aa": antialiased(1),
    "_upsample_bicubic2d_aa": antialiased(2),
    "affine_grid_generator": _affine_grid,
    **named("sum mean prod max min amax amin aminmax argmax argmin any all nansum nanmean", reduction(1)),
    **named("cumsum cumprod cummax cummin count_nonzero trace bincount histc", reduction(1)),
    **named("norm linalg_vector_norm frobenius_norm", reduction(2)),
    **named("multinomial", reduction(2)),  # sum, draw
    **named("renorm", reduction(3)),  # square, sum; scale
    **named("dist trapezoid trapz cumulative_trapezoid", reduction(3)),
    **named("logsumexp special_logsumexp logcumsumexp", reduction(4)),
    **named("pairwise_distance", reduction(4)),  # subtract, add eps, square, sum
    **named("var std var_mean std_mean", reduction(4)),  # sum; subtract, square, sum
    **named("cosine_similarity", reduction(6)),
    **named("_weight_norm", reduction(4)),  # square, sum; divide, scale
    **named("mse_loss l1_loss smooth_l1_loss huber_loss kl_div binary_cross_entropy", reduction(3)),
    **named("hinge_embedding_loss soft_margin_loss margin_ranking_loss poisson_nll_loss", reduction(4)),
    **named("cosine_embedding_loss", reduction(6)),
    **named("triplet_margin_loss", reduction(8)),  # two distances
    **named("nll_loss nll_loss_nd", reduction(1)),
    **named("cross_entropy_loss", reduction(6)),  # log-softmax, product
    **named("scatter_add scatter_reduce index_add index_reduce segment_reduce", reduction(1)),
    **named("embedding_bag _embedding_bag", _embedding_bag),
    **named("col2im", reduction(1)),
    **named("sort msort argsort topk kthvalue median nanmedian quantile nanquantile mode unique_dim", _sorting),
    **named("max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d", _window_pool),
    **named("fractional_max_pool2d fractional_max_pool3d", _window_pool),
    **named("max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices", _window_pool),
    **named("adaptive_avg_pool1d adaptive_avg_pool3d adaptive_max_pool1d", per_input(OperatorKind.POOL, 1)),
    **named("adaptive_max_pool2d adaptive_max_pool3d", per_input(OperatorKind.POOL, 1)),
    **named("fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2", _fft),
    **named("fft_fftn fft_ifftn fft_rfftn fft_irfftn _fft_r2c _fft_c2r _fft_c2c", _fft),
    **named("fft_hfft2 fft_ihfft2 fft_hfftn fft_ihfftn", _fft),
    "stft": _stft,
    "istft": _istft,
    **named("cdist _cdist_forward _euclidean_dist pdist _pdist_forward", _cdist),
}
"""Operator name -> rule. An element-wise operator that is not here costs one operation an element."""
