"""Operators that pick and place elements: slices, lookups, scatters, masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workloads.errors import WorkloadError
from workloads.onnx_route.operators.register import Call, integers, operator
from workloads.onnx_route.operators.shaping import axes_of
from workloads.onnx_route.types import tensor_of


@operator("Slice", known="rest")
def _slice(call: Call, x: Tensor, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Tensor:
    first = integers(call.need("starts") if starts is None else starts)
    last = integers(call.need("ends") if ends is None else ends)
    along = axes_of(call, axes) or list(range(len(first)))
    for start, end, axis, step in zip(first, last, along, integers(steps) or [1] * len(first), strict=True):
        chosen = range(x.shape[axis])[slice(start, _end(end, step), step)]
        if step > 0:
            x = x[(slice(None),) * (axis % x.ndim) + (slice(chosen.start, max(chosen.stop, chosen.start), step),)]
        elif len(chosen):
            x = x[(slice(None),) * (axis % x.ndim) + (slice(chosen[-1], chosen[0] + 1, -step),)].flip(axis)
        else:
            x = x.narrow(axis, 0, 0)
    return x


def _end(end: int, step: int) -> int | None:
    """Return the end of a Python slice: exporters write "to the start", going backwards, as a huge negative number."""
    return None if step < 0 and end <= -(2**31) else end


@operator("Gather", numbers=(1,))
def _gather(call: Call, x: Tensor, indices: Any) -> Tensor:
    """A lookup in a matrix of weights is an embedding; one known place is a view, as indexing by an integer is."""
    axis = call.get("axis", 0) % x.ndim
    if not isinstance(indices, Tensor):
        return x.select(axis, indices)
    if 0 in call.weights and axis == 0 and x.ndim == 2 and indices.ndim:
        return F.embedding(indices, x)
    if indices.ndim < 2:
        y = x.index_select(axis, indices.reshape(-1))
        return y if indices.ndim else y.squeeze(axis)
    return x[(slice(None),) * axis + (indices,)]


@operator("GatherElements")
def _gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    return torch.gather(x, call.get("axis", 0), indices.long())


@operator("GatherND")
def _gather_nd(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    batch = call.get("batch_dims", 0)
    if batch == 0:
        return x[tuple(indices.unbind(-1))]
    lead = x.shape[:batch]
    flat, places = x.reshape(-1, *x.shape[batch:]), indices.reshape(-1, *indices.shape[batch:])
    rows = torch.arange(flat.shape[0], device=x.device).reshape(-1, *[1] * (places.ndim - 2))
    y = flat[(rows, *places.unbind(-1))]
    return y.reshape(*lead, *y.shape[1:])


REDUCTIONS = {"none": None, "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("Scatter", "ScatterElements")
def _scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis, reduction = call.get("axis", 0), REDUCTIONS[call.get("reduction", "none")]
    if reduction is None:
        return torch.scatter(x, axis, indices.long(), updates)
    return torch.scatter_reduce(x, axis, indices.long(), updates, reduction)


@operator("ScatterND")
def _scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    reduction = call.get("reduction", "none")
    if reduction not in ("none", "add"):
        raise WorkloadError(f"reduction {reduction!r} is not supported", "none or add")
    return torch.index_put(x, tuple(indices.unbind(-1)), updates, accumulate=reduction == "add")


@operator("OneHot", known=(1, 2))
def _one_hot(call: Call, indices: Tensor, depth: Any, values: Any) -> Tensor:
    count, axis = int(depth.reshape(-1)[0]), call.get("axis", -1)
    off, on = values.tolist()
    places = torch.arange(count, device=indices.device)
    asked = torch.where(indices < 0, indices + count, indices)
    hot = torch.where(asked.unsqueeze(-1) == places, on, off).to(tensor_of(values).dtype)
    return hot if axis == -1 else hot.movedim(-1, axis)


@operator("Trilu", known="rest")
def _trilu(call: Call, x: Tensor, k: Any = None) -> Tensor:
    cut = torch.triu if call.get("upper", 1) else torch.tril
    return cut(x, 0 if k is None else int(k))


@operator("ReverseSequence", known="rest")
def _reverse_sequence(call: Call, x: Tensor, lengths: Any) -> Tensor:
    batch, time = call.get("batch_axis", 1), call.get("time_axis", 0)
    parts = []
    for i, length in enumerate(integers(lengths)):
        row = x.narrow(batch, i, 1)
        parts.append(
            torch.cat([row.narrow(time, 0, length).flip(time), row.narrow(time, length, x.shape[time] - length)], time)
        )
    return torch.cat(parts, batch)
