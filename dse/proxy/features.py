"""Features of the layer proxy: what measured rows, and the devices that they name, are to the network, as arrays.

Every feature has one of three roles, and the network keeps to it by construction. *Work* grows with the operator: more
of it never makes a layer faster. The *class* is what more work leaves as it is: operator, number types, software,
alignment, kernel and head sizes. *Rates* are the chip's: more of one never makes a layer slower.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chiplib.energy import STATIC_SHARE
from dse.proxy.columns import SHAPES, VECTOR_OPERATORS
from dse.proxy.devices import MATRIX_PEAKS, matrix_peaks

Array = NDArray[np.float64]
Reals = NDArray[np.floating[Any]]

TILES = ((16, 32), (32, 64), (64, 64), (64, 128), (128, 64), (128, 128), (128, 256), (256, 128))
"""Output tiles (m, n) of matrix kernels, on which a product is padded to whole tiles."""

WORK = (
    *("products", "m", "n", "k", "flops", "bytes", "activation_bytes", "weight_bytes"),
    *(f"flops_in_tiles_{m}x{n}" for m, n in TILES),
    *("tiles_32", "tiles_128", "padded_k", "seq_q", "seq_kv", "batch", "heads", "kv_heads", "pixels", "all_pixels"),
    "dram_bytes",
)
"""Columns of `Features.work`: natural logarithms. `products` matrix products of m x k by k x n, or m rows of n; DRAM's
bytes are those that the last-level cache cannot hold."""

CLASS = (
    *("alignment_n", "alignment_k", "head_dim", "kernel_h", "kernel_w", "kernel_d", "stride", "dilation", "groups"),
    *("depthwise", "queries_a_kv_head", "window", "windowed", "experts", "topk"),
    *("scattered", "operands", "broadcast", "inner", "directions", "layers"),
)
"""Columns of `Features.shape_class`."""

ALIGNMENT = 256
"""Largest power of two in a width that tells kernels apart."""

SCALED, SCALED_KIND = "batchnorm", "elementwise"
SCALED_SHAPE = {"batch": np.nan, "cin": np.nan, "groups": np.nan, "operands": 1.0}
"""An inference's batch norm scales and shifts by what it has stored: it is an element-wise operator."""

NAMES = ("op_type", "op_name", "dtype", "compute_dtype", "timer", "framework", "library")
"""Columns of `Features.names`. The library is the framework without its version."""

CHIP_NAMES = ("maker", "family", "chip", "device")
"""Columns of `Features.chip_names`: of the device table, from the widest to the narrowest. The maker is vendor and kind
of chip: the CPUs of a vendor tell nothing of its GPUs."""

USUAL_KIND = "gpu"
"""Kind of a device whose table does not give one."""

RATES = ("peak", "bandwidth", "power", "vector")
"""Columns of `Features.rates`: logs of FLOP/ms of the type, B/ms, W, and FLOP/ms of the vector units."""

WINOGRAD = 2.25
"""Most that a convolution's direct FLOPs can exceed those that run: F(2x2, 3x3) of A. Lavin, S. Gray, "Fast Algorithms
for Convolutional Neural Networks", arXiv:1509.09308."""

CACHE_BYTES_PER_FLOP = 0.5
"""Most bytes that the last-level cache gives for each operation of the vector units' peak: 64 B a clock for a core
with 64 lanes of fused multiply-add (NVIDIA, "V100 GPU architecture", 2017), which later cores have twice."""

WIDER = {"nvfp4": "fp8", "fp8": "bf16", "int8": "bf16", "fp16": "fp32", "bf16": "fp32", "tf32": "fp32"}
"""What a device without a peak for a type computes in instead."""

W_PER_TB_S = 150.0
"""Power taken for a device that publishes none: watts for each TB/s of bandwidth, the median of the device table."""

VECTOR_SHARE = 1 / 16
"""Vector peak taken for a device that publishes none, as a share of its 16-bit matrix peak: that of Hopper."""


LEAST = 1e-12
"""Times below this [ms] are none."""


@dataclass(frozen=True, eq=False)
class Features:
    """N rows, as the network reads them: numbers in float32, unless they were asked for in another type."""

    work: Reals  # [N, WORK]
    shape_class: Reals  # [N, CLASS]
    names: NDArray[np.object_]  # [N, NAMES]
    rates: Reals  # [N, RATES]
    chip_names: NDArray[np.object_]  # [N, CHIP_NAMES]
    floor: Reals  # [N] log of the least ms that physics allows
    terms: Reals  # [N, 2] logs of the roofline's compute and memory time in ms
    idle_w: Reals  # [N] power with nothing to do; NaN where the device table has no TDP

    def __len__(self) -> int:
        return len(self.work)

    def __getitem__(self, rows: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Features:
        return Features(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def features(rows: pd.DataFrame, devices: pd.DataFrame, *, dtype: type[np.floating[Any]] = np.float32) -> Features:
    """Return the features of tidy rows [N] (see dse.proxy.dataset) on the devices that they name."""
    shape = {name: rows[name].to_numpy(np.float64) for name in SHAPES if name in rows}
    shape |= {name: np.full(len(rows), np.nan) for name in SHAPES if name not in shape}
    names = {name: _texts(rows[name]) for name in NAMES if name != "library"}
    names["library"] = library(rows["framework"])
    kind = names["op_type"] = np.where(names["op_name"] == SCALED, SCALED_KIND, names["op_type"])
    shape = shape_as_run(shape, names["op_name"])
    flops, moved = rows["flops"].to_numpy(np.float64), rows["bytes"].to_numpy(np.float64)
    weights = rows["weight_bytes"].to_numpy(np.float64)
    rates, chips, cache_bytes = chip_rates(rows["device"], names["compute_dtype"], devices)
    extents = matrix_extents(kind, shape)
    floor, terms = physics(kind, shape, flops, moved, rates, cache_bytes)
    return Features(
        work=_work(kind, shape, extents, flops, moved, weights, cache_bytes).astype(dtype),
        shape_class=_shape_class(shape, extents).astype(dtype),
        names=np.stack([names[name] for name in NAMES], axis=1),
        rates=np.log(rates).astype(dtype),
        chip_names=chips,
        floor=floor.astype(dtype),
        terms=terms.astype(dtype),
        idle_w=idle_power(rows["device"], devices).astype(dtype),
    )


def shape_as_run(shape: dict[str, Array], op_name: NDArray[np.object_]) -> dict[str, Array]:
    """Return the sizes [N] that operators of these names count with: those of a batch norm as SCALED says."""
    scaled = op_name == SCALED
    return shape | {name: np.where(scaled, value, shape[name]) for name, value in SCALED_SHAPE.items()}


def library(frameworks: pd.Series[Any]) -> NDArray[np.object_]:
    """Return the framework's name without its version: "vllm" of "vllm-0.24.0", "torch-cpu" of "torch2.13.0-cpu"."""
    codes, uniques = pd.factorize(frameworks)
    plain = pd.Index(uniques).astype(str).str.replace(r"[-_]?v?\d[\d.]*(rc\d+)?", "", regex=True)
    known: NDArray[np.object_] = plain.to_numpy(object)[codes]
    return known


def matrix_extents(kind: NDArray[np.object_], shape: dict[str, Array]) -> tuple[Array, Array, Array, Array]:
    """Return products, m, n, k [N] of each row: the matrix products that it is, or m rows of n elements (k = 1).

    A convolution is im2col's product a group; attention that of queries and keys a head (of one query: the heads that
    share keys are its rows); a mixture of experts one product an expert in use; a recurrent layer one a step.
    """

    def get(name: str, otherwise: float = 1.0) -> Array:
        return _or(shape[name], otherwise)

    count = len(kind)
    products, m, n, k = np.ones(count), get("rows"), get("cols"), np.ones(count)
    pixels_out = get("hout") * get("wout") * get("dout")
    pixels_in = get("hin") * get("win") * get("din")
    taps = get("kh") * get("kw") * get("kd")
    for name in pd.unique(kind):
        rows = kind == name
        if name == "matmul":
            new = get("batch"), get("m"), get("n"), get("k")
        elif name.startswith("conv_transpose"):
            new = (
                get("groups"),
                get("batch") * pixels_in,
                get("cout") / get("groups") * taps,
                get("cin") / get("groups"),
            )
        elif name.startswith("conv"):
            new = (
                get("groups"),
                get("batch") * pixels_out,
                get("cout") / get("groups"),
                get("cin") / get("groups") * taps,
            )
        elif name == "attn_decode":
            new = get("batch") * get("kv_heads"), get("heads") / get("kv_heads"), get("seq_kv"), get("head_dim")
        elif name in ("attn_prefill", "attn_encoder", "linear_attention"):
            new = get("batch") * get("heads"), get("seq_q"), get("seq_kv"), get("head_dim")
        elif name == "moe":
            pairs = get("m") * get("topk")
            used = np.minimum(get("experts"), pairs)
            new = used, np.maximum(1.0, pairs / used), get("n"), get("k")
        elif name == "elementwise":
            new = products, m * get("batch"), n, k
        elif name == "recurrent":
            steps = get("seq_q") * get("layers") * get("directions")
            new = steps, get("batch"), 4 * get("cout"), get("cin") + get("cout")
        elif name in ("pool", "resample", "other", "copy"):
            planes = np.isfinite(shape["wout"])
            new = (
                products,
                np.where(planes, get("batch"), m),
                np.where(planes, pixels_out, n),
                np.where(planes, taps, k),
            )
        else:
            continue
        for whole, part in zip((products, m, n, k), new, strict=True):
            whole[rows] = part[rows]
    return products, m, n, k


def chip_rates(
    device: pd.Series[Any], compute: NDArray[np.object_], devices: pd.DataFrame
) -> tuple[Array, NDArray[np.object_], Array]:
    """Return rates [N, RATES], chip names [N, CHIP_NAMES] and bytes of last-level cache [N] of each row's device.

    A type without a peak is computed in the next wider one (WIDER). A missing vector peak or TDP is taken as
    VECTOR_SHARE of the 16-bit peak, or W_PER_TB_S; a missing cache as none.
    """
    types = [*MATRIX_PEAKS]
    peaks = pd.DataFrame(matrix_peaks(devices, types), columns=types)
    for narrow, wide in reversed(WIDER.items()):
        peaks[narrow] = peaks[narrow].fillna(peaks[wide])
    peaks = peaks.bfill(axis=1).ffill(axis=1)  # of a device that publishes one peak alone
    bandwidth = devices["peak_bw_gbs"].to_numpy(np.float64) * 1e9
    vector = devices["peak_fp32_tflops"].to_numpy(np.float64) * 1e12
    vector = np.where(np.isfinite(vector), vector, peaks["fp16"].to_numpy() * VECTOR_SHARE)
    power = devices["tdp_w"].to_numpy(np.float64)
    power = np.where(np.isfinite(power), power, bandwidth / 1e12 * W_PER_TB_S)
    row = devices.index.get_indexer(pd.Index(_texts(device)))
    column = pd.Index(types).get_indexer(pd.Index(compute))
    column = np.where(column < 0, types.index("fp32"), column)
    rates = np.stack([peaks.to_numpy()[row, column], bandwidth[row], power[row] * 1e3, vector[row]], axis=1) / 1e3
    chip = devices["chip"].where(devices["chip"].notna(), devices.index.to_series())
    maker = devices["vendor"].str.cat(devices["kind"].fillna(USUAL_KIND), sep=" ")
    columns = [maker, devices["family"], chip, devices.index.to_series()]
    table = np.stack([column.to_numpy(object) for column in columns], axis=1)
    cache_bytes = _or(devices["l2_mb"].to_numpy(np.float64), 0.0) * 1e6
    return rates, table[row], cache_bytes[row]


def idle_power(device: pd.Series[Any], devices: pd.DataFrame) -> Array:
    """Return W [N] that each row's device draws with nothing to do: as measured, else STATIC_SHARE of its TDP."""
    tdp_w = devices["tdp_w"].to_numpy(np.float64)
    idle_w = np.fmin(devices["idle_w"].fillna(devices["tdp_w"] * STATIC_SHARE).to_numpy(np.float64), tdp_w)
    idle_w[np.isnan(tdp_w)] = np.nan
    of_row: Array = idle_w[devices.index.get_indexer(pd.Index(_texts(device)))]
    return of_row


def physics(
    kind: NDArray[np.object_], shape: dict[str, Array], flops: Array, moved: Array, rates: Array, cache_bytes: Array
) -> tuple[Array, Array]:
    """Return the log of the least ms that physics allows [N], and logs of the roofline's two times [N, 2].

    No layer computes above the peak of its units (WINOGRAD above it, where a convolution has a kernel), nor moves its
    bytes faster than the last-level cache; what the cache cannot have held comes from DRAM.
    """
    vector = np.isin(kind, VECTOR_OPERATORS)
    compute_ms = flops / np.where(vector, rates[:, 3], rates[:, 0])
    memory_ms = moved / rates[:, 1]
    fast = np.char.startswith(kind.astype(str), "conv") & (_or(shape["kh"], 1.0) * _or(shape["kw"], 1.0) > 1)
    from_dram = np.maximum(moved - cache_bytes, 0.0) / rates[:, 1]
    from_cache = moved / (CACHE_BYTES_PER_FLOP * rates[:, 3])
    least = np.maximum.reduce([compute_ms / np.where(fast, WINOGRAD, 1.0), from_dram, from_cache])
    terms = np.stack([compute_ms, memory_ms], axis=1)
    return _log(least), _log(terms)


def _work(
    kind: NDArray[np.object_],
    shape: dict[str, Array],
    extents: tuple[Array, Array, Array, Array],
    flops: Array,
    moved: Array,
    weights: Array,
    cache_bytes: Array,
) -> Array:
    products, m, n, k = extents
    tile_rows = {size: np.ceil(m / size) for size in {tile[0] for tile in TILES} | {32, 128}}
    tile_columns = {size: np.ceil(n / size) for size in {tile[1] for tile in TILES} | {32, 128}}
    each = flops / (m * n)
    vector = np.isin(kind, VECTOR_OPERATORS)  # they run on no tiles
    tiled = [np.where(vector, flops, each * tile_rows[a] * a * tile_columns[b] * b) for a, b in TILES]
    counts = [products * tile_rows[size] * tile_columns[size] for size in (32, 128)]
    pixels = _or(shape["hin"], 1.0) * _or(shape["win"], 1.0) * _or(shape["din"], 1.0)
    batch = _or(shape["batch"], 1.0)
    others = [_or(shape[name], 1.0) for name in ("seq_q", "seq_kv")]
    heads = [_or(shape[name], 1.0) for name in ("heads", "kv_heads")]
    columns = [products, m, n, k, flops, moved, np.maximum(moved - weights, 1.0), weights + 1.0, *tiled, *counts]
    columns += [np.ceil(k / 64) * 64, *others, batch, *heads, pixels, pixels * batch, moved - cache_bytes]
    return _log(np.maximum(np.stack(columns, axis=1), 1.0))


def _shape_class(shape: dict[str, Array], extents: tuple[Array, Array, Array, Array]) -> Array:
    def get(name: str, otherwise: float = 0.0) -> Array:
        return _or(shape[name], otherwise)

    _, _, n, k = extents
    n = np.where(np.isfinite(shape["seq_kv"]), ALIGNMENT, n)  # a sequence is work, not a width
    groups = get("groups", 1.0)
    columns = [
        _alignment(n),
        _alignment(k),
        get("head_dim") / 128,
        get("kh") / 7,
        get("kw") / 7,
        get("kd") / 7,
        get("stride") / 4,
        np.log1p(get("dilation")),
        np.log(groups),
        (groups > 1) & (groups == get("cin")),
        np.log(get("heads", 1.0) / get("kv_heads", 1.0)),
        np.log1p(get("window")),
        get("window") > 0,
        np.log1p(get("experts")),
        np.log1p(get("topk")),
        get("layout") / 2,
        get("operands") / 4,
        get("broadcast") / 7,
        np.log1p(get("inner")),
        get("directions"),
        get("layers"),
    ]
    return np.stack(columns, axis=1, dtype=np.float64)


def _alignment(size: Array) -> Array:
    """Return the powers of two in `size`, as a share of those of ALIGNMENT."""
    whole = np.maximum(size, 1.0).astype(np.int64)
    share: Array = np.log2(np.minimum(whole & -whole, ALIGNMENT)) / np.log2(ALIGNMENT)
    return share


def _texts(column: pd.Series[Any]) -> NDArray[np.object_]:
    return column.astype(object).to_numpy(object)


def _or(values: Array, otherwise: float) -> Array:
    """Return `values`, `otherwise` where there is none."""
    known: Array = np.where(np.isfinite(values), values, otherwise)
    return known


def _log(values: Array) -> Array:
    logs: Array = np.log(np.maximum(values, LEAST))
    return logs
