"""Cut traffic of every catalogue model: least-cut segments against segments of fixed size, at equal balance."""

from __future__ import annotations

import math

import workloads
from tests.benchmarks.figure import Figure
from workloads import SegmentGraph, WorkloadGraph

COUNTS = (4, 8, 16, 32, 64)


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


def pair(graph: WorkloadGraph, count: int) -> tuple[SegmentGraph, SegmentGraph]:
    """Segments of fixed size, and as many least-cut ones of which none is heavier than the heaviest of the fixed."""
    fixed = workloads.build_segments(graph, segment_size=math.ceil(len(graph.layers) / count))
    even = most_even([layer.flops for layer in graph.layers], len(fixed))
    least = workloads.build_segments(graph, count=len(fixed), balance=max(1.0, fixed.flops.max() / even) * (1 + 1e-12))
    assert least.flops.max() <= fixed.flops.max() * (1 + 1e-9), (graph.name, count)
    return fixed, least


def measure() -> list[Figure]:
    """Cut bytes of the least cut over those of fixed size, the worst of all counts of segments a model."""
    figures = []
    for name in workloads.names():
        graph = workloads.load(name)
        ratios = {}
        for count in COUNTS:
            fixed, least = pair(graph, count)
            ratios[len(fixed)] = least.edge_bytes.sum() / fixed.edge_bytes.sum()
        figures.append(
            Figure(
                figure=f"least-cut bytes / fixed-size bytes, {name}",
                goal=1.0,
                measured=max(ratios.values()),
                unit="",
                higher_is_better=False,
                note=", ".join(f"{count} segments {ratio:.2f}" for count, ratio in ratios.items()),
            )
        )
    return figures
