"""One workload at any batch, sequence length and precision, from few traces: a sweep over them does not trace again.

Every figure of a layer (sizes, operations, bytes) is a polynomial in batch and length: of degree 1 in the batch (2
where examples are compared with each other), of degree 2 in the length (attention). It is fitted exactly, in whole
numbers, through traces at 2 or 3 batches and 3 lengths, which differ by multiples of the network's period (the product
of its strides, its group size), so that every division leaves the same remainder. Between such lengths a figure can be
off by what one more frame costs. What is not polynomial in the length (a Fourier transform over the whole sequence) is
approximate; `Family.check` measures all that against a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import chain
from math import lcm, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads import catalog
from workloads.catalog import LengthAxis
from workloads.errors import WorkloadError
from workloads.factory import trace_factory
from workloads.files import is_model_file, is_own_model
from workloads.graph import Layer, OperatorKind, WorkloadGraph
from workloads.inputs import parse_input
from workloads.memory import peak_memory
from workloads.precision import SIZE, at_precision
from workloads.run_mode import RunMode

Size = tuple[int, int | None]
"""Batch and length; None where the workload has no length."""

NUMBERS = ("macs", "flops", "parameters", "weight_bytes", "input_bytes", "output_bytes")
BATCHES = (2, 3, 4)
"""Batches that are traced for the fit of larger ones."""

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
        exact: bool = False,
    ) -> WorkloadGraph:
        """Return the graph at this batch, length (or seconds of signal) and precision; what is None stays as it is.

        `exact` traces at this length, where a sweep is spared that: between the lengths whose remainders are those of
        the example, the fit is off by what a frame costs; and it does not try whether the network runs so short.

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
        if exact:
            graph = self._sized(size[0], [size[1]], size[1])
        else:
            padded = max(size[1], self.axis.padded_to) if size[1] is not None and self.axis else size[1]
            graph = self._sized(size[0], self._lengths(padded), padded)
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

    def _sized(self, batch: int, lengths: list[int | None], length: int | None) -> WorkloadGraph:
        """Return the graph at this size, through traces at these lengths."""
        sizes = [(b, n) for b in self._batches(batch) for n in lengths]
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
        by_batch = polynomial_weights(self._batches(batch), batch)
        by_length = polynomial_weights([n or 0 for n in lengths], length or 0)
        try:
            values = _combined([b * n for b in by_batch for n in by_length], [_numbers(graph) for graph in graphs])
        except OverflowError:
            at = _words((batch, length))
            raise WorkloadError(f"{self.name} has figures beyond 64 bits at {at}", "a smaller size") from None
        found = _rebuilt(graphs, values, batch)
        if (_numbers(found) < 0).any():
            raise WorkloadError(f"{self.name} cannot be as small as {_words((batch, length))}", "a larger size")
        return found

    def _trace(self, batch: int, length: int | None) -> WorkloadGraph:
        if (batch, length) not in self._traces:
            self._traces[batch, length] = self.trace_at(batch, length)
        return self._traces[batch, length]

    def _batches(self, batch: int) -> list[int]:
        """Batches whose traces give this one. A batch of 1 has shortcuts of its own and says nothing of others."""
        if batch <= BATCHES[-1] or batch == self.batch:
            return [batch]
        return list(BATCHES[:2] if self._affine_in_batch else BATCHES)

    @cached_property
    def _affine_in_batch(self) -> bool:
        """Whether every figure grows by as much between the last two of BATCHES as between the first two."""
        two, three, four = (_numbers(self._trace(batch, self.length)) for batch in BATCHES)
        return len(two) == len(three) == len(four) and np.array_equal(four - three, three - two)

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
    mode: RunMode = "inference",
    cache: bool = True,
) -> Family:
    """Return a workload as a family over its batch (see `workloads.inputs.at_batch`) and its length.

    Parameters
    ----------
    name
        Of the catalogue, any model as `package.module:factory`, or a model file.
    inputs, length
        Of a model that is not in the catalogue: the shapes of its inputs, such as "1x128:int64", where it does not come
        with them; and where its sequence stands, if it has one.
    mode
        "inference", "train", or a `Training` for a training step of these options.

    Raises
    ------
    WorkloadError
        If there is no such workload, or no shapes of its inputs; without such shapes also if it cannot be traced.
    """
    file = is_model_file(name)
    ours = not is_own_model(name)
    label = name if ours else Path(name).stem if file else name.rpartition(":")[2]
    entry = catalog.entry(name) if ours else catalog.Entry(name=label, factory=name)
    shapes = entry.inputs if ours else tuple(parse_input(text) for text in inputs)
    axis = entry.length if ours else length
    if axis is not None and not shapes:
        raise WorkloadError(f"the shapes of the inputs of {name} are not known", "give them, such as 1x128:int64")

    def trace_at(batch: int | None, length: int | None) -> WorkloadGraph:
        sizes = [list(shape) for shape, _ in shapes]
        if axis is not None and length is not None:
            sizes[axis.input][axis.dim] = length
        resized = tuple((tuple(size), dtype) for size, (_, dtype) in zip(sizes, shapes, strict=True))
        if ours:
            return catalog.traced(replace(entry, inputs=resized), cache=cache, mode=mode, batch=batch)
        texts = ["x".join(map(str, size)) + ("" if file else f":{dtype}") for size, dtype in resized]
        return trace_factory(name, texts, cache=cache, mode=mode, batch=batch)

    if shapes:
        own = shapes[axis.input][0][axis.dim] if axis else None
        return Family(name=label, trace_at=trace_at, batch=shapes[0][0][0], length=own, axis=axis)
    as_given = trace_at(None, None)
    found = Family(name=label, trace_at=trace_at, batch=as_given.batch)
    found._traces[as_given.batch, None] = as_given
    return found


def polynomial_weights(points: Sequence[int], x: int) -> list[Fraction]:
    """Weights [P] by which values at P points make the value at `x` of the polynomial through them (Lagrange).

    >>> [str(weight) for weight in polynomial_weights([1, 2, 3], 4)]
    ['1', '-3', '3']
    """
    return [prod((Fraction(x - q, p - q) for q in points if q != p), start=Fraction(1)) for p in points]


def _totals(graph: WorkloadGraph) -> dict[str, float]:
    return {
        "macs": graph.macs,
        "flops": graph.flops,
        "bytes": sum(layer.bytes for layer in graph.layers),
        "peak_memory": peak_memory(graph).bytes,
    }


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
    if not np.array_equal(one.edges, other.edges) or not _same_parts(one, other):
        return "another flow of data"
    lives, others = (np.delete(graph.allocations, SIZE, axis=1) for graph in (one, other))
    return "" if np.array_equal(lives, others) else "another life of memory"


def _same_parts(one: WorkloadGraph, other: WorkloadGraph) -> bool:
    """Whether the layers of two graphs share what they read in the same way."""
    numbers = ["producer", "consumer", "tensor", "part"]
    return np.array_equal(one.edge_parts[numbers], other.edge_parts[numbers])


def _skeleton(layer: Layer) -> tuple[Any, ...]:
    return (
        layer.operator,
        layer.module,
        layer.phase,
        tuple(layer.shape),
        len(layer.output_shape),
        tuple(layer.weights),
    )


def _looks_up(layer: Layer) -> bool:
    """Whether a layer only moves data, and reads of its table as much as it writes, or all that there is."""
    moves = layer.kind in (OperatorKind.EMBEDDING, OperatorKind.COPY)
    return moves and 0 < layer.weight_bytes == min(layer.output_bytes, layer.resident_bytes)


def _numbers(graph: WorkloadGraph) -> NDArray[np.int64]:
    """All figures of a graph that depend on its size, one after the other, as `_rebuilt` reads them."""
    layers = graph.layers
    return np.array(
        [
            *(getattr(layer, name) for layer in layers for name in NUMBERS + SEQUENCE),
            *(value for layer in layers for value in layer.shape.values()),
            *(value for layer in layers for value in layer.output_shape),
            *(value for layer in layers for span in layer.weights.values() for value in span),
            *graph.edge_bytes.tolist(),
            *graph.edge_parts["bytes"].tolist(),
            *graph.edge_parts["tensor_bytes"].tolist(),
            *graph.allocations[:, SIZE].tolist(),
            *chain.from_iterable(graph.input_shapes),
            graph.weight_bytes,
        ],
        np.int64,
    )


def _combined(weights: Sequence[Fraction], values: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Sum of values [G, M] by weight [G], rounded to whole numbers [M]; computed in whole numbers of any size."""
    common = lcm(*(weight.denominator for weight in weights))
    total = sum(int(w * common) * column.astype(object) for w, column in zip(weights, values, strict=True))
    rounded: NDArray[np.int64] = ((2 * np.asarray(total) + common) // (2 * common)).astype(np.int64)
    return rounded


def _rebuilt(traces: Sequence[WorkloadGraph], numbers: NDArray[np.int64], batch: int) -> WorkloadGraph:
    """Return the first trace with these figures."""
    template = traces[0]
    values = iter(numbers.tolist())

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
    edge_parts = template.edge_parts.copy()
    for name in ("bytes", "tensor_bytes"):
        edge_parts[name] = take(len(edge_parts))
    allocations = template.allocations.copy()
    allocations[:, SIZE] = take(len(allocations))
    input_shapes = tuple(tuple(take(len(shape))) for shape in template.input_shapes)
    resized = []
    for index, (row, shape, output, spans) in enumerate(zip(figures, shapes, outputs, weights, strict=True)):
        if all(_looks_up(graph.layers[index]) for graph in traces):  # no more rows than the table has
            row["weight_bytes"] = min(row["output_bytes"], sum(end - first for first, end in spans.values()))
        resized.append(replace(layers[index], **row, shape=shape, output_shape=output, weights=spans))
    return replace(
        template,
        layers=tuple(resized),
        edge_bytes=edge_bytes,
        edge_parts=edge_parts,
        allocations=allocations,
        input_shapes=input_shapes,
        weight_bytes=next(values),
        batch=batch,
    )
