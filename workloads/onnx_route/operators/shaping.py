"""Operators on shape and layout: reshape, transpose, join, split, pad, fill, sequences of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from workloads.errors import WorkloadError
from workloads.onnx_route.operators.register import Call, integers, operator
from workloads.onnx_route.types import tensor_of, torch_dtype


def axes_of(call: Call, axes: Any) -> list[int]:
    """Return the axes, which older opsets write as an attribute and newer ones as an input."""
    return integers(call.get("axes")) if axes is None else integers(axes)


@operator("Shape", pure=False)
def _shape(call: Call, x: Any) -> np.ndarray[Any, Any]:
    return np.array(tuple(x.shape)[call.get("start", 0) : call.get("end")], dtype=np.int64)


@operator("Size", pure=False)
def _size(call: Call, x: Any) -> np.ndarray[Any, Any]:
    return np.array(math.prod(x.shape), dtype=np.int64)


@operator("Reshape", known="rest")
def _reshape(call: Call, x: Tensor, shape: Any = None) -> Tensor:
    wanted = integers(call.need("shape") if shape is None else shape)
    if not call.get("allowzero", 0):
        wanted = [x.shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    return x.reshape(wanted)


@operator("Flatten")
def _flatten(call: Call, x: Tensor) -> Tensor:
    axis = call.get("axis", 1)
    return x.reshape(math.prod(x.shape[: axis if axis >= 0 else x.ndim + axis]), -1)


@operator("Squeeze", known="rest")
def _squeeze(call: Call, x: Tensor, axes: Any = None) -> Tensor:
    wanted = axes_of(call, axes)
    return x.squeeze(tuple(wanted)) if wanted else x.squeeze()


@operator("Unsqueeze", known="rest")
def _unsqueeze(call: Call, x: Tensor, axes: Any = None) -> Tensor:
    wanted = axes_of(call, axes)
    rank = x.ndim + len(wanted)
    for axis in sorted(axis % rank for axis in wanted):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose")
def _transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(call.get("perm", tuple(reversed(range(x.ndim)))))


@operator("Concat")
def _concat(call: Call, *xs: Tensor) -> Tensor:
    return xs[0] if len(xs) == 1 else torch.cat(xs, call.get("axis", 1))


@operator("Split", known="rest")
def _split(call: Call, x: Tensor, split: Any = None) -> tuple[Tensor, ...]:
    axis = call.get("axis", 0)
    sizes = integers(call.get("split") if split is None else split)
    if not sizes:
        parts = call.get("num_outputs", len(call.node.outputs))
        each = -(-x.shape[axis] // parts)
        sizes = [min(each, x.shape[axis] - each * i) for i in range(parts)]
    return torch.split(x, sizes, axis)


@operator("Expand", known="rest")
def _expand(call: Call, x: Tensor, shape: Any) -> Tensor:
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(integers(shape))))


@operator("Tile", known="rest")
def _tile(call: Call, x: Tensor, repeats: Any) -> Tensor:
    return x.repeat(integers(repeats))


@operator("Pad", known="rest")
def _pad(call: Call, x: Tensor, pads: Any = None, value: Any = None, axes: Any = None) -> Tensor:
    wanted = integers(call.get("pads", call.get("paddings")) if pads is None else pads)
    named = [axis % x.ndim for axis in integers(axes)] if axes is not None else list(range(x.ndim))
    before, after = [0] * x.ndim, [0] * x.ndim
    for position, axis in enumerate(named):
        before[axis], after[axis] = wanted[position], wanted[position + len(named)]
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}[
        call.get("mode", "constant")
    ]
    flat = [size for axis in reversed(range(x.ndim)) for size in (before[axis], after[axis])]
    while flat and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    if not flat:
        return x
    if mode == "constant":
        return F.pad(x, flat, value=float(call.get("value", 0.0)) if value is None else value.item())
    return _pad_with_content(x, flat, mode)


def _pad_with_content(x: Tensor, pads: list[int], mode: str) -> Tensor:
    """torch pads the last one to three dimensions with content, of tensors with one or two dimensions more."""
    spatial = len(pads) // 2
    if spatial > 3:
        raise WorkloadError(f"{mode} padding of {spatial} dimensions is not supported", "pad at most the last three")
    lead = x.shape[:-spatial]
    y = F.pad(x.reshape(1, math.prod(lead), *x.shape[-spatial:]), pads, mode=mode)
    return y.reshape(*lead, *y.shape[2:])


@operator("ConstantOfShape", known=(0,))
def _constant_of_shape(call: Call, shape: Any) -> Tensor:
    value = call.get("value", np.zeros(1, np.float32))
    return torch.full(integers(shape), value.reshape(-1)[0].item(), dtype=tensor_of(value).dtype, device=call.device)


@operator("Range", known=(0, 1, 2))
def _range(call: Call, start: Any, limit: Any, delta: Any) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=tensor_of(start).dtype, device=call.device)


@operator("EyeLike")
def _eye_like(call: Call, x: Tensor) -> Tensor:
    dtype = torch_dtype(int(call.need("dtype"))) if call.get("dtype") else x.dtype
    ones = torch.ones(min(x.shape), dtype=dtype, device=x.device)
    eye = torch.diag(ones)
    full = F.pad(eye, [0, x.shape[1] - eye.shape[1], 0, x.shape[0] - eye.shape[0]])
    return full if not call.get("k", 0) else torch.roll(full, call.get("k"), 1).triu(min(0, call.get("k")))


@operator("DepthToSpace")
def _depth_to_space(call: Call, x: Tensor) -> Tensor:
    block = call.need("blocksize")
    batch, channels, height, width = x.shape
    if call.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    y = x.reshape(batch, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(batch, channels // block**2, height * block, width * block)


@operator("SpaceToDepth")
def _space_to_depth(call: Call, x: Tensor) -> Tensor:
    block = call.need("blocksize")
    if call.get("mode", "DCR") == "CRD":
        return F.pixel_unshuffle(x, block)
    batch, channels, height, width = x.shape
    y = x.reshape(batch, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(batch, channels * block**2, height // block, width // block)


@operator("CenterCropPad", known="rest")
def _center_crop_pad(call: Call, x: Tensor, shape: Any) -> Tensor:
    axes = integers(call.get("axes")) or list(range(x.ndim))
    for axis, size in zip((a % x.ndim for a in axes), integers(shape), strict=True):
        missing = size - x.shape[axis]
        if missing < 0:
            x = x.narrow(axis, -missing // 2, size)
        elif missing:
            trailing = [0, 0] * (x.ndim - axis - 1)
            x = F.pad(x, [*trailing, missing // 2, missing - missing // 2])
    return x


@operator("Col2Im", known="rest")
def _col2im(call: Call, x: Tensor, image: Any, block: Any) -> Tensor:
    pads = call.get("pads", [0] * 4)
    if len(integers(block)) != 2 or pads[:2] != pads[2:]:
        raise WorkloadError("other than two axes with equal pads is not supported", "export it as torch.nn.Fold")
    return F.fold(
        x,
        tuple(integers(image)),
        tuple(integers(block)),
        dilation=call.get("dilations", [1, 1]),
        padding=pads[:2],
        stride=call.get("strides", [1, 1]),
    )


# --- sequences of tensors --------------------------------------------------------------------------------------------


@operator("SequenceConstruct", pure=False)
def _sequence_construct(call: Call, *xs: Tensor) -> list[Tensor]:
    return list(xs)


@operator("SequenceEmpty", pure=False)
def _sequence_empty(call: Call) -> list[Tensor]:
    return []


@operator("SequenceAt", known=(1,), pure=False)
def _sequence_at(call: Call, sequence: Sequence[Tensor], position: Any) -> Tensor:
    return sequence[int(position)]


@operator("SequenceInsert", known=(2,), pure=False)
def _sequence_insert(call: Call, sequence: Sequence[Tensor], x: Tensor, position: Any = None) -> list[Tensor]:
    at = len(sequence) if position is None else int(position)
    return [*sequence[:at], x, *sequence[at:]]


@operator("SequenceLength", pure=False)
def _sequence_length(call: Call, sequence: Sequence[Tensor]) -> np.ndarray[Any, Any]:
    return np.array(len(sequence), dtype=np.int64)


@operator("SplitToSequence", known="rest", pure=False)
def _split_to_sequence(call: Call, x: Tensor, split: Any = None) -> list[Tensor]:
    axis = call.get("axis", 0)
    if split is None:
        parts = list(torch.split(x, 1, axis))
        return parts if call.get("keepdims", 1) else [part.squeeze(axis) for part in parts]
    sizes: Any = int(split) if split.ndim == 0 else integers(split)
    return list(torch.split(x, sizes, axis))


@operator("ConcatFromSequence", pure=False)
def _concat_from_sequence(call: Call, sequence: Sequence[Tensor]) -> Tensor:
    join = torch.stack if call.get("new_axis", 0) else torch.cat
    return join(list(sequence), call.need("axis"))
