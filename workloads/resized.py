"""A graph's arrays at another batch and precision, by proportion: what a sweep over thousands of designs uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workloads.graph import KIND_CODES, OperatorKind, WorkloadGraph
from workloads.traffic import sum_by


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scaled:
    """A graph's arrays at another batch and precision."""

    rows: NDArray[np.void]  # [N] LAYER_FEATURES
    edge_bytes: NDArray[np.float64]  # [E]
    external_bytes: NDArray[np.float64]  # [N] read of the model's inputs
    precision: NDArray[np.float64]  # [N] by what bytes of weights grow


def scaled(graph: WorkloadGraph, batch: int, float_bytes: int) -> Scaled:
    """Scale each tensor by the floating size of the layer that wrote it; the model's inputs by that of the reader.

    What a table is looked up by are integers, which keep their size.
    """
    rows = graph.features.copy()
    precision = np.where(
        rows["float_bytes"] > 0, float_bytes / np.where(rows["float_bytes"] > 0, rows["float_bytes"], 1.0), 1.0
    )
    growth = batch / graph.batch * precision
    producer, consumer = graph.edges.T
    edge_bytes = graph.edge_bytes * growth[producer]
    external = np.maximum(rows["input_bytes"] - sum_by(consumer, graph.edge_bytes, len(rows)), 0.0)
    different = sum_by(consumer, edge_bytes - graph.edge_bytes * growth[consumer], len(rows))
    indices = np.where(rows["kind"] == KIND_CODES[OperatorKind.EMBEDDING], batch / graph.batch - growth, 0.0) * external
    rows["input_bytes"] = np.maximum(rows["input_bytes"] * growth + different + indices, 0.0)
    external = external * growth + indices
    rows["output_bytes"] *= growth
    for index in np.flatnonzero(rows["kind"] == KIND_CODES[OperatorKind.EMBEDDING]):
        whole = max(graph.layers[index].resident_bytes, rows["weight_bytes"][index])
        rows["weight_bytes"][index] = min(rows["weight_bytes"][index] * batch / graph.batch, whole)
    rows["weight_bytes"] *= precision
    rows["float_bytes"] *= precision
    for name in ("macs", "flops"):
        rows[name] *= batch / graph.batch
    return Scaled(rows=rows, edge_bytes=edge_bytes, external_bytes=external, precision=precision)
