"""Inputs of the baselines: the specification's features, then shapes, device numbers and names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dse.proxy.columns import SHAPES
from dse.proxy.evaluate.predictor import Array
from dse.proxy.evaluate.rooflines import of_device, peak_flops_s, roofline_terms
from dse.proxy.specified import build_layer_features

NAMES = ("op_name", "dtype", "compute_dtype", "framework", "timer")
"""Columns of text that are inputs beside op_type. The device's name is none: a new one could not be told."""

FULL_PRECISION = ("fp32", "fp64", "complex64", "complex128")


def specified_features(rows: pd.DataFrame, devices: pd.DataFrame) -> NDArray[np.float32]:
    """Return the features of the layer proxy's specification (version C, 7.2), in its order [N, 9 + kinds].

    log10(flops + 1), log10(bytes + 1), log10(peak_flops + 1), log10(peak_bw + 1), one-hot op_type, embed_dim / 1024,
    num_heads / 16, mlp_ratio / 4, seq_len / 1024, precision (1: narrower than fp32). Of an operator that is no
    transformer's, embed_dim is the contracted size, the row or the input channels, mlp_ratio outputs / inputs, and
    seq_len the rows or output pixels.
    """
    shape = {name: rows[name].to_numpy(dtype=np.float64) for name in SHAPES}
    pixels = shape["wout"] * _first(shape["hout"], np.ones(len(rows))) * _first(shape["dout"], np.ones(len(rows)))
    layers = {
        "layer_type": rows["op_type"].astype(object).to_numpy(),
        "flops": rows["flops"].to_numpy(dtype=np.float64),
        "bytes": rows["bytes"].to_numpy(dtype=np.float64),
        "embed_dim": _first(shape["heads"] * shape["head_dim"], shape["k"], shape["cols"], shape["cin"]),
        "num_heads": _first(shape["heads"]),
        "mlp_ratio": _first(shape["n"] / shape["k"], shape["cout"] / shape["cin"]),
        "seq_len": _first(shape["seq_kv"], shape["m"], shape["rows"], pixels),
        "precision": ~rows["dtype"].isin(FULL_PRECISION).to_numpy(),
    }
    devices_of_rows = {
        "peak_flops": peak_flops_s(rows, devices),
        "peak_bw": of_device(rows, devices, "peak_bw_gbs") * 1e9,
    }
    found: NDArray[np.float32] = build_layer_features(layers, devices_of_rows).numpy().astype(np.float32)
    return found


def numeric_inputs(rows: pd.DataFrame, devices: pd.DataFrame, *, roofline: bool) -> NDArray[np.float32]:
    """Return what is known of each row and its device as numbers [N, F], the specified features first.

    Then logs of every shape (0 where it has none), of weight bytes, and of the device's TDP and last-level cache. With
    `roofline`, also logs of the two roofline terms, of their ratio and of how much of the operator the cache holds.
    """
    cache_bytes = of_device(rows, devices, "l2_mb") * 1e6
    columns: list[Array] = [np.log2(1 + _first(rows[name].to_numpy(dtype=np.float64))) for name in SHAPES]
    columns += [np.log2(1 + rows["weight_bytes"].to_numpy(dtype=np.float64))]
    columns += [
        np.log2(_first(of_device(rows, devices, "tdp_w"), np.ones(len(rows)))),
        np.log2(_first(cache_bytes) + 1),
    ]
    if roofline:
        compute_ms, memory_ms = (np.log2(np.maximum(term, 1e-9)) for term in roofline_terms(rows, devices))
        resident = np.log2(rows["bytes"].to_numpy(dtype=np.float64)) - np.log2(_first(cache_bytes) + 1)
        columns += [compute_ms, memory_ms, compute_ms - memory_ms, resident]
    return np.column_stack([specified_features(rows, devices), np.column_stack(columns).astype(np.float32)])


@dataclass(frozen=True, slots=True, kw_only=True)
class TextInputs:
    """The texts of training rows as inputs of baselines: no names of chips, which dse.proxy.vocabulary also holds."""

    known: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> TextInputs:
        """Return the texts of `rows`."""
        return cls(known={name: tuple(sorted(rows[name].astype(object).unique())) for name in NAMES})

    def codes(self, rows: pd.DataFrame) -> NDArray[np.int64]:
        """Return the number of each text [N, names] in its column's vocabulary; -1 for a text that is new."""
        coded = []
        for name, known in self.known.items():
            place = pd.Index(known).get_indexer(rows[name].cat.categories)
            coded.append(place[rows[name].cat.codes])
        return np.stack(coded, axis=1).astype(np.int64)

    def one_hot(self, rows: pd.DataFrame) -> NDArray[np.float32]:
        """Return a column a known text [N, T]; a new text has zero in all."""
        codes = self.codes(rows)
        parts = [codes[:, [i]] == np.arange(len(known)) for i, known in enumerate(self.known.values())]
        return np.concatenate(parts, axis=1).astype(np.float32)


def _first(*candidates: Array) -> Array:
    """Return the first of the candidates [N] that is known of each row, 0 where none is."""
    found = np.array(candidates[0])
    for candidate in (*candidates[1:], np.zeros(len(found))):
        found = np.where(np.isnan(found), candidate, found)
    return found
