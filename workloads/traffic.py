"""What runs of consecutive layers read from each other, and how much of it is live at once: arrays only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """What each layer reads of each other: R records. A tensor is a whole one that its producer wrote last.

    Readers of one `part` of a tensor read the same bytes of it; those of different parts count as of different bytes,
    together up to `tensor_bytes`.
    """

    producer: NDArray[np.int64]  # [R] layer
    consumer: NDArray[np.int64]  # [R] layer
    tensor: NDArray[np.int64]  # [R] number
    part: NDArray[np.int64]  # [R] number
    bytes: NDArray[np.float64]  # [R]
    tensor_bytes: NDArray[np.float64]  # [R] all of the tensor

    def scaled(self, growth: NDArray[np.float64]) -> Parts:
        """Return the same with the bytes of each producer's tensors multiplied by its `growth` [N]."""
        factor = growth[self.producer]
        return replace(self, bytes=self.bytes * factor, tensor_bytes=self.tensor_bytes * factor)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reads:
    """Each pair (producer layer, segment that reads of it) once: R records, ordered by producer."""

    producer: NDArray[np.int64]  # [R] layer
    segment: NDArray[np.int64]  # [R] that reads
    bytes: NDArray[np.float64]  # [R]
    last: NDArray[np.int64]  # [R] the last layer of that segment that reads
    crossing: NDArray[np.bool_]  # [R] producer in another segment


def sum_by(index: NDArray[np.int64], values: NDArray[Any], count: int) -> NDArray[np.float64]:
    """Sum [count] of the values of each index."""
    return np.bincount(index, values, count).astype(np.float64)


def parts_of_edges(edges: NDArray[np.int64], edge_bytes: NDArray[Any], output_bytes: NDArray[np.float64]) -> Parts:
    """Return the reads of a graph of which only the edges [E, 2] are known.

    A layer writes one tensor, as large as its output, or as the largest single read of it; no two readers read the
    same part.
    """
    producer, consumer = edges.T
    sizes = output_bytes.astype(np.float64)
    np.maximum.at(sizes, producer, edge_bytes)
    return Parts(
        producer=producer,
        consumer=consumer,
        tensor=producer,
        part=np.arange(len(edges)),
        bytes=edge_bytes.astype(np.float64),
        tensor_bytes=sizes[producer],
    )


def segment_reads(parts: Parts, segment_of_layer: NDArray[np.int64]) -> Reads:
    """Join what layers read of the same producer for the same segment: each part of a tensor counts once."""
    segments = int(segment_of_layer[-1]) + 1
    pair = parts.producer * segments + segment_of_layer[parts.consumer]
    nbytes = _distinct_bytes(parts, pair)
    keys, group = np.unique(pair, return_inverse=True)
    producer, segment = np.divmod(keys, segments)
    last = np.zeros(len(keys), np.int64)
    np.maximum.at(last, group, parts.consumer)
    return Reads(
        producer=producer,
        segment=segment,
        bytes=sum_by(group, nbytes, len(keys)),
        last=last,
        crossing=segment_of_layer[producer] != segment,
    )


def _distinct_bytes(parts: Parts, reader: NDArray[np.int64]) -> NDArray[np.float64]:
    """Bytes [R] of each record by which they add up to what each `reader` [R] reads: each part once, and of each tensor
    no more than there is."""
    order = np.lexsort((parts.part, parts.tensor, parts.producer, reader))
    sorted_by = [column[order] for column in (reader, parts.producer, parts.tensor, parts.part)]
    new_part = changes(*sorted_by)
    new_tensor = changes(*sorted_by[:3])
    wanted = np.where(new_part, parts.bytes[order], 0.0)
    first = np.flatnonzero(new_tensor)
    running = np.cumsum(wanted)
    tensor = np.cumsum(new_tensor) - 1
    before = (running - wanted)[first][tensor]
    taken = np.minimum(running - before, parts.tensor_bytes[order])
    nbytes = np.empty(len(order))
    nbytes[order] = np.where(new_tensor, taken, np.diff(taken, prepend=0.0))
    return nbytes


def changes(*columns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether [R] a row of these columns, each [R], differs from the one before it; the first row does."""
    new = np.zeros(len(columns[0]), np.bool_)
    new[:1] = True
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return new


def written_for_others(parts: Parts, segment_of_layer: NDArray[np.int64]) -> NDArray[np.float64]:
    """Bytes [K] that each segment writes for other segments, each part of a tensor once however many read it."""
    writer = segment_of_layer[parts.producer]
    crossing = np.where(writer != segment_of_layer[parts.consumer], writer, -1)
    nbytes = np.where(crossing >= 0, _distinct_bytes(parts, crossing), 0.0)
    return sum_by(writer, nbytes, int(segment_of_layer[-1]) + 1)


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
