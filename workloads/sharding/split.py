"""Split a segment over several slots: by heads, by channels or along the sequence."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_args

from torch.export import ExportedProgram

from workloads.errors import WorkloadError
from workloads.segments import SegmentGraph
from workloads.sharding.flow import Policy, Way
from workloads.sharding.partition import partition
from workloads.sharding.program import segment_parts
from workloads.sharding.record import SegmentSplit


class Splitter:
    """Splits the segments of one exported program; what is known of the program is worked out once.

    Raises WorkloadError where the segments are of another graph, or the program is not a flat list of operator calls.
    """

    def __init__(self, program: ExportedProgram, segments: SegmentGraph) -> None:
        self.segments = segments
        self.parts = segment_parts(program, segments)

    def split(self, segment_id: int, *, groups: int, way: Way, permute_seed: int | None = None) -> SegmentSplit:
        """Return the split of a segment; see `split_segment`."""
        self._check(segment_id, groups, way)
        if permute_seed is not None and way != "channels":
            raise WorkloadError(f"channels of a split by {way} are not dealt out", "way='channels', or no permute_seed")
        part = self.parts[segment_id]
        tries: list[SegmentSplit] = []
        for policy in _policies(way, permute_seed):
            tries.append(partition(part, self.segments, groups, policy))
            if tries[-1].largest_share * groups < 1 + 1e-9 and not tries[-1].collectives:
                return tries[-1]  # nothing is better
        found = [split for split in tries if split.valid]
        return min(found, key=_rank) if found else tries[0]

    def ways(self, segment_id: int, *, groups: int) -> tuple[SegmentSplit, ...]:
        """Return the valid splits of a segment, best first; see `split_ways`."""
        splits = [self.split(segment_id, groups=groups, way=way) for way in get_args(Way)]
        known: set[tuple[Any, ...]] = set()
        found = []
        for split in splits:
            signature = (split.way == "sequence", split.largest_share, split.sent_bytes, len(split.collectives))
            if split.valid and signature not in known:
                known.add(signature)
                found.append(split)
        return tuple(sorted(found, key=lambda split: (split.largest_share, split.sent_bytes)))

    def _check(self, segment_id: int, groups: int, way: str) -> None:
        if not 0 <= segment_id < len(self.parts):
            raise WorkloadError(f"there is no segment {segment_id}", f"0 to {len(self.parts) - 1}")
        if isinstance(groups, bool) or not isinstance(groups, int) or groups < 2:
            raise WorkloadError(f"groups is {groups!r}", "a whole number, at least 2")
        if way not in get_args(Way):
            close = get_close_matches(way, get_args(Way), n=1)
            hint = f"did you mean {close[0]!r}?" if close else " or ".join(get_args(Way))
            raise WorkloadError(f"there is no way {way!r} to split a segment", hint)


def split_segment(
    program: ExportedProgram,
    segments: SegmentGraph,
    segment_id: int,
    *,
    groups: int,
    way: Way,
    permute_seed: int | None = None,
) -> SegmentSplit:
    """Return a segment split over `groups` members.

    Parameters
    ----------
    program
        What the segments' graph was made of; on any device, the meta device included.
    way
        "heads": attention by heads, the projections before and after it and other products by channels, as Megatron-LM
        (arXiv 1909.08053); valid where the segment holds attention whose heads `groups` divides. "channels":
        convolutions and products by output or input channels. "sequence": along a time, space or token axis; keys and
        values are gathered, convolutions read a halo.
    permute_seed
        Deal the channels of a split by channels out by a random permutation where no layer of the segment depends on
        their order (version_c.md 9.3).

    Raises
    ------
    WorkloadError
        If the program is not the segments', or the arguments are out of range. A segment that cannot be split so is no
        error: the split says why.
    """
    return Splitter(program, segments).split(segment_id, groups=groups, way=way, permute_seed=permute_seed)


def split_ways(
    program: ExportedProgram, segments: SegmentGraph, segment_id: int, *, groups: int
) -> tuple[SegmentSplit, ...]:
    """Return the valid splits of a segment, best first by the largest member's share of operations, then bytes sent.

    Ways that come to the same split are listed once, under the first of their names. Raises as `split_segment`.
    """
    return Splitter(program, segments).ways(segment_id, groups=groups)


def _policies(way: Way, seed: int | None) -> Iterator[Policy]:
    if way == "sequence":
        for axis in (1, 2):
            yield Policy(way=way, axis=axis)
    else:
        for eager in (False, True):
            yield Policy(way=way, eager=eager, seed=seed)


def _rank(split: SegmentSplit) -> tuple[float, int]:
    """Least work of a member to a hundredth, then least bytes."""
    return round(split.largest_share, 2), split.sent_bytes
