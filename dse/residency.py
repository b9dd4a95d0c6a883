"""What lies in each slot's memory, and from when to when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dse.timeline import Timeline
    from workloads import SegmentGraph

MEMORY = np.dtype([("slot", "i8"), ("ms", "f8"), ("bytes", "f8")])


def live_memory(timeline: Timeline) -> NDArray[np.void]:
    """Return the live bytes of every slot at each change [m] (MEMORY), ordered by slot and time.

    Weights lie there all the time. The boundary output of a segment lies on its slot from the start of the segment to
    the end of its last consumer there or of its last transfer; a received copy on the consumer's slot from the start of
    the transfer to the end of the consumer. What a running segment needs beyond these (its workspace without its
    boundary tensors) lies there while it runs. At one instant what ends is freed before what starts is claimed.
    """
    costs, assignment = timeline.table.costs, timeline.assignment
    segments, cut = costs.segments, timeline.cut_edges
    producer, consumer = segments.edges.T
    start = timeline.compute["start_ms"].reshape(timeline.inputs, -1)
    end = timeline.compute["end_ms"].reshape(timeline.inputs, -1)
    sent = timeline.transfers["start_ms"].reshape(timeline.inputs, -1)
    arrived = timeline.transfers["end_ms"].reshape(timeline.inputs, -1)

    released = end.copy()  # boundary outputs
    if len(producer):
        by_edge = end[:, consumer]
        by_edge[:, cut] = arrived
        order = np.argsort(producer, kind="stable")
        first = np.flatnonzero(np.diff(producer[order], prepend=-1))
        with_consumers = producer[order][first]
        released[:, with_consumers] = np.maximum(
            released[:, with_consumers], np.maximum.reduceat(by_edge[:, order], first, axis=1)
        )
    working = np.maximum(segments.workspace_bytes - segments.output_bytes - costs.input_bytes, 0.0)
    copies = consumer[cut]
    weights = resident_weights(segments, assignment, len(timeline.site_of_slot))
    used = np.unique(assignment)

    claims = (  # slot [n], bytes [n], from [inputs, n], to [inputs, n]
        (assignment, segments.output_bytes, start, released),
        (assignment[copies], segments.edge_bytes[cut], sent, end[:, copies]),
        (assignment, working, start, end),
    )
    slot: list[NDArray[np.int64]] = [used]
    ms, change = [np.zeros(len(used))], [weights[used]]
    for where, size, begin, finish in claims:
        for times, sign in ((begin, 1.0), (finish, -1.0)):
            slot.append(np.broadcast_to(where, times.shape).reshape(-1))
            change.append(np.broadcast_to(sign * size, times.shape).reshape(-1))
            ms.append(times.reshape(-1))
    return _running_sum(np.concatenate(slot), np.concatenate(ms), np.concatenate(change))


def resident_weights(segments: SegmentGraph, assignment: NDArray[np.int64], slots: int) -> NDArray[np.float64]:
    """Return the bytes of weights in each slot [slots]; what several segments of a slot use lies there once."""
    if segments.shares_weights:
        return segments.weight_bytes_together(assignment, slots)
    weights = np.zeros(slots)
    np.add.at(weights, assignment, segments.weight_bytes)
    return weights


def _running_sum(slot: NDArray[np.int64], ms: NDArray[np.float64], change: NDArray[np.float64]) -> NDArray[np.void]:
    """Sum changes over time, each slot for itself; only what holds after all changes of an instant."""
    order = np.lexsort((ms, slot))
    slot, ms, total = slot[order], ms[order], np.cumsum(change[order])
    new_slot = np.flatnonzero(np.diff(slot, prepend=-1))
    before = np.concatenate([np.zeros(1), total[new_slot[1:] - 1]])
    total -= np.repeat(before, np.diff(np.append(new_slot, len(slot))))
    last = np.append((np.diff(slot) != 0) | (np.diff(ms) != 0), True)
    events = np.empty(int(last.sum()), MEMORY)
    events["slot"], events["ms"], events["bytes"] = slot[last], ms[last], total[last]
    return events
