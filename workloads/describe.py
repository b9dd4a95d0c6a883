"""A graph as one plain object: what `dse workloads NAME --json` prints and a run folder keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workloads.advice import advise
from workloads.graph import MATRIX_KINDS, Layer, OperatorKind, Role, WorkloadGraph
from workloads.latency import overlap_latency
from workloads.memory import live_activation_bytes, live_bytes_by_role, peak_memory
from workloads.operators import remedy
from workloads.specification import compare_parts, load_specification
from workloads.totals import totals_by_module, totals_by_operator

if TYPE_CHECKING:
    from workloads.catalog import Entry, Reference

AGREEMENT = 1e-3
"""Relative difference up to which a published figure, printed with four digits, agrees with the traced one."""


COMPLEX_GEMM = MATRIX_KINDS - {OperatorKind.CONV}
"""Kinds whose complex products are four real ones each."""


def describe(
    graph: WorkloadGraph,
    reference: Sequence[Reference] = (),
    *,
    specification: str = "",
    seconds: float | None = None,
) -> dict[str, Any]:
    """Return the graph's figures, layers, coverage ledger, published figures and advice as JSON types.

    Every operator call of the model stands in `coverage` once: counted (by fvcore or an exact handle), estimated,
    moved, alias (a view, no layer) or refused. `specification` names a table of workloads/specifications; `seconds`
    is how much signal the input is.
    """
    live = _live_bytes(graph)
    peak = peak_memory(graph)
    return {
        "name": graph.name,
        "mode": graph.mode,
        "training": graph.training,
        "parameters": graph.parameters,
        "macs": graph.macs,
        "flops": graph.flops,
        "bytes": sum(layer.bytes for layer in graph.layers),
        "weight_bytes": graph.weight_bytes,
        "batch": graph.batch,
        "seconds": seconds,
        "input_shapes": [list(shape) for shape in graph.input_shapes],
        "peak_memory": {
            **asdict(peak),
            "bytes": peak.bytes,
            "layer": int(live.argmax()) if graph.layers else None,
        },
        "totals": {
            "by_module": [asdict(total) for total in totals_by_module(graph)],
            "by_operator": [asdict(total) for total in totals_by_operator(graph)],
        },
        "coverage": coverage(graph),
        "estimated_operators": estimated_operators(graph.layers),
        "uncounted_operators": uncounted_operators(graph),
        "aliases": dict(graph.aliases),
        "reference": [compare(graph, figure) for figure in reference],
        "specification": compare_parts(graph, load_specification(specification)) if specification else None,
        "advice": [asdict(advice) | {"where": list(advice.where)} for advice in advise(graph, seconds)],
        "layers": [
            describe_layer(layer) | {"live_bytes": int(size)} for layer, size in zip(graph.layers, live, strict=True)
        ],
        "edges": [[*edge, size] for edge, size in zip(graph.edges.tolist(), graph.edge_bytes.tolist(), strict=True)],
    }


def describe_entry(graph: WorkloadGraph, entry: Entry) -> dict[str, Any]:
    """Return `describe` of a model of the catalogue, with what its entry says of it.

    Published figures and the specification hold at the entry's own input, for an inference: at another one only
    parameters are compared.
    """
    as_listed = graph.mode == "inference" and (
        not entry.inputs or graph.input_shapes == tuple(shape for shape, _ in entry.inputs)
    )
    rate = entry.length.per_second if entry.length is not None else None
    seconds = None
    if entry.length is not None and rate:
        seconds = graph.input_shapes[entry.length.input][entry.length.dim] / rate
    described = describe(
        graph,
        [figure for figure in entry.references if as_listed or figure.quantity == "parameters"],
        specification=entry.specification if as_listed else "",
        seconds=seconds,
    )
    streams = entry.streaming and graph.mode == "inference"
    return described | {"streaming": _streaming(graph, rate) if streams and rate else None}


def _streaming(graph: WorkloadGraph, sample_rate: float) -> dict[str, float]:
    """How long a sample waits at most when the model runs on a stream; computing time apart.

    A streaming model is causal behind its filterbank: what it waits for is one kernel of the first convolution.
    """
    first = next(layer for layer in graph.layers if layer.kind is OperatorKind.CONV)
    waits = overlap_latency(frame=first.shape["kernel_w"], hop=first.shape["stride_w"], sample_rate=sample_rate)
    return {"algorithmic_latency_ms": waits.algorithmic_latency_ms, **asdict(waits)}


def _live_bytes(graph: WorkloadGraph) -> NDArray[np.float64]:
    """What lies in memory beside the weights while each layer runs: of a training step gradients and state as well."""
    if graph.mode == "train" and graph.layers:
        roles = live_bytes_by_role(graph)
        live: NDArray[np.float64] = (roles.sum(axis=1) - roles[:, Role.WEIGHT]).astype(np.float64)
        return live
    return live_activation_bytes(graph)


def describe_layer(layer: Layer) -> dict[str, Any]:
    """Return one layer as JSON types."""
    return {
        "name": layer.name,
        "operator": layer.operator,
        "kind": layer.kind.value,
        "module": layer.module,
        "module_type": layer.module_type,
        "shape": dict(layer.shape),
        "size": size_text(layer.kind, layer.shape),
        "output_shape": list(layer.output_shape),
        "dtype": layer.dtype,
        "parameters": layer.parameters,
        "macs": layer.macs,
        "flops": layer.flops,
        "bytes": layer.bytes,
        "arithmetic_intensity": layer.flops / layer.bytes if layer.bytes else 0.0,
        "weight_bytes": layer.weight_bytes,
        "input_bytes": layer.input_bytes,
        "output_bytes": layer.output_bytes,
        "weights": {name: end - first for name, (first, end) in layer.weights.items()},
        "counting": layer.counting,
        "formula": layer.formula,
        "phase": layer.phase,
        "seq_len": layer.seq_len,
        "embed_dim": layer.embed_dim,
        "num_heads": layer.num_heads,
        "mlp_ratio": layer.mlp_ratio,
    }


def size_text(kind: OperatorKind, shape: Mapping[str, int]) -> str:
    """Return the problem size in a few characters, such as "5x1 /2x1" (kernel, stride) or "197x768x2304" (m, k, n).

    A transposed convolution ends in T, one of several groups in its groups; matrix products over a batch begin with it.
    """

    def joined(name: str) -> str:
        return "x".join(str(shape[f"{name}_{axis}"]) for axis in "dhw" if f"{name}_{axis}" in shape)

    match kind:
        case OperatorKind.CONV | OperatorKind.POOL if joined("kernel"):
            groups = f" g{shape['groups']}" if shape.get("groups", 1) > 1 else ""
            return f"{joined('kernel')} /{joined('stride')}{groups}{' T' if shape.get('transposed') else ''}"
        case OperatorKind.LINEAR | OperatorKind.MATMUL if "m" in shape:
            batch = f"{shape['batch']} x " if shape.get("batch", 1) > 1 else ""
            return f"{batch}{shape['m']}x{shape['k']}x{shape['n']}"
        case OperatorKind.ATTENTION if "seq_q" in shape:
            return f"{shape['heads']} heads, {shape['seq_q']}x{shape['seq_kv']}"
        case OperatorKind.RECURRENT if "hidden" in shape:
            return f"{shape['steps']} steps of {shape['hidden']}"
        case OperatorKind.FFT if "length" in shape:
            hop = f" /{shape['hop']}" if "hop" in shape else ""
            return f"{shape['length']}{hop} ({shape['transforms']} times)"
        case OperatorKind.EMBEDDING if "width" in shape:
            return f"{shape['rows']}x{shape['width']}"
    return ""


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


def uncounted_operators(graph: WorkloadGraph) -> list[dict[str, Any]]:
    """Return name, number of calls, source lines (each once) and what to do about each operator that is refused."""
    refused = [layer for layer in graph.layers if layer.counting == "refused"]
    return [
        {
            "name": name,
            "count": calls,
            "sources": list(dict.fromkeys(x.source for x in refused if x.operator == name and x.source)),
            "hint": remedy(name),
        }
        for name, calls in graph.refused.items()
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
        "difference": traced / figure.value - 1 if figure.value else None,
        "agrees": abs(traced - figure.value) <= AGREEMENT * abs(figure.value),
        "source": figure.source,
        "note": figure.note,
    }
