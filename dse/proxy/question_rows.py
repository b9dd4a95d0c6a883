"""The layers of a question as rows of the tidy table: each that differs once, in words that the layer proxy knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chiplib.chip import Precision
from dse.proxy.columns import DTYPES, VECTOR_OPERATORS
from dse.proxy.layer_rows import compute_type, layer_rows
from dse.proxy.model import LayerQuestion, Outside
from dse.proxy.vocabulary import KIND_OF, Vocabulary
from workloads.graph import Layer

FLOATING = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8")
"""Number types of layers that take the asked precision; others (indices, complex numbers) keep theirs."""

SAME_SIZE = {1: "int8", 2: "fp16", 4: "fp32", 8: "int64", 16: "complex64"}
"""Bytes of a number -> the measured type that stands for types that were not."""


@dataclass(frozen=True, kw_only=True, eq=False)
class QuestionRows:
    """Rows [U] of the layers that differ."""

    rows: pd.DataFrame  # [U] LAYER_COLUMNS
    place: NDArray[np.int64]  # [N] row of each layer; -1 of those that neither compute nor move anything
    outside: NDArray[np.int8]  # [U] codes of Outside: what of the layer is not in the proxy's words


def question_rows(question: LayerQuestion, vocabulary: Vocabulary) -> QuestionRows:
    """Return the question's layers as rows at its precision, with the bytes of its features.

    A kind of operator that was never measured is told as what it is most like (see `_nearest_form`), a number type as a
    measured one of as many bytes; the type that is computed in stays, since a chip's peak goes by it.
    """
    layers, precision = question.layers, question.precision
    every = layer_rows(question.graph)
    floating = every["dtype"].isin(FLOATING).to_numpy() & (layers["float_bytes"] > 0)
    dtype = np.where(floating, "fp32" if precision is Precision.TF32 else precision.value, every["dtype"])
    own = np.array([compute_type(name) for name in every["dtype"]], object)
    every["dtype"] = dtype
    every["compute_dtype"] = np.where(floating, precision.value, own)
    every.loc[every["op_type"].isin(VECTOR_OPERATORS), "compute_dtype"] = "fp32"
    every["bytes"] = layers["weight_bytes"] + layers["input_bytes"] + layers["output_bytes"]
    every["weight_bytes"] = layers["weight_bytes"]
    something = ((every["bytes"] > 0) | (every["flops"] > 0)).to_numpy()
    place = np.full(len(every), -1)
    place[something], unique = pd.factorize(pd.util.hash_pandas_object(every[something], index=False))
    first = np.searchsorted(np.maximum.accumulate(place), np.arange(len(unique)))
    rows = every.iloc[first].reset_index(drop=True)
    known = vocabulary.known
    new_kind = np.flatnonzero(~rows["op_type"].replace(KIND_OF).isin(known["op_type"]))
    new_numbers = ~rows["dtype"].isin(known["dtype"]) | ~rows["compute_dtype"].isin(known["compute_dtype"])
    if len(new_kind):
        matrix = layers["matrix"][first]
        forms = [_nearest_form(question.graph.layers[first[row]], bool(matrix[row])) for row in new_kind]
        for name, values in pd.DataFrame(forms, index=new_kind).items():
            rows.loc[values.dropna().index, name] = values.dropna()
    rows["dtype"] = [name if name in known["dtype"] else _same_size(name) for name in rows["dtype"]]
    codes = np.where(new_numbers, Outside.NUMBERS, 0)
    codes[new_kind] |= Outside.OPERATOR
    return QuestionRows(rows=rows, place=place, outside=codes.astype(np.int8))


def _nearest_form(layer: Layer, matrix: bool) -> dict[str, Any]:
    """Return what a layer of unknown kind is most like.

    A matrix product with its outputs and operations, or an element-wise operator with its outputs.
    """
    size = max(float(np.prod(layer.output_shape, dtype=np.float64)), 1.0)
    columns = float(max(layer.output_shape[-1], 1)) if layer.output_shape else 1.0
    if not matrix:
        form: dict[str, Any] = {"op_type": "elementwise", "op_name": "add", "compute_dtype": "fp32", "operands": 1.0}
        return form | {"rows": size / columns, "cols": columns}
    form = {"op_type": "matmul", "op_name": "linear", "batch": 1.0, "m": size / columns, "n": columns}
    return form | {"k": max(layer.flops / (2.0 * size), 1.0)}


def _same_size(dtype: str) -> str:
    return SAME_SIZE.get(int(DTYPES[dtype].activation), "fp32") if dtype in DTYPES else "fp32"
