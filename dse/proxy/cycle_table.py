"""Cycle table: CNN accelerators of microcontrollers whose vendor publishes how many cycles a layer takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dse.proxy.model import Bound, LayerCosts, LayerQuestion
from workloads.graph import KIND_CODES, OperatorKind

Array = NDArray[np.float64]

SHARED_MEMORY = 4
"""Processors that share a data memory: more output channels than processors are written in runs of so many."""

STREAMING_FACTOR = 1.5
"""A layer that streams takes so many times its cycles: the estimate of the vendor's own tool."""

SPLIT_BUTTERFLIES = 0.5
"""Butterflies a point by which a real transform of n points is split off a complex one of n / 2 points."""


@dataclass(frozen=True, slots=True)
class CycleTable:
    """The cycle rules of Analog Devices' MAX78000 and MAX78002, for every chip whose datasheet gives `cycle_rules`.

    Rules: analogdevicesinc/ai8x-synthesis, izer/latency.py and izer/test/test_cycles.py (Apache-2.0), restated here in
    closed form. The accelerator writes one output value a cycle, summed over up to 64 input channels (one a processor)
    and nine taps; more input channels take several passes over the image. Reading a pixel takes two cycles a pass, one
    to read and one to write it to the row buffer:

        cycles = (k_r - 1) W (A + 1) + H_o (W A + k_c - 1) + passes H_o W_o C_o,    A = 2 passes

    with a kernel of k_r x k_c, rows of W pixels with padding, and an output of H_o x W_o pixels of C_o channels. A pool
    in front of a convolution reads its window in flight: passes x (window - 1) cycles a pixel more; so does an
    element-wise operator with its further operands (2 cycles a pass), for each convolution that reads it; in front of
    other layers both are layers of their own.
    Activations, joins and flattening cost nothing. What starting an inference takes (about 330 cycles, by the published
    times) is no layer's. Of grouped convolutions, which no published figure covers, the same two rules are taken: one
    output value a cycle and two cycles to read a pixel of 64 channels.

    A Fourier transform runs on the CPU: cycles a butterfly x (n / 2 log2 n) butterflies for n complex points, and for n
    real points n / 4 log2(n / 2) + n / 2; that its points have to be copied to it is not counted.

    Energy is the chip's power at work, less its static power, times the time. `load_weights`: each layer's weights are
    written into the accelerator before it runs, as after a change of networks; else they lie there already.
    """

    load_weights: bool = False
    name: str = "cycle_table"
    requires: str = "cycle_rules"  # key that a datasheet has to give
    source: str = (
        "Cycle rules of the vendor's synthesis tool (analogdevicesinc/ai8x-synthesis, izer/latency.py): one output "
        "value a cycle over 64 channels and nine taps, passes over more channels, input reads, pooling in flight; "
        "within 0.5 % of four published inference times. Fourier transforms run on the CPU beside the accelerator, by "
        "butterflies; depthwise convolutions are by the same rules, unmeasured."
    )

    def predict(self, question: LayerQuestion) -> LayerCosts:
        """Return the costs [N, C]; infinite for what neither accelerator nor CPU computes, and without cycle rules."""
        layers, chips = question.layers, question.chips
        reads, writes = self.cycles(layers, chips)
        butterflies = fft_butterflies(layers["fft_length"], layers["real_transform"]) * layers["transforms"]
        moved = layers["weight_bytes"] + layers["input_bytes"] + layers["output_bytes"]
        on_cpu = (layers["kind"] == KIND_CODES[OperatorKind.FFT])[:, None]
        known = (chips["cycle_clock_hz"] > 0) & chips["supported"]
        with np.errstate(divide="ignore", invalid="ignore"):
            cpu_ms = 1e3 * butterflies[:, None] * chips["cycle_cpu_cycles_per_butterfly"] / chips["cycle_cpu_hz"]
            load_ms = 1e3 * layers["weight_bytes"][:, None] / chips["cycle_weight_load_bytes_s"] * self.load_weights
            work_ms = 1e3 * (reads + writes) / chips["cycle_clock_hz"]
            latency_ms = np.where(on_cpu, cpu_ms, work_ms) + load_ms
        latency_ms = np.where(known, latency_ms, np.inf)
        power_w = np.where(on_cpu, chips["cycle_cpu_w"], chips["cycle_active_w"]) - chips["static_w"]
        power_w = np.where(np.isfinite(latency_ms), np.maximum(power_w, 0.0), 1.0)
        energy_mj = latency_ms * power_w  # W x ms = mJ; infinite where the time is
        bound = np.where(writes >= reads, np.int8(Bound.COMPUTE), np.int8(Bound.MEMORY))
        return LayerCosts(
            latency_ms=latency_ms,
            energy_mj=energy_mj,
            memory_bytes=np.broadcast_to(moved[:, None], latency_ms.shape),
            bound=np.where(on_cpu, np.int8(Bound.VECTOR), bound),
        )

    def cycles(self, layers: NDArray[np.void], chips: NDArray[np.void]) -> tuple[Array, Array]:
        """Return the accelerator's cycles [N, C] for reading and for writing; infinite for what it does not compute."""
        kind = layers["kind"]
        processors = np.maximum(chips["cycle_processors"], 1.0)
        passes = np.ceil(layers["in_channels"][:, None] / processors)
        reads = np.full(passes.shape, np.inf)
        writes = np.zeros(passes.shape)
        matrix = np.isin(kind, [KIND_CODES[OperatorKind.CONV], KIND_CODES[OperatorKind.LINEAR]])
        matrix &= layers["axes"] < 3
        reads[matrix], writes[matrix] = _convolution(layers[matrix], chips, passes[matrix], processors)

        beside = np.isin(kind, [KIND_CODES[OperatorKind.POOL], KIND_CODES[OperatorKind.ELEMENTWISE]])
        own, pixels = layers[beside], (layers["out_rows"] * layers["out_cols"])[beside]
        pool = own["kind"] == KIND_CODES[OperatorKind.POOL]
        readers, in_flight = np.maximum(own["in_flight"], 1.0), own["in_flight"] > 0
        further = np.where(pool, own["window"] - 1.0, 2.0 * (own["operands"] - 1.0))
        activation = ~pool & (own["operands"] <= 1)
        per_pixel = np.where(
            activation, 0.0, further * readers + 2.0 * ~in_flight
        )  # a layer of its own reads all of it
        reads[beside] = passes[beside] * (pixels * per_pixel)[:, None]
        writes[beside] = passes[beside] * np.where(activation | in_flight, 0.0, pixels)[:, None]

        reads[kind == KIND_CODES[OperatorKind.COPY]] = 0.0
        images = layers["images"][:, None]
        return reads * images, writes * images


def _convolution(
    layers: NDArray[np.void], chips: NDArray[np.void], passes: Array, processors: Array
) -> tuple[Array, Array]:
    """Cycles for reading and for writing of one image [N, C]; see CycleTable."""
    dilated = (layers["axes"] == 1) & (layers["dilation_rows"] > 1)  # folded: one column for each step of dilation
    columns = np.where(dilated, layers["dilation_rows"], layers["in_cols"])
    rows = np.where(dilated, np.ceil(layers["in_rows"] / np.maximum(layers["dilation_rows"], 1.0)), layers["in_rows"])
    kernel_cols = np.where(dilated, layers["kernel_rows"], layers["kernel_cols"])
    transposed = layers["transposed"] > 0  # by a stride of s: an image s times as high and wide, zeros between
    padding = {
        side: np.where(
            transposed, layers[f"kernel_{side}"] - 1.0 - layers[f"padding_{side}"], layers[f"padding_{side}"]
        )
        for side in ("rows", "cols")
    }
    columns = np.where(transposed, columns * layers["stride_cols"], columns)
    width = columns + 2.0 * np.where(dilated, 1.0, padding["cols"])
    height = np.where(dilated, rows, layers["out_rows"])
    out_width = np.where(dilated, columns, layers["out_cols"])

    read = 2.0 * passes
    fill = (layers["kernel_rows"] - 1.0) * width
    reads = fill[:, None] * (read + 1.0) + height[:, None] * (width[:, None] * read + kernel_cols[:, None] - 1.0)
    summed = np.ceil((layers["in_channels"] / np.maximum(layers["groups"], 1.0))[:, None] / processors)
    written = _written_channels(layers["out_channels"][:, None], processors)
    alone = (layers["out_channels"][:, None] == 1) & (passes == 1)  # a single channel takes a cycle a row more
    writes = (height * out_width)[:, None] * summed * written + height[:, None] * alone
    streams = (layers["in_rows"] * layers["in_cols"])[:, None] > chips["cycle_channel_bytes"]
    factor = np.where(streams, STREAMING_FACTOR, 1.0)
    return reads * factor, writes * factor


def _written_channels(channels: Array, processors: Array) -> Array:
    """Output channels that are written [N, C]: more than there are processors come in equal runs, of whole memories."""
    runs = np.ceil(channels / processors)
    run = np.minimum(np.ceil(np.ceil(channels / np.maximum(runs, 1.0)) / SHARED_MEMORY) * SHARED_MEMORY, processors)
    return np.where(channels > processors, runs * run, channels)


def fft_butterflies(length: Array, real: Array) -> Array:
    """Radix-2 butterflies of a Fourier transform of `length` points [N], complex or real on one side.

    n / 2 log2 n complex; a real one is complex of n / 2 points and a split that takes as long as n / 2 butterflies.
    Published cycles of microfft on a Cortex-M4F (luojia65/microfft-rs, bench/README.md) follow it within 1 % at 512 and
    1024 points.
    """
    points = np.maximum(length, 1.0)
    halves = np.maximum(points / 2.0, 1.0)
    split = SPLIT_BUTTERFLIES * points
    return np.where(real > 0, halves / 2.0 * np.log2(halves) + split, points / 2.0 * np.log2(points))


MODEL = CycleTable()
