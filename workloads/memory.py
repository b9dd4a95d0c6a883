"""How much memory a graph needs at once, its layers run in program order on one device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workloads.graph import Role, WorkloadGraph
from workloads.traffic import live_bytes, segment_reads


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakMemory:
    """Bytes at the peak of the schedule, at the traced batch, length and precision.

    Of an inference the weights are those that are read; gradients and optimiser state are of a training step only.
    """

    weight_bytes: int  # parameters and buffers
    activation_bytes: int  # live tensors: inputs, activations, and in training all else that is temporary
    gradient_bytes: int = 0  # of parameters, those that there are at the peak
    optimizer_bytes: int = 0  # the optimiser's state
    layer: str = ""  # name of the layer that runs at the peak, of a training step

    @property
    def bytes(self) -> int:
        """All together."""
        return self.weight_bytes + self.activation_bytes + self.gradient_bytes + self.optimizer_bytes


def peak_memory(graph: WorkloadGraph) -> PeakMemory:
    """Return the peak over the schedule: weights all the time, and what lives beside them.

    In an inference a tensor lives from its layer to the last that reads it. In a training step memory lives as long as
    eager PyTorch holds it: forward temporaries until Python drops them, what autograd saves until its backward layer
    has run, gradients to the end of the step, and the copies that kernels make while they run (workspace.py).
    """
    if graph.mode == "train" and graph.layers:
        live = live_bytes_by_role(graph)
        peak = int(live.sum(axis=1).argmax())
        held = {role: int(live[peak, role]) for role in Role}
        return PeakMemory(
            weight_bytes=held[Role.WEIGHT],
            activation_bytes=held[Role.ACTIVATION],
            gradient_bytes=held[Role.GRADIENT],
            optimizer_bytes=held[Role.OPTIMIZER],
            layer=graph.layers[peak].name,
        )
    return PeakMemory(
        weight_bytes=graph.weight_bytes, activation_bytes=int(live_activation_bytes(graph).max(initial=0.0))
    )


def live_bytes_by_role(graph: WorkloadGraph) -> NDArray[np.int64]:
    """Return the bytes [N, 4] of each Role that a training step holds while each of its layers runs."""
    change = np.zeros((len(graph.layers) + 1, len(Role)), np.int64)
    first, last, size, role = graph.allocations.T
    np.add.at(change, (first, role), size)
    np.subtract.at(change, (last + 1, role), size)
    live: NDArray[np.int64] = change.cumsum(axis=0)[:-1]
    return live


def live_activation_bytes(graph: WorkloadGraph) -> NDArray[np.float64]:
    """Return the sum [N] of the tensors that are live while each layer runs; of a training step those of the role."""
    if not graph.layers:
        return np.zeros(0)
    if graph.mode == "train":
        return live_bytes_by_role(graph)[:, Role.ACTIVATION].astype(np.float64)
    one = np.zeros(len(graph.layers), np.int64)
    written = np.array([layer.output_bytes for layer in graph.layers], np.float64)
    read = np.array([layer.input_bytes for layer in graph.layers], np.float64)
    edges, edge_bytes = graph.edges, graph.edge_bytes.astype(np.float64)
    internal = np.bincount(edges[:, 1], edge_bytes, len(graph.layers)) if len(edges) else np.zeros(len(graph.layers))
    reads = segment_reads(graph.parts, one)
    return live_bytes(reads, written, np.maximum(read - internal, 0.0), one)
