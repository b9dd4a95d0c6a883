"""Element types: of the ONNX standard, of numpy and of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from workloads.errors import WorkloadError

DTYPES: Mapping[int, torch.dtype] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    12: torch.uint32,
    13: torch.uint64,
    14: torch.complex64,
    15: torch.complex128,
    16: torch.bfloat16,
    17: torch.float8_e4m3fn,
    19: torch.float8_e5m2,
}
"""`TensorProto.DataType` -> torch dtype. Strings and types under a byte have none."""


def torch_dtype(data_type: int) -> torch.dtype:
    """Return the torch dtype of a `TensorProto.DataType`.

    Raises
    ------
    WorkloadError
        If torch has none: strings, integers and floats of four bits.
    """
    if data_type not in DTYPES:
        from onnx import TensorProto

        known = {int(value): name for name, value in TensorProto.DataType.items()}
        name = known.get(data_type, f"number {data_type}")
        raise WorkloadError(f"the element type {name} cannot be traced", "export with numbers of whole bytes")
    return DTYPES[data_type]


def tensor_of(array: NDArray[Any]) -> torch.Tensor:
    """Return a tensor with an array's values; bfloat16 and float8 come as the types of ml_dtypes."""
    own = np.ascontiguousarray(array).reshape(array.shape)
    if own.dtype.kind in "biufc" and own.dtype.name in vars(np):
        return torch.from_numpy(own.copy())
    dtype = getattr(torch, own.dtype.name, None)
    if not isinstance(dtype, torch.dtype):
        raise WorkloadError(f"the element type {own.dtype} cannot be traced", "export with numbers of whole bytes")
    bits = {1: np.uint8, 2: np.int16}[own.dtype.itemsize]
    return torch.from_numpy(own.view(bits).copy()).view(dtype)
