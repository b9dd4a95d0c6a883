"""Example inputs of a model: shapes in words, tensors of them, and the same at another batch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from workloads.errors import WorkloadError

if TYPE_CHECKING:
    import torch


def parse_input(text: str) -> tuple[tuple[int, ...], str]:
    """Return shape and dtype of "1x3x224x224" or "1x128:int64".

    >>> parse_input("1x128:int64")
    ((1, 128), 'int64')
    """
    shape, _, dtype = text.strip().lower().partition(":")
    if not re.fullmatch(r"\d+(x\d+)*", shape) or "0" in shape.split("x"):
        raise WorkloadError(f"{text!r} is not an input shape", "write sizes joined by x: 1x3x224x224, or 1x128:int64")
    return tuple(int(size) for size in shape.split("x")), dtype or "float32"


def example_input(shape: Sequence[int], dtype: str, device: str) -> torch.Tensor:
    """Return a tensor of this shape and dtype: zeros, of which only shape and dtype matter."""
    import torch

    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        close = get_close_matches(dtype, [n for n in dir(torch) if isinstance(getattr(torch, n), torch.dtype)], n=1)
        raise WorkloadError(f"{dtype!r} is not a dtype of torch", f"did you mean {close[0]!r}?" if close else "float32")
    try:
        return torch.zeros(tuple(shape), dtype=kind, device=device)
    except RuntimeError as error:  # more bytes than there are, or than can be counted
        size = "x".join(map(str, shape))
        raise WorkloadError(f"an input of shape {size} cannot be made: {error}", "a smaller shape") from None


def at_batch(examples: tuple[Any, ...], batch: int) -> tuple[Any, ...]:
    """Return example inputs of another batch, their values lost.

    The batch is dimension 0 of the first tensor, and of every other one that is as large there.

    Raises
    ------
    WorkloadError
        If no tensor of them has a dimension.
    """
    import torch
    from torch.utils import _pytree as pytree

    sizes = [t.shape[0] for t in pytree.tree_leaves(examples) if isinstance(t, torch.Tensor) and t.ndim]
    if not sizes:
        raise WorkloadError("the example inputs have no batch", "its place is dimension 0 of the first tensor")

    def resized(tensor: torch.Tensor) -> torch.Tensor:
        batched = tensor.ndim and tensor.shape[0] == sizes[0]
        return tensor.new_zeros((batch, *tensor.shape[1:])) if batched else tensor

    return tuple(pytree.tree_map_only(torch.Tensor, resized, examples))
