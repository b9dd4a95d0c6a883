"""Where to cut a workload graph into runs of consecutive layers: by number, by module, by least traffic.

A run of a training step lies in one phase: forward, backward and optimiser are cut each for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from workloads.errors import WorkloadError
from workloads.graph import WorkloadGraph
from workloads.traffic import changes, sum_by

MOST_POSITIONS = 2048
"""Positions that the search for the least traffic looks at: its time and memory grow with their square."""

MOST_STATES = 2**23
"""Partial cuts that the search remembers, 8 bytes each: enough for 64 runs at MOST_POSITIONS, 64 of them light."""

CACHED = 2**15
"""Numbers that are worked on at a time, so that they stay in a processor's cache."""

LIGHT_SHARE = 0.1
"""A segment with less than this share of the mean FLOPs is too light to be worth a slot."""


def cut_every(graph: WorkloadGraph, size: int) -> NDArray[np.int64]:
    """First layers [K] of runs of `size` layers; the last run of a phase may be shorter."""
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

    Objective: the least sum over runs of the bytes read of earlier runs, each tensor once a run (the sum of
    SegmentGraph.edge_bytes); among equals the least sum of squares of FLOPs, the most even cut.

    Limits: no run has more FLOPs than `balance` times those of the heaviest run of the most even cut into `count`
    runs. No more runs are light (FLOPs below LIGHT_SHARE of the mean, such as tables of positions, which cost no
    traffic to cut off) than in the cut of fixed size, by the least size that gives at most `count` runs; where the
    first limit allows no such cut, as few as it allows. So a cut always exists, and it carries no more bytes than
    the cut of fixed size wherever that is a cut into `count` runs within the first limit.

    Exact by dynamic programming over (position, runs, light runs), where the graph has at most MOST_POSITIONS layers.
    Of a larger one it looks at the positions of the cut of fixed size, at those of the most even cut, and in each of
    MOST_POSITIONS equal windows of layers at the one with the fewest bytes passing it. Where there are more than
    MOST_STATES partial cuts (hundreds of runs in a large graph), fewer of the runs may be light.
    """
    phases = _phases(graph)
    least, most = len(phases) - 1, min(len(graph.layers), MOST_POSITIONS)
    if not least <= count <= most:
        why = f"{len(graph.layers)} layers" + (f" in {least} phases" if least > 1 else "")
        raise WorkloadError(f"count is {count}", f"{least} to {most} segments, as {graph.name!r} has {why}")
    if not balance >= 1:
        raise WorkloadError(f"balance is {balance}", "at least 1, the most even cut")
    flops = np.concatenate([[0], np.cumsum([layer.flops for layer in graph.layers])])
    fixed = cut_every(graph, _size_for(phases, count))
    most_even = _most_even(flops, phases, count)
    limit = max(int(min(balance, count) * most_even), most_even)
    positions = _positions(graph, np.concatenate([fixed, _packed(flops, phases, most_even)]))
    lightest = LIGHT_SHARE * flops[-1] / count
    lights = int((np.diff(flops[[*fixed, -1]]) < lightest).sum())
    lights = min(lights, MOST_STATES // (len(positions) * (count + 1)))
    runs = _Runs.between(graph, positions, flops, limit, lightest)
    best = _cheapest(runs, count, lights)
    if np.isinf(best[-1, count].min()):  # the limit of FLOPs asks for more light runs: each at a price above all bytes
        runs = runs.pricing_light(1.0 + float(graph.edge_bytes.sum()))
        best = _cheapest(runs, count, 0)
    return positions[_starts(runs, best, count)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Runs:
    """All runs that a cut may hold, from position i to j. To each j there belong those from i in begin[j] to j - 1."""

    cost: NDArray[np.float64]  # [M, M]
    begin: NDArray[np.int64]  # [M] the longest run within the limits
    light: NDArray[np.int64]  # [M] runs from here on are light

    @staticmethod
    def between(
        graph: WorkloadGraph, positions: NDArray[np.int64], flops: NDArray[np.int64], limit: int, lightest: float
    ) -> _Runs:
        """Runs of at most `limit` FLOPs within one phase; those with less than `lightest` are light."""
        at, own = flops[positions], np.arange(len(positions))
        held = at - at[:, None]
        phases = _phases(graph)
        phase_begin = phases[np.maximum(np.searchsorted(phases, positions) - 1, 0)]
        return _Runs(
            # bytes are whole numbers, so that less than 1 in all only decides between equals
            cost=_bytes_read(graph, positions) + 0.5 * (held / max(int(at[-1]), 1)) ** 2,
            begin=np.maximum(np.searchsorted(at, at - limit), np.searchsorted(positions, phase_begin)),
            light=np.minimum((held >= lightest).sum(axis=0), own),
        )

    def pricing_light(self, price: float) -> _Runs:
        """Return the same runs, of which none is called light but those that are cost `price` more."""
        own = np.arange(len(self.light))
        return _Runs(cost=self.cost + price * (own[:, None] >= self.light), begin=self.begin, light=own)


def _cheapest(runs: _Runs, count: int, lights: int) -> NDArray[np.float64]:
    """Least cost [M, count + 1, lights + 1] of a cut up to each position into so many runs, so many of them light."""
    last = len(runs.begin) - 1
    farthest = np.searchsorted(runs.begin, np.arange(last + 1), side="right") - 1  # where the longest run ends
    before, after = np.zeros(last + 1, np.int64), np.zeros(last + 1, np.int64)  # fewest runs up to it and from it on
    for j in range(1, last + 1):
        before[j] = before[runs.begin[j]] + 1
        after[last - j] = after[farthest[last - j]] + 1
    own = np.arange(last + 1)
    fewest, most = np.maximum(before, count - (last - own)), np.minimum(count - after, own)
    best = np.full((last + 1, count + 1, lights + 1), np.inf)
    best[0, 0, 0] = 0.0
    for j in range(1, last + 1):
        begin, light, low, high = runs.begin[j], max(runs.begin[j], runs.light[j]), fewest[j], most[j] + 1
        if low < high:
            cost, found = runs.cost[:j, j], best[j, low:high]
            _lower(found, best[begin:light, low - 1 : high - 1], cost[begin:light])
            _lower(found[:, 1:], best[light:j, low - 1 : high - 1, :-1], cost[light:])
    return best


def _lower(found: NDArray[np.float64], best: NDArray[np.float64], cost: NDArray[np.float64]) -> None:
    """Lower `found` [T, L] to the least over sources of `best` [S, T, L] + `cost` [S], in parts that fit in a cache."""
    sources = max(1, CACHED // max(1, found.size))
    for i in range(0, len(cost), sources):
        total = best[i : i + sources] + cost[i : i + sources, None, None]
        np.minimum(found, total.min(axis=0), out=found)


def _starts(runs: _Runs, best: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Where [count] the runs of the cheapest cut start, followed back from its end."""
    starts, end, lights = [], len(best) - 1, int(best[-1, count].argmin())
    for before in reversed(range(count)):
        sources = np.arange(runs.begin[end], end)
        is_light = sources >= runs.light[end]
        total = best[sources, before, lights - is_light] + runs.cost[sources, end]
        total[is_light & (lights == 0)] = np.inf
        chosen = int(total.argmin())
        end, lights = int(sources[chosen]), lights - int(is_light[chosen])
        starts.append(end)
    return np.array(starts[::-1])


def _phases(graph: WorkloadGraph) -> NDArray[np.int64]:
    """First layer of each phase, and the number of layers."""
    starts = [i for i, layer in enumerate(graph.layers) if not i or layer.phase != graph.layers[i - 1].phase]
    return np.array([*starts, len(graph.layers)])


def _size_for(phases: NDArray[np.int64], count: int) -> int:
    """Least size at which runs of fixed size are at most `count`."""
    sizes = np.arange(1, phases[-1] + 1)
    runs = np.ceil(np.diff(phases)[:, None] / sizes).sum(axis=0)
    return int(sizes[runs <= count][0])


def _positions(graph: WorkloadGraph, asked: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ascending positions [M], 0 and N and those `asked` for included, before which a cut may lie."""
    layers = len(graph.layers)
    if layers <= MOST_POSITIONS:
        return np.arange(layers + 1)
    change = np.zeros(layers + 1)
    np.add.at(change, graph.edges[:, 0] + 1, graph.edge_bytes)
    np.subtract.at(change, graph.edges[:, 1] + 1, graph.edge_bytes)
    passing = np.cumsum(change)
    windows = np.linspace(1, layers, MOST_POSITIONS + 1).astype(np.int64)
    inner = [lo + int(passing[lo:hi].argmin()) for lo, hi in pairwise(windows.tolist())]
    return np.unique(np.concatenate([_phases(graph), inner, asked]))


def _bytes_read(graph: WorkloadGraph, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Bytes [M, M] that the run from position i to j reads of the layers before it; infinite where j <= i."""
    parts = graph.parts
    order = np.lexsort((parts.consumer, parts.part, parts.tensor, parts.producer))
    again = ~changes(parts.producer[order], parts.tensor[order], parts.part[order])
    before = np.where(again, np.roll(parts.consumer[order], 1), -1)  # layer that reads the same part before this one
    by_tensor = np.lexsort((parts.consumer[order], parts.tensor[order], parts.producer[order]))
    order, before = order[by_tensor], before[by_tensor]
    producer, consumer, tensor = parts.producer[order], parts.consumer[order], parts.tensor[order]
    nbytes, limits = parts.bytes[order], parts.tensor_bytes[order]
    read = np.full((len(positions), len(positions)), np.inf)
    for row, start in enumerate(positions[:-1]):
        passing = (producer < start) & (consumer >= start) & (before < start)
        target, size = consumer[passing], nbytes[passing]
        # running sum over the readers of one tensor, limited to its size
        new = changes(producer[passing], tensor[passing])
        first = np.flatnonzero(new)
        running = np.cumsum(size)
        offsets = np.repeat(running[first] - size[first], np.diff(np.append(first, len(size))))
        running = np.minimum(running - offsets, limits[passing])
        growth = np.diff(running, prepend=0.0)
        growth[first] = running[first]
        by_layer = np.concatenate([[0.0], np.cumsum(sum_by(target, growth, len(graph.layers)))])
        read[row, row + 1 :] = by_layer[positions[row + 1 :]]
    return read


def _most_even(flops: NDArray[np.int64], phases: NDArray[np.int64], count: int) -> int:
    """FLOPs of the heaviest run of the most even cut into at most `count` runs; `flops` [N + 1] are prefix sums."""
    low, high = max(int(np.diff(flops).max()), -(-int(flops[-1]) // count)), int(flops[-1])
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_packed(flops, phases, middle)) <= count else (middle + 1, high)
    return low


def _packed(flops: NDArray[np.int64], phases: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """First layers of the fewest runs of at most `limit` FLOPs: each takes as many layers of its phase as it can."""
    starts, at = [], 0
    while at < phases[-1]:
        starts.append(at)
        reached = int(np.searchsorted(flops, flops[at] + limit, side="right")) - 1
        at = min(reached, int(phases[np.searchsorted(phases, at, side="right")]))
    return np.array(starts)
