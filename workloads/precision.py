"""A graph at another precision: the same operations, other bytes. As arrays for sweeps, and as a graph of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from workloads.errors import WorkloadError
from workloads.graph import KIND_CODES, OperatorKind, Role, WorkloadGraph
from workloads.traffic import Parts, sum_by
from workloads.weights import weight_bytes_of_groups

PRECISIONS: Mapping[str, tuple[int, str]] = {
    "fp32": (4, "float32"),
    "fp16": (2, "float16"),
    "bf16": (2, "bfloat16"),
    "fp8": (1, "float8_e4m3fn"),
    "int8": (1, "int8"),
}
"""Name -> bytes of one value, and the dtype that a layer then has."""

SIZE, ROLE = 2, 3
"""Columns of WorkloadGraph.allocations that hold the bytes and what they are of."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scaled:
    """A graph's arrays at another precision."""

    rows: NDArray[np.void]  # [N] LAYER_FEATURES
    edge_bytes: NDArray[np.float64]  # [E]
    parts: Parts
    external_bytes: NDArray[np.float64]  # [N] read of the model's inputs
    growth: NDArray[np.float64]  # [N] of the bytes of a layer's weights and output


def scaled(graph: WorkloadGraph, float_bytes: int) -> Scaled:
    """Scale each tensor by the floating size of the layer that wrote it; the model's inputs by that of the reader.

    What a table is looked up by are integers, which keep their size.
    """
    rows = graph.features.copy()
    floating = rows["float_bytes"] > 0
    growth = np.where(floating, float_bytes / np.where(floating, rows["float_bytes"], 1.0), 1.0)
    producer, consumer = graph.edges.T
    edge_bytes = graph.edge_bytes * growth[producer]
    external = np.maximum(rows["input_bytes"] - sum_by(consumer, graph.edge_bytes, len(rows)), 0.0)
    different = sum_by(consumer, edge_bytes - graph.edge_bytes * growth[consumer], len(rows))
    indices = np.where(rows["kind"] == KIND_CODES[OperatorKind.EMBEDDING], 1.0 - growth, 0.0) * external
    rows["input_bytes"] = np.maximum(rows["input_bytes"] * growth + different + indices, 0.0)
    external = external * growth + indices
    for name in ("output_bytes", "weight_bytes", "bias_bytes", "float_bytes"):
        rows[name] *= growth
    return Scaled(
        rows=rows, edge_bytes=edge_bytes, parts=graph.parts.scaled(growth), external_bytes=external, growth=growth
    )


def at_precision(graph: WorkloadGraph, precision: str) -> WorkloadGraph:
    """Return the graph with every floating value in this precision: same operations, other bytes.

    Raises WorkloadError for a precision that is not in PRECISIONS.
    """
    if precision not in PRECISIONS:
        raise WorkloadError(f"there is no precision {precision!r}", f"there are {', '.join(PRECISIONS)}")
    size, dtype = PRECISIONS[precision]
    sized = scaled(graph, size)
    layers = []
    for layer, row, growth in zip(graph.layers, sized.rows, sized.growth.tolist(), strict=True):
        layers.append(
            replace(
                layer,
                weight_bytes=round(float(row["weight_bytes"])),
                input_bytes=round(float(row["input_bytes"])),
                output_bytes=round(float(row["output_bytes"])),
                weights={name: (round(a * growth), round(b * growth)) for name, (a, b) in layer.weights.items()},
                float_bytes=round(float(row["float_bytes"])),
                dtype=dtype if "float" in layer.dtype else layer.dtype,
            )
        )
    together, same = np.zeros(len(layers), np.int64), np.ones(len(layers))
    before, after = (weight_bytes_of_groups(graph, growth, together, 1)[0] for growth in (same, sized.growth))
    of_weights = float(after / before) if before else 1.0
    edge_parts = graph.edge_parts.copy()
    for name in ("bytes", "tensor_bytes"):
        edge_parts[name] = np.rint(edge_parts[name] * sized.growth[edge_parts["producer"]])
    allocations = graph.allocations.copy()
    # weights are there before the first layer runs, whatever that one computes with
    growth_of = np.where(allocations[:, ROLE] == Role.ACTIVATION, sized.growth[allocations[:, 0]], of_weights)
    allocations[:, SIZE] = np.rint(allocations[:, SIZE] * growth_of)
    return replace(
        graph,
        layers=tuple(layers),
        edge_bytes=np.rint(sized.edge_bytes).astype(np.int64),
        edge_parts=edge_parts,
        allocations=allocations,
        weight_bytes=round(graph.weight_bytes * of_weights),
    )
