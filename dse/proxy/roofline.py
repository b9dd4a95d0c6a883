"""Roofline: a layer takes the longer of its time to compute and its time to move its bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dse.proxy.model import Bound, LayerCosts, LayerQuestion

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Roofline:
    """The floor under every other model: no layer beats the achievable peak, nor the achievable bandwidth.

    S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for multicore
    architectures", Communications of the ACM 52(4), 2009. Every byte moves once; no launch overhead.
    """

    name: str = "roofline"
    source: str = (
        "Roofline (Williams et al., CACM 52(4), 2009): a layer takes the longer of its compute time, operations over "
        "the reachable peak of the matrix or vector units, and its memory time, bytes, each moved once, over the "
        "reachable bandwidth. Optimistic: no launch overhead, tile waste or cache miss beyond the reachable fractions."
    )

    def predict(self, question: LayerQuestion) -> LayerCosts:
        """Return the costs [N, C]. Matrix kinds run at `peak_flops`, the others at `vector_flops`."""
        layers, chips = question.layers, question.chips
        moved = layers["weight_bytes"] + layers["input_bytes"] + layers["output_bytes"]
        latency_ms, energy_mj, bound = roofline(
            flops=layers["flops"],
            moved_bytes=moved,
            matrix=layers["matrix"],
            matrix_flops_s=chips["peak_flops"] * chips["achievable"],
            vector_flops_s=chips["vector_flops"] * chips["achievable"],
            bytes_s=chips["peak_bw"] * chips["achievable_bw"],
            pj_per_flop=chips["pj_per_flop"],
            pj_per_byte=chips["pj_per_byte"],
            dynamic_w=chips["tdp_w"] - chips["static_w"],
        )
        unsupported = ~chips["supported"]
        latency_ms[:, unsupported] = np.inf
        energy_mj[:, unsupported] = np.inf
        memory_bytes = np.broadcast_to(moved[:, None], latency_ms.shape)
        return LayerCosts(latency_ms=latency_ms, energy_mj=energy_mj, memory_bytes=memory_bytes, bound=bound)


def roofline(
    *,
    flops: Array,
    moved_bytes: Array,
    matrix: NDArray[np.bool_],
    matrix_flops_s: Array,
    vector_flops_s: Array,
    bytes_s: Array,
    pj_per_flop: Array,
    pj_per_byte: Array,
    dynamic_w: Array,
) -> tuple[Array, Array, NDArray[np.int8]]:
    """Return latency [ms], dynamic energy [mJ] and bound (codes of Bound), each [N, C].

    `flops`, `moved_bytes` and `matrix` (does it run on matrix units) are of N layers; the rest of C chips: achievable
    operations and bytes a second, energy of one operation and of one byte, and the power that is left beside static
    power. latency = max(flops / peak, bytes / bandwidth); energy = flops x pJ/flop + bytes x pJ/byte, at most
    latency x dynamic_w: a chip does not draw more than its design power. A peak of 0 makes the time of what needs it
    infinite.
    """
    with np.errstate(divide="ignore"):
        ms_per_op = 1e3 / np.stack([vector_flops_s, matrix_flops_s])  # [2, C]
        ms_per_byte = 1e3 / bytes_s
    needs_compute = flops > 0.0
    ms_per_op[~np.isfinite(ms_per_op)] = np.finfo(np.float64).max  # finite, so that 0 operations take 0 time
    with np.errstate(over="ignore"):
        compute_ms = ms_per_op[matrix.astype(np.intp)]  # [N, C]
        compute_ms *= flops[:, None]
    memory_ms = moved_bytes[:, None] * ms_per_byte
    bound = np.where(matrix, Bound.COMPUTE, Bound.VECTOR).astype(np.int8)[:, None]
    bound = np.where((compute_ms >= memory_ms) & needs_compute[:, None], bound, np.int8(Bound.MEMORY))
    latency_ms = np.maximum(compute_ms, memory_ms)
    energy_mj = flops[:, None] * (pj_per_flop * 1e-9)
    energy_mj += moved_bytes[:, None] * (pj_per_byte * 1e-9)
    np.minimum(energy_mj, latency_ms * np.maximum(dynamic_w, 0.0), out=energy_mj)  # W x ms = mJ
    return latency_ms, energy_mj, bound


MODEL = Roofline()
