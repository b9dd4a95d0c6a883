"""One function an operator of the ONNX standard, in a register by name."""

from workloads.onnx_route.operators import (
    elementwise,
    indexing,
    matrix,
    normalization,
    pooling,
    quantized,
    recurrent,
    reduction,
    shaping,
    signal,
)
from workloads.onnx_route.operators.register import FOLDED, OPERATORS, Call, Node, Operator

__all__ = [
    "FOLDED",
    "OPERATORS",
    "Call",
    "Node",
    "Operator",
    "elementwise",
    "indexing",
    "matrix",
    "normalization",
    "pooling",
    "quantized",
    "recurrent",
    "reduction",
    "shaping",
    "signal",
]
