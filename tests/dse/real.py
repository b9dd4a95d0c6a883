"""A small hand-made workload on chips that ship, for tests of what needs the real records."""

from __future__ import annotations

import numpy as np

from chiplib import System
from workloads import SegmentGraph, build_segments
from workloads.graph import Layer, OperatorKind, WorkloadGraph

KINDS = (OperatorKind.CONV, OperatorKind.NORM, OperatorKind.LINEAR, OperatorKind.ELEMENTWISE)


def hand_made(layers: int = 24, seed: int = 0, segment_size: int = 3) -> SegmentGraph:
    """A chain of layers with skip connections; sizes drawn."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(layers):
        kind = KINDS[n % len(KINDS)]
        macs = int(rng.integers(1e8, 1e10)) if kind in (OperatorKind.CONV, OperatorKind.LINEAR) else 0
        rows.append(
            Layer(
                name=f"layer_{n}",
                operator=f"toy.{kind}",
                kind=kind,
                module=f"block_{n // 3}",
                shape={"kernel_h": 1 + 2 * (n % 3), "groups": 1} if kind is OperatorKind.CONV else {},
                output_shape=(1, 1000),
                macs=macs,
                flops=2 * macs if macs else int(rng.integers(1e5, 1e7)),
                weight_bytes=(weight_bytes := int(rng.integers(1e4, 1e7)) * 4 if macs else 0),
                weights={f"weight_{n}": (0, weight_bytes)} if macs else {},
                input_bytes=4_000_000,
                output_bytes=4_000_000,
            )
        )
    edges = [(n, n + 1) for n in range(layers - 1)] + [(n, n + 7) for n in range(0, layers - 7, 5)]
    edges.sort()
    graph = WorkloadGraph(
        name="hand_made",
        layers=tuple(rows),
        edges=np.array(edges, np.int64),
        edge_bytes=np.full(len(edges), 4_000_000, np.int64),
        parameters=sum(row.weight_bytes for row in rows) // 4,
        weight_bytes=sum(row.weight_bytes for row in rows),
        input_shapes=((1, 1000),),
    )
    return build_segments(graph, segment_size=segment_size)


def two_by_two(*chips: str) -> System:
    """Chips of the `chiplets` library on an interposer with four slots."""
    return System.build(package="interposer_2x2", chips=list(chips), library="chiplets")
