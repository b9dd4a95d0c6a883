"""Cycles and traffic of matrix products on arrays of processing elements, in closed form, for all pairs at once.

A product [m, k] x [k, n] is cut into folds of the array's rows x columns; what is left, T, passes in time:

    output stationary   rows hold m, columns n, T = k     weights and inputs stream in, sums stay
    weight stationary   rows hold k, columns n, T = m     inputs stream in, sums move down
    input stationary    rows hold k, columns m, T = n     weights stream in, sums move down

Operands enter skewed, so a fold takes T + rows + columns - 2 cycles (fill, compute, drain through the whole array, also
where it is partly used), and rows more where a stationary operand is shifted in first. Folds follow each other without
overlap. That is what SCALE-Sim counts (Samajdar et al., ISPASS 2020, arXiv 1811.02883; version 3.0.0 reports the number
of the last cycle, one less): an output-stationary element hands out its sum as soon as it has it, where the paper's
equation 3 counts `rows` more to shift the sums out, which here the next fold hides.

Where sums move down they gather in accumulators, half of the output buffer; T is cut into chunks of which the sums of
one fold fit, and each chunk pays fill, drain and shifting in again (as on Google's first TPU, with 2 x 2048 rows of
accumulators). SCALE-Sim has no such limit; with large enough an output buffer the counts are the same.

DRAM traffic: what is read again because its half of a buffer does not hold it. Either operand can be kept, in slices as
large as its half holds, while the other streams by once a slice; the cheaper way is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chiplib.pe_array import DataflowCode

Array = NDArray[np.float64]

ACCUMULATOR_BYTES = 4.0
"""Bytes of a partial sum: 32 bits, as in Google's first TPU (Jouppi et al., ISCA 2017, arXiv 1704.04760, section 2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """Matrix products [m, k] x [k, n]; arrays of one shape, which that of `Arrays` is broadcast with.

    Each of `batch` copies has operands of its own; the `steps` of a copy share the [k, n] one and follow each other.
    `input_bytes` is what the [m, k] operands of all copies take in memory, where im2col repeats nothing.
    """

    batch: Array
    steps: Array
    m: Array
    n: Array
    k: Array
    input_bytes: Array
    value_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays:
    """Arrays of processing elements, `count` alike on each chip; buffers in bytes, half of each is being filled."""

    rows: Array
    columns: Array
    count: Array
    dataflow: NDArray[np.int64]  # DataflowCode
    input_sram: Array
    weight_sram: Array
    output_sram: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What products take on arrays, all copies and steps together; arrays of the broadcast shape."""

    cycles: Array
    folds: Array  # of one copy and step
    chunks: Array  # that T is cut into
    input_reads: Array  # values from SRAM to array
    weight_reads: Array
    output_writes: Array  # values from array to accumulators; partial sums count each time
    output_reads: Array  # partial sums that are added to
    input_again: Array  # bytes read from DRAM beside the first time
    weight_again: Array


def work(products: Products, arrays: Arrays) -> Work:
    """Return cycles, SRAM accesses and repeated DRAM traffic of products on arrays (see the top of this file).

    Several arrays of a chip share out copies and folds. A recurrent layer's steps read their weights again each time
    where the buffer does not hold them.
    """
    p, a = products, arrays
    out, inp = a.dataflow == DataflowCode.OUTPUT, a.dataflow == DataflowCode.INPUT
    across = np.where(inp, p.m, p.n)  # along the columns
    time = np.where(out, p.k, np.where(inp, p.n, p.m))
    row_folds = np.ceil(np.where(out, p.m, p.k) / a.rows)
    column_folds = np.ceil(across / a.columns)
    sums = ACCUMULATOR_BYTES * np.maximum(np.minimum(a.columns, across), 1.0)
    chunks = np.where(out, 1.0, np.ceil(time / np.maximum(np.floor(a.output_sram / 2.0 / sums), 1.0)))
    fill = a.rows + a.columns - 2.0 + np.where(out, 0.0, a.rows)
    one = p.batch * p.steps
    one_input, one_weight = p.input_bytes / np.maximum(one, 1.0), p.k * p.n * p.value_bytes
    kept = _output_stationary(p, a, one_input, one_weight, row_folds, column_folds)
    moving = _stationary_operand(p, a, one_input, one_weight, column_folds, chunks, inp)
    inputs, weights = (np.where(out, x, y) for x, y in zip(kept, moving, strict=True))
    weights = np.where(one_weight > a.weight_sram / 2.0, p.steps, 1.0) * weights
    return Work(
        cycles=np.ceil(p.batch * row_folds * column_folds / a.count) * p.steps * (time + chunks * fill),
        folds=row_folds * column_folds,
        chunks=chunks,
        input_reads=one * p.m * p.k * np.where(inp, chunks, column_folds),
        weight_reads=one * p.k * p.n * np.where(out, row_folds, np.where(inp, column_folds, chunks)),
        output_writes=one * p.m * p.n * np.where(out, 1.0, row_folds),
        output_reads=one * p.m * p.n * np.where(out, 0.0, np.maximum(row_folds - 1.0, 0.0)),
        input_again=one * one_input * np.maximum(inputs - 1.0, 0.0),
        weight_again=p.batch * one_weight * np.maximum(weights - 1.0, 0.0),
    )


def _output_stationary(
    p: Products, a: Arrays, one_input: Array, one_weight: Array, row_folds: Array, column_folds: Array
) -> tuple[Array, Array]:
    """Return how many times inputs and weights are read from DRAM, by the cheapest of three ways.

    Slices of inputs are kept and the weights pass by for each; the other way round; or nothing is kept.
    """
    input_slices = _slices(p.m, one_input, a.input_sram, np.minimum(a.rows, p.m))
    weight_slices = _slices(p.n, one_weight, a.weight_sram, np.minimum(a.columns, p.n))
    once = np.ones_like(input_slices * weight_slices)
    ways = [(once, input_slices), (weight_slices, once), (column_folds, row_folds)]
    return _cheapest(ways, one_input, one_weight)


def _stationary_operand(
    p: Products,
    a: Arrays,
    one_input: Array,
    one_weight: Array,
    column_folds: Array,
    chunks: Array,
    inp: NDArray[np.bool_],
) -> tuple[Array, Array]:
    """Return the same of weight and of input stationary arrays.

    The operand that streams passes by once a fold of columns, and its own tiles are shifted in once a chunk; or slices
    of the one that streams are kept, and the other comes by for each.
    """
    stream, stay = np.where(inp, one_weight, one_input), np.where(inp, one_input, one_weight)
    stream_half = np.where(inp, a.weight_sram, a.input_sram) / 2.0
    stay_half = np.where(inp, a.input_sram, a.weight_sram) / 2.0
    across, time = np.where(inp, p.m, p.n), np.where(inp, p.n, p.m)
    tile = stay * np.minimum(a.columns / np.maximum(across, 1.0), 1.0)
    slices = _slices(time, stream, 2.0 * stream_half, 1.0)
    once_a_chunk = np.where(tile > stay_half, chunks, 1.0)
    each_slice = np.where((stay <= stay_half) & np.isfinite(slices), 1.0, np.maximum(slices, once_a_chunk))
    ways = [
        (np.ones_like(each_slice), each_slice),
        (np.where(stream > stream_half, column_folds, 1.0), once_a_chunk),
    ]
    streams, stays = _cheapest(ways, stream, stay)
    return np.where(inp, stays, streams), np.where(inp, streams, stays)


def _slices(extent: Array, total_bytes: Array, buffer: Array, least: Array | float) -> Array:
    """Into how many slices of half of `buffer` an operand is cut; infinite where `least` of its extent do not fit."""
    with np.errstate(divide="ignore", invalid="ignore"):
        held = np.floor(buffer / 2.0 * extent / total_bytes)
        slices = np.ceil(extent / held)
    return np.where(total_bytes <= buffer / 2.0, 1.0, np.where(held >= least, slices, np.inf))


def _cheapest(ways: list[tuple[Array, Array]], first_bytes: Array, second_bytes: Array) -> tuple[Array, Array]:
    """Return the way (how many times either operand is read) that moves the fewest bytes; the last is always open."""
    first, second = ways[-1]
    for one, other in ways[:-1]:
        with np.errstate(invalid="ignore"):
            better = one * first_bytes + other * second_bytes < first * first_bytes + second * second_bytes
        first, second = np.where(better, one, first), np.where(better, other, second)
    return first, second
