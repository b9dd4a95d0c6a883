"""Which bytes of each other's tensors layers read, and how segments count them: against sets of single bytes."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import workloads
from tests.workloads.tracing_help import Call, producers, trace
from workloads.cuts import cut_least_traffic
from workloads.graph import WorkloadGraph
from workloads.precision import at_precision
from workloads.segments import build_segments
from workloads.values import places


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from([0, 1, 2, 3, 4, 6, 8, 12, 16])), max_size=4))
def test_places_are_never_fewer_than_there_are(axes: list[tuple[int, int]]) -> None:
    shape, strides = [size for size, _ in axes], [stride for _, stride in axes]
    found = {sum(i * s for i, s in zip(at, strides, strict=True)) for at in product(*map(range, shape))}
    assert places(shape, strides) >= len(found)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 3))
def test_places_of_windows_planes_and_repeated_axes_are_exact(
    windows: int, width: int, hop: int, planes: int, repeats: int
) -> None:
    shape, strides = (repeats + 1, planes, windows, width), (0, 200, hop, 1)
    found = {
        plane * 200 + window * hop + i for plane in range(planes) for window in range(windows) for i in range(width)
    }
    assert places(shape, strides) == len(found)
    assert places((3, 0, 2), (4, 2, 1)) == 0


class Slices(nn.Module):
    """One tensor, whose parts are read by many layers."""

    def __init__(self, reads: list[tuple[int, int]]) -> None:
        super().__init__()
        self.reads = reads

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        y = x.exp()
        return [y[first:end].sin() for first, end in self.reads]


LENGTH = 12
REGULAR = st.lists(st.sampled_from([(0, 12), (0, 4), (4, 8), (8, 12), (0, 6), (6, 12)]), min_size=1, max_size=6)


@settings(max_examples=30, deadline=None)
@given(REGULAR, st.integers(1, 4))
def test_a_slice_counts_once_a_segment_however_many_layers_read_it(reads: list[tuple[int, int]], size: int) -> None:
    graph = trace(Slices(reads), torch.zeros(LENGTH))
    segments = build_segments(graph, segment_size=size)
    of = segments.segment_of_layer
    for k in range(1, len(segments)):
        mine = [read for read, segment in zip(reads, of[1:].tolist(), strict=True) if segment == k]
        distinct = sum(end - first for first, end in set(mine))  # parts that overlap count as if they did not
        expected = 4 * min(distinct, LENGTH)
        edges = dict(zip(map(tuple, segments.edges.tolist()), segments.edge_bytes.tolist(), strict=True))
        assert edges[0, k] == segments[k].traffic_in_bytes == expected
        assert segments.at(2).edge_bytes.tolist() == [n / 2 for n in segments.edge_bytes.tolist()]
    outside = {read for read, segment in zip(reads, of[1:].tolist(), strict=True) if segment}
    assert segments[0].traffic_out_bytes == 4 * min(sum(end - first for first, end in outside), LENGTH)


def test_of_several_outputs_the_one_that_is_read_counts() -> None:
    def forward(x: torch.Tensor) -> Any:
        values, indices = x.topk(8)
        return values.sin(), values.cos(), indices + 1

    graph = trace(Call(forward), torch.zeros(4, 16))
    segments = build_segments(graph, segment_size=2)  # top-k and sine; cosine and the sum
    assert segments.edge_bytes.tolist() == [4 * 8 * 4 + 4 * 8 * 8]
    graph = trace(Call(lambda x: [f(x.topk(8)[0]) for f in (torch.sin,)] + [x + 1]), torch.zeros(4, 16))
    assert producers(graph, "sin") == {"topk": 4 * 8 * 4}


def test_what_a_partial_update_leaves_and_reads_is_no_more_than_the_tensor() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        y = x.exp()
        y[:4].add_(y[2:6])
        return y.sin()

    graph = trace(Call(forward), torch.zeros(LENGTH))
    assert producers(graph, "add_") == {"exp": 4 * LENGTH}


def bytes_of_cut(graph: WorkloadGraph, first: list[int]) -> float:
    bounds = [*first, len(graph.layers)]
    runs = np.repeat(np.arange(len(first)), np.diff(bounds))
    rows = [tuple(row) for row in graph.edge_parts.tolist()]
    total = 0
    for k, (start, end) in enumerate(pairwise(bounds)):
        tensors: dict[tuple[int, int], dict[int, int]] = {}
        size: dict[tuple[int, int], int] = {}
        for producer, consumer, tensor, part, nbytes, tensor_bytes in rows:
            if runs[producer] != k and start <= consumer < end:
                tensors.setdefault((producer, tensor), {})[part] = nbytes
                size[producer, tensor] = tensor_bytes
        total += sum(min(sum(parts.values()), size[key]) for key, parts in tensors.items())
    return total


@settings(max_examples=25, deadline=None)
@given(REGULAR, st.integers(1, 4))
def test_the_least_cut_counts_as_segments_do(reads: list[tuple[int, int]], count: int) -> None:
    """Where the search for the least traffic ends, no neighbouring cut of as many runs carries less."""
    graph = trace(Slices(reads), torch.zeros(LENGTH))
    count = min(count, len(graph.layers))
    first = cut_least_traffic(graph, count, float("inf")).tolist()
    segments = build_segments(graph, count=count, balance=float("inf"))
    assert segments.edge_bytes.sum() == bytes_of_cut(graph, first)
    for fixed in range(1, len(graph.layers) + 1):
        other = build_segments(graph, segment_size=fixed)
        starts = np.flatnonzero(np.diff(other.segment_of_layer, prepend=-1)).tolist()
        assert other.edge_bytes.sum() == bytes_of_cut(graph, starts)


def test_parts_survive_json_precision_and_fits() -> None:
    graph = trace(Slices([(0, 4), (0, 4), (4, 12)]), torch.zeros(LENGTH))
    assert WorkloadGraph.from_json(graph.to_json()) == graph
    assert len(graph.edge_parts) == 3
    assert len(set(graph.edge_parts["part"].tolist())) == 2
    half = at_precision(graph, "fp16")
    assert half.edge_parts["bytes"].tolist() == [n // 2 for n in graph.edge_parts["bytes"].tolist()]
    assert build_segments(half, segment_size=4).edge_bytes.tolist() == [
        n / 2 for n in build_segments(graph, segment_size=4).edge_bytes.tolist()
    ]
    family = workloads.family("conv-tasnet", cache=False)
    fitted, traced = family.at(batch=6), family.at(batch=3)
    assert fitted.edge_parts["bytes"].tolist() == [2 * n for n in traced.edge_parts["bytes"].tolist()]
