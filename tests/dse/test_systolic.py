"""Cycles against arrays that are simulated register by register, traffic against loop nests, and what must hold."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import workloads
from chiplib import Dataflow, DataflowCode, PeArray, load_library
from chiplib.chip import Precision
from chiplib.features import chip_features
from dse.cost_table import segment_costs
from dse.errors import DseError
from dse.proxy.model import Bound, LayerQuestion, cost_model
from dse.proxy.systolic import layer_cycles
from dse.proxy.systolic_cycles import Arrays, Products, Work, work
from tests.dse.real import hand_made
from workloads.graph import KIND_CODES, LAYER_FEATURES, OperatorKind

LARGE = 1e12


def one(
    code: DataflowCode,
    m: int,
    n: int,
    k: int,
    *,
    rows: int = 2,
    columns: int = 2,
    count: int = 1,
    batch: int = 1,
    steps: int = 1,
    sram: tuple[float, float, float] = (LARGE, LARGE, LARGE),
) -> Work:
    """Work of one product of single bytes on one chip; numbers, not arrays."""
    number = np.array
    return work(
        Products(
            batch=number(float(batch)),
            steps=number(float(steps)),
            m=number(float(m)),
            n=number(float(n)),
            k=number(float(k)),
            input_bytes=number(float(batch * steps * m * k)),
            value_bytes=1.0,
        ),
        Arrays(
            rows=number(float(rows)),
            columns=number(float(columns)),
            count=number(float(count)),
            dataflow=number(code),
            input_sram=number(sram[0]),
            weight_sram=number(sram[1]),
            output_sram=number(sram[2]),
        ),
    )


def simulate_output_stationary(
    a: np.ndarray, b: np.ndarray, rows: int, columns: int
) -> tuple[np.ndarray, int, int, int]:
    """Move values through registers: `a` to the right, `b` downwards, each element adds up its own output.

    Returns the product, cycles, and how many values of `a` and of `b` entered the array.
    """
    (m, k), n = a.shape, b.shape[1]
    product, cycles, a_reads, b_reads = np.zeros((m, n)), 0, 0, 0
    for top in range(0, m, rows):
        for left in range(0, n, columns):
            right, down = np.zeros((rows, columns)), np.zeros((rows, columns))
            seen, sums = np.zeros((rows, columns), int), np.zeros((rows, columns))
            valid = np.zeros((rows, columns), bool)
            cycle = 0
            while seen[-1, -1] < k:  # until the last wave has left the far corner
                right, down = np.roll(right, 1, axis=1), np.roll(down, 1, axis=0)
                valid = np.roll(valid, 1, axis=1)
                for row in range(rows):
                    step = cycle - row  # skew
                    valid[row, 0] = 0 <= step < k
                    used = valid[row, 0] and top + row < m
                    right[row, 0] = a[top + row, step] if used else 0.0
                    a_reads += used
                for column in range(columns):
                    step = cycle - column
                    used = 0 <= step < k and left + column < n
                    down[0, column] = b[step, left + column] if used else 0.0
                    b_reads += used
                sums += right * down * valid
                seen += valid
                cycle += 1
            cycles += cycle
            part = product[top : top + rows, left : left + columns]
            part[:] = sums[: part.shape[0], : part.shape[1]]
    return product, cycles, a_reads, b_reads


def simulate_weight_stationary(
    a: np.ndarray, b: np.ndarray, rows: int, columns: int, chunk: int
) -> tuple[np.ndarray, int, int, int]:
    """Shift a tile of `b` in, then stream `a` to the right while sums move down into accumulators of `chunk` rows."""
    (m, k), n = a.shape, b.shape[1]
    product, cycles, a_reads, b_reads = np.zeros((m, n)), 0, 0, 0
    for first in range(0, m, chunk):
        stream = a[first : first + chunk]
        length = len(stream)
        for left in range(0, n, columns):
            for top in range(0, k, rows):
                tile = np.zeros((rows, columns))
                for back in range(rows):  # one row a cycle enters at the top, the last row first
                    tile = np.roll(tile, 1, axis=0)
                    source = top + rows - 1 - back
                    tile[0] = 0.0
                    if source < k:
                        width = min(columns, n - left)
                        tile[0, :width] = b[source, left : left + width]
                        b_reads += width
                    cycles += 1
                right, sums = np.zeros((rows, columns)), np.zeros((rows, columns))
                cycle, gone = 0, 0
                while gone < length:  # until the last sum has left the last column
                    right = np.roll(right, 1, axis=1)
                    for row in range(rows):
                        used = 0 <= cycle - row < length and top + row < k
                        right[row, 0] = stream[cycle - row, top + row] if used else 0.0
                        a_reads += used
                    sums = np.roll(sums, 1, axis=0)
                    sums[0] = 0.0
                    sums += right * tile
                    for column in range(columns):
                        step = cycle - (rows - 1) - column
                        if 0 <= step < length:
                            if left + column < n:
                                product[first + step, left + column] += sums[-1, column]
                            gone += column == columns - 1
                    cycle += 1
                cycles += cycle
    return product, cycles, a_reads, b_reads


sizes = st.integers(1, 7)
edges = st.integers(1, 4)


@given(sizes, sizes, sizes, edges, edges)
def test_output_stationary_is_what_the_registers_do(m, n, k, rows, columns):
    generator = np.random.default_rng(0)
    a, b = generator.integers(1, 9, (m, k)).astype(float), generator.integers(1, 9, (k, n)).astype(float)
    product, cycles, a_reads, b_reads = simulate_output_stationary(a, b, rows, columns)
    assert (product == a @ b).all()
    found = one(DataflowCode.OUTPUT, m, n, k, rows=rows, columns=columns)
    assert (found.cycles, found.input_reads, found.weight_reads) == (cycles, a_reads, b_reads)
    assert (found.output_writes, found.output_reads) == (m * n, 0)


@given(sizes, sizes, sizes, edges, edges, st.integers(1, 5))
def test_weight_and_input_stationary_are_what_the_registers_do(m, n, k, rows, columns, chunk):
    generator = np.random.default_rng(0)
    a, b = generator.integers(1, 9, (m, k)).astype(float), generator.integers(1, 9, (k, n)).astype(float)
    for code, left, right in ((DataflowCode.WEIGHT, a, b), (DataflowCode.INPUT, b.T, a.T)):  # (ab)' = b'a'
        product, cycles, stream_reads, stay_reads = simulate_weight_stationary(left, right, rows, columns, chunk)
        assert (product == left @ right).all()
        accumulators = 2 * 4 * chunk * min(columns, right.shape[1])  # of 4 bytes, twice
        found = one(code, m, n, k, rows=rows, columns=columns, sram=(LARGE, LARGE, accumulators))
        reads = (stream_reads, stay_reads) if code is DataflowCode.WEIGHT else (stay_reads, stream_reads)
        assert (found.cycles, found.input_reads, found.weight_reads) == (cycles, *reads)
        k_folds = math.ceil(k / rows)
        assert (found.output_writes, found.output_reads) == (m * n * k_folds, m * n * (k_folds - 1))


def test_a_product_by_hand():
    # 3 x 4 x 5 on 2 x 2. Output stationary: 2 x 2 folds of 5 + 2 cycles. Weight stationary: k in 3 folds, n in 2, of
    # 2 to shift in + 3 + 2. Input stationary: k in 3 folds, m in 2, of 2 + 4 + 2.
    codes = (DataflowCode.OUTPUT, DataflowCode.WEIGHT, DataflowCode.INPUT)
    assert [float(one(code, 3, 4, 5).cycles) for code in codes] == [28, 42, 48]
    # five copies of four folds on three arrays: seven rounds; three steps one after the other
    assert one(DataflowCode.OUTPUT, 3, 4, 5, batch=5, count=3).cycles == 7 * 7
    assert one(DataflowCode.OUTPUT, 3, 4, 5, steps=3).cycles == 3 * 28


def test_what_the_buffers_do_not_hold_is_read_again_by_hand():
    codes = (DataflowCode.OUTPUT, DataflowCode.WEIGHT, DataflowCode.INPUT)
    # inputs 8 x 6 = 48 bytes, weights 6 x 4 = 24: they are held by halves of 96 and 48 bytes
    for code in codes:
        held = one(code, 8, 4, 6, sram=(96, 48, LARGE))
        assert (held.input_again, held.weight_again) == (0, 0)
    # half of 24 holds 2 of 8 rows of inputs: weights come by for each of 4 slices, 3 x 24 more; half of 23 holds one
    # of 4 columns, fewer than the array's 2; nothing held: inputs twice, weights four times
    found = one(DataflowCode.OUTPUT, 8, 4, 6, sram=(24, 23, LARGE))
    assert (found.input_again, found.weight_again) == (0, 72)
    # half of 24 holds 2 of 4 columns of weights: inputs come by twice, 48 more
    found = one(DataflowCode.OUTPUT, 8, 4, 6, sram=(11, 24, LARGE))
    assert (found.input_again, found.weight_again) == (48, 0)
    # weight stationary: inputs stream by for each of two folds of columns, every tile of weights is used once and gone
    found = one(DataflowCode.WEIGHT, 8, 4, 6, sram=(11, 1, LARGE))
    assert (found.input_again, found.weight_again) == (48, 0)
    # accumulators for 4 of 8 rows: two chunks, and the weights of two columns (12 bytes) stay between them, or do not
    narrow = 2 * 4 * 2 * 4
    assert one(DataflowCode.WEIGHT, 8, 4, 6, sram=(96, 24, narrow)).weight_again == 0
    assert one(DataflowCode.WEIGHT, 8, 4, 6, sram=(96, 23, narrow)).weight_again == 24
    # a recurrent layer: 10 steps with one set of weights, which is held, or read 9 times more
    assert one(DataflowCode.OUTPUT, 1, 4, 6, steps=10, sram=(LARGE, 48, LARGE)).weight_again == 0
    assert one(DataflowCode.OUTPUT, 1, 4, 6, steps=10, sram=(LARGE, 47, LARGE)).weight_again == 9 * 24


extents = st.integers(1, 300)
buffers = st.tuples(*[st.floats(1, 1e5)] * 3)
codes = st.sampled_from(list(DataflowCode))
shapes = {"rows": st.integers(1, 64), "columns": st.integers(1, 64), "count": st.integers(1, 4)}


@given(codes, extents, extents, extents, st.fixed_dictionaries(shapes), st.integers(1, 9), buffers)
def test_no_element_does_more_than_one_multiply_accumulate_a_cycle(code, m, n, k, shape, batch, sram):
    found = one(code, m, n, k, **shape, batch=batch, sram=sram)
    assert found.cycles * shape["rows"] * shape["columns"] * shape["count"] >= batch * m * n * k
    assert min(found.input_again, found.weight_again) >= 0
    assert found.input_reads >= batch * m * k and found.weight_reads >= batch * k * n


@given(
    codes, extents, extents, extents, st.integers(0, 60), st.sampled_from("mnk"), st.fixed_dictionaries(shapes), buffers
)
def test_a_larger_product_never_takes_less(code, m, n, k, more, axis, shape, sram):
    extent = {"m": m, "n": n, "k": k}
    small = one(code, **extent, **shape, sram=sram)
    large = one(code, **extent | {axis: extent[axis] + more}, **shape, sram=sram)
    assert large.cycles >= small.cycles
    assert large.input_again + large.weight_again >= small.input_again + small.weight_again
    assert large.input_reads >= small.input_reads and large.weight_reads >= small.weight_reads


@given(codes, extents, extents, extents, st.fixed_dictionaries(shapes), buffers, st.tuples(*[st.floats(1, 50)] * 3))
def test_larger_buffers_never_move_more(code, m, n, k, shape, sram, growth):
    small = one(code, m, n, k, **shape, sram=sram)
    large = one(code, m, n, k, **shape, sram=tuple(a * b for a, b in zip(sram, growth, strict=True)))
    assert large.input_again + large.weight_again <= small.input_again + small.weight_again
    assert large.cycles <= small.cycles


NPU = replace(
    load_library("reference").chip("edge_tpu"),
    name="npu",
    peak_flops={Precision.INT8: 2 * 256 * 256 * 700e6},
    peak_bw=34e9,
    pe_array=PeArray(
        rows=256,
        columns=256,
        dataflow=Dataflow.WEIGHT,
        clock_hz=700e6,
        input_sram_kb=25166,
        weight_sram_kb=262,
        output_sram_kb=4194,
        vector_lanes=256,
    ),
)
"""An array of the size of Google's first TPU, and its memory (Jouppi et al., ISCA 2017, arXiv 1704.04760)."""


def rows_of(**columns) -> np.ndarray:
    rows = np.zeros(1, LAYER_FEATURES)
    for name, value in columns.items():
        rows[name] = value
    return rows


def test_a_layer_waits_for_its_memory_or_the_memory_for_it():
    one_product = {name: [value, 0, 0] for name, value in (("gemm_batch", 1), ("gemm_steps", 1), ("gemm_m", 256))}
    one_product |= {"gemm_n": [256, 0, 0], "gemm_k": [256, 0, 0], "flops": 2 * 256.0**3, "matrix": True}
    one_product |= {"kind": KIND_CODES[OperatorKind.LINEAR], "weight_bytes": 65536, "input_bytes": 65536}
    layer = rows_of(**one_product, output_bytes=65536)
    types = [NPU, replace(NPU, name="fast", peak_bw=1e13)]
    chip = chip_features(types, Precision.INT8)
    costs = cost_model("systolic").predict(
        LayerQuestion(layers=layer, chips=chip, precision=Precision.INT8, graph=hand_made().graph, types=types)
    )
    # one fold: 256 to shift in, 256 rows of inputs, 510 of fill and drain, at 700 MHz; 196,608 bytes at 34 GB/s
    assert costs.latency_ms[0] == pytest.approx([196608 / 34e9 * 1e3, (256 + 256 + 510) / 700e6 * 1e3])
    assert costs.bound[0].tolist() == [Bound.MEMORY, Bound.COMPUTE]
    assert (costs.memory_bytes == 196608).all()
    joule = layer["flops"] * chip["pj_per_flop"][0] * 1e-12 + 196608 * chip["pj_per_byte"][0] * 1e-12
    assert costs.energy_mj[0, 0] == pytest.approx(joule[0] * 1e3)


def test_transforms_take_butterflies_and_the_rest_vector_lanes():
    fft = rows_of(kind=KIND_CODES[OperatorKind.FFT], fft_length=1000, transforms=12, flops=1e6)
    norm = rows_of(kind=KIND_CODES[OperatorKind.NORM], flops=25601)
    unit = replace(NPU, name="unit", pe_array=replace(NPU.pe_array, butterflies=16), peak_bw=1e15)
    for chip, butterflies in ((replace(NPU, peak_bw=1e15), 0), (unit, 16)):
        features = chip_features([chip], Precision.INT8)
        found = layer_cycles(np.concatenate([fft, norm]), features, Precision.INT8).compute_cycles[:, 0]
        # 1024 points: 512 x 10 butterflies each; without a unit a million operations on 256 lanes
        assert found.tolist() == [12 * 5120 / 16 if butterflies else math.ceil(1e6 / 256), 101]


def test_resnet18_keeps_the_roofline_below_it_and_utilisation_within_one():
    segments = workloads.build_segments(workloads.load("resnet18"), count=6)
    chips = [load_library(home).chip(name) for home, name in (("reference", "tpu_v4"), ("chiplets", "npu_int8_7nm"))]
    chips = [replace(chip, achievable=1.0) for chip in chips]
    floor, found = (segment_costs(segments, chips, model=name, precision="int8") for name in ("roofline", "systolic"))
    assert (
        found.layers.latency_ms[segments.features["matrix"]]
        >= 0.999 * floor.layers.latency_ms[segments.features["matrix"]]
    ).all()
    assert (found.layers.memory_bytes == floor.layers.memory_bytes).all()
    assert np.isfinite(found.latency_ms).all() and (found.energy_mj > 0).all()


def test_resnet18_takes_the_cycles_that_scale_sim_reports():
    """2,708,730: SCALE-Sim 3.0.0, its own Resnet18.csv (which leaves padding out) on 256x256 output stationary arrays.

    94 % of that is the transfer, at 10 words a cycle, of both operands as im2col matrices padded to whole folds before
    each layer, and of the outputs after it; 157,939 are the cycles of the array, counted from 0.
    """
    array, transfer = 0.0, 0.0
    for layer in workloads.load("resnet18").layers:
        if layer.kind not in ("conv", "linear"):
            continue
        s = layer.shape
        m, n, k = s.get("m", 1), s.get("n", 1), s.get("k", 1)
        if layer.kind == "conv":
            m = math.prod(math.ceil((s[f"in_{x}"] - s[f"kernel_{x}"]) / s[f"stride_{x}"]) + 1 for x in "hw")
            n, k = s["out_channels"], s["in_channels"] * s["kernel_h"] * s["kernel_w"]
        array += float(one(DataflowCode.OUTPUT, m, n, k, rows=256, columns=256).cycles)
        operands = max(math.ceil(m / 256), math.ceil(n / 256)) * 256 * k
        transfer += math.ceil(operands / 10) + math.ceil(m * n / 10)
    assert array - 21 == 157_939
    assert array + transfer == pytest.approx(2_708_730, rel=1e-4)


def test_a_slower_precision_takes_as_many_times_longer_as_its_peak_is_lower():
    chip = load_library("chiplets").chip("npu_int8_7nm")
    half = replace(chip, name="half", peak_flops={Precision.INT8: 1.38e14, Precision.FP16: 0.69e14}, peak_bw=1e15)
    layers = workloads.build_segments(workloads.load("resnet18"), count=1).at(1)  # the same bytes in both
    eight, sixteen = (
        cost_model("systolic").predict(LayerQuestion.of(layers, [half], precision)).latency_ms[0, 0]
        for precision in (Precision.INT8, Precision.FP16)
    )
    assert sixteen == pytest.approx(2 * eight)


def test_a_chip_without_an_array_is_refused_by_name():
    segments = workloads.build_segments(workloads.load("resnet18"), count=2)
    with pytest.raises(DseError, match=r"'big_core'.*pe_array.*systolic"):
        segment_costs(segments, [load_library("chiplets").chip("big_core")], model="systolic")
    types = [load_library("chiplets").chip("big_core"), NPU]
    costs = cost_model("systolic").predict(LayerQuestion.of(segments, types, Precision.INT8))
    assert np.isinf(costs.latency_ms[:, 0]).all() and np.isfinite(costs.latency_ms[:, 1]).all()


def test_arrays_differ_as_their_dataflows_do():
    layers = workloads.load("resnet18").features
    kinds = [replace(NPU, name=name, pe_array=replace(NPU.pe_array, dataflow=name)) for name in Dataflow]
    found = layer_cycles(layers, chip_features(kinds, Precision.INT8), Precision.INT8)
    alone = [layer_cycles(layers, chip_features([chip], Precision.INT8), Precision.INT8) for chip in kinds]
    for column, single in enumerate(alone):
        assert np.array_equal(found.compute_cycles[:, column], single.compute_cycles[:, 0])
        assert np.array_equal(found.dram_bytes[:, column], single.dram_bytes[:, 0])
    assert len({float(total) for total in found.compute_cycles.sum(axis=0)}) == 3
    assert isinstance(NPU.pe_array, PeArray)
