"""Cut a model's layers along a mapping: one piece for each slot in use, and what crosses between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray

from dse.errors import DseError
from dse.mapped_model.memory import Part
from dse.mapped_model.regions import Region
from workloads.layer_program import LayerCall, LayerProgram, Read, View
from workloads.segments import SegmentGraph
from workloads.traffic import segment_edges, segment_reads

ALIGNMENT = 16
"""Bytes of the largest element (complex128): a storage that is held in part begins at a multiple of it."""

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}
"""A dtype for each size of an element."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What one edge of the segment graph moves between two slots."""

    edge: int  # row of SegmentGraph.edges
    source: int  # slot
    target: int
    parts: tuple[Part | Region, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What a member of a split has of a tensor: all of it, or the `indices` of dimension `dim`.

    What it makes lies with its channels in the order `perm`, if there is one, until it has been sent.
    """

    view: View
    dim: int | None
    indices: NDArray[np.int64] | None
    perm: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Relayed:
    """What one member passes on to another one before they start."""

    source: int  # slot
    target: int
    region: Region


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Share:
    """What one slot of a team runs of a split segment: the program of a member, pickled.

    `relays` are what it sends to, and receives from, other members before it starts.
    """

    slots: tuple[int, ...]  # of the members, by their numbers
    member: int
    tag: int  # of the team's messages
    relays: tuple[Relayed, ...]
    program: bytes
    inputs: tuple[Held, ...]
    weights: tuple[View, ...]
    outputs: tuple[Held, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One segment in its process: receive, call, send. `frees` are storages that nothing here uses after each call."""

    segment: int
    name: str
    receives: tuple[Transfer, ...]
    calls: tuple[LayerCall, ...]
    frees: tuple[tuple[int, ...], ...]  # one for each call, and one for what is sent last
    sends: tuple[Transfer, ...]
    share: Share | None = None  # in place of the calls, of a split segment

    def storages(self) -> set[int]:
        """Return the storages that it uses."""
        found = {
            view.storage
            for call in self.calls
            for view in (*(read.view for read in call.reads), *call.writes, *call.outputs)
        }
        for transfer in (*self.receives, *self.sends):
            found |= {part.base.storage for part in transfer.parts}
        if self.share is not None:
            found |= {held.view.storage for held in (*self.share.inputs, *self.share.outputs)}
            found |= {view.storage for view in self.share.weights}
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one process runs, segment by segment in ascending order."""

    slot: int
    steps: tuple[Step, ...]
    spans: Mapping[int, tuple[int, int]]  # of each storage that it uses the bytes that it may touch: first, end
    given: tuple[int, ...]  # storages that are filled before the first step: weights, constants, model inputs
    outputs: tuple[tuple[int, View], ...]  # of the model: number, and where it lies
    laid: tuple[Region, ...] = ()  # of tensors that split segments make and the model returns, what is here


def cut(program: LayerProgram, segments: SegmentGraph, assignment: NDArray[np.int64]) -> tuple[Piece, ...]:
    """Return a piece for each slot that the `assignment` [K] uses, in ascending order.

    A tensor that several layers of a segment read crosses once, a slice as the slice; slices that together are as
    large as their tensor as the whole of it.

    Raises DseError where the program has not the layers that the segments are of, or a tensor crosses where the
    segment graph has no edge.
    """
    of_layer = segments.segment_of_layer
    _check_same_layers(program, segments)
    transfers = _transfers(program, segments, assignment)
    leaving: dict[int, list[Transfer]] = defaultdict(list)
    arriving: dict[int, list[Transfer]] = defaultdict(list)
    for transfer in transfers:
        source, target = segments.edges[transfer.edge].tolist()
        leaving[source].append(transfer)
        arriving[target].append(transfer)
    pieces = []
    for slot in sorted(set(assignment.tolist())):
        mine = np.flatnonzero(assignment == slot).tolist()
        calls = {k: tuple(program.calls[i] for i in segments[k].layer_indices) for k in mine}
        outputs = tuple(
            (number, output.view)
            for number, output in enumerate(program.outputs)
            if isinstance(output, Read) and output.producer is not None and of_layer[output.producer] in calls
        )
        frees = _frees(calls, leaving, kept={view.storage for _, view in outputs})
        steps = tuple(
            Step(
                segment=k,
                name=segments[k].name,
                receives=tuple(arriving[k]),
                calls=calls[k],
                frees=frees[k],
                sends=tuple(leaving[k]),
            )
            for k in mine
        )
        spans, given = given_spans(program, steps)
        pieces.append(Piece(slot=slot, steps=steps, spans=spans, given=given, outputs=outputs))
    return tuple(pieces)


def charged_bytes(segments: SegmentGraph) -> NDArray[np.int64]:
    """Return what each edge [E] is charged at the traced dtypes: `SegmentGraph.edge_bytes` without rescaling."""
    of_layer = segments.segment_of_layer
    return segment_edges(segment_reads(segments.graph.parts, of_layer), of_layer)[1].astype(np.int64)


def _nbytes(view: View) -> int:
    return int(np.prod(view.shape, dtype=np.int64)) * view.dtype.itemsize


def _check_same_layers(program: LayerProgram, segments: SegmentGraph) -> None:
    ours, theirs = (
        [f"{layer.operator} {layer.output_shape}" for layer in graph.layers]
        for graph in (program.graph, segments.graph)
    )
    if ours != theirs:
        rows = zip_longest(ours, theirs, fillvalue="nothing")
        place, (mine, other) = next((i, row) for i, row in enumerate(rows) if row[0] != row[1])
        raise DseError(
            f"the segments are of another model: layer {place} is {other} there and {mine} in {program.graph.name}",
            "trace and segment the model that is to run, on inputs of the same shapes",
        )


def _transfers(program: LayerProgram, segments: SegmentGraph, assignment: NDArray[np.int64]) -> list[Transfer]:
    """Return what crosses between slots."""
    slots = assignment[segments.edges]
    found = []
    for edge, parts in crossing_parts(program, segments, slots[:, 0] != slots[:, 1]).items():
        source, target = slots[edge].tolist()
        found.append(Transfer(edge=edge, source=source, target=target, parts=parts))
    return found


def crossing_parts(
    program: LayerProgram, segments: SegmentGraph, crosses: NDArray[np.bool_]
) -> dict[int, tuple[Part, ...]]:
    """Return what each edge carries, of those that cross [E]: each distinct part of a tensor once.

    Raises DseError where a tensor crosses where the segment graph has no edge.
    """
    of_layer = segments.segment_of_layer.tolist()
    edge_of = {(int(u), int(v)): e for e, (u, v) in enumerate(segments.edges)}
    parts: dict[tuple[int, int], dict[tuple[int, int], dict[Part, int]]] = defaultdict(lambda: defaultdict(dict))
    for layer, call in enumerate(program.calls):
        for read in call.reads:
            if read.producer is None or not read.nbytes:
                continue
            pair = of_layer[read.producer], of_layer[layer]
            if pair[0] != pair[1] and (pair not in edge_of or crosses[edge_of[pair]]):
                storage = read.view.storage
                parts[pair][read.producer, storage][_part(read, program.base[storage])] = read.nbytes
    found = {}
    for pair, tensors in sorted(parts.items()):
        if pair not in edge_of:
            names = " and ".join(segments[k].name or str(k) for k in pair)
            raise DseError(
                f"a tensor crosses between {names}, where the segments have no edge", "trace the model again"
            )
        crossing: list[Part] = []
        for (_, storage), distinct in sorted(tensors.items()):
            base = program.base[storage]
            whole = sum(distinct.values()) >= _nbytes(base)
            crossing.extend([Part(base, base)] if whole else distinct)
        found[edge_of[pair]] = tuple(crossing)
    return found


def _part(read: Read, base: View) -> Part:
    """Return what crosses for a read; equal for all that read the same bytes, whatever dtype they take them for."""
    view = read.view
    plain = View(view.storage, BITS[view.dtype.itemsize], view.shape, view.stride, view.offset)
    return Part(plain, base, read.rest)


def _frees(
    calls: Mapping[int, Sequence[LayerCall]], leaving: Mapping[int, Sequence[Transfer]], kept: set[int]
) -> dict[int, tuple[tuple[int, ...], ...]]:
    """Return of each segment which storages are used for the last time by each of its calls, and by what it sends."""
    last: dict[int, tuple[int, int]] = {}
    for k, mine in calls.items():
        for place, call in enumerate(mine):
            for view in (*(read.view for read in call.reads), *call.writes, *call.outputs):
                last[view.storage] = k, place
        for transfer in leaving[k]:
            for part in transfer.parts:
                last[part.base.storage] = k, len(mine)
    freed: dict[int, list[list[int]]] = {k: [[] for _ in range(len(mine) + 1)] for k, mine in calls.items()}
    for storage, (k, place) in last.items():
        if storage not in kept:
            freed[k][place].append(storage)
    return {k: tuple(map(tuple, rows)) for k, rows in freed.items()}


def given_spans(program: LayerProgram, steps: Sequence[Step]) -> tuple[dict[int, tuple[int, int]], tuple[int, ...]]:
    """Return what the steps use of each storage, and which of these are given.

    Of what is given and never written only from the first to the last byte that is read; of all else everything.
    """
    written = {view.storage for call in program.calls for view in call.writes}
    spans: dict[int, tuple[int, int]] = {}
    given: set[int] = set()
    for step in steps:
        for call in step.calls:
            for read in call.reads:
                storage, view = read.view.storage, read.view
                if read.producer is None and storage not in written:
                    begin = view.offset * view.dtype.itemsize // ALIGNMENT * ALIGNMENT
                    first, end = spans.get(storage, (begin, view.end))
                    spans[storage] = min(first, begin), max(end, view.end)
                else:
                    spans[storage] = 0, program.extents[storage]
                if read.producer is None:
                    given.add(storage)
            for view in (*call.writes, *call.outputs):
                spans[view.storage] = 0, program.extents[view.storage]
    for step in steps:
        if step.share is not None:
            for storage in step.storages():
                spans[storage] = 0, program.extents[storage]
            given |= {view.storage for view in step.share.weights}
            given |= {held.view.storage for held in step.share.inputs if held.view.storage in program.given}
        for transfer in (*step.receives, *step.sends):
            for part in transfer.parts:
                spans[part.base.storage] = 0, program.extents[part.base.storage]
    return spans, tuple(sorted(given))
