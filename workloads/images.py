"""What layers work on, as channels of pixels: the view that accelerators of convolutions have of a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from workloads.graph import Layer

IMAGE_FEATURES = (
    "images",  # that are worked on one after the other: the batch
    "axes",  # spatial axes of a convolution; 0 of other layers
    "in_channels",
    "out_channels",
    "groups",
    "transposed",  # 1 of a transposed convolution
    "kernel_rows",
    "kernel_cols",
    "stride_rows",
    "stride_cols",
    "padding_rows",  # on each side
    "padding_cols",
    "dilation_rows",
    "in_rows",
    "in_cols",
    "out_rows",
    "out_cols",
    "window",  # values that a pool reads for one that it writes
    "operands",  # tensors that an element-wise layer reads
    "in_flight",  # convolutions and linear layers that read the output, by activations too; 0 where others do
    "real_transform",  # 1 of a Fourier transform with real values on one side
    "bias_bytes",  # of convolutions and linear layers
)
"""Columns of `image_features`, 0 where they make no sense. A sequence is an image of one column."""

REAL_TRANSFORMS = ("rfft", "irfft", "hfft", "ihfft", "r2c", "c2r", "stft", "istft")
"""What the names of operators contain whose Fourier transforms have real values on one side."""


def image_features(layers: Sequence[Layer], edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return IMAGE_FEATURES [N, F] of the layers of a graph with these `edges` [E, 2] (producer, consumer).

    A linear layer behind a flattened image has that image as its input, as the accelerator reads it; any other one has
    k channels of m pixels.
    """
    matrix = np.array([layer.kind in ("conv", "linear") for layer in layers], bool)
    producers: dict[int, int] = {}
    for producer, consumer in edges.tolist():
        producers.setdefault(consumer, producer)
    in_flight = _in_flight(layers, edges, matrix)
    rows = np.zeros((len(layers), len(IMAGE_FEATURES)))
    for index, layer in enumerate(layers):
        match layer.kind:
            case "conv" if "axes" in layer.shape:
                values = _convolution(layer.shape)
            case "linear" if "k" in layer.shape:
                values = _linear(layer.shape, _source(layers, producers, index))
            case _:
                values = _image(layer)
        values["in_flight"] = in_flight[index]
        if matrix[index]:
            sizes = sorted(end - first for first, end in layer.weights.values())
            values["bias_bytes"] = sum(sizes[:-1])
        rows[index] = [values.get(name, 0.0) for name in IMAGE_FEATURES]
    return rows


def _in_flight(layers: Sequence[Layer], edges: NDArray[np.int64], matrix: NDArray[np.bool_]) -> list[int]:
    """Convolutions and linear layers that read each output, by activations too; 0 where anything else reads it."""
    readers: list[list[int]] = [[] for _ in layers]
    for producer, consumer in edges.tolist():
        readers[producer].append(consumer)
    found = [0] * len(layers)
    for index in range(len(layers) - 1, -1, -1):  # readers come later
        reached = [1 if matrix[reader] else _passed_on(layers[reader], found[reader]) for reader in readers[index]]
        found[index] = sum(reached) if all(reached) else 0
    return found


def _passed_on(layer: Layer, in_flight: int) -> int:
    """What an activation hands to the layers behind it; other layers hand on nothing."""
    return in_flight if layer.kind == "elementwise" and layer.shape.get("operands", 1) <= 1 else 0


def _convolution(shape: Mapping[str, int]) -> dict[str, float]:
    """A convolution's sizes by rows and columns; those of a third axis count as rows."""
    spatial = shape["axes"]
    names = {1: ("w", ""), 2: ("h", "w"), 3: ("h", "w")}[spatial]
    values: dict[str, float] = {
        "images": shape["batch"],
        "axes": spatial,
        **{name: shape[name] for name in ("in_channels", "out_channels", "groups", "transposed")},
    }
    for name, absent in (("kernel", 1), ("stride", 1), ("padding", 0), ("dilation", 1), ("in", 1), ("out", 1)):
        for axis, side in zip(names, ("rows", "cols"), strict=True):
            values[f"{name}_{side}"] = shape.get(f"{name}_{axis}", absent)
    if spatial == 3:
        for name in ("kernel", "in", "out"):
            values[f"{name}_rows"] *= shape[f"{name}_d"]
    return values


def _linear(shape: Mapping[str, int], source: Layer | None) -> dict[str, float]:
    values: dict[str, float] = {"images": 1, "in_channels": shape["k"], "in_rows": shape["m"], "in_cols": 1}
    image = source.output_shape if source is not None else ()
    if len(image) >= 3 and math.prod(image[1:]) == shape["k"] and image[0] == shape["m"]:  # flattened
        values = {"images": image[0], "in_channels": image[1], "in_rows": image[2], "in_cols": math.prod(image[3:])}
    one = {"groups": 1, "kernel_rows": 1, "kernel_cols": 1, "stride_rows": 1, "stride_cols": 1, "dilation_rows": 1}
    return {**values, **one, "out_channels": shape["n"], "out_rows": values["in_rows"], "out_cols": values["in_cols"]}


def _image(layer: Layer) -> dict[str, float]:
    """Channels and pixels of the output of a layer that computes channel by channel."""
    images, channels, *pixels = (1, 1, *layer.output_shape)[-max(len(layer.output_shape), 2) :]
    return {
        "images": images,
        "in_channels": channels,
        "out_channels": channels,
        "out_rows": pixels[0] if pixels else 1,
        "out_cols": math.prod(pixels[1:]),
        "window": _window(layer.shape) if layer.kind == "pool" else 0,
        "operands": layer.shape.get("operands", 1) if layer.kind == "elementwise" else 0,
        "real_transform": float(layer.kind == "fft" and any(name in layer.operator for name in REAL_TRANSFORMS)),
    }


def _window(shape: Mapping[str, int]) -> int:
    """Values that a pool reads for one that it writes; an adaptive one shares its input out evenly."""
    kernel = [shape[f"kernel_{side}"] for side in "dhw" if f"kernel_{side}" in shape]
    adaptive = [math.ceil(shape.get(f"in_{side}", 1) / max(shape.get(f"out_{side}", 1), 1)) for side in "hw"]
    return math.prod(kernel or adaptive)


def _source(layers: Sequence[Layer], producers: Mapping[int, int], index: int) -> Layer | None:
    """The layer whose output a layer reads first."""
    return layers[producers[index]] if index in producers else None
