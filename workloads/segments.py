"""Segment and SegmentGraph: runs of layers that are mapped as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from workloads.graph import WorkloadGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of consecutive layers. Fields as in the owner's specification (version_c.md 9.1), then ours."""

    id: int
    layer_indices: tuple[int, ...]
    flops: float
    bytes: float
    seq_len: int
    embed_dim: int
    num_heads: int
    mlp_ratio: float
    precision: int  # 1 where weights and activations take 2 bytes or less, else 0
    traffic_in_bytes: float  # read from other segments, each tensor once
    traffic_out_bytes: float  # written for other segments, each tensor once
    can_split_fine: bool = False
    fine_groups: int | None = None
    name: str = ""  # from the module paths of its layers
    macs: float = 0.0
    attn_flops_ratio: float = 0.0
    weight_bytes: float = 0.0
    workspace_bytes: float = 0.0  # peak of live activations while it runs, its inputs and outputs included


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentGraph(Sequence[Segment]):
    """DAG of K segments over a workload graph, in topological order.

    `segment_of_layer` [N] never decreases. `edges` [E, 2] are pairs of segments, each once, with the bytes that the
    consumer reads of the producer (a tensor that several of its layers read counts once).
    """

    graph: WorkloadGraph
    segments: tuple[Segment, ...]
    segment_of_layer: NDArray[np.int64]
    edges: NDArray[np.int64]
    edge_bytes: NDArray[np.float64]
    batch: int = 1
    float_bytes: int = 4

    @overload
    def __getitem__(self, index: int) -> Segment: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Segment]: ...
    def __getitem__(self, index: int | slice) -> Segment | Sequence[Segment]:
        return self.segments[index]

    def __len__(self) -> int:
        return len(self.segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)
