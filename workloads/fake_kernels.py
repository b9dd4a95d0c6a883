"""Shapes of what operators return whose fake kernels torch lacks, or has for other devices only.

A training step runs on fake tensors. Where an operator looks at values to find a size that its arguments bound, the
result has the size of the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch


def run_fake(func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what an operator returns on fake tensors."""
    kernel = _KERNELS.get(func._schema.name)
    return kernel(*args, **kwargs) if kernel else func(*args, **kwargs)


def _grouped_mm(
    left: torch.Tensor,
    right: torch.Tensor,
    offs: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Matrices of groups of rows, columns or inner indices, or a batch; torch's fake kernel takes bfloat16 alone."""
    shape = [left.shape[-2], right.shape[-1]]
    if left.dim() == right.dim():
        shape.insert(0, left.shape[0] if left.dim() == 3 or offs is None else offs.shape[0])
    return left.new_empty(shape, dtype=out_dtype or left.dtype)


def _ctc_loss(
    log_probs: torch.Tensor, targets: torch.Tensor, input_lengths: Any, target_lengths: Any, *_: Any, **__: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss [N] and forward variables [N, T, 2 S + 1] of targets of at most S labels, blanks between and around.

    S is the longest of `target_lengths` where these are numbers, else what `targets` has room for.
    """
    steps, batch = log_probs.shape[0], log_probs.shape[1] if log_probs.dim() == 3 else 1
    longest = targets.shape[-1] if isinstance(target_lengths, torch.Tensor) else max(target_lengths, default=0)
    alpha = log_probs.new_empty((batch, steps, 2 * longest + 1))
    loss = log_probs.new_empty((batch,))
    return (loss, alpha) if log_probs.dim() == 3 else (loss[0], alpha[0])


def _ctc_loss_backward(grad: torch.Tensor, log_probs: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return torch.empty_like(log_probs)


_KERNELS: Mapping[str, Callable[..., Any]] = {
    "aten::_grouped_mm": _grouped_mm,
    "aten::_ctc_loss": _ctc_loss,
    "aten::_ctc_loss_backward": _ctc_loss_backward,
}
