"""Advice: one bottleneck, the figures that say so, and what a chip can be built with against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from workloads.attention import attention_layers
from workloads.graph import Layer, WorkloadGraph
from workloads.memory import PeakMemory, live_activation_bytes, peak_memory
from workloads.totals import heaviest_modules
from workloads.weights import weight_bytes_of_groups

Bound = Literal["compute", "bandwidth", "activation memory", "weight storage", "latency"]
"""What runs out first."""

RIDGE_LOW, RIDGE_HIGH = 10.0, 300.0
"""Range of the ridge point, op/B, of what is built today. Below it memory bandwidth binds everywhere, above it
arithmetic does. NVIDIA's A100 datasheet: 19.5 TFLOP/s in fp32 over 1.555 TB/s is 12.5; its H100 (SXM) datasheet:
989 TFLOP/s in dense fp16 over 3.35 TB/s is 295."""

SRAM_LEVELS = (
    (0.5e6, "a microcontroller's accelerator"),  # MAX78000 datasheet: 442 kB of weights, 512 kB of data
    (4.0e6, "a mid-size FPGA"),  # AMD Zynq UltraScale+ ZU9EG, product table: 32.1 Mb of block RAM
    (50.0e6, "the L2 of a data-centre GPU"),  # NVIDIA H100 (SXM) datasheet
)
"""Bytes of memory on a chip, ascending: what weights or tensors are held against."""

LAUNCH_S = 5e-6
"""Seconds from one dependent kernel to the next on a GPU; assumed, the order of what launch benchmarks report."""

GPU_FLOPS, GPU_BANDWIDTH = 19.5e12, 1.555e12
"""Op/s in fp32 and B/s of the GPU that launches are held against: NVIDIA's A100 datasheet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One bottleneck of a workload.

    `severity` is a share in [0, 1] of what `share_of` names: shares of different things order the list, no more.
    `figures` are the numbers in `evidence` and `gain`, in bytes, op/B, shares and counts.
    """

    subject: str
    bound: Bound
    where: tuple[str, ...]  # modules that hold most of it, the heaviest first
    evidence: str
    measure: str  # what to build
    gain: str
    severity: float
    share_of: str
    figures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The arrays [N] that advice is derived from, of one graph."""

    graph: WorkloadGraph
    seconds: float | None = None  # of signal that the graph's input is, where that has a meaning

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers."""
        return self.graph.layers

    @cached_property
    def flops(self) -> NDArray[np.float64]:
        """FLOPs of each layer."""
        return np.array([layer.flops for layer in self.layers], np.float64)

    @cached_property
    def moved(self) -> NDArray[np.float64]:
        """Bytes that each layer reads and writes."""
        return np.array([layer.bytes for layer in self.layers], np.float64)

    @cached_property
    def written(self) -> NDArray[np.float64]:
        """Bytes that each layer writes."""
        return np.array([layer.output_bytes for layer in self.layers], np.float64)

    @cached_property
    def live(self) -> NDArray[np.float64]:
        """Bytes of live tensors while each layer runs."""
        return live_activation_bytes(self.graph)

    @cached_property
    def peak(self) -> PeakMemory:
        """What the schedule holds at its peak, by role."""
        return peak_memory(self.graph)

    @property
    def train(self) -> bool:
        """Whether the graph is a training step."""
        return self.graph.mode == "train"

    @cached_property
    def time_s(self) -> NDArray[np.float64]:
        """Seconds of each layer on that GPU by its roofline, without the launch."""
        return np.maximum(self.flops / GPU_FLOPS, self.moved / GPU_BANDWIDTH)

    @cached_property
    def last_reader(self) -> NDArray[np.int64]:
        """The last layer that reads each layer's output; the layer itself, where none does."""
        last = np.arange(len(self.layers))
        np.maximum.at(last, self.graph.edges[:, 0], self.graph.edges[:, 1])
        return last

    @cached_property
    def forward(self) -> NDArray[np.bool_]:
        """Which layers are of the forward pass: all, in an inference."""
        return np.array([layer.phase == "forward" for layer in self.layers], np.bool_)

    @cached_property
    def attention(self) -> NDArray[np.bool_]:
        """Which layers are part of attention."""
        return attention_layers(self.graph)

    @property
    def multiplier(self) -> str:
        """Multipliers to build: what keeps an inference, or a training step, about as accurate as in float32.

        INT8 inference: Krishnamoorthi, arXiv:1806.08342; bfloat16 training: Kalamkar et al., arXiv:1905.12322.
        """
        return "bfloat16 multipliers, sums in float32" if self.train else "8-bit multipliers"

    @property
    def narrow_bits(self) -> int:
        """The next narrower weights that are worth a try; 4-bit weights: GPTQ, arXiv:2210.17323."""
        if self.train and self.float_bytes > 3:
            return 16
        return 8 if self.float_bytes > 1.5 else 4

    def narrower(self, weights: float) -> str:
        """Say what narrower weights save of so many bytes: "8-bit weights save 3 MB of 4 MB"; of a step, of reads."""
        left = weights * self.narrow_bits / 8 / self.float_bytes
        if self.train:  # a master copy of full precision stays
            return (
                f"{self.narrow_bits}-bit copies of the weights are {byte_text(left)} to read, not {byte_text(weights)}"
            )
        return f"{self.narrow_bits}-bit weights save {byte_text(weights - left)} of {byte_text(weights)}"

    @cached_property
    def float_bytes(self) -> float:
        """Bytes of a real number as traced: the mean over what is moved."""
        sizes = np.array([layer.float_bytes for layer in self.layers], np.float64)
        held = sizes > 0
        return float(np.average(sizes[held], weights=self.moved[held])) if self.moved[held].sum() else 4.0

    def of_kind(self, *kinds: str) -> NDArray[np.bool_]:
        """Which layers are of these kinds."""
        return np.array([layer.kind in kinds for layer in self.layers], np.bool_)

    def flops_share(self, mask: NDArray[np.bool_]) -> float:
        """Share of all FLOPs."""
        return share(float(self.flops[mask].sum()), float(self.flops.sum()))

    def bytes_share(self, mask: NDArray[np.bool_]) -> float:
        """Share of all bytes moved."""
        return share(float(self.moved[mask].sum()), float(self.moved.sum()))

    def intensity(self, mask: NDArray[np.bool_]) -> float:
        """FLOPs over bytes moved, op/B."""
        return share(float(self.flops[mask].sum()), float(self.moved[mask].sum()))

    def chosen(self, mask: NDArray[np.bool_]) -> list[Layer]:
        """The layers of a mask."""
        return [self.layers[index] for index in np.flatnonzero(mask)]

    def stored(self, mask: NDArray[np.bool_]) -> float:
        """Bytes of the weights that these layers use, as they lie in memory: what several of them read counts once."""
        group = np.where(mask, 0, 1)
        return float(weight_bytes_of_groups(self.graph, np.ones(len(group)), group, 2)[0])

    def where(self, mask: NDArray[np.bool_], weights: NDArray[np.float64]) -> tuple[str, ...]:
        """The modules that hold most of these layers' `weights` [N]."""
        return heaviest_modules([layer.module for layer in self.chosen(mask)], weights[mask])


def share(part: float, whole: float) -> float:
    """Return part / whole; 0 of nothing."""
    return part / whole if whole else 0.0


def ridge_words(intensity: float) -> str:
    """Say on which chips arithmetic or bandwidth binds work of this intensity."""
    if intensity < RIDGE_LOW:
        return f"below the ridge of any chip ({RIDGE_LOW:g} to {RIDGE_HIGH:g} op/B): bandwidth binds"
    if intensity > RIDGE_HIGH:
        return f"above the ridge of any chip ({RIDGE_LOW:g} to {RIDGE_HIGH:g} op/B): arithmetic binds"
    return f"arithmetic binds on chips whose ridge ({RIDGE_LOW:g} to {RIDGE_HIGH:g} op/B) is lower"


def bound_of(intensity: float) -> Bound:
    """Compute, unless bandwidth binds on every chip."""
    return "bandwidth" if intensity < RIDGE_LOW else "compute"


def sram_words(size: float) -> str:
    """Say which memory on a chip holds this many bytes."""
    for capacity, holder in SRAM_LEVELS:
        if size <= capacity:
            return f"fits the {byte_text(capacity)} of {holder}"
    capacity, holder = SRAM_LEVELS[-1]
    return f"more than the {byte_text(capacity)} of {holder}"


def byte_text(size: float) -> str:
    """Return "3.15 MB"."""
    return scaled(size, "B")


def scaled(value: float, unit: str) -> str:
    """Return a number of three digits with its decimal prefix, such as "1.27 GFLOPs"."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            return f"{_three_digits(value / factor)} {prefix}{unit}"
    return f"{_three_digits(value)} {unit}".rstrip()


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"


def share_text(value: float) -> str:
    """Return "41 %"."""
    return f"{100 * value:.0f} %" if value >= 0.0995 else f"{100 * value:.1f} %" if value >= 0.0005 else "under 0.1 %"


def plural(many: int, noun: str) -> str:
    """Return "1 layer" or "1,024 layers"."""
    return f"{many:,} {noun}{'' if many == 1 else 's'}"
