"""Which operators are measured: those that the catalogue's models contain, and a designed spread round them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from dse.errors import DseError
from dse.proxy.columns import SHAPES
from dse.proxy.layer_rows import Row, causal_share, compute_type, layer_rows
from dse.proxy.measure.operators import Operator, operator
from dse.proxy.measure.templates import TEMPLATES
from workloads import WorkloadGraph, catalog, load, trace

LIMIT_BYTES = 1e9
LIMIT_S = 0.5
ASSUMED_FLOPS, ASSUMED_BYTES_S = {"cpu": 60e9, "cuda": 2e13}, {"cpu": 4e9, "cuda": 1e12}
"""Slow rates, at which a row of the spread must take less than LIMIT_S."""

SHARES = {
    "matmul": 22, "conv2d": 16, "conv1d": 14, "conv3d": 3, "conv_transpose1d": 3, "conv_transpose2d": 4,
    "attn_encoder": 5, "attn_prefill": 2, "attn_decode": 2, "linear_attention": 3, "recurrent": 4,
    "layernorm": 8, "softmax": 3, "elementwise": 12, "reduction": 4, "pool": 2, "resample": 1, "fft": 5,
    "embedding": 1, "copy": 7,
}  # fmt: skip
"""Per cent of the spread, by kind of operator."""

NARROW_TYPES: Mapping[str, Sequence[str]] = {"cpu": ("bf16", "int8"), "cuda": ("fp16", "bf16", "int8")}
NARROW_SHARE = {"cpu": 0.15, "cuda": 0.6}
"""Types beside fp32 that are measured, and the share of the spread that has them."""

NARROW_KINDS = frozenset(
    "matmul conv1d conv2d attn_encoder attn_prefill attn_decode linear_attention layernorm softmax elementwise".split()  # noqa: SIM905
)


def catalogue_rows(names: Sequence[str] = ()) -> list[Row]:
    """Return the distinct rows of the catalogue's models (of all unless named), at their default sizes, inference.

    Columns that do not apply are left out.
    """
    tables = [layer_rows(load(name)) for name in names or catalog.names()]
    table = pd.concat(tables).drop_duplicates()
    return [{str(name): value for name, value in row.items() if value == value} for row in table.to_dict("records")]


class OperatorModule(nn.Module):
    """An operator as a model of one layer, on the meta device: what the tracer counts, it counts of this."""

    def __init__(self, op: Operator) -> None:
        super().__init__()
        self.op = op
        self.held = nn.ParameterList(
            [nn.Parameter(operand.empty("meta"), requires_grad=False) for operand in op.operands if operand.weight]
        )

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Run the operator on its activations."""
        held, given = iter(self.held), iter(inputs)
        return self.op.call(*(next(held if operand.weight else given) for operand in self.op.operands))


def traced(op: Operator) -> WorkloadGraph:
    """Return an operator as the tracer sees it."""
    inputs = tuple(operand.empty("meta") for operand in op.operands if not operand.weight)
    return trace(OperatorModule(op), inputs, name="operator", cache=False)


def template_rows() -> list[Row]:
    """Return TEMPLATES completed: with every optional tensor but a mask, their bytes, and the FLOPs that are traced."""
    rows = []
    for template in TEMPLATES:
        row = {"dtype": "fp32", "compute_dtype": "fp32", "layout": 0, **template}
        op = _with_optional(row, weights=True, all_of_them="attn" not in row["op_type"])
        row |= _bytes_of(op)
        row["flops"] = traced(op).flops
        if row["op_type"] == "attn_prefill":
            row["flops"] *= causal_share(row["seq_q"], row["seq_kv"])
        rows.append(row)
    return rows


def spread_rows(templates: Sequence[Row], count: int, seed: int, device: str = "cpu") -> Iterator[Row]:
    """Yield distinct rows round the templates: sizes drawn log-uniformly round theirs, by SHARES, in random order.

    Names of operators of a kind are drawn alike, then templates of a name. Rows that would take more than LIMIT_BYTES
    or, at slow rates, LIMIT_S are not drawn.
    """
    random = np.random.default_rng(seed)
    by_kind: dict[str, dict[str, list[Row]]] = {}
    for row in templates:
        if row["dtype"] == "fp32" and row["op_name"] not in ("upsample_linear1d", "arange", "hann_window"):
            by_kind.setdefault(row["op_type"], {}).setdefault(row["op_name"], []).append(row)
    kinds = [kind for kind in SHARES if kind in by_kind]
    shares = np.array([SHARES[kind] for kind in kinds], float)
    seen: set[tuple[Any, ...]] = set()
    tries = 0
    while len(seen) < count and tries < 20 * count:
        tries += 1
        kind = kinds[int(random.choice(len(kinds), p=shares / shares.sum()))]
        names = sorted(by_kind[kind])
        group = by_kind[kind][names[int(random.integers(len(names)))]]
        made = vary(group[int(random.integers(len(group)))], random, device)
        if made is None or (key := _key(made)) in seen:
            continue
        seen.add(key)
        yield made


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("op_type", "op_name", "dtype", *SHAPES, "bytes"))


def vary(template: Row, random: np.random.Generator, device: str = "cpu") -> Row | None:
    """Return a row like the template of other sizes, or None where these make no operator, or one that is too large."""
    template = {name: value for name, value in template.items() if value == value}
    row = dict(template)
    _VARIED[row["op_type"]](row, _Sizes(random))
    row = {name: int(value) if name in SHAPES else value for name, value in row.items()}
    work = _work(template)
    row["flops"] = template["flops"] * (_work(row) / work) if work else 0.0
    if row["op_type"] in NARROW_KINDS and random.random() < NARROW_SHARE[device]:
        types = NARROW_TYPES[device]
        row["dtype"] = types[int(random.integers(len(types)))]
        if row["dtype"] == "int8" and (row["op_name"] != "linear" or row["op_type"] != "matmul"):
            row["dtype"] = types[0]
        if row["compute_dtype"] == template["dtype"] and row["op_type"] not in ("layernorm", "softmax", "elementwise"):
            row["compute_dtype"] = compute_type(row["dtype"])
    weights = template["weight_bytes"] > 0
    try:
        known = len(operator(template).operands)
        ops = [_with_optional(row, weights=weights, all_of_them=held) for held in (True, False)]
        op = next((op for op in ops if len(op.operands) == known), ops[1])
        row |= _bytes_of(op)
    except (
        DseError,
        RuntimeError,
        ValueError,
        IndexError,
    ):  # torch refuses these sizes: a kernel larger than its image
        return None
    seconds = row["flops"] / ASSUMED_FLOPS[device] + row["bytes"] / ASSUMED_BYTES_S[device]
    return row if row["bytes"] <= LIMIT_BYTES and seconds <= LIMIT_S else None


def _with_optional(row: Row, *, weights: bool, all_of_them: bool) -> Operator:
    """Return the operator of a row with all its optional tensors, or with none."""
    size = math.inf if all_of_them else 1e-9
    return operator(row | {"bytes": math.inf if all_of_them else 0.0, "weight_bytes": size if weights else 0.0})


def _bytes_of(op: Operator) -> Row:
    return {"bytes": float(op.operand_bytes + op.output_bytes()), "weight_bytes": float(op.weight_bytes)}


class _Sizes:
    """Draws sizes."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.reach = 16.0 if random.random() < 0.2 else 4.0  # farther off at times

    def near(self, size: float, least: int = 1) -> int:
        """Return a size round this one: the same, any, or a multiple of 16."""
        choice = self.random.random()
        if choice < 0.25:
            return max(int(size), least)
        drawn = size * math.pow(self.reach, self.random.uniform(-1, 1))
        if choice < 0.5 and drawn >= 16:
            return max(16 * round(drawn / 16), least)
        return max(round(drawn), least)

    def one_of(self, sizes: Sequence[int]) -> int:
        return int(sizes[int(self.random.integers(len(sizes)))])

    def happens(self, probability: float) -> bool:
        return bool(self.random.random() < probability)


def _columns(*names: str) -> Callable[[Row, _Sizes], None]:
    def varied(row: Row, sizes: _Sizes) -> None:
        for name in names:
            row[name] = sizes.near(row.get(name, 1))

    return varied


def _convolution(row: Row, sizes: _Sizes) -> None:
    groups = row["groups"]
    if groups == 1:
        row |= {"cin": sizes.near(row["cin"]), "cout": sizes.near(row["cout"])}
    elif groups == row["cin"]:  # depthwise, with so many filters a channel
        filters = row["cout"] // groups
        row["cin"] = row["groups"] = sizes.near(groups)
        row["cout"] = row["cin"] * filters
    else:
        row |= {name: groups * sizes.near(row[name] // groups) for name in ("cin", "cout")}
    if sizes.happens(0.5):
        row["batch"] = sizes.near(row["batch"])
    transposed, only = "transpose" in row["op_type"], row["op_type"].endswith("1d")
    for axis in "dhw"[3 - int(row["op_type"][-2]) :]:
        end = {"h": "", "w": "" if only else "_w", "d": "_d"}[axis]
        stride, pad, dilation = (int(row[f"{name}{end}"]) for name in ("stride", "pad", "dilation"))
        kernel, size = int(row[f"k{axis}"]), sizes.near(row[f"{axis}in"])
        if sizes.happens(0.25):
            kernel = sizes.one_of((1, 2, 3, 4, 5, 7, 8, 9, 11, 16, 17))
        reach = dilation * (kernel - 1)
        pad = min(pad, reach // 2) if kernel == row[f"k{axis}"] or not pad else reach // 2
        out = (size - 1) * stride - 2 * pad + reach + 1 if transposed else (size + 2 * pad - reach - 1) // stride + 1
        row |= {f"k{axis}": kernel, f"{axis}in": size, f"{axis}out": out, f"pad{end}": pad}
        if only:
            row |= {"pad_w": pad}


def _attention(row: Row, sizes: _Sizes) -> None:
    same = row["seq_q"] == row["seq_kv"]
    row |= {"batch": sizes.near(row["batch"]), "heads": sizes.near(row["heads"])}
    row["kv_heads"] = row["heads"]
    row["head_dim"] = row["value_dim"] = sizes.one_of((16, 32, 48, 64, 64, 80, 96, 128))
    row["seq_kv"] = sizes.near(row["seq_kv"], 2)
    if row["seq_q"] > 1:
        row["seq_q"] = row["seq_kv"] if same else sizes.near(row["seq_q"], 2)


def _norm(row: Row, sizes: _Sizes) -> None:
    if "cin" not in row:
        row |= {"rows": sizes.near(row["rows"]), "cols": sizes.near(row["cols"], 2)}
        return
    positions = row["rows"] * row["cols"] / (row["batch"] * row["cin"])
    row |= {"batch": sizes.near(row["batch"]), "cin": sizes.near(row["cin"])}
    positions = sizes.near(positions, 2)
    if row["op_name"] == "groupnorm":
        row["groups"] = math.gcd(int(row["groups"]), row["cin"])
    else:
        row["groups"] = row["cin"]
    row |= {"rows": row["batch"] * row["groups"], "cols": row["cin"] // row["groups"] * positions}


def _along(row: Row, sizes: _Sizes) -> None:
    outer, inner = sizes.near(row["rows"] // row["inner"]), row["inner"]
    row["inner"] = sizes.near(inner) if inner > 1 else 1
    row |= {"rows": outer * row["inner"], "cols": sizes.near(row["cols"], 2)}


def _elementwise(row: Row, sizes: _Sizes) -> None:
    for name in ("batch", "rows", "cols"):
        if row[name] > 1 or sizes.happens(0.1):
            row[name] = sizes.near(row[name])
    if row["operands"] >= 2 and not row["broadcast"] and row["op_name"] != "prelu":
        row["layout"] = sizes.one_of((0, 0, 0, 0, 1, 2))


def _pool(row: Row, sizes: _Sizes) -> None:
    row |= {name: sizes.near(row[name]) if row[name] > 1 else 1 for name in ("batch", "hin", "win")}
    if "kw" not in row:
        row |= {f"{axis}out": min(row[f"{axis}out"], row[f"{axis}in"]) for axis in "hw"}
        return
    for axis, end in (("h", ""), ("w", "_w")):
        if axis == "h" and row["hin"] == row["kh"] == 1:
            continue
        row[f"{axis}out"] = (row[f"{axis}in"] + 2 * row[f"pad{end}"] - row[f"k{axis}"]) // row[f"stride{end}"] + 1


def _fft(row: Row, sizes: _Sizes) -> None:
    length = sizes.one_of((128, 256, 400, 512, 512, 1000, 1024, 1024, 2048, 4096, 4096, 6000, 8192))
    if "stride" not in row:
        row |= {"rows": sizes.near(row["rows"]), "cols": length}
        return
    centred = row["rows"] // row["batch"] == 1 + row["win"] // row["stride"]
    row |= {"batch": sizes.near(row["batch"]), "win": sizes.near(row["win"], length), "cols": length}
    row["stride"] = length // sizes.one_of((2, 4, 4, 8))
    row["rows"] = row["batch"] * (1 + (row["win"] - (0 if centred else length)) // row["stride"])


def _copy(row: Row, sizes: _Sizes) -> None:
    if "hin" not in row:
        for name in ("rows", "cols", "inner"):
            if row[name] > 1:
                row[name] = sizes.near(row[name])
        row["cols"] = max(row["cols"], row["operands"])
        return
    more = {axis: row[f"{axis}out"] - row[f"{axis}in"] for axis in "hw"}
    row |= {name: sizes.near(row[name]) if row[name] > 1 else 1 for name in ("batch", "hin", "win")}
    row |= {f"{axis}out": row[f"{axis}in"] + extra for axis, extra in more.items()}


_VARIED: Mapping[str, Callable[[Row, _Sizes], None]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d"), _convolution),
    **dict.fromkeys(("attn_encoder", "attn_prefill", "attn_decode", "linear_attention"), _attention),
    "matmul": lambda row, sizes: _columns("m", "n", "k", *(("batch",) if row["op_name"] == "bmm" else ()))(row, sizes),
    "recurrent": _columns("batch", "seq_q", "cin", "cout"),
    "layernorm": _norm,
    "softmax": _along,
    "reduction": _along,
    "elementwise": _elementwise,
    "pool": _pool,
    "resample": _columns("batch", "hin", "win", "hout", "wout"),
    "fft": _fft,
    "embedding": _columns("rows", "cols", "n"),
    "copy": _copy,
}


def _work(row: Row) -> float:
    """Return a measure that the FLOPs of an operator are proportional to, at equal name and optional tensors."""

    def product(*names: str) -> float:
        return math.prod(float(row.get(name, 1)) for name in names)

    match row["op_type"]:
        case "matmul":
            return product("batch", "m", "n", "k")
        case "attn_encoder" | "attn_decode" | "attn_prefill":
            share = causal_share(row["seq_q"], row["seq_kv"]) if row["op_type"] == "attn_prefill" else 1.0
            width = float(row["head_dim"] + row.get("value_dim", row["head_dim"]))
            return product("batch", "heads", "seq_q", "seq_kv") * width * share
        case "linear_attention":
            return product("batch", "heads", "head_dim", "head_dim") * float(row["seq_q"] + row["seq_kv"])
        case "recurrent":  # one layer
            return product("batch", "seq_q", "cout", "directions") * float(row["cin"] + row["cout"])
        case "fft":
            length = float(row["cols"])
            windowed = {"stft": length, "istft": 3 * length}.get(row["op_name"], 0.0)
            return float(row["rows"]) * (5 * length * math.log2(length) + windowed)
        case "pool":
            if "adaptive" in row["op_name"]:
                return product("batch", "hin", "win")
            return product("batch", "hout", "wout", "kh", "kw")
        case "resample":
            return product("batch", "hout", "wout")
        case "embedding" | "copy":
            return 0.0
        case "elementwise" | "layernorm" | "softmax" | "reduction":
            extents = ("batch", "rows", "cols") if row["op_type"] == "elementwise" else ("rows", "cols")
            return product(*extents)
        case _:  # convolutions
            end = "in" if "transpose" in row["op_type"] else "out"
            taps = product("kd", "kh", "kw", *(f"{axis}{end}" for axis in "dhw"))
            return product("batch", "cin", "cout") / float(row["groups"]) * taps
