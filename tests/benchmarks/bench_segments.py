"""Cut traffic of every catalogue model: least-cut segments against segments of fixed size, at equal balance.

Equal balance: as many segments, none with more FLOPs than the heaviest of fixed size, and no more of them light.
"""

from __future__ import annotations

import math

import workloads
from tests.benchmarks.figure import Figure
from workloads import SegmentGraph, WorkloadGraph
from workloads.cuts import LIGHT_SHARE

FEWEST, MOST = 4, 64
"""Segments."""


def most_even(flops: list[int], count: int) -> int:
    """FLOPs of the heaviest of `count` runs in the most even cut: a bisection on what a run may hold."""
    low, high = max(flops), sum(flops)
    while low < high:
        middle = (low + high) // 2
        runs, held = 1, 0
        for value in flops:
            runs, held = (runs + 1, value) if held + value > middle else (runs, held + value)
        low, high = (low, middle) if runs <= count else (middle + 1, high)
    return low


def light(segments: SegmentGraph) -> int:
    """How many segments are too light to be worth a slot."""
    return int((segments.flops < LIGHT_SHARE * segments.flops.sum() / len(segments)).sum())


def ratio(graph: WorkloadGraph, size: int) -> tuple[int, float]:
    """Segments of fixed size, and the bytes of as many least-cut ones at equal balance by theirs."""
    fixed = workloads.build_segments(graph, segment_size=size)
    even = most_even([layer.flops for layer in graph.layers], len(fixed))
    least = workloads.build_segments(graph, count=len(fixed), balance=max(1.0, fixed.flops.max() / even) * (1 + 1e-12))
    assert least.flops.max() <= fixed.flops.max() * (1 + 1e-9), (graph.name, size)
    assert light(least) <= light(fixed), (graph.name, size)
    return len(fixed), float(least.edge_bytes.sum() / fixed.edge_bytes.sum())


def measure() -> list[Figure]:
    """Cut bytes of the least cut over those of fixed size: the worst of all counts of segments, model by model."""
    figures = []
    for name in workloads.names():
        graph = workloads.load(name)
        layers = len(graph.layers)
        sizes = {math.ceil(layers / count) for count in range(FEWEST, MOST + 1)}
        ratios = dict(ratio(graph, size) for size in sizes if size > 1)
        worst = max(ratios, key=lambda count: (ratios[count], count))
        note = f"worst at {worst} segments; mean {sum(ratios.values()) / len(ratios):.2f} of {len(ratios)} counts"
        note += f" from {min(ratios)} to {max(ratios)}"
        if equal := [count for count in sorted(ratios) if ratios[count] == 1.0]:
            note += f"; 1.00 at {', '.join(map(str, equal))}, where no cut as even carries less (the search is exact)"
        if 1 in sizes:
            note += f"; left out {layers}, where each layer is a segment and there is but one cut"
        figures.append(
            Figure(
                figure=f"least-cut bytes / fixed-size bytes, {name}",
                goal=1.0,
                measured=ratios[worst],
                unit="",
                higher_is_better=False,
                note=note,
            )
        )
    return figures
