"""Memory that the kernels of a processor take for themselves while they run, or keep behind what they return.

oneDNN, which runs convolutions and LSTMs in torch, copies tensors and weights into layouts of its own. The formulas are
of float32 kernels of oneDNN 3 and were read off torch's allocator (the profiler's memory events); which layouts it
chooses, and so whether it copies at all, depends on sizes, processor and threads: where it may copy, it is said to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

SAVED_BY_LSTM = 16
"""Values that a layer of an LSTM keeps of each hidden unit, sample and step for its backward kernel.

4 gates; hidden and cell state of this layer and its input; 3 gradients of states of both; padding.
"""


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _convolution(call: Mapping[str, Any], out: list[torch.Tensor]) -> int:
    copies = _bytes(call["input"]) + _bytes(call["weight"])
    return copies + _bytes(out[0]) if call["transposed"] else max(copies, _bytes(out[0]))


def _convolution_backward(call: Mapping[str, Any], out: list[torch.Tensor]) -> int:
    return sum(_bytes(call[name]) for name in ("input", "weight", "grad_output"))


def _lstm_rows(call: Mapping[str, Any]) -> int:
    """Bytes of the hidden states of all steps."""
    steps, batch = call["input"].shape[:2]
    return math.prod((steps, batch, int(call["hidden_size"]), call["input"].element_size()))


def _lstm(call: Mapping[str, Any], out: list[torch.Tensor]) -> int:
    return _bytes(call["weight0"]) + _bytes(call["weight1"]) + 4 * _lstm_rows(call)


def _lstm_backward(call: Mapping[str, Any], out: list[torch.Tensor]) -> int:
    return 2 * (_bytes(call["weight1"]) + _bytes(call["weight2"])) + 4 * _lstm_rows(call)


def _loss(call: Mapping[str, Any], out: list[torch.Tensor]) -> int:
    """Bytes of the loss of every element, which is then reduced."""
    return _bytes(call["self"]) if call.get("reduction", 1) else 0


def _ctc_loss_backward(call: Mapping[str, Any], out: list[torch.Tensor]) -> int:
    """Bytes of the backward variables."""
    return _bytes(call["log_alpha"])


_WHILE_IT_RUNS: Mapping[str, Callable[[Mapping[str, Any], list[torch.Tensor]], int]] = {
    "aten::convolution": _convolution,
    "aten::convolution_backward": _convolution_backward,
    "aten::mkldnn_rnn_layer": _lstm,
    "aten::mkldnn_rnn_layer_backward": _lstm_backward,
    "aten::mse_loss": _loss,
    "aten::smooth_l1_loss": _loss,
    "aten::_ctc_loss_backward": _ctc_loss_backward,
}

_KEPT: Mapping[str, Callable[[Mapping[str, Any], list[torch.Tensor]], int]] = {
    "aten::mkldnn_rnn_layer": lambda call, out: SAVED_BY_LSTM * _lstm_rows(call) if call["train"] else 0,
    "aten::mse_loss": _loss,  # the scalar that is returned was as large as its input, and keeps that memory
    "aten::smooth_l1_loss": _loss,
}


def workspace_bytes(
    func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: list[torch.Tensor]
) -> tuple[int, int]:
    """Return the bytes that a kernel takes while it runs, and those that its last output keeps beyond its own size."""
    name = func._schema.name
    if name not in _WHILE_IT_RUNS:
        return 0, 0
    call = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | dict(kwargs)
    return _WHILE_IT_RUNS[name](call, out), _KEPT[name](call, out) if name in _KEPT else 0
