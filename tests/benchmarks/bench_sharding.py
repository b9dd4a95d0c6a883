"""How much of each catalogue model several slots can share: its FLOPs in segments that have a valid split, by groups.

Segments of 8 layers. `shared` is the part of the FLOPs that a split by the best way takes off a member, over what an
even split would take off: 1 where every layer is cut evenly, 0 where nothing is.
"""

from __future__ import annotations

import time

import torch

import workloads
from tests.benchmarks.figure import Figure
from workloads.dataflow import build_graph
from workloads.factory import resolve
from workloads.sharding import Splitter

GROUPS = (2, 4)
SEGMENT_SIZE = 8
GOAL = 0.9


def measure() -> list[Figure]:
    """Shared FLOPs of each model; the note says by which ways, how much had no valid split, and how long it took."""
    figures = []
    for name in workloads.names():
        entry = workloads.entry(name)
        with torch.device("meta"):
            module = resolve(entry.factory)(**entry.kwargs).eval()
            inputs = tuple(torch.empty(shape) for shape, _ in entry.inputs)
        program = torch.export.export(module, inputs, strict=False)
        segments = workloads.build_segments(build_graph(program, name), segment_size=SEGMENT_SIZE)
        splitter, total = Splitter(program, segments), segments.graph.flops
        for groups in GROUPS:
            start, shared, ways = time.perf_counter(), 0.0, dict[str, float]()
            for segment in segments:
                for split in splitter.ways(segment.id, groups=groups)[:1]:
                    shared += segment.flops * (1 - split.largest_share) / (1 - 1 / groups)
                    ways[split.way] = ways.get(split.way, 0.0) + segment.flops / total
            took = time.perf_counter() - start
            parts = [f"{way} {share:.1%}" for way, share in sorted(ways.items())]
            note = f"{', '.join(parts)}, none {max(1 - sum(ways.values()), 0.0):.1%}"
            note += f"; {len(segments)} segments, {took:.1f} s for all ways of all"
            figures.append(
                Figure(
                    figure=f"FLOPs of {name} that {groups} slots share",
                    goal=GOAL,
                    measured=shared / total,
                    unit="",
                    note=note,
                )
            )
    return figures
