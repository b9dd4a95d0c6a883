"""What runs of consecutive layers read from each other, and how much of it is live at once: arrays only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reads:
    """Each pair (producer layer, segment that reads its tensor) once: R records, ordered by producer."""

    producer: NDArray[np.int64]  # [R] layer
    segment: NDArray[np.int64]  # [R] that reads
    bytes: NDArray[np.float64]  # [R]
    last: NDArray[np.int64]  # [R] the last layer of that segment that reads
    crossing: NDArray[np.bool_]  # [R] producer in another segment


def sum_by(index: NDArray[np.int64], values: NDArray[Any], count: int) -> NDArray[np.float64]:
    """Sum [count] of the values of each index."""
    return np.bincount(index, values, count).astype(np.float64)


def tensor_limits(
    edges: NDArray[np.int64], edge_bytes: NDArray[Any], output_bytes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Bytes [N] that a layer's readers can read of it together: its tensor's size, at least the largest single read.

    Readers of overlapping parts of a tensor are counted as of different parts, up to this limit.
    """
    limits = output_bytes.astype(np.float64)
    np.maximum.at(limits, edges[:, 0], edge_bytes)
    return limits


def segment_reads(
    edges: NDArray[np.int64],
    edge_bytes: NDArray[np.float64],
    output_bytes: NDArray[np.float64],
    segment_of_layer: NDArray[np.int64],
) -> Reads:
    """Join the edges [E, 2] of layers that read the same tensor for the same segment."""
    segments = int(segment_of_layer[-1]) + 1
    keys, group = np.unique(edges[:, 0] * segments + segment_of_layer[edges[:, 1]], return_inverse=True)
    producer, segment = np.divmod(keys, segments)
    last = np.zeros(len(keys), np.int64)
    np.maximum.at(last, group, edges[:, 1])
    limits = tensor_limits(edges, edge_bytes, output_bytes)
    return Reads(
        producer=producer,
        segment=segment,
        bytes=np.minimum(sum_by(group, edge_bytes, len(keys)), limits[producer]),
        last=last,
        crossing=segment_of_layer[producer] != segment,
    )


def written_for_others(
    reads: Reads, limits: NDArray[np.float64], segment_of_layer: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Bytes [K] that each segment writes for other segments, each tensor once however many read it."""
    asked = sum_by(reads.producer[reads.crossing], reads.bytes[reads.crossing], len(limits))
    return sum_by(segment_of_layer, np.minimum(asked, limits), int(segment_of_layer[-1]) + 1)


def segment_edges(reads: Reads, segment_of_layer: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of segments [E, 2], each once, in ascending order, and the bytes [E] that the second reads of the first."""
    segments = int(segment_of_layer[-1]) + 1
    source, target = segment_of_layer[reads.producer[reads.crossing]], reads.segment[reads.crossing]
    keys, group = np.unique(source * segments + target, return_inverse=True)
    return np.stack(np.divmod(keys, segments), axis=1), sum_by(group, reads.bytes[reads.crossing], len(keys))


def peak_live_bytes(
    reads: Reads,
    output_bytes: NDArray[np.float64],
    external_bytes: NDArray[np.float64],
    segment_of_layer: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Largest sum [K] of live tensors while a segment runs its layers in program order; see `live_bytes`."""
    live = live_bytes(reads, output_bytes, external_bytes, segment_of_layer)
    return np.maximum.reduceat(live, np.flatnonzero(np.diff(segment_of_layer, prepend=-1)))


def live_bytes(
    reads: Reads,
    output_bytes: NDArray[np.float64],
    external_bytes: NDArray[np.float64],
    segment_of_layer: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Sum [N] of the tensors that are live in a segment while each of its layers runs, in program order.

    What it reads of other segments is live from its start to the last layer that reads it; what a layer writes from
    that layer to the last one of the segment that reads it, or to the end of the segment where others read it or
    nothing does (the model's outputs); `external_bytes` [N] (the model's inputs) while their layer runs.
    """
    layers = len(segment_of_layer)
    first = np.flatnonzero(np.diff(segment_of_layer, prepend=-1))
    end = np.append(first[1:], layers) - 1  # last layer of each segment
    used_until = np.full(layers, -1)
    np.maximum.at(used_until, reads.producer, np.where(reads.crossing, layers, reads.last))
    outlives = (used_until < 0) | (used_until == layers)
    used_until = np.where(outlives, end[segment_of_layer], used_until)
    inside = reads.crossing
    claimed = output_bytes + sum_by(first[reads.segment[inside]], reads.bytes[inside], layers)
    freed = sum_by(used_until, output_bytes, layers)
    freed += sum_by(reads.last[inside], reads.bytes[inside], layers)
    live = np.cumsum(claimed) - np.cumsum(freed) + freed  # a tensor is live while its last reader runs
    total: NDArray[np.float64] = live + external_bytes
    return total
