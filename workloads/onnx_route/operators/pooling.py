"""Pooling over windows and whole maps, resizing, sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workloads.errors import WorkloadError
from workloads.onnx_route.operators.register import Call, integers, operator


def window_pads(call: Call, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return padding before and after each spatial axis, from `pads` or by the rule of `auto_pad`."""
    rank = len(kernel)
    mode = call.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = call.get("pads", [0] * (2 * rank))
        return list(pads[:rank]), list(pads[rank:])
    if mode == "VALID":
        return [0] * rank, [0] * rank
    strides, dilations = call.get("strides", [1] * rank), call.get("dilations", [1] * rank)
    before, after = [], []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + dilation * (k - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return before, after


def interleaved(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Return pads in the order of `torch.nn.functional.pad`: last axis first, before and after each."""
    return [size for pair in zip(reversed(before), reversed(after), strict=True) for size in pair]


def _spatial(x: Tensor) -> int:
    if not 3 <= x.ndim <= 5:
        raise WorkloadError(f"an input of {x.ndim} dimensions cannot be pooled", "batch, channels and 1 to 3 axes")
    return x.ndim - 2


@operator("MaxPool")
def _max_pool(call: Call, x: Tensor) -> Any:
    rank, kernel = _spatial(x), list(call.need("kernel_shape"))
    if call.wants(1):
        call.only("storage_order", [0])
    before, after = window_pads(call, x.shape[2:], kernel)
    if before != after or any(2 * pad > k for pad, k in zip(before, kernel, strict=True)):
        x, before = F.pad(x, interleaved(before, after), value=-math.inf), [0] * rank
    pool: Callable[..., Any] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    return pool(
        x,
        kernel,
        call.get("strides", [1] * rank),
        before,
        call.get("dilations", [1] * rank),
        bool(call.get("ceil_mode", 0)),
        return_indices=call.wants(1),
    )


def _average(x: Tensor, call: Call, kernel: list[int], pads: list[int], counts_pads: bool) -> Tensor:
    rank = len(kernel)
    strides, ceil = call.get("strides", [1] * rank), bool(call.get("ceil_mode", 0))
    pool: Callable[..., Tensor] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
    return pool(x, kernel, strides, pads, ceil, counts_pads)


@operator("AveragePool")
def _average_pool(call: Call, x: Tensor) -> Tensor:
    rank, kernel = _spatial(x), list(call.need("kernel_shape"))
    call.only("dilations", [[1] * rank])
    before, after = window_pads(call, x.shape[2:], kernel)
    counts_pads = bool(call.get("count_include_pad", 0))
    if before == after and all(2 * pad <= k for pad, k in zip(before, kernel, strict=True)):
        return _average(x, call, kernel, before, counts_pads)
    pads, none = interleaved(before, after), [0] * rank
    y = _average(F.pad(x, pads), call, kernel, none, True)
    if counts_pads:
        return y
    inside = F.pad(torch.ones_like(x[:1, :1]), pads)
    return y / _average(inside, call, kernel, none, True)


@operator("LpPool")
def _lp_pool(call: Call, x: Tensor) -> Tensor:
    kernel, p = list(call.need("kernel_shape")), int(call.get("p", 2))
    call.only("dilations", [[1] * len(kernel)])
    before, after = window_pads(call, x.shape[2:], kernel)
    powers = F.pad(x.abs().pow(p), interleaved(before, after))
    return torch.pow(_average(powers, call, kernel, [0] * _spatial(x), True) * math.prod(kernel), 1 / p)


@operator("GlobalAveragePool")
def _global_average_pool(call: Call, x: Tensor) -> Tensor:
    pool: Callable[..., Tensor] = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[_spatial(x) - 1]
    return pool(x, 1)


@operator("GlobalMaxPool")
def _global_max_pool(call: Call, x: Tensor) -> Tensor:
    return (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[_spatial(x) - 1](x, 1)


@operator("GlobalLpPool")
def _global_lp_pool(call: Call, x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, ord=call.get("p", 2), dim=tuple(range(2, x.ndim)), keepdim=True)
    return norm


COORDINATES = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "align_corners", "asymmetric")


@operator("Resize", "Upsample", known="rest")
def _resize(call: Call, x: Tensor, *rest: Any) -> Tensor:
    """Resize by the kernel of torch that has this mode; coordinate rules that torch lacks cost the same."""
    call.only("coordinate_transformation_mode", COORDINATES)
    scales, sizes = _wanted(call, rest)
    axes = [axis % x.ndim for axis in call.get("axes", range(x.ndim))]
    target = list(x.shape)
    if sizes:
        policy = call.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            ratios = [size / x.shape[axis] for size, axis in zip(sizes, axes, strict=True)]
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            sizes = [math.floor(ratio * x.shape[axis] + 0.5) for axis in axes]
        for axis, size in zip(axes, sizes, strict=True):
            target[axis] = size
    else:
        for axis, scale in zip(axes, scales, strict=True):
            target[axis] = math.floor(x.shape[axis] * scale)
    if tuple(target[:2]) != tuple(x.shape[:2]):
        raise WorkloadError("it resizes the batch or the channels", "resize spatial axes: of [batch, channels, ...]")
    return _interpolate(call, x, target[2:])


def _wanted(call: Call, rest: Sequence[Any]) -> tuple[list[float], list[int]]:
    """Return scales and sizes; the inputs are (scales) up to opset 10, then (roi, scales, sizes)."""
    if call.node.operator == "Upsample" or call.opset < 11:
        return list(call.get("scales") or rest[0].tolist()), []
    scales = rest[1].tolist() if len(rest) > 1 and rest[1] is not None else []
    return scales, integers(rest[2]) if len(rest) > 2 and rest[2] is not None else []


def _interpolate(call: Call, x: Tensor, size: list[int]) -> Tensor:
    rank, mode = _spatial(x), call.get("mode", "nearest")
    asymmetric = call.get("coordinate_transformation_mode", "half_pixel") == "asymmetric" or call.opset < 11
    if mode == "nearest":
        return F.interpolate(x, size, mode="nearest" if asymmetric else "nearest-exact")
    corners = call.get("coordinate_transformation_mode") == "align_corners"
    if mode in ("linear", "bilinear"):
        name = ("linear", "bilinear", "trilinear")[rank - 1]
        antialias = bool(call.get("antialias", 0)) and rank == 2
        return F.interpolate(x, size, mode=name, align_corners=corners, antialias=antialias)
    if mode == "cubic" and rank == 2:
        return F.interpolate(x, size, mode="bicubic", align_corners=corners, antialias=bool(call.get("antialias", 0)))
    raise WorkloadError(f"mode {mode!r} on {rank} axes is not supported", "nearest, linear, or cubic on two axes")


@operator("GridSample")
def _grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(call.get("mode", "linear"), call.get("mode", "linear"))
    return F.grid_sample(x, grid, mode, call.get("padding_mode", "zeros"), bool(call.get("align_corners", 0)))


@operator("AffineGrid", known="rest")
def _affine_grid(call: Call, theta: Tensor, size: Any) -> Tensor:
    return F.affine_grid(theta, integers(size), bool(call.get("align_corners", 0)))
