"""Layers and devices as the specification (version C, 7.2) describes them: configurations of a few named quantities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chiplib.validation import did_you_mean
from dse.errors import DseError
from dse.proxy.columns import DTYPES, OPERATORS, SHAPES, WORK
from dse.proxy.layer_rows import layer_rows

if TYPE_CHECKING:
    from workloads.graph import WorkloadGraph

Config = Mapping[str, Any]
"""Quantities by name: numbers, arrays or tensors [N], texts or sequences of them."""

PRECISIONS = ("fp32", "fp16")
"""dtype of the specification's precisions 0 and 1."""

TEXTS = ("layer_type", "op_name", "dtype", "compute_dtype")
SPECIFIED = ("embed_dim", "num_heads", "mlp_ratio", "seq_len")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerType:
    """What a layer of the specification is in the tidy schema."""

    op_type: str
    op_name: str
    shapes: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]  # from batch and SPECIFIED
    calls: int = 1  # operators that it consists of, of equal work


def _heads(q: Mapping[str, Tensor]) -> dict[str, Tensor]:
    heads = q["num_heads"]
    sizes = {"batch": q["batch"], "heads": heads, "kv_heads": heads, "head_dim": q["embed_dim"] / heads}
    return sizes | {"seq_q": q["seq_len"], "seq_kv": q["seq_len"]}


def _product(q: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"m": q["batch"] * q["seq_len"], "k": q["embed_dim"], "n": q["embed_dim"] * q["mlp_ratio"]}


def _rows(q: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"rows": q["batch"] * q["seq_len"], "cols": q["embed_dim"]}


def _hidden(q: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"rows": q["batch"] * q["seq_len"], "cols": q["embed_dim"] * q["mlp_ratio"]}


def _scores(q: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"rows": q["batch"] * q["num_heads"] * q["seq_len"], "cols": q["seq_len"]}


def _own(q: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {}


LAYER_TYPES = {
    "attention": LayerType(op_type="attn_encoder", op_name="attn", shapes=_heads),
    "causal_attention": LayerType(op_type="attn_prefill", op_name="attn", shapes=_heads),
    "linear": LayerType(op_type="matmul", op_name="linear", shapes=_product),
    "mlp": LayerType(op_type="matmul", op_name="linear", shapes=_product, calls=2),
    "norm": LayerType(op_type="layernorm", op_name="ln", shapes=_rows),
    "attention_softmax": LayerType(op_type="softmax", op_name="softmax", shapes=_scores),
    "gelu": LayerType(op_type="elementwise", op_name="gelu", shapes=_hidden),
    "add": LayerType(op_type="elementwise", op_name="add", shapes=_rows),
} | {kind: LayerType(op_type=kind, op_name="", shapes=_own) for kind in OPERATORS}
"""Layer types of a transformer, whose sizes follow from the specification's quantities: `attention` is the product of
queries, keys and values alone, its projections are `linear`; `mlp` is the two products of a block. Kinds of operator of
the tidy schema are types, too, and give its columns (op_name, dtype, cin, kh, ...) themselves."""


def build_layer_features(layer_cfg: Config, device_cfg: Config) -> Tensor:
    """Return the specification's features [N, 9 + kinds] of N layers, in its order (version C, 7.2).

    log10(flops + 1), log10(bytes + 1), log10(peak_flops + 1), log10(peak_bw + 1), one-hot layer type (kinds of operator
    of the tidy schema, in the order of OPERATORS), embed_dim / 1024, num_heads / 16, mlp_ratio / 4, seq_len / 1024,
    precision (1: narrower than fp32). Quantities that a layer does not have are 0. Differentiable in all numbers.

    Raises DseError for an unknown layer type, or without flops, bytes, peak_flops or peak_bw.
    """
    for config, keys in ((layer_cfg, ("layer_type", "flops", "bytes")), (device_cfg, ("peak_flops", "peak_bw"))):
        for key in keys:
            require(config, key)
    values = {name: real(layer_cfg.get(name, 0.0)) for name in ("flops", "bytes", *SPECIFIED, "precision")}
    values |= {name: real(device_cfg[name]) for name in ("peak_flops", "peak_bw")}
    kinds = np.atleast_1d(op_types(layer_cfg["layer_type"]))
    count = max(len(kinds), *(value.numel() for value in values.values()))
    column = {name: value.expand(count) if value.ndim == 0 else value for name, value in values.items()}
    scales = [torch.log10(column[name] + 1) for name in ("flops", "bytes", "peak_flops", "peak_bw")]
    one_hot = torch.from_numpy(
        np.broadcast_to(kinds[:, None] == np.array([*OPERATORS]), (count, len(OPERATORS))).copy()
    )
    units = {"embed_dim": 1024, "num_heads": 16, "mlp_ratio": 4, "seq_len": 1024, "precision": 1}
    layer = [column[name] / unit for name, unit in units.items()]
    return torch.cat([torch.stack(scales, 1), one_hot.to(torch.float64), torch.stack(layer, 1)], dim=1)


def op_types(layer_types: Any) -> NDArray[np.object_]:
    """Return the kind of operator of each layer type. Raises DseError for an unknown one."""
    names = np.array(layer_types, object)
    for name in sorted({str(name) for name in np.atleast_1d(names)} - set(LAYER_TYPES)):
        raise DseError(f"layer_type = {name!r}: no such type of layer", did_you_mean(name, LAYER_TYPES))
    kinds: NDArray[np.object_] = np.vectorize(lambda name: LAYER_TYPES[name].op_type, otypes=[object])(names)
    return kinds


@dataclass(frozen=True, slots=True, kw_only=True)
class TidyLayers:
    """N layers in columns of the tidy schema; numbers are float64 tensors that carry gradients."""

    texts: dict[str, NDArray[np.object_]]  # op_type, op_name, dtype [N], compute_dtype where it was given
    numbers: dict[str, Tensor]  # flops, bytes, and those of weight_bytes and SHAPES that apply [N]
    calls: Tensor  # [N] times that each row is run
    single: bool  # no quantity had an axis of layers


def tidy_layers(layer_cfg: Config) -> TidyLayers:
    """Return N layers in tidy columns: those that the configuration gives, and what follows from its layer types.

    Raises DseError for an unknown key or layer type, without layer_type, flops or bytes, and where sizes differ.
    """
    for key in ("layer_type", "flops", "bytes"):
        require(layer_cfg, key)
    known = (*TEXTS, *SPECIFIED, "precision", *SHAPES, *WORK)
    for key in layer_cfg:
        if key not in known:
            raise DseError(f"layer_cfg has a key {key!r}, which no layer has", did_you_mean(key, known))
    numbers = {key: real(value) for key, value in layer_cfg.items() if key not in TEXTS}
    texts = {key: np.array(layer_cfg[key], object) for key in TEXTS if key in layer_cfg}
    axes = {key: tuple(value.shape) for key, value in numbers.items() if value.ndim}
    axes |= {key: value.shape for key, value in texts.items() if value.ndim}
    lengths = {shape[0] for shape in axes.values()}
    if len(lengths) > 1 or any(len(shape) > 1 for shape in axes.values()):
        given = ", ".join(f"{key} {shape}" for key, shape in axes.items())
        raise DseError(f"quantities of layer_cfg differ in size: {given}", "one number, or one a layer")
    count = lengths.pop() if lengths else 1
    numbers = {key: value.expand(count) if value.ndim == 0 else value for key, value in numbers.items()}
    texts = {key: np.broadcast_to(value, count) for key, value in texts.items()}
    return _tidy(texts, numbers, count, single=not axes)


def _tidy(texts: dict[str, NDArray[np.object_]], numbers: dict[str, Tensor], count: int, *, single: bool) -> TidyLayers:
    op_types(texts["layer_type"])
    kinds = [LAYER_TYPES[name] for name in texts["layer_type"]]
    own = {key: value for key, value in numbers.items() if key in SHAPES}
    ones = torch.ones(count, dtype=torch.float64)
    quantities = {"batch": ones, "mlp_ratio": ones} | numbers
    for name in sorted(set(texts["layer_type"])):
        rows = torch.from_numpy(texts["layer_type"] == name)
        if missing := _missing(name, quantities):
            raise DseError(f"layer_cfg has no {missing[0]}, which {name!r} needs", "give it, or name an operator kind")
        for column, value in LAYER_TYPES[name].shapes(quantities).items():
            if column not in numbers:
                own[column] = torch.where(rows, value, own.get(column, ones * np.nan))
    dtype = texts.get("dtype", np.array(PRECISIONS, object)[numbers.get("precision", 0 * ones).long().clamp(0, 1)])
    tidy = {
        "op_type": np.array([kind.op_type for kind in kinds], object),
        "op_name": texts.get("op_name", np.array([kind.op_name or kind.op_type for kind in kinds], object)),
        "dtype": np.broadcast_to(dtype, count),
    }
    calls = torch.tensor([kind.calls for kind in kinds], dtype=torch.float64)
    work = {key: numbers[key] / calls for key in WORK if key in numbers}
    if "weight_bytes" not in work and "k" in own:
        size = torch.tensor([DTYPES[name].weight if name in DTYPES else np.nan for name in tidy["dtype"]])
        linear = torch.from_numpy((tidy["op_type"] == "matmul") & (tidy["op_name"] == "linear"))
        work["weight_bytes"] = torch.where(linear, own["k"] * own["n"] * size, ones * 0)
    if "compute_dtype" in texts:
        tidy["compute_dtype"] = texts["compute_dtype"]
    return TidyLayers(texts=tidy, numbers=own | work, calls=calls, single=single)


def _missing(layer_type: str, quantities: Mapping[str, Tensor]) -> list[str]:
    try:
        LAYER_TYPES[layer_type].shapes(quantities)
    except KeyError as key:
        return [str(key.args[0])]
    return []


def traced_layers(graph: WorkloadGraph) -> dict[str, Any]:
    """Return the layer_cfg of all layers of a traced graph, in columns of the tidy schema.

    Gates scale its tensors: `flops`, `bytes`, `weight_bytes`, and sizes such as `m` or `seq_q`.
    """
    rows = layer_rows(graph)
    texts = {"layer_type": "op_type"} | {name: name for name in TEXTS if name != "layer_type"}
    config: dict[str, Any] = {key: rows[column].to_numpy(object) for key, column in texts.items()}
    return config | {name: torch.tensor(rows[name].to_numpy(np.float64)) for name in (*SHAPES, *WORK)}


def require(config: Config, key: str) -> None:
    """Raise DseError where a configuration lacks a key."""
    if key not in config:
        raise DseError(f"no {key} in the configuration", f"it has {', '.join(config) or 'nothing'}")


def real(value: Any) -> Tensor:
    """Return a number, array or tensor as a float64 tensor; gradients go through."""
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        value = value.copy()
    return torch.as_tensor(value, dtype=torch.float64)
