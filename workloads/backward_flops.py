"""What the operators of a training step cost that an inference does not meet: below autograd, and backward.

A backward rule counts the operations of the gradient's formula, term by term, only of the gradients that are asked for
(`output_mask`). Gradients of matrix products and convolutions cost one forward's MACs each; each name that starts with
`_` or `native_` is the kernel that the operator of the same name without it becomes below autograd.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from workloads.calls import Call, Count, Rule, named
from workloads.estimates import antialiased, elementwise, estimate, per_input
from workloads.graph import OperatorKind


def _matrix(kind: OperatorKind, macs: int, formula: str) -> Count:
    return Count(kind=kind, counting="handle", macs=macs, flops=2 * macs, formula=formula)


def _convolution_backward(call: Call) -> Count:
    """Gradients of input and weight are convolutions of as many MACs as the forward one; that of the bias is a sum.

    For grouped convolutions torch.utils.flop_counter counts the weight's gradient as if it were dense (`groups` times
    too many); here it costs what runs.
    """
    grad, x, weight = call.tensor("grad_output"), call.tensor("input"), call.tensor("weight")
    transposed = bool(call.arguments["transposed"])
    forward = (x if transposed else grad).numel // weight.shape[0] * weight.numel
    wanted = sum(bool(wanted) for wanted in call.arguments["output_mask"][:2])
    macs = forward * wanted * (4 if grad.is_complex else 1)
    return _matrix(OperatorKind.CONV, macs, "the forward's MACs for each gradient of input and weight")


def _attention_forward(call: Call) -> Count:
    query, key, value = call.tensor("query"), call.tensor("key"), call.tensor("value")
    macs = query.numel // query.shape[-1] * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    return _matrix(OperatorKind.ATTENTION, macs, "batch heads q kv (d_qk + d_v); causal masks not halved")


def _attention_backward(call: Call) -> Count:
    """Five products: the scores again, gradients of value, weights, query and key (arXiv 2205.14135, algorithm 4)."""
    query, key, value = call.tensor("query"), call.tensor("key"), call.tensor("value")
    pairs = query.numel // query.shape[-1] * key.shape[-2]
    macs = pairs * (3 * query.shape[-1] + 2 * value.shape[-1])
    return _matrix(OperatorKind.ATTENTION, macs, "batch heads q kv (3 d_qk + 2 d_v): 5 products, scores recomputed")


def _rnn_macs(call: Call) -> int:
    """MACs of the forward pass of one oneDNN layer: each weight matrix meets every sample of every step once."""
    x = call.tensor("input")
    matrices = [
        call.tensor(name) for name in ("weight0", "weight1", "weight2", "weight3", "weight4") if _is(call, name)
    ]
    return x.numel // x.shape[-1] * sum(t.numel for t in matrices if len(t.shape) == 2)


def _is(call: Call, name: str) -> bool:
    return call.arguments.get(name) is not None


def _mkldnn_rnn(call: Call) -> Count:
    return _matrix(OperatorKind.RECURRENT, _rnn_macs(call), "steps batch numel(weight matrices)")


def _mkldnn_rnn_backward(call: Call) -> Count:
    return _matrix(OperatorKind.RECURRENT, 2 * _rnn_macs(call), "2 steps batch numel(weight matrices)")


def _native_norm(call: Call) -> Count:
    """As fvcore counts the norm above autograd: 5 an element with affine weights, 4 without.

    Batch norm by its stored statistics costs 2 and 1.
    """
    stored = "batch_norm" in call.operator and not (call.arguments.get("training", True))
    each = (1 if stored else 4) + _is(call, "weight")
    macs = call.tensors[0].numel * each
    return _matrix(OperatorKind.NORM, macs, f"{each} per input element, as fvcore counts the norm")


def _norm_backward(call: Call) -> Count:
    """x' = (x - mean) / std: 2. Weight: 2, bias: 1.

    Input: dy w, sum, times x', sum, times x', two differences, / std: 8 with weights, 7 without.
    """
    needed = [8, 2, 1] if _is(call, "weight") else [7, 2, 1]
    each = 2 + sum(cost for cost, asked in zip(needed, call.arguments["output_mask"], strict=True) if asked)
    return estimate(OperatorKind.NORM, each * call.tensors[0].numel, f"{each} per element for the gradients asked for")


def _pool_backward(call: Call) -> Count:
    grad = call.tensor("grad_output")
    kernel = call.arguments.get("kernel_size")
    if kernel is None or "max_pool" in call.operator:
        return estimate(OperatorKind.POOL, call.output.numel, "1 per element of the input's gradient")
    spatial = int(call.operator.partition("pool")[2][0])
    sizes = [kernel] if isinstance(kernel, int) else list(kernel)
    taps = math.prod(sizes) ** (spatial if len(sizes) == 1 else 1)
    return estimate(OperatorKind.POOL, taps * grad.numel, "kernel size per element of the output's gradient")


def _table_backward(call: Call) -> Count:
    return estimate(OperatorKind.REDUCTION, call.tensor("grad_output").numel, "1 per element of the output's gradient")


def _bag_backward(call: Call) -> Count:
    """Of a maximum each element of the gradient goes to one row, else to all rows of its bag, scaled for a mean."""
    sum_mean_max, grad = int(call.arguments["mode"]), call.tensor("grad")
    if sum_mean_max == 2:
        return estimate(OperatorKind.REDUCTION, grad.numel, "1 per element of the output's gradient")
    each = 1 + sum_mean_max
    work = each * call.tensor("indices").numel * grad.shape[-1]
    return estimate(OperatorKind.REDUCTION, work, f"{each} per element of each row that was looked up")


def _looked_up(per_element: int, table: str) -> Rule:
    def rule(call: Call) -> Count:
        work = per_element * call.tensor("indices").numel * call.tensor(table).shape[-1]
        return estimate(OperatorKind.REDUCTION, work, f"{per_element} per element of each row that is looked up")

    return rule


CTC_CELL = 13
"""Three terms of a cell's sum, in logarithms: maximum 2, subtract 3, exp 3, add 2, log, add maximum, add label's."""


def _ctc_loss(call: Call) -> Count:
    """Forward variables: Graves et al., ICML 2006, equation 6."""
    return estimate(OperatorKind.REDUCTION, CTC_CELL * call.outputs[1].numel, f"{CTC_CELL} per forward variable")


def _ctc_loss_backward(call: Call) -> Count:
    """Backward variables and equation 15: added to the forward ones and (4) to their label's sum; 3 a probability."""
    work = (CTC_CELL + 5) * call.tensor("log_alpha").numel + 3 * call.output.numel
    return estimate(OperatorKind.REDUCTION, work, f"{CTC_CELL + 5} per forward variable, 3 per log probability")


def _pdist_backward(call: Call) -> Count:
    work = 4 * call.tensor("self").shape[-1] * call.tensor("pdist").numel
    return estimate(OperatorKind.OTHER, work, "4 d per pair")


def _upsample_backward(per_element: int) -> Rule:
    def rule(call: Call) -> Count:
        work = per_element * call.tensor("grad_output").numel
        return estimate(OperatorKind.OTHER, work, f"{per_element} per element of the output's gradient")

    return rule


def _grid_sampler(call: Call) -> Count:
    return _matrix(OperatorKind.OTHER, 4 * call.output.numel, "4 per output element, as fvcore counts grid_sampler")


def _index_put(call: Call) -> Count:
    if not call.arguments["accumulate"]:
        return _moved(call)
    return estimate(OperatorKind.REDUCTION, call.tensor("values").numel, "1 per element that is added")


def _cdist_backward(call: Call) -> Count:
    width, pairs = call.tensor("x1").shape[-1], call.tensor("cdist").numel
    return estimate(OperatorKind.OTHER, 4 * width * pairs, "4 d per pair")


def _moved(call: Call) -> Count:
    return Count(kind=OperatorKind.COPY, counting="moved")


SOFTMAX_BACKWARD = per_input(OperatorKind.SOFTMAX, 4)  # y dy, sum, subtract, times y

BACKWARD: Mapping[str, Rule] = {
    "convolution_backward": _convolution_backward,
    **named(
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention",
        _attention_forward,
    ),
    **named(
        "_scaled_dot_product_flash_attention_for_cpu_backward _scaled_dot_product_flash_attention_backward "
        "_scaled_dot_product_efficient_attention_backward _scaled_dot_product_cudnn_attention_backward",
        _attention_backward,
    ),
    "mkldnn_rnn_layer": _mkldnn_rnn,
    "mkldnn_rnn_layer_backward": _mkldnn_rnn_backward,
    **named("native_layer_norm native_group_norm native_batch_norm _native_batch_norm_legit", _native_norm),
    **named("native_layer_norm_backward native_group_norm_backward native_batch_norm_backward", _norm_backward),
    "_fused_rms_norm_backward": per_input(OperatorKind.NORM, 9),
    **named("_softmax_backward_data _log_softmax_backward_data", SOFTMAX_BACKWARD),
    # derivative of the function and its product with the gradient
    **named("threshold_backward hardtanh_backward hardshrink_backward softshrink_backward", elementwise(2)),
    "rrelu_with_noise": elementwise(3),  # draw, compare, product
    "rrelu_with_noise_backward": elementwise(),
    **named("leaky_relu_backward _prelu_kernel", elementwise(2)),
    **named("sigmoid_backward tanh_backward logit_backward", elementwise(3)),  # dy y (1 - y), dy (1 - y^2)
    **named("elu_backward hardsigmoid_backward softplus_backward log_sigmoid_backward", elementwise(4)),
    **named("hardswish_backward mish_backward", elementwise(6)),
    "silu_backward": elementwise(8),  # s = 1 / (1 + exp(-x)); dy s (1 + x (1 - s))
    "gelu_backward": elementwise(11),  # dy (cdf + x pdf): erf, exp, 3 to scale each, 3 to join
    "glu_backward": elementwise(4),  # an element of each half: dy s; dy a s (1 - s)
    "_prelu_kernel_backward": elementwise(3),
    **named("mse_loss_backward huber_loss_backward smooth_l1_loss_backward", elementwise(3)),
    **named("binary_cross_entropy_backward multi_margin_loss_backward", elementwise(4)),
    "multi_margin_loss": per_input(OperatorKind.REDUCTION, 4),  # subtract, add the margin, clamp, sum
    "soft_margin_loss_backward": elementwise(6),  # z = exp(-x y); -dy y z / (1 + z)
    "_ctc_loss": _ctc_loss,
    "_ctc_loss_backward": _ctc_loss_backward,
    "binary_cross_entropy_with_logits": elementwise(7),
    **named("nll_loss_forward nll_loss2d_forward", per_input(OperatorKind.REDUCTION, 1)),
    **named("nll_loss_backward nll_loss2d_backward", elementwise()),
    "log_sigmoid_forward": elementwise(4),
    "native_dropout": elementwise(3),  # draw, compare, scale
    "native_dropout_backward": elementwise(2),
    # pooling, tables, resampling
    **named("max_pool2d_with_indices_backward max_pool3d_with_indices_backward", _pool_backward),
    **named("avg_pool2d_backward avg_pool3d_backward adaptive_max_pool2d_backward", _pool_backward),
    **named("adaptive_max_pool3d_backward _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward", _pool_backward),
    **named("_adaptive_avg_pool2d _adaptive_avg_pool3d", per_input(OperatorKind.POOL, 1)),
    **named("fractional_max_pool2d_backward fractional_max_pool3d_backward", _pool_backward),
    "embedding_dense_backward": _table_backward,
    **named("_embedding_bag_backward _embedding_bag_dense_backward", _bag_backward),
    "_embedding_bag_per_sample_weights_backward": _looked_up(2, "grad"),
    "embedding_renorm": _looked_up(3, "self"),  # square, sum; scale
    **named(
        "upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward", _upsample_backward(1)
    ),
    **named("_upsample_nearest_exact1d_backward _upsample_nearest_exact2d_backward", _upsample_backward(1)),
    "_upsample_nearest_exact3d_backward": _upsample_backward(1),
    "_upsample_bilinear2d_aa_backward": antialiased(1),
    "_upsample_bicubic2d_aa_backward": antialiased(2),
    "upsample_linear1d_backward": _upsample_backward(3),
    "upsample_bilinear2d_backward": _upsample_backward(7),
    "upsample_trilinear3d_backward": _upsample_backward(15),
    "upsample_bicubic2d_backward": _upsample_backward(32),
    **named("grid_sampler_2d grid_sampler_3d", _grid_sampler),
    **named("grid_sampler_2d_backward grid_sampler_3d_backward", _upsample_backward(12)),
    "_weight_norm_interface": per_input(OperatorKind.REDUCTION, 4),
    "_weight_norm_interface_backward": per_input(OperatorKind.REDUCTION, 8),
    "_cdist_backward": _cdist_backward,
    "_pdist_backward": _pdist_backward,
    "_segment_reduce_backward": elementwise(),
    # divide, round, add, clamp 2; subtract, multiply; whether it was clamped
    **named("fake_quantize_per_tensor_affine_cachemask fake_quantize_per_channel_affine_cachemask", elementwise(7)),
    **named("index_put _index_put_impl _unsafe_index_put", _index_put),
    # movement below autograd
    "diagonal_backward": _moved,
    **named("new_empty_strided slice_backward select_backward unfold_backward as_strided_copy _reshape_copy", _moved),
    **named("reflection_pad1d_backward reflection_pad2d_backward reflection_pad3d_backward", _moved),
    **named("replication_pad1d_backward replication_pad2d_backward replication_pad3d_backward", _moved),
    **named("_conj_copy view_copy select_scatter unsafe_split unsafe_chunk unsafe_split_with_sizes", _moved),
}
"""Operator name -> rule, joined to the register of flops.py."""
