"""Systolic: an NPU's arrays of processing elements, its vector unit and its butterflies, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chiplib.chip import Precision
from dse.proxy.model import Bound, LayerCosts, LayerQuestion
from dse.proxy.systolic_cycles import Arrays, Products, Work, work

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCycles:
    """Where the time of N layers goes on C chips with arrays; cycles are of the array's clock."""

    products: Work  # [N, GEMMS, C]
    compute_cycles: Array  # [N, C] of the array, the vector unit or the butterflies
    stall_cycles: Array  # [N, C] that these wait for memory
    dram_bytes: Array  # [N, C] with what is moved again because a buffer does not hold it


@dataclass(frozen=True, slots=True)
class Systolic:
    """Matrix products fold by fold on the chip's arrays; see systolic_cycles.py for cycles and traffic.

    Everything else is done by the vector unit, an operation a lane and cycle; so are matrix layers of which the graph
    does not know the extents. A Fourier transform of N points takes N/2 log2 N radix-2 butterflies (Cooley and Tukey,
    Mathematics of Computation 19(90), 1965; N rounded up to a power of two), so many a cycle as the chip has.
    """

    name: str = "systolic"
    source: str = (
        "Systolic arrays in closed form: folds, fill, drain and skew as SCALE-Sim counts them (Samajdar et al., ISPASS "
        "2020), DRAM traffic by what the double buffers hold, other layers at one operation a vector lane and cycle, "
        "Fourier transforms at N/2 log2 N butterflies (Cooley and Tukey, 1965). Memory time hides behind compute time "
        "or the other way round. A chip without a pe_array on its datasheet cannot be predicted."
    )
    requires: str = "pe_array"  # key of the datasheet

    def predict(self, question: LayerQuestion) -> LayerCosts:
        """Return the costs [N, C]; infinite on chips that have no array or lack the precision.

        energy = operations x pJ/flop + DRAM bytes x pJ/byte, at most what the chip may draw beside its static power.
        """
        layers, chips = question.layers, question.chips
        usable = chips["supported"] & (chips["pe_rows"] > 0.0) & (chips["pe_clock_hz"] > 0.0)
        some = chips[usable]
        cycles = layer_cycles(layers, some, question.precision)
        clock = np.where(_on_array(layers)[:, None], some["pe_clock_hz"], some["vector_clock_hz"])
        latency_ms = (cycles.compute_cycles + cycles.stall_cycles) / clock * 1e3
        energy_mj = layers["flops"][:, None] * some["pj_per_flop"] + cycles.dram_bytes * some["pj_per_byte"]
        energy_mj = np.minimum(energy_mj * 1e-9, latency_ms * np.maximum(some["tdp_w"] - some["static_w"], 0.0))
        limit = np.where(layers["matrix"], Bound.COMPUTE, Bound.VECTOR).astype(np.int8)[:, None]
        waits = (cycles.stall_cycles > 0.0) | (cycles.compute_cycles == 0.0)
        bound = np.full((len(layers), len(chips)), Bound.MEMORY, np.int8)
        bound[:, usable] = np.where(waits, np.int8(Bound.MEMORY), limit)
        everywhere = np.full((2, len(layers), len(chips)), np.inf)
        everywhere[:, :, usable] = latency_ms, energy_mj
        moved = np.broadcast_to(_moved(layers)[:, None], bound.shape)
        return LayerCosts(latency_ms=everywhere[0], energy_mj=everywhere[1], memory_bytes=moved, bound=bound)


def layer_cycles(layers: NDArray[np.void], chips: NDArray[np.void], precision: Precision) -> LayerCycles:
    """Return cycles and traffic of `layers` [N] (LAYER_FEATURES at `precision`) on `chips` [C] that all have arrays."""
    input_bytes = layers["gemm_batch"] * layers["gemm_steps"] * layers["gemm_m"] * layers["gemm_k"] * precision.bytes
    products = Products(
        batch=layers["gemm_batch"][:, :, None],
        steps=layers["gemm_steps"][:, :, None],
        m=layers["gemm_m"][:, :, None],
        n=layers["gemm_n"][:, :, None],
        k=layers["gemm_k"][:, :, None],
        input_bytes=np.minimum(input_bytes, layers["input_bytes"][:, None])[:, :, None],  # im2col repeats pixels
        value_bytes=float(precision.bytes),
    )
    arrays = Arrays(
        rows=chips["pe_rows"],
        columns=chips["pe_columns"],
        count=chips["pe_arrays"],
        dataflow=chips["pe_dataflow"],
        input_sram=chips["pe_input_sram_bytes"],
        weight_sram=chips["pe_weight_sram_bytes"],
        output_sram=chips["pe_output_sram_bytes"],
    )
    done = work(products, arrays)
    on_array = _on_array(layers)
    vector = np.ceil(layers["flops"][:, None] / chips["vector_lanes"])
    points = layers["fft_length"]
    stages = np.ceil(np.log2(np.maximum(points, 1.0)))
    butterflies = (layers["transforms"] * np.exp2(stages) / 2.0 * stages)[:, None]
    unit = chips["butterflies"]
    fourier = np.where(unit > 0.0, np.ceil(butterflies / np.maximum(unit, 1.0)), vector)
    other = np.where(((points > 0.0) & ~on_array)[:, None], fourier, vector)
    compute = np.where(on_array[:, None], done.cycles.sum(axis=1), other)
    dram_bytes = _moved(layers)[:, None] + (done.input_again + done.weight_again).sum(axis=1)
    clock = np.where(on_array[:, None], chips["pe_clock_hz"], chips["vector_clock_hz"])
    memory = dram_bytes / (chips["peak_bw"] * chips["achievable_bw"]) * clock
    return LayerCycles(
        products=done,
        compute_cycles=compute,
        stall_cycles=np.maximum(memory - compute, 0.0),
        dram_bytes=dram_bytes,
    )


def _on_array(layers: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which layers [N] are matrix products of known extents."""
    known: NDArray[np.bool_] = layers["matrix"] & (layers["gemm_k"] > 0.0).any(axis=1)
    return known


def _moved(layers: NDArray[np.void]) -> Array:
    """Bytes [N] of weights, inputs and outputs, each once."""
    moved: Array = layers["weight_bytes"] + layers["input_bytes"] + layers["output_bytes"]
    return moved


MODEL = Systolic()
