"""Splitting a segment over several slots: by heads, by channels or along the sequence, with the collectives it costs.

SPMD partitioning of the segment's part of the exported program, as GSPMD (arXiv 2105.04663): every tensor lies whole,
cut or as a sum still to be done on the members; a rule for each operator says which of these it can work on, and a
collective is put in where a tensor has to lie otherwise.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workloads.sharding.flow import Way
    from workloads.sharding.members import Member, WeightPiece
    from workloads.sharding.permute import ChannelPermute
    from workloads.sharding.program import SegmentPart, segment_parts
    from workloads.sharding.record import Collective, Replicated, SegmentSplit, SplitSizes, TensorLayout
    from workloads.sharding.split import Splitter, split_segment, split_ways
    from workloads.sharding.team import Team, ThreadTeam, run_together

_HOME = {
    "ChannelPermute": "permute",
    "Collective": "record",
    "Member": "members",
    "Replicated": "record",
    "SegmentPart": "program",
    "SegmentSplit": "record",
    "SplitSizes": "record",
    "Splitter": "split",
    "Team": "team",
    "TensorLayout": "record",
    "ThreadTeam": "team",
    "Way": "flow",
    "WeightPiece": "members",
    "run_together": "team",
    "segment_parts": "program",
    "split_segment": "split",
    "split_ways": "split",
}

__all__ = [
    "ChannelPermute",
    "Collective",
    "Member",
    "Replicated",
    "SegmentPart",
    "SegmentSplit",
    "SplitSizes",
    "Splitter",
    "Team",
    "TensorLayout",
    "ThreadTeam",
    "Way",
    "WeightPiece",
    "run_together",
    "segment_parts",
    "split_segment",
    "split_ways",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
