"""Normalisations and softmax."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workloads.onnx_route.operators.register import Call, operator


@operator("BatchNormalization", state=(3, 4), weights=(1, 2))
def _batch_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Batch statistics where the module is trained; the running ones are no parameters, though a file that stores equal
    values once may give them the name of one."""
    share, epsilon = 1.0 - call.get("momentum", 0.9), call.get("epsilon", 1e-5)
    mean, variance = mean.detach(), variance.detach()
    return F.batch_norm(x, mean, variance, scale, bias, training=call.training, momentum=share, eps=epsilon)


@operator("InstanceNormalization", weights=(1, 2))
def _instance_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=call.get("epsilon", 1e-5))


@operator("GroupNormalization", weights=(1, 2))
def _group_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Opset 18 has a scale a group, 21 a scale a channel."""
    groups, scale, bias = call.need("num_groups"), scale.reshape(-1), bias.reshape(-1)
    if call.opset < 21 and scale.shape[0] != x.shape[1]:
        scale, bias = (t.repeat_interleave(x.shape[1] // groups) for t in (scale, bias))
    return F.group_norm(x, groups, scale, bias, call.get("epsilon", 1e-5))


@operator("LayerNormalization", weights=(1, 2))
def _layer_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
    axis, epsilon = call.get("axis", -1) % x.ndim, call.get("epsilon", 1e-5)
    shape = x.shape[axis:]
    y = F.layer_norm(x, shape, scale.expand(shape), None if bias is None else bias.expand(shape), epsilon)
    if not (call.wants(1) or call.wants(2)):
        return y
    over = list(range(axis, x.ndim))
    return y, x.mean(over, keepdim=True), torch.rsqrt(x.var(over, correction=0, keepdim=True) + epsilon)


@operator("RMSNormalization", weights=(1,))
def _rms_norm(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    shape = x.shape[call.get("axis", -1) % x.ndim :]
    return F.rms_norm(x, shape, scale.expand(shape), call.get("epsilon", 1e-5))


@operator("LpNormalization")
def _lp_norm(call: Call, x: Tensor) -> Tensor:
    return F.normalize(x, p=call.get("p", 2), dim=call.get("axis", -1), eps=0.0)


@operator("MeanVarianceNormalization")
def _mean_variance_norm(call: Call, x: Tensor) -> Tensor:
    axes = list(call.get("axes", (0, 2, 3)))
    centred = x - x.mean(axes, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + 1e-9)


@operator("LRN")
def _local_response_norm(call: Call, x: Tensor) -> Tensor:
    return F.local_response_norm(
        x, call.need("size"), call.get("alpha", 1e-4), call.get("beta", 0.75), call.get("bias", 1.0)
    )


def _softmax(call: Call, x: Tensor) -> Tensor:
    """Before opset 13 the dimensions from `axis` on are one."""
    function = torch.softmax if call.node.operator == "Softmax" else torch.log_softmax
    if call.opset >= 13:
        return function(x, call.get("axis", -1))
    axis = call.get("axis", 1) % x.ndim
    if axis == x.ndim - 1:
        return function(x, axis)
    return function(x.reshape(math.prod(x.shape[:axis]), -1), 1).reshape(x.shape)


operator("Softmax", "LogSoftmax")(_softmax)


@operator("Hardmax")
def _hardmax(call: Call, x: Tensor) -> Tensor:
    axis = call.get("axis", -1 if call.opset >= 13 else 1)
    places = torch.arange(x.shape[axis], device=x.device).reshape(-1, *[1] * (x.ndim - 1 - axis % x.ndim))
    return (x.argmax(axis, keepdim=True) == places).to(x.dtype)
