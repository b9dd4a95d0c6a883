"""Where to cut a workload graph into runs of consecutive layers: by number, by module, by least traffic.

A run of a training step lies in one phase: forward, backward and optimiser are cut each for itself.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from workloads.errors import WorkloadError
from workloads.graph import WorkloadGraph
from workloads.traffic import sum_by, tensor_limits

MOST_POSITIONS = 2048
"""Positions that the search for the least traffic looks at: its time and memory grow with their square."""


LIGHT_SHARE = 0.1
"""A segment with less than this share of the mean FLOPs is too light to be worth a slot."""


def cut_every(graph: WorkloadGraph, size: int) -> NDArray[np.int64]:
    """First layers [K] of runs of `size` layers; the last run may be shorter."""
    if size < 1:
        raise WorkloadError(f"segment_size is {size}", "at least 1 layer")
    return np.concatenate([np.arange(first, end, size) for first, end in pairwise(_phases(graph))])


def cut_by_module(graph: WorkloadGraph, depth: int) -> NDArray[np.int64]:
    """First layers [K] of the runs of layers whose module paths agree in their first `depth` names."""
    if depth < 1:
        raise WorkloadError(f"depth is {depth}", "at least 1 name of the module path")
    prefixes = [(layer.phase, *layer.module.split(".")[:depth]) for layer in graph.layers]
    return np.array([i for i, prefix in enumerate(prefixes) if not i or prefix != prefixes[i - 1]])


def cut_least_traffic(graph: WorkloadGraph, count: int, balance: float) -> NDArray[np.int64]:
    """First layers [K] of `count` runs that together read the fewest bytes of each other.

    Objective: as few light runs as can be (FLOPs below LIGHT_SHARE of the mean, such as tables of positions, which
    cost no traffic to cut off); among those cuts the least sum over runs of the bytes read of earlier runs, each
    tensor once a run (the sum of SegmentGraph.edge_bytes). Limit: no run has more FLOPs than `balance` times those of
    the heaviest run of the most even cut into `count` runs, so that a cut always exists. Exact by dynamic programming,
    O(count M^2), where the graph has at most M = MOST_POSITIONS layers; a larger one is first reduced to M positions,
    in each of M equal windows of layers the one with the fewest bytes passing it.
    """
    phases = _phases(graph)
    least, most = len(phases) - 1, min(len(graph.layers), MOST_POSITIONS)
    if not least <= count <= most:
        why = f"{len(graph.layers)} layers" + (f" in {least} phases" if least > 1 else "")
        raise WorkloadError(f"count is {count}", f"{least} to {most} segments, as {graph.name!r} has {why}")
    if not balance >= 1:
        raise WorkloadError(f"balance is {balance}", "at least 1, the most even cut")
    positions = _positions(graph)
    flops = np.concatenate([[0], np.cumsum([layer.flops for layer in graph.layers])])[positions]
    read = _bytes_read(graph, positions)
    held = flops[None, :] - flops[:, None]
    cost = read + np.where(held < LIGHT_SHARE * flops[-1] / count, 1.0 + count * graph.edge_bytes.sum(), 0.0)
    phase_of = np.searchsorted(phases, positions, side="right")
    phase_end = np.searchsorted(positions, np.append(phases, phases[-1])[phase_of])  # of each position, as an index
    cost[held > balance * _most_even(flops, phase_end, count)] = np.inf
    cost[np.arange(len(positions)) > phase_end[:, None]] = np.inf
    best, choices = cost[0], []
    for _ in range(count - 1):
        total = best[:, None] + cost
        choices.append(total.argmin(axis=0))
        best = total.min(axis=0)
    cuts = [len(positions) - 1]
    for choice in reversed(choices):
        cuts.append(int(choice[cuts[-1]]))
    return positions[[0, *reversed(cuts[1:])]]


def _phases(graph: WorkloadGraph) -> NDArray[np.int64]:
    """First layer of each phase, and the number of layers."""
    starts = [i for i, layer in enumerate(graph.layers) if not i or layer.phase != graph.layers[i - 1].phase]
    return np.array([*starts, len(graph.layers)])


def _positions(graph: WorkloadGraph) -> NDArray[np.int64]:
    """Ascending positions, 0 and N included, before which a cut may lie."""
    layers = len(graph.layers)
    if layers <= MOST_POSITIONS:
        return np.arange(layers + 1)
    change = np.zeros(layers + 1)
    np.add.at(change, graph.edges[:, 0] + 1, graph.edge_bytes)
    np.subtract.at(change, graph.edges[:, 1] + 1, graph.edge_bytes)
    passing = np.cumsum(change)
    windows = np.linspace(1, layers, MOST_POSITIONS + 1).astype(np.int64)
    inner = [lo + int(passing[lo:hi].argmin()) for lo, hi in pairwise(windows.tolist())]
    return np.unique([*_phases(graph), *inner])


def _bytes_read(graph: WorkloadGraph, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Bytes [M, M] that the run from position i to j reads of the layers before it; infinite where j <= i."""
    order = np.lexsort((graph.edges[:, 1], graph.edges[:, 0]))
    producer, consumer = graph.edges[order].T
    nbytes = graph.edge_bytes[order].astype(np.float64)
    outputs = np.array([layer.output_bytes for layer in graph.layers], np.float64)
    limits = tensor_limits(graph.edges, graph.edge_bytes, outputs)
    read = np.full((len(positions), len(positions)), np.inf)
    for row, start in enumerate(positions[:-1]):
        passing = (producer < start) & (consumer >= start)
        source, target, size = producer[passing], consumer[passing], nbytes[passing]
        # running sum over the readers of one tensor, limited to its size
        first = np.flatnonzero(np.diff(source, prepend=-1))
        running = np.cumsum(size)
        offsets = np.repeat(running[first] - size[first], np.diff(np.append(first, len(source))))
        running = np.minimum(running - offsets, limits[source])
        growth = np.diff(running, prepend=0.0)
        growth[first] = running[first]
        by_layer = np.concatenate([[0.0], np.cumsum(sum_by(target, growth, len(graph.layers)))])
        read[row, row + 1 :] = by_layer[positions[row + 1 :]]
    return read


def _most_even(flops: NDArray[np.int64], phase_end: NDArray[np.int64], count: int) -> int:
    """FLOPs of the heaviest run of the most even cut into at most `count` runs.

    `flops` [M] are prefix sums; a run from position i ends at `phase_end` [M] of it at the latest.
    """
    low, high = int(np.diff(flops).max()), int(flops[-1])
    while low < high:
        middle = (low + high) // 2
        at, runs = 0, 0
        while at < len(flops) - 1 and runs <= count:
            reached = int(np.searchsorted(flops, flops[at] + middle, side="right")) - 1
            at, runs = min(reached, int(phase_end[at])), runs + 1
        low, high = (low, middle) if runs <= count else (middle + 1, high)
    return low
