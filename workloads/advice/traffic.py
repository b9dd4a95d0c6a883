"""What moves more than it computes: streamed weights, element-wise chains, copies, functions, tiny kernels."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from workloads.advice.record import (
    LAUNCH_S,
    RIDGE_LOW,
    Advice,
    Figures,
    byte_text,
    plural,
    scaled,
    share,
    share_text,
)
from workloads.graph import MATRIX_KINDS, Layer, OperatorKind

STREAM_SHARE = 0.10
"""Share of the bytes from which weights that are hardly used again, or copies, are worth a measure."""

VECTOR_SHARE = 0.20
"""Share of the bytes from which element-wise work and norms are worth fusing; every network has some."""

FUNCTION_OPERATIONS = 20
"""Operations of an elementary function on a vector unit without tables: range reduction and a polynomial of degree
5 to 7 (assumed)."""

FUNCTION_SHARE = 0.01
"""Share of the operations from which functions are worth tables."""

TABLE_BYTES = 512
"""A table of 256 values of 16 bit, which with linear interpolation gives an 8-bit result."""

LAUNCH_SHARE = 0.25
"""Share of the time that launches take from which fusing kernels gains more than a faster chip."""

VECTOR_KINDS = (
    OperatorKind.ELEMENTWISE,
    OperatorKind.NORM,
    OperatorKind.SOFTMAX,
    OperatorKind.REDUCTION,
    OperatorKind.POOL,
)

FUNCTIONS = frozenset(
    {"gelu", "silu", "mish", "glu", "sigmoid", "tanh", "softplus", "log_sigmoid", "elu", "selu", "exp", "expm1", "erf"}
    | {"log", "log1p", "log2", "log10", "sin", "cos", "atan2", "angle", "polar", "pow", "sqrt", "rsqrt", "reciprocal"}
    | {"softmax", "log_softmax"}
)
"""Operators that evaluate an elementary function an output value."""


def streamed_weights(f: Figures) -> Advice | None:
    """Products that read their weights for a few operations each: at batch 1, in decoding, in wide classifiers."""
    weights = np.array([layer.weight_bytes for layer in f.layers], np.float64)
    mask = f.of_kind(*MATRIX_KINDS) & (f.flops < RIDGE_LOW * f.moved) & (weights > f.moved / 2)
    if f.bytes_share(mask) < STREAM_SHARE:
        return None
    read, intensity = float(weights[mask].sum()), f.intensity(mask)
    batch = math.ceil(RIDGE_LOW / intensity) if intensity else 1
    return Advice(
        subject="streamed weights",
        bound="bandwidth",
        where=f.where(mask, weights),
        evidence=f"{plural(int(mask.sum()), 'layer')} read {byte_text(read)} of weights, with what they work on "
        f"{share_text(f.bytes_share(mask))} of all bytes, for {intensity:.2g} op/B, below any chip's ridge",
        measure="narrow weights beside the multipliers, each read once and broadcast over the batch "
        "(output-stationary sums); larger batches where latency allows",
        gain=f"{f.narrower(read)}; a batch {batch:,} times as large reaches about {RIDGE_LOW:g} op/B",
        severity=f.bytes_share(mask),
        share_of="bytes",
        figures={"weight_bytes": read, "bytes_share": f.bytes_share(mask), "intensity": intensity},
    )


def vector_chains(f: Figures) -> Advice | None:
    """Element-wise work, norms, softmax and pooling: bytes without arithmetic, and what fusing saves of them."""
    mask = f.of_kind(*VECTOR_KINDS)
    if f.bytes_share(mask) < VECTOR_SHARE:
        return None
    saved, everything = fused_bytes(f), float(f.moved.sum())
    norms = f.of_kind(OperatorKind.NORM)
    steps = np.array([layer.phase == "optimizer" for layer in f.layers], np.bool_) & mask
    optimizer = f", the optimiser {share_text(f.bytes_share(steps))}" if steps.any() else ""
    measure = (
        "element-wise work in the output stage of the array (scale, shift, activation, residual sum), not through "
        "memory; norms in two passes over a row that stays on the chip"
    )
    if steps.any():
        measure += "; the optimiser in one pass over weights, gradients and state"
    return Advice(
        subject="element-wise work and norms",
        bound="bandwidth",
        where=f.where(mask, f.moved),
        evidence=f"{plural(int(mask.sum()), 'layer')} move {share_text(f.bytes_share(mask))} of the bytes "
        f"(norms {share_text(f.bytes_share(norms))}{optimizer}) for {share_text(f.flops_share(mask))} of the FLOPs, "
        f"{f.intensity(mask):.2g} op/B",
        measure=measure,
        gain=f"{byte_text(saved)} of {byte_text(everything)} ({share_text(share(saved, everything))}) by fusing each "
        "element-wise layer behind the layer before it",
        severity=f.bytes_share(mask),
        share_of="bytes",
        figures={
            "bytes_share": f.bytes_share(mask),
            "flops_share": f.flops_share(mask),
            "intensity": f.intensity(mask),
            "fused_bytes": saved,
        },
    )


def fused_bytes(f: Figures) -> float:
    """Bytes that are not moved where each element-wise layer runs behind its latest producer.

    It then does not read that producer's output, which is not written either where nothing else reads it. A batch norm
    of an inference is element-wise too; other norms have to see their whole row first.
    """
    inference = f.graph.mode == "inference"
    saved = 0.0
    readers = np.bincount(f.graph.edges[:, 0], minlength=len(f.layers))
    latest: dict[int, tuple[int, int]] = {}
    for (producer, consumer), size in zip(f.graph.edges.tolist(), f.graph.edge_bytes.tolist(), strict=True):
        layer = f.layers[consumer]
        behind = layer.kind is OperatorKind.ELEMENTWISE or (inference and "batch_norm" in layer.operator)
        if behind and producer >= latest.get(consumer, (-1, 0))[0]:
            latest[consumer] = (producer, size)
    for producer, size in latest.values():
        saved += size + (f.layers[producer].output_bytes if readers[producer] == 1 else 0)
    return saved


def copies(f: Figures) -> Advice | None:
    """Layers that only move data: concatenation, padding, permutation."""
    mask = f.of_kind(OperatorKind.COPY)
    if f.bytes_share(mask) < STREAM_SHARE:
        return None
    moved = float(f.moved[mask].sum())
    return Advice(
        subject="copies",
        bound="bandwidth",
        where=f.where(mask, f.moved),
        evidence=f"{plural(int(mask.sum()), 'layer')} compute nothing and move {byte_text(moved)}, "
        f"{share_text(f.bytes_share(mask))} of the bytes",
        measure="address generators that write a result where its reader wants it: parts of a concatenation side by "
        "side, padding made in the line buffer, permutation on the way to SRAM",
        gain=f"up to {byte_text(moved)}",
        severity=f.bytes_share(mask),
        share_of="bytes",
        figures={"moved_bytes": moved, "bytes_share": f.bytes_share(mask)},
    )


def functions(f: Figures) -> Advice | None:
    """Elementary functions: exponentials, sigmoids, roots, a value each."""
    values = np.zeros(len(f.layers))
    for index, layer in enumerate(f.layers):
        if layer.phase == "optimizer":  # needs more digits than a table gives
            continue
        if layer.kind is OperatorKind.ATTENTION:
            shape = layer.shape
            values[index] = shape["batch"] * shape["heads"] * shape["seq_q"] * shape["seq_kv"]
        elif _function(layer) in FUNCTIONS:
            values[index] = math.prod(layer.output_shape)
    work = FUNCTION_OPERATIONS * float(values.sum())
    rest = float(f.flops[values == 0].sum()) + float(f.flops[f.of_kind(OperatorKind.ATTENTION)].sum())
    if share(work, work + rest) < FUNCTION_SHARE:
        return None
    part = share(work, work + rest)
    by_name: Counter[str] = Counter()
    for layer, many in zip(f.layers, values.tolist(), strict=True):
        fused = layer.kind is OperatorKind.ATTENTION
        by_name["softmax of attention" if fused else _function(layer)] += int(many)
    names = [name for name, many in by_name.most_common() if many]
    named = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return Advice(
        subject="elementary functions",
        bound="compute",
        where=f.where(values > 0, values),
        evidence=f"{scaled(float(values.sum()), '')} values of {named} an input: {share_text(part)} of the operations "
        f"at {FUNCTION_OPERATIONS} each on a vector unit",
        measure=f"a look-up table of {TABLE_BYTES} B a function with linear interpolation behind the array, or a "
        "piecewise-linear activation in training",
        gain=f"{scaled(work - 2 * float(values.sum()), '')} of {scaled(work, '')} operations: a product and a sum are "
        "left a value",
        severity=part,
        share_of="operations",
        figures={"values": float(values.sum()), "operations": work},
    )


def _function(layer: Layer) -> str:
    """Return "softmax" of "aten._softmax.default"."""
    return layer.operation.lstrip("_")


def tiny_kernels(f: Figures) -> Advice | None:
    """Layers that are over before the next one is launched."""
    launches = len(f.layers) * LAUNCH_S
    work = float(f.time_s.sum())
    if share(launches, launches + work) < LAUNCH_SHARE:
        return None
    tiny = f.time_s < LAUNCH_S
    return Advice(
        subject="tiny kernels",
        bound="latency",
        where=f.where(tiny, np.ones(len(f.layers))),
        evidence=f"{int(tiny.sum()):,} of {plural(len(f.layers), 'layer')} take less than the {LAUNCH_S * 1e6:g} µs of "
        f"a launch on a GPU of 19.5 TFLOP/s and 1.56 TB/s: launches {launches * 1e3:.3g} ms, work {work * 1e3:.3g} ms",
        measure="a static schedule without a host (a captured graph on a GPU, a sequencer on a chip), chains of layers "
        "fused into one kernel, larger batches",
        gain=f"{launches * 1e3:.3g} of {(launches + work) * 1e3:.3g} ms on that GPU",
        severity=share(launches, launches + work),
        share_of="time on that GPU",
        figures={"tiny_layers": float(tiny.sum()), "launch_s": launches, "work_s": work},
    )
