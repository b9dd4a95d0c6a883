"""The matrix products that a layer is made of: extents as cost models of processing-element arrays read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from workloads.graph import Layer

GEMMS = 3
"""Most matrix products that one layer has: a recurrent layer's, of its inputs twice and of its states."""

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
"""Matrices of a recurrent cell, by the first letters of its operator."""

Extents = tuple[float, float, float, float, float]
"""batch, steps, m, n, k of one product: [m, k] x [k, n] in `batch` copies, one after the other in `steps` steps.

Copies have operands of their own; the steps of a copy share the [k, n] operand and each waits for the one before.
"""


def gemms(layers: Sequence[Layer]) -> NDArray[np.float64]:
    """Return the products [N, GEMMS, 5] of N layers (columns as in Extents); zeros where fewer are known.

    A convolution is the product of its im2col matrix (Chellapilla et al., 2006): output pixels x (taps x channels of
    a group) times (taps x channels) x output channels, once a group; a transposed one has a row for each input pixel
    and a column for each tap of each output channel. Attention is two products a head, a recurrent layer those of all
    inputs at once and one for each step. Where a layer counts more or fewer multiply-accumulates than that (backward
    passes, causal masks), `batch` is scaled so that they agree.
    """
    table = np.zeros((len(layers), GEMMS, 5))
    for row, layer in zip(table, layers, strict=True):
        for index, extents in enumerate(_products(layer)):
            row[index] = extents
    counted = table.prod(axis=2).sum(axis=1)
    macs = np.array([layer.macs for layer in layers], np.float64)
    table[:, :, 0] *= np.divide(macs, counted, out=np.zeros_like(macs), where=counted > 0)[:, None]
    return table


def transforms(layers: Sequence[Layer]) -> NDArray[np.float64]:
    """Return points of a Fourier transform and how many there are [N, 2]; zeros for layers of other kinds."""
    rows = [(x.shape.get("length", 0), x.shape.get("transforms", 0)) if x.kind == "fft" else (0, 0) for x in layers]
    return np.array(rows, np.float64).reshape(-1, 2)


def _products(layer: Layer) -> list[Extents]:
    s = layer.shape
    match layer.kind:
        case "conv" if "axes" in s:
            return [_convolution(s)]
        case "linear" | "matmul" if "m" in s:
            return [(s["batch"], 1, s["m"], s["n"], s["k"])]
        case "attention" if "seq_q" in s:
            copies = s["batch"] * s["heads"]
            scores = (copies, 1, s["seq_q"], s["seq_kv"], s["head_dim"])
            return [scores, (copies, 1, s["seq_q"], s["value_dim"], s["seq_kv"])]
        case "recurrent" if "hidden" in s:
            return _recurrent(s, layer.operator)
    return []


def _convolution(s: Mapping[str, int]) -> Extents:
    axes = "dhw"[-s["axes"] :]
    taps = math.prod(s[f"kernel_{axis}"] for axis in axes)
    pixels = math.prod(s[f"{'in' if s['transposed'] else 'out'}_{axis}"] for axis in axes)
    groups = s["groups"]
    wide, deep = s["out_channels"] // groups, s["in_channels"] // groups
    wide, deep = (wide * taps, deep) if s["transposed"] else (wide, deep * taps)
    return groups, 1, s["batch"] * pixels, wide, deep


def _recurrent(s: Mapping[str, int], operator: str) -> list[Extents]:
    cell = operator.removeprefix("aten.").removeprefix("mkldnn_")
    gates = next((count for name, count in GATES.items() if cell.startswith(name)), 1)
    width, directions, rows = gates * s["hidden"], s["directions"], s["batch"] * s["steps"]
    deeper = (s["layers"] - 1) * directions
    states: Extents = (s["layers"] * directions, s["steps"], s["batch"], width, s["hidden"])
    inputs: Extents = (directions, 1, rows, width, s["in"])
    return [inputs, states, (deeper, 1, rows, width, directions * s["hidden"])] if deeper else [inputs, states]
