"""One workload at any batch, sequence length and precision, from few traces: a sweep over them does not trace again.

Every figure of a layer (sizes, operations, bytes) is a polynomial in batch and length: of degree 1 in the batch, of
degree 2 in the length (attention). It is fitted exactly through traces at 2 batches and 3 lengths, which differ by
multiples of the network's period (the product of its strides, its group size), so that every division leaves the same
remainder. Between such lengths a figure can be off by what one more frame costs. What is not polynomial in the length
(a Fourier transform over the whole sequence) is approximate; `Family.check` measures all that against a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads import catalog
from workloads.catalog import LengthAxis
from workloads.errors import WorkloadError
from workloads.factory import parse_input, trace_factory
from workloads.graph import Layer, Mode, OperatorKind, WorkloadGraph
from workloads.memory import peak_memory
from workloads.resized import scaled

Size = tuple[int, int | None]
"""Batch and length; None where the workload has no length."""

PRECISIONS: Mapping[str, tuple[int, str]] = {
    "fp32": (4, "float32"),
    "fp16": (2, "float16"),
    "bf16": (2, "bfloat16"),
    "fp8": (1, "float8_e4m3fn"),
    "int8": (1, "int8"),
}
"""Name -> bytes of one value, and the dtype that a layer then has."""

NUMBERS = ("macs", "flops", "parameters", "weight_bytes", "input_bytes", "output_bytes")
SIZE = 2
"""Column of WorkloadGraph.allocations that holds the bytes."""

SEQUENCE = ("seq_len", "embed_dim", "num_heads")
"""Fields of a layer that grow with batch and length."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """A workload at any size. `trace_at` gives its graph at a batch and a length; each size is traced once at most."""

    name: str
    trace_at: Callable[[int, int | None], WorkloadGraph]
    batch: int = 1  # as the catalogue has it
    length: int | None = None
    axis: LengthAxis | None = None
    _traces: dict[Size, WorkloadGraph] = field(default_factory=dict, init=False, repr=False)

    def at(
        self,
        *,
        batch: int | None = None,
        length: int | None = None,
        seconds: float | None = None,
        precision: str | None = None,
    ) -> WorkloadGraph:
        """Return the graph at this batch, length (or seconds of signal) and precision; what is None stays as it is.

        Raises
        ------
        WorkloadError
            If a size is not positive or too small to be traced, the workload has no such parameter, or the network's
            structure depends on it.
        """
        length = self.units(seconds) if length is None and seconds is not None else length
        if length is not None and self.length is None:
            raise WorkloadError(f"{self.name} has no sequence length to set", "its inputs have a fixed size")
        size = (self.batch if batch is None else batch, self.length if length is None else length)
        for name, value in zip(("batch", "length"), size, strict=True):
            if value is not None and value < 1:
                raise WorkloadError(f"{name} is {value}", "at least 1")
        graph = self._sized(
            size[0], size[1] if size[1] is None else max(size[1], self.axis.padded_to if self.axis else 1)
        )
        return graph if precision is None else at_precision(graph, precision)

    def units(self, seconds: float) -> int:
        """Return how many samples, frames or tokens so many seconds of signal are.

        Raises WorkloadError where the workload does not run in time.
        """
        if self.axis is None or self.axis.per_second is None:
            raise WorkloadError(
                f"{self.name} has no length in seconds", "give the length in its own units, if it has one"
            )
        return round(seconds * self.axis.per_second)

    def sizes(self, batch: int, length: int | None) -> list[Size]:
        """Return the sizes whose traces give the graph at this one."""
        return [(b, n) for b in self._batches(batch) for n in self._lengths(length)]

    def check(self, *, batch: int | None = None, length: int | None = None) -> dict[str, float]:
        """Return the relative error of MACs, FLOPs, bytes and peak memory at one size against a trace at that size."""
        ours = self.at(batch=batch, length=length)
        real = self._trace(self.batch if batch is None else batch, self.length if length is None else length)
        mine, theirs = _totals(ours), _totals(real)
        return {key: abs(mine[key] - value) / max(value, 1) for key, value in theirs.items()}

    def _sized(self, batch: int, length: int | None) -> WorkloadGraph:
        sizes = self.sizes(batch, length)
        graphs = [self._trace(*size) for size in sizes]
        if len(graphs) == 1:
            return graphs[0]
        for size, graph in zip(sizes[1:], graphs[1:], strict=True):
            if difference := _difference(graphs[0], graph):
                raise WorkloadError(
                    f"the structure of {self.name} depends on its size: {difference} at {_words(sizes[0])} and not at "
                    f"{_words(size)}",
                    "trace it at each size; or, if it pads to multiples of a length, say so (LengthAxis.multiple)",
                )
        weights = np.outer(
            polynomial_weights([float(b) for b in self._batches(batch)], batch),
            polynomial_weights([float(n or 0) for n in self._lengths(length)], length or 0),
        ).ravel()
        numbers = np.rint(weights @ np.stack([_numbers(graph) for graph in graphs]))
        return _rebuilt(graphs[0], numbers, batch)

    def _trace(self, batch: int, length: int | None) -> WorkloadGraph:
        if (batch, length) not in self._traces:
            self._traces[batch, length] = self.trace_at(batch, length)
        return self._traces[batch, length]

    def _batches(self, batch: int) -> list[int]:
        """The example's own batch, or 2 and 3: a batch of 1 is traced with shortcuts of its own."""
        return [batch] if batch in (1, self.batch) else [2, 3]

    def _lengths(self, length: int | None) -> list[int | None]:
        if length is None or self.length is None or length == self.length:
            return [length]
        period = self.axis.multiple if self.axis else 1
        if period == 1:  # unknown: strides are powers of 2 as a rule
            period = 1 << (self.length - 1).bit_length()
        step = period * -(-self.length // period)
        return [self.length, self.length + step, self.length + 2 * step]


def family(
    name: str,
    *,
    inputs: Sequence[str] = (),
    length: LengthAxis | None = None,
    mode: Mode = "inference",
    cache: bool = True,
) -> Family:
    """Return a workload as a family over its batch, which is dimension 0 of every input, and its length.

    Parameters
    ----------
    name
        Of the catalogue, or any model as `package.module:factory`.
    inputs, length
        Of a model that is not in the catalogue: the shapes of its inputs, such as "1x128:int64", and where its
        sequence stands, if it has one.
    mode
        "inference", or "train": one training step.

    Raises
    ------
    WorkloadError
        If there is no such workload, or no shapes of its inputs.
    """
    ours = ":" not in name
    entry = catalog.entry(name) if ours else catalog.Entry(name=name.rpartition(":")[2], factory=name)
    shapes = entry.inputs if ours else tuple(parse_input(text) for text in inputs)
    axis = entry.length if ours else length
    if not shapes:
        raise WorkloadError(f"the shapes of the inputs of {name} are not known", "give them, such as 1x3x224x224")

    def trace_at(batch: int, length: int | None) -> WorkloadGraph:
        sizes = [[batch, *shape[1:]] for shape, _ in shapes]
        if axis is not None and length is not None:
            sizes[axis.input][axis.dim] = length
        resized = tuple((tuple(size), dtype) for size, (_, dtype) in zip(sizes, shapes, strict=True))
        if ours:
            return catalog.traced(replace(entry, inputs=resized), cache=cache, mode=mode)
        texts = [f"{'x'.join(map(str, size))}:{dtype}" for size, dtype in resized]
        return trace_factory(name, texts, cache=cache, mode=mode)

    return Family(
        name=entry.name,
        trace_at=trace_at,
        batch=shapes[0][0][0],
        length=shapes[axis.input][0][axis.dim] if axis else None,
        axis=axis,
    )


def at_precision(graph: WorkloadGraph, precision: str) -> WorkloadGraph:
    """Return the graph with every floating value in this precision: same operations, other bytes.

    Raises WorkloadError for a precision that is not in PRECISIONS.
    """
    if precision not in PRECISIONS:
        raise WorkloadError(f"there is no precision {precision!r}", f"there are {', '.join(PRECISIONS)}")
    size, dtype = PRECISIONS[precision]
    sized = scaled(graph, graph.batch, size)
    layers = []
    for layer, row, growth in zip(graph.layers, sized.rows, sized.precision.tolist(), strict=True):
        grown: dict[str, Any] = {key: round(float(row[key])) for key in ("weight_bytes", "input_bytes", "output_bytes")}
        weights = {k: (round(first * growth), round(end * growth)) for k, (first, end) in layer.weights.items()}
        floating = "float" in layer.dtype
        layers.append(
            replace(
                layer,
                **grown,
                weights=weights,
                float_bytes=round(float(row["float_bytes"])),
                dtype=dtype if floating else layer.dtype,
            )
        )
    before, after = _stored(graph.layers), _stored(layers)
    allocations = graph.allocations.copy()
    allocations[:, SIZE] = np.rint(allocations[:, SIZE] * sized.precision[allocations[:, 0]])
    return replace(
        graph,
        layers=tuple(layers),
        edge_bytes=np.rint(sized.edge_bytes).astype(np.int64),
        allocations=allocations,
        weight_bytes=round(graph.weight_bytes * after / before) if before else graph.weight_bytes,
    )


def polynomial_weights(points: Sequence[float], x: float) -> NDArray[np.float64]:
    """Weights [P] by which values at P points make the value at `x` of the polynomial through them (Lagrange).

    >>> polynomial_weights([1.0, 2.0, 3.0], 4.0).tolist()
    [1.0, -3.0, 3.0]
    """
    at = np.array(points)
    others = at[None, :] - at[:, None] + np.eye(len(at))
    factors = np.where(np.eye(len(at), dtype=bool), 1.0, (x - at[None, :]) / -others)
    weights: NDArray[np.float64] = factors.prod(axis=1)
    return weights


def _totals(graph: WorkloadGraph) -> dict[str, float]:
    return {
        "macs": graph.macs,
        "flops": graph.flops,
        "bytes": sum(layer.bytes for layer in graph.layers),
        "peak_memory": peak_memory(graph).bytes,
    }


def _stored(layers: Iterable[Layer]) -> int:
    """Bytes of the parts of weights that layers read, each name once by its longest part."""
    held: dict[str, int] = {}
    for layer in layers:
        for name, (first, end) in layer.weights.items():
            held[name] = max(held.get(name, 0), end - first)
    return sum(held.values())


def _words(size: Size) -> str:
    batch, length = size
    return f"batch {batch}" if length is None else f"batch {batch}, length {length}"


def _difference(one: WorkloadGraph, other: WorkloadGraph) -> str:
    """Say what the first of two graphs has that the second has not; empty where they have one structure."""
    if len(one.layers) != len(other.layers):
        return f"{len(one.layers)} layers (against {len(other.layers)})"
    for mine, theirs in zip(one.layers, other.layers, strict=True):
        if _skeleton(mine) != _skeleton(theirs):
            return f"{mine.operator} in {mine.module or 'the model itself'}"
    if not np.array_equal(one.edges, other.edges):
        return "another flow of data"
    lives, others = (np.delete(graph.allocations, SIZE, axis=1) for graph in (one, other))
    return "" if np.array_equal(lives, others) else "another life of memory"


def _skeleton(layer: Layer) -> tuple[Any, ...]:
    return (
        layer.operator,
        layer.module,
        layer.phase,
        tuple(layer.shape),
        len(layer.output_shape),
        tuple(layer.weights),
    )


def _numbers(graph: WorkloadGraph) -> NDArray[np.float64]:
    """All figures of a graph that depend on its size, one after the other, as `_rebuilt` reads them."""
    layers = graph.layers
    return np.array(
        [
            *(getattr(layer, name) for layer in layers for name in NUMBERS + SEQUENCE),
            *(value for layer in layers for value in layer.shape.values()),
            *(value for layer in layers for value in layer.output_shape),
            *(value for layer in layers for span in layer.weights.values() for value in span),
            *graph.edge_bytes.tolist(),
            *graph.allocations[:, SIZE].tolist(),
            *chain.from_iterable(graph.input_shapes),
            graph.weight_bytes,
        ],
        np.float64,
    )


def _rebuilt(template: WorkloadGraph, numbers: NDArray[np.float64], batch: int) -> WorkloadGraph:
    """Return the template with these figures."""
    values = iter(np.maximum(numbers, 0).astype(np.int64).tolist())

    def take(count: int) -> list[int]:
        return [next(values) for _ in range(count)]

    layers = template.layers
    figures: list[dict[str, Any]] = [
        dict(zip(NUMBERS + SEQUENCE, take(len(NUMBERS + SEQUENCE)), strict=True)) for _ in layers
    ]
    shapes = [dict(zip(layer.shape, take(len(layer.shape)), strict=True)) for layer in layers]
    outputs = [tuple(take(len(layer.output_shape))) for layer in layers]
    weights = [{name: (next(values), next(values)) for name in layer.weights} for layer in layers]
    edge_bytes = np.array(take(len(template.edge_bytes)), np.int64)
    allocations = template.allocations.copy()
    allocations[:, SIZE] = take(len(allocations))
    input_shapes = tuple(tuple(take(len(shape))) for shape in template.input_shapes)
    resized = []
    for layer, row, shape, output, spans in zip(layers, figures, shapes, outputs, weights, strict=True):
        if layer.kind is OperatorKind.EMBEDDING:  # no more rows than the table has
            row["weight_bytes"] = min(row["weight_bytes"], sum(end - first for first, end in spans.values()))
        resized.append(replace(layer, **row, shape=shape, output_shape=output, weights=spans))
    return replace(
        template,
        layers=tuple(resized),
        edge_bytes=edge_bytes,
        allocations=allocations,
        input_shapes=input_shapes,
        weight_bytes=next(values),
        batch=batch,
    )
