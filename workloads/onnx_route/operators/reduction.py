"""Reductions, sums along an axis, sorting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workloads.onnx_route.operators.register import Call, operator
from workloads.onnx_route.operators.shaping import axes_of


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceProd": _prod,
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep),
}


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    def run(call: Call, x: Tensor, axes: Any = None) -> Tensor:
        along = axes_of(call, axes)
        if not along and call.get("noop_with_empty_axes", 0):
            return x
        return function(x, along or list(range(x.ndim)), bool(call.get("keepdims", 1)))

    return run


for _name, _function in REDUCTIONS.items():
    operator(_name, known="rest")(_reduce(_function))


@operator("ArgMax", "ArgMin")
def _arg(call: Call, x: Tensor) -> Tensor:
    axis, keep = call.get("axis", 0), bool(call.get("keepdims", 1))
    find: Callable[..., Tensor] = torch.argmax if call.node.operator == "ArgMax" else torch.argmin
    if call.get("select_last_index", 0):
        return torch.rsub(find(x.flip(axis), axis, keepdim=keep), x.shape[axis] - 1)
    return find(x, axis, keepdim=keep)


@operator("TopK", known="rest")
def _top_k(call: Call, x: Tensor, k: Any = None) -> tuple[Tensor, Tensor]:
    count = int(call.need("k") if k is None else k.reshape(-1)[0])
    values, places = torch.topk(
        x, count, call.get("axis", -1), bool(call.get("largest", 1)), bool(call.get("sorted", 1))
    )
    return values, places


@operator("CumSum", "CumProd", known="rest")
def _cumulative(call: Call, x: Tensor, axis: Any) -> Tensor:
    along = int(axis)
    run, neutral = (torch.cumsum, 0) if call.node.operator == "CumSum" else (torch.cumprod, 1)
    y = x.flip(along) if call.get("reverse", 0) else x
    y = run(y, along, dtype=x.dtype)
    if call.get("exclusive", 0):
        first = torch.full_like(y.narrow(along, 0, 1), neutral)
        y = torch.cat([first, y.narrow(along, 0, x.shape[along] - 1)], along)
    return y.flip(along) if call.get("reverse", 0) else y
