"""How much memory a graph needs at once, its layers run in program order on one device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workloads.graph import WorkloadGraph
from workloads.traffic import live_bytes, segment_reads


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakMemory:
    """Bytes at the traced batch, length and precision."""

    weight_bytes: int  # parameters and buffers that are read
    activation_bytes: int  # largest sum of live tensors over the schedule

    @property
    def bytes(self) -> int:
        """Both together."""
        return self.weight_bytes + self.activation_bytes


def peak_memory(graph: WorkloadGraph) -> PeakMemory:
    """Return the peak over the schedule: weights all the time, each tensor from its layer to the last that reads it."""
    return PeakMemory(
        weight_bytes=graph.weight_bytes, activation_bytes=int(live_activation_bytes(graph).max(initial=0.0))
    )


def live_activation_bytes(graph: WorkloadGraph) -> NDArray[np.float64]:
    """Return the sum [N] of the tensors that are live while each layer runs."""
    if not graph.layers:
        return np.zeros(0)
    one = np.zeros(len(graph.layers), np.int64)
    written = np.array([layer.output_bytes for layer in graph.layers], np.float64)
    read = np.array([layer.input_bytes for layer in graph.layers], np.float64)
    edges, edge_bytes = graph.edges, graph.edge_bytes.astype(np.float64)
    internal = np.bincount(edges[:, 1], edge_bytes, len(graph.layers)) if len(edges) else np.zeros(len(graph.layers))
    reads = segment_reads(edges, edge_bytes, written, one)
    return live_bytes(reads, written, np.maximum(read - internal, 0.0), one)
