"""What lies in each slot's memory, and from when to when."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dse.timeline import Timeline
    from workloads import SegmentGraph
    from workloads.sharding.record import SplitSizes

MEMORY = np.dtype([("slot", "i8"), ("ms", "f8"), ("bytes", "f8")])


def live_memory(timeline: Timeline) -> NDArray[np.void]:
    """Return the live bytes of every slot at each change [m] (MEMORY), ordered by slot and time.

    Weights lie there all the time. The boundary output of a segment lies on its slot from the start of the segment to
    the end of its last consumer there or of its last transfer; a received copy on the consumer's slot from the start of
    the transfer to the end of the consumer. What a running segment needs beyond these (its workspace without its
    boundary tensors) lies there while it runs. Members of a split have an even piece of the output each, and weights
    and a workspace of their own. At one instant what ends is freed before what starts is claimed.
    """
    work, segments = timeline.work, timeline.table.segments
    inputs = timeline.inputs
    producer, consumer = segments.edges.T
    spans, moves = timeline.compute.reshape(inputs, -1), timeline.transfers
    part = work.parts[: spans.shape[1]]  # of a variant: all have the same segments and members
    first = np.flatnonzero(part["member"] == 0)
    start, end = spans["start_ms"][:, first], spans["end_ms"][:, first]  # [inputs, K]

    released = end.copy()  # boundary outputs
    if len(producer):
        arrived = np.full((inputs, len(producer)), -np.inf)
        arrived[moves["input"], moves["edge"]] = moves["end_ms"]
        by_edge = np.maximum(arrived, np.where(_used_in_place(timeline), end[:, consumer], -np.inf))
        order = np.argsort(producer, kind="stable")
        begins = np.flatnonzero(np.diff(producer[order], prepend=-1))
        with_consumers = producer[order][begins]
        released[:, with_consumers] = np.maximum(
            released[:, with_consumers], np.maximum.reduceat(by_edge[:, order], begins, axis=1)
        )
    owner, share = part["segment"], 1.0 / work.members[part["segment"]]
    weights = weights_of_slots(timeline)
    used = np.unique(work.parts["slot"])

    claims = (  # slot [inputs, n] or [n], bytes [n], from [inputs, n] or [n], to as from
        (spans["slot"], share * segments.output_bytes[owner], start[:, owner], released[:, owner]),
        (moves["target"], moves["bytes"], moves["start_ms"], end[moves["input"], consumer[moves["edge"]]]),
        (spans["slot"], _working_bytes(timeline, part), start[:, owner], end[:, owner]),
    )
    slot: list[NDArray[np.int64]] = [used]
    ms, change = [np.zeros(len(used))], [weights[used]]
    for where, size, begin, finish in claims:
        for times, sign in ((begin, 1.0), (finish, -1.0)):
            slot.append(np.broadcast_to(where, times.shape).reshape(-1))
            change.append(np.broadcast_to(sign * size, times.shape).reshape(-1))
            ms.append(times.reshape(-1))
    return _running_sum(np.concatenate(slot), np.concatenate(ms), np.concatenate(change))


def _used_in_place(timeline: Timeline) -> NDArray[np.bool_]:
    """[inputs or 1, E] whether a consumer runs on a slot on which its producer's output, or a piece of it, lies."""
    work, edges = timeline.work, timeline.table.segments.edges
    if not work.shared:
        return np.asarray(work.modes[edges[:, 0]] == work.modes[edges[:, 1]])[None]
    on = np.zeros((work.variants, len(work.modes), len(timeline.site_of_slot)), np.bool_)
    on[work.parts["variant"], work.parts["segment"], work.parts["slot"]] = True
    both = np.einsum("rks,rks->rk", on[:, edges[:, 0]], on[:, edges[:, 1]])
    used: NDArray[np.bool_] = both[np.arange(timeline.inputs) % work.variants]
    return used


def _splits(timeline: Timeline, part: NDArray[np.void]) -> Iterator[tuple[int, int, SplitSizes]]:
    """Yield the place in `part`, the member and what the split needs of each part that is a member of one."""
    teams, slots = timeline.teams, len(timeline.site_of_slot)
    shared = np.flatnonzero(timeline.work.modes[part["segment"]] >= slots)
    sizes: dict[int, SplitSizes] = {}
    for place in shared.tolist():
        k, member = int(part["segment"][place]), int(part["member"][place])
        split = None if teams is None else teams.splits.get((k, int(timeline.work.modes[k]) - slots))
        if split is not None:
            if k not in sizes:
                sizes[k] = split.at(timeline.table.segments.float_bytes)
            yield place, member, sizes[k]


def _working_bytes(timeline: Timeline, part: NDArray[np.void]) -> NDArray[np.float64]:
    """Bytes [parts] that each part needs beside its boundary tensors while it runs."""
    costs, owner = timeline.table.costs, part["segment"]
    needs = costs.segments.workspace_bytes[owner]
    for place, member, sizes in _splits(timeline, part):
        needs[place] = sizes.workspace_bytes[member]
    boundary = (costs.segments.output_bytes + costs.input_bytes)[owner] / timeline.work.members[owner]
    beside: NDArray[np.float64] = np.maximum(needs - boundary, 0.0)
    return beside


def weights_of_slots(timeline: Timeline) -> NDArray[np.float64]:
    """Return the bytes of weights in each slot [S]: of a split what its member has, of replicas all of them on each."""
    modes, segments = timeline.work.modes, timeline.table.segments
    slots = len(timeline.site_of_slot)
    weights = resident_weights(segments, np.minimum(modes, slots), slots + 1)[:slots]  # of what one slot runs alone
    if not timeline.work.shared:
        return weights
    part = np.unique(timeline.work.parts[["segment", "member", "slot"]])
    held = np.where(modes >= slots, segments.weight_bytes, 0.0)[part["segment"]]
    for place, member, sizes in _splits(timeline, part):
        held[place] = sizes.weight_bytes[member]
    np.add.at(weights, part["slot"], held)
    return weights


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
