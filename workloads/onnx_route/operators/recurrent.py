"""LSTM, GRU and RNN on torch's kernels: gates in torch's order, weights a direction, the layout of the standard."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workloads.errors import WorkloadError
from workloads.onnx_route.operators.register import Call, operator

GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Where torch's gates stand in the standard's: LSTM i, f, g, o of i, o, f, c; GRU r, z, n of z, r, h."""

ACTIVATIONS = {
    "LSTM": ["sigmoid", "tanh", "tanh"],
    "GRU": ["sigmoid", "tanh"],
    "RNN": ["tanh"],
}


def torch_parameters(kind: str, weight: Tensor, recurrence: Tensor, bias: Tensor | None) -> list[Tensor]:
    """Return w_ih, w_hh, b_ih, b_hh of each direction in torch's gate order.

    `weight` [directions, gates x hidden, inputs], `recurrence` [directions, gates x hidden, hidden], `bias`
    [directions, 2 x gates x hidden].
    """
    order = GATES[kind]
    parts: list[Tensor] = []
    for direction in range(weight.shape[0]):
        parts += [_reordered(weight[direction], order), _reordered(recurrence[direction], order)]
        if bias is not None:
            parts += [_reordered(half, order) for half in bias[direction].chunk(2)]
    return parts


def _reordered(x: Tensor, order: tuple[int, ...]) -> Tensor:
    gates = x.chunk(len(order))
    return x if len(order) == 1 else torch.cat([gates[i] for i in order])


@operator("LSTM", "GRU", "RNN", state=(4, 5, 6, 7), weights=(1, 2, 3), known=(4,))
def _recurrent(
    call: Call,
    x: Tensor,
    weight: Tensor | list[Tensor],
    recurrence: Tensor | None,
    bias: Tensor | None = None,
    lengths: Any = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> Any:
    """`load` hands weights of the file over as the list that `torch_parameters` makes of them."""
    kind, size = call.node.operator, call.need("hidden_size")
    activation = _check(call, kind, x, lengths, peepholes)
    directions = 2 if call.get("direction", "forward") == "bidirectional" else 1
    batch_first = bool(call.get("layout", 0))
    steps = x.transpose(0, 1) if batch_first else x
    backwards = call.get("direction", "forward") == "reverse"
    if backwards:
        steps = steps.flip(0)
    if isinstance(weight, list):
        parameters = weight
    else:
        assert recurrence is not None
        parameters = torch_parameters(kind, weight, recurrence, bias)
    biased = len(parameters) == 4 * directions

    def start(state: Tensor | None) -> Tensor:
        if state is None:
            return torch.zeros(directions, steps.shape[1], size, dtype=x.dtype, device=x.device)
        return state.transpose(0, 1) if batch_first else state

    states: list[Tensor]
    if kind == "LSTM":
        y, *states = torch.lstm(
            steps, [start(hidden), start(cell)], parameters, biased, 1, 0.0, False, directions == 2, False
        )
    else:
        run = {"gru": torch.gru, "tanh": torch.rnn_tanh, "relu": torch.rnn_relu}["gru" if kind == "GRU" else activation]
        y, *states = run(steps, start(hidden), parameters, biased, 1, 0.0, False, directions == 2, False)
    if backwards:
        y = y.flip(0)
    y = y.reshape(*y.shape[:2], directions, size).movedim(2, 1)  # [steps, directions, batch, hidden]
    if batch_first:
        y, states = y.permute(2, 0, 1, 3), [state.transpose(0, 1) for state in states]
    return (y, *states)


def _check(call: Call, kind: str, x: Tensor, lengths: Any, peepholes: Tensor | None) -> str:
    """Return an RNN's activation; raise WorkloadError for what torch's kernels do not compute."""
    if peepholes is not None:
        raise WorkloadError("its peepholes are not supported", "an LSTM without the input P")
    if call.get("clip") is not None or call.get("input_forget", 0):
        raise WorkloadError("clip and input_forget are not supported", "a plain LSTM, GRU or RNN")
    if kind == "GRU" and not call.get("linear_before_reset", 0):
        raise WorkloadError("a GRU with linear_before_reset = 0 is not supported", "PyTorch's GRU has it at 1")
    steps = x.shape[1 if call.get("layout", 0) else 0]
    if lengths is not None and any(int(length) != steps for length in lengths):
        raise WorkloadError("sequences of different lengths in a batch are not supported", "sequence_lens all equal")
    names = [name.lower() for name in call.get("activations", [])]
    per_direction = ACTIVATIONS[kind]
    if kind == "RNN":
        if len(set(names)) > 1 or set(names) - {"tanh", "relu"}:
            raise WorkloadError(f"the activations {names} are not supported", "tanh or relu")
        return names[0] if names else "tanh"
    if names and names != per_direction * (len(names) // len(per_direction)):
        raise WorkloadError(f"the activations {names} are not supported", ", ".join(per_direction))
    return ""
