"""How a workload's operations and memory grow with the length of its input: linear against quadratic attention.

The specification of HTDemucs_n claims that linear attention grows linearly where HTDemucs's grows quadratically. Its
model of memory counts the score matrix of softmax attention, N x M values a head (10,000 x 10,000 in float32: its
400 MB; its table over lengths, 100 MB at 1,000, is 25 such matrices). A fused kernel, which PyTorch runs where it can
(FlashAttention, arXiv 2205.14135), never holds one. Both peaks are given: as PyTorch runs it, and with the scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log

import numpy as np
from numpy.typing import NDArray

from workloads import catalog
from workloads.errors import WorkloadError
from workloads.graph import OperatorKind, WorkloadGraph
from workloads.memory import live_activation_bytes
from workloads.scaling import Family, family

SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0)
"""Lengths of audio from one second to ten minutes, about evenly spaced on a logarithmic axis."""

PRODUCTS = frozenset({OperatorKind.ATTENTION, OperatorKind.MATMUL})
"""Products of two activations: fused attention, or the matrix products that take its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthPoint:
    """One workload at one length. FLOPs are 2 x MACs for matrix work, and the estimates of all else."""

    name: str
    seconds: float
    macs: int
    flops: int
    attention_flops: int  # of the products of activations alone: what grows quadratically, if anything does
    weight_bytes: int
    peak_bytes: int  # weights, and the largest sum of live tensors as PyTorch runs it: fused attention
    peak_bytes_with_scores: int  # the same where softmax attention holds its scores and their softmax


def growth(
    names: Sequence[str], seconds: Sequence[float] = SECONDS, *, precision: str = "fp32", cache: bool = True
) -> list[GrowthPoint]:
    """Return each workload of the catalogue at each length of signal, name by name, in the order given.

    A network that pads shorter inputs to the segment it was trained on runs here without that padding, and longer ones
    run whole, not segment by segment. Three traces a workload give all lengths (`workloads.scaling`), exactly but for
    the last frames: HTDemucs_n, which fills up to 16 of them, is 7 % off at 1 s, and 0.2 % from 10 s on.

    Raises
    ------
    WorkloadError
        If a length is not positive, or a workload is unknown, cannot be traced or has no length in seconds.
    """
    for value in seconds:
        if not value > 0:
            raise WorkloadError(f"a length of {value} seconds", "above 0")
    points = []
    for name in names:
        sized = unpadded(name, cache=cache)
        points += [measure(name, value, sized.at(seconds=value, precision=precision)) for value in seconds]
    return points


def unpadded(name: str, *, cache: bool = True) -> Family:
    """Return a workload of the catalogue as a family over lengths, without padding to a segment in evaluation.

    Raises WorkloadError as `growth` does.
    """
    entry = catalog.entry(name)
    if entry.length is None or entry.length.padded_to == 1:
        return family(name, cache=cache)
    axis = replace(entry.length, padded_to=1)
    free = replace(entry, kwargs={**entry.kwargs, "use_train_segment": False}, length=axis)
    shape, dtype = free.inputs[axis.input]

    def trace_at(batch: int, length: int | None) -> WorkloadGraph:
        sizes = (batch, *shape[1 : axis.dim], length or shape[axis.dim], *shape[axis.dim + 1 :])
        return catalog.traced(replace(free, inputs=((sizes, dtype),)), cache=cache)

    return Family(name=name, trace_at=trace_at, batch=shape[0], length=shape[axis.dim], axis=axis)


def measure(name: str, seconds: float, graph: WorkloadGraph) -> GrowthPoint:
    """Return the figures of a graph that was traced for so many seconds of signal."""
    live = live_activation_bytes(graph)
    return GrowthPoint(
        name=name,
        seconds=seconds,
        macs=graph.macs,
        flops=graph.flops,
        attention_flops=sum(layer.flops for layer in graph.layers if layer.kind in PRODUCTS),
        weight_bytes=graph.weight_bytes,
        peak_bytes=graph.weight_bytes + int(live.max(initial=0.0)),
        peak_bytes_with_scores=graph.weight_bytes + int((live + 2 * score_bytes(graph)).max(initial=0.0)),
    )


def score_bytes(graph: WorkloadGraph) -> NDArray[np.float64]:
    """Bytes [N] of each layer's score matrices, batch x heads x queries x keys: 0 but for fused softmax attention.

    Computed step by step, attention holds them twice while it normalises them: the scores, and their softmax.
    """
    return np.array(
        [
            float(layer.float_bytes) * layer.shape["batch"] * layer.shape["heads"] * layer.shape["seq_q"]
            * layer.shape["seq_kv"]
            if layer.kind is OperatorKind.ATTENTION
            else 0.0
            for layer in graph.layers
        ]
    )  # fmt: skip


def order(points: Iterable[GrowthPoint], figure: str) -> list[tuple[float, float]]:
    """Return the order of growth between neighbouring lengths of one workload: 1 is linear, 2 quadratic.

    Parameters
    ----------
    points
        Of one workload, at two lengths or more.
    figure
        A field of GrowthPoint, such as "attention_flops".

    Returns
    -------
    Pairs (seconds, order): the slope of log(figure) over log(seconds) between this length and the one before.

    Raises
    ------
    WorkloadError
        If the points are of several workloads.
    """
    ordered = sorted(points, key=lambda point: point.seconds)
    if len({point.name for point in ordered}) > 1:
        raise WorkloadError("the order of growth of several workloads at once", "take the points of one name")
    values = [(point.seconds, float(getattr(point, figure))) for point in ordered]
    return [(after[0], log(after[1] / before[1]) / log(after[0] / before[0])) for before, after in pairwise(values)]
