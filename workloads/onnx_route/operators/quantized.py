"""Quantised operators, computed on the integers' values: the products and sums are those of the integer kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from workloads.errors import WorkloadError
from workloads.onnx_route.operators.matrix import convolve
from workloads.onnx_route.operators.register import Call, operator
from workloads.onnx_route.types import torch_dtype


def _along(x: Tensor, parameter: Tensor, axis: int) -> Tensor:
    """Return a scale or zero point, one in all or one an element of an axis, so that it broadcasts with `x`."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    if parameter.ndim > 1:
        raise WorkloadError("scales of blocks are not supported", "a scale a tensor or one an axis")
    return parameter.reshape(-1, *[1] * (x.ndim - 1 - axis % x.ndim))


def _quantize(x: Tensor, scale: Tensor, zero: Tensor | None, axis: int, dtype: torch.dtype) -> Tensor:
    y = x / _along(x, scale, axis)
    if dtype.is_floating_point:
        largest = torch.finfo(dtype).max
        return torch.clamp(y, -largest, largest).to(dtype)
    y = torch.round(y)
    if zero is not None:
        y = y + _along(x, zero, axis)
    limits = torch.iinfo(dtype)
    return torch.clamp(y, limits.min, limits.max).to(dtype)


def _centred(x: Tensor, zero: Tensor | None, axis: int = 1) -> Tensor:
    """Return integers less their zero point as float32, exact up to 24 bits."""
    y = x.to(torch.float32)
    return y if zero is None else y - _along(x, zero, axis)


@operator("QuantizeLinear", state=(1, 2))
def _quantize_linear(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    wanted = torch_dtype(int(call.need("output_dtype"))) if call.get("output_dtype") else torch.uint8
    return _quantize(x, scale, zero, call.get("axis", 1), wanted if zero is None else zero.dtype)


@operator("DequantizeLinear", state=(1, 2))
def _dequantize_linear(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    axis = call.get("axis", 1)
    return (_centred(x, zero, axis) * _along(x, scale, axis)).to(scale.dtype)


@operator("DynamicQuantizeLinear")
def _dynamic_quantize_linear(call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = torch.clamp(x.amin(), max=0.0), torch.clamp(x.amax(), min=0.0)
    scale = (high - low) / 255
    zero = torch.clamp(torch.round(-low / scale), 0, 255).to(torch.uint8)
    return _quantize(x, scale, zero, 0, torch.uint8), scale, zero


@operator("MatMulInteger", state=(2, 3))
def _matmul_integer(
    call: Call, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Any:
    return torch.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1)).to(torch.int32)


@operator("ConvInteger", state=(2, 3))
def _conv_integer(call: Call, x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None) -> Any:
    return convolve(call, _centred(x, x_zero), _centred(w, w_zero, 0)).to(torch.int32)


@operator("QLinearMatMul", state=(1, 2, 4, 5, 6, 7))
def _qlinear_matmul(
    call: Call, a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor,
    y_scale: Tensor, y_zero: Tensor,
) -> Tensor:  # fmt: skip
    y = torch.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1))
    return _quantize(y * _along(y, a_scale, -2) * _along(y, b_scale, -1), y_scale, y_zero, -2, y_zero.dtype)


@operator("QLinearConv", state=(1, 2, 4, 5, 6, 7), weights=(3, 8))
def _qlinear_conv(
    call: Call, x: Tensor, x_scale: Tensor, x_zero: Tensor, w: Tensor, w_scale: Tensor, w_zero: Tensor,
    y_scale: Tensor, y_zero: Tensor, bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    plain = replace(call, weights=frozenset())
    y = convolve(plain, _centred(x, x_zero), _centred(w, w_zero, 0), None if bias is None else bias.to(torch.float32))
    return _quantize(y * x_scale * _along(y, w_scale, 1), y_scale, y_zero, 1, y_zero.dtype)
