"""A graph as one plain object: what `dse workloads NAME --json` prints and a run folder keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from workloads.graph import MATRIX_KINDS, Layer, OperatorKind, WorkloadGraph

if TYPE_CHECKING:
    from workloads.catalog import Reference

AGREEMENT = 1e-3
"""Relative difference up to which a published figure, printed with four digits, agrees with the traced one."""


COMPLEX_GEMM = MATRIX_KINDS - {OperatorKind.CONV}
"""Kinds whose complex products are four real ones each."""


def describe(graph: WorkloadGraph, reference: Sequence[Reference] = ()) -> dict[str, Any]:
    """Return the graph's figures, layers, coverage ledger and published figures as JSON types.

    Every operator call of the model stands in `coverage` once: counted (by fvcore or an exact handle), estimated,
    moved, alias (a view, no layer) or refused.
    """
    return {
        "name": graph.name,
        "parameters": graph.parameters,
        "macs": graph.macs,
        "flops": graph.flops,
        "weight_bytes": graph.weight_bytes,
        "batch": graph.batch,
        "input_shapes": [list(shape) for shape in graph.input_shapes],
        "coverage": coverage(graph),
        "estimated_operators": estimated_operators(graph.layers),
        "uncounted_operators": [{"name": name, "count": calls} for name, calls in graph.refused.items()],
        "aliases": dict(graph.aliases),
        "reference": [compare(graph, figure) for figure in reference],
        "layers": [describe_layer(layer) for layer in graph.layers],
        "edges": [[*edge, size] for edge, size in zip(graph.edges.tolist(), graph.edge_bytes.tolist(), strict=True)],
    }


def describe_layer(layer: Layer) -> dict[str, Any]:
    """Return one layer as JSON types."""
    return {
        "name": layer.name,
        "operator": layer.operator,
        "kind": layer.kind.value,
        "module": layer.module,
        "module_type": layer.module_type,
        "shape": dict(layer.shape),
        "output_shape": list(layer.output_shape),
        "dtype": layer.dtype,
        "parameters": layer.parameters,
        "macs": layer.macs,
        "flops": layer.flops,
        "bytes": layer.bytes,
        "weight_bytes": layer.weight_bytes,
        "input_bytes": layer.input_bytes,
        "output_bytes": layer.output_bytes,
        "weights": {name: end - first for name, (first, end) in layer.weights.items()},
        "counting": layer.counting,
        "formula": layer.formula,
        "seq_len": layer.seq_len,
        "embed_dim": layer.embed_dim,
        "num_heads": layer.num_heads,
        "mlp_ratio": layer.mlp_ratio,
    }


def coverage(graph: WorkloadGraph) -> dict[str, dict[str, int]]:
    """Return operator calls by name: counted (fvcore, then our exact handles), estimated, moved, alias, refused."""
    ledger: dict[str, Counter[str]] = {}
    for counting in ("fvcore", "handle", "estimated", "moved"):
        ledger[counting] = Counter(layer.operator for layer in graph.layers if layer.counting == counting)
    ledger["alias"], ledger["refused"] = Counter(graph.aliases), Counter(graph.refused)
    return {counting: dict(sorted(calls.items())) for counting, calls in ledger.items()}


def estimated_operators(layers: Iterable[Layer]) -> list[dict[str, Any]]:
    """Return name, formula, number of calls and operations of each estimated operator, the costliest first."""
    calls: Counter[tuple[str, str]] = Counter()
    flops: Counter[tuple[str, str]] = Counter()
    for layer in layers:
        if layer.counting == "estimated":
            calls[layer.operator, layer.formula] += 1
            flops[layer.operator, layer.formula] += layer.flops
    return [
        {"name": name, "formula": formula, "count": calls[name, formula], "flops": total}
        for (name, formula), total in sorted(flops.items(), key=lambda item: (-item[1], item[0]))
    ]


def quantity(graph: WorkloadGraph, name: str) -> int:
    """Return a figure of the graph by the name that `Reference.quantity` gives it.

    `parameters`; `macs`: all, norms and pooling as fvcore counts them; `matrix_macs`: those of convolutions, matrix
    products, attention and recurrent layers, the usual "GMACs" of publications; `matrix_macs.KIND`: of one kind;
    `macs.complex_as_one`: all, but a product of a complex matrix product is one, as fvcore counts it, not four.
    """
    if name == "macs.complex_as_one":
        return sum(
            x.macs // 4 if x.kind in COMPLEX_GEMM and x.dtype.startswith("complex") else x.macs for x in graph.layers
        )
    head, _, kind = name.partition(".")
    if head == "matrix_macs":
        return sum(x.macs for x in graph.layers if (x.kind == kind if kind else x.kind in MATRIX_KINDS))
    return {"parameters": graph.parameters, "macs": graph.macs}[name]


def compare(graph: WorkloadGraph, figure: Reference) -> dict[str, Any]:
    """Return a published figure beside the traced one."""
    traced = quantity(graph, figure.quantity)
    return {
        "quantity": figure.quantity,
        "value": figure.value,
        "traced": traced,
        "agrees": abs(traced - figure.value) <= AGREEMENT * abs(figure.value),
        "source": figure.source,
        "note": figure.note,
    }
