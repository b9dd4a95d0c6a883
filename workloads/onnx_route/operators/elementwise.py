"""Element-wise operators: arithmetic, comparisons, activations, casts."""

from __future__ import annotations

import functools
import operator as python
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workloads.errors import WorkloadError
from workloads.onnx_route.operators.register import Call, operator
from workloads.onnx_route.types import torch_dtype

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": python.add,
    "BitwiseAnd": python.and_,
    "BitwiseOr": python.or_,
    "BitwiseXor": python.xor,
    "Equal": python.eq,
    "Greater": python.gt,
    "GreaterOrEqual": python.ge,
    "Less": python.lt,
    "LessOrEqual": python.le,
    "Mul": python.mul,
    "Sub": python.sub,
    "And": python.and_,
    "Or": python.or_,
    "Xor": python.xor,
}


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def run(call: Call, x: Tensor) -> Tensor:
        return function(x)

    return run


def _legacy_broadcast(call: Call, x: Any, y: Any) -> Any:
    """Before opset 7 the second operand was aligned with the first at `axis`, where `broadcast` was set."""
    axis = call.get("axis")
    if call.opset < 7 and axis is not None and isinstance(y, Tensor):
        trailing = x.ndim - (axis % x.ndim) - y.ndim
        return y.reshape(*y.shape, *[1] * trailing)
    return y


def _binary(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def run(call: Call, x: Any, y: Any) -> Any:
        return function(x, _legacy_broadcast(call, x, y))

    return run


for _name, _function in UNARY.items():
    operator(_name)(_unary(_function))
for _name, _pair in BINARY.items():
    operator(_name, numbers=(0, 1))(_binary(_pair))


@operator("Div", numbers=(0, 1))
def _div(call: Call, x: Any, y: Any) -> Any:
    kind = x if isinstance(x, Tensor) else y
    y = _legacy_broadcast(call, x, y)
    if kind.is_floating_point() or kind.is_complex():
        return x / y
    return torch.div(x if isinstance(x, Tensor) else torch.full_like(y, x), y, rounding_mode="trunc")


@operator("Pow", numbers=(1,))
def _pow(call: Call, x: Tensor, y: Any) -> Tensor:
    """The result has the type of the base."""
    return torch.pow(x, _legacy_broadcast(call, x, y)).to(x.dtype)


@operator("Mod", numbers=(1,))
def _mod(call: Call, x: Any, y: Any) -> Any:
    return torch.fmod(x, y) if call.get("fmod", 0) else torch.remainder(x, y)


@operator("BitShift")
def _bit_shift(call: Call, x: Tensor, y: Tensor) -> Tensor:
    return x << y if call.need("direction") == "LEFT" else x >> y


@operator("Min")
def _min(call: Call, *xs: Tensor) -> Tensor:
    return functools.reduce(torch.minimum, xs)


@operator("Max")
def _max(call: Call, *xs: Tensor) -> Tensor:
    return functools.reduce(torch.maximum, xs)


@operator("Sum")
def _sum(call: Call, *xs: Tensor) -> Tensor:
    return functools.reduce(torch.add, xs)


@operator("Mean")
def _mean(call: Call, *xs: Tensor) -> Tensor:
    return functools.reduce(torch.add, xs) / len(xs)


@operator("Where", numbers=(1, 2))
def _where(call: Call, condition: Tensor, x: Any, y: Any) -> Tensor:
    return torch.where(condition, x, y)


@operator("Identity", pure=False)
def _identity(call: Call, x: Any) -> Any:
    return x


@operator("Clip", known=(1, 2))
def _clip(call: Call, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    low = call.get("min") if low is None else low.item()
    high = call.get("max") if high is None else high.item()
    return x if low is None and high is None else torch.clamp(x, low, high)


@operator("Cast", "CastLike")
def _cast(call: Call, x: Tensor, like: Tensor | None = None) -> Tensor:
    return x.to(torch_dtype(int(call.need("to"))) if like is None else like.dtype)


@operator("Dropout", known=(1, 2), pure=False)
def _dropout(call: Call, x: Tensor, ratio: Any = None, training_mode: Any = None) -> Any:
    """Active where the module is trained; what the file says of its own mode (`training_mode`) is of its exporter."""
    share = float(ratio.item()) if ratio is not None else float(call.get("ratio", 0.5))
    y = F.dropout(x, share, training=call.training)
    return (y, torch.ones_like(x, dtype=torch.bool)) if call.wants(1) else y


@operator("IsInf")
def _is_inf(call: Call, x: Tensor) -> Tensor:
    if call.get("detect_positive", 1) and call.get("detect_negative", 1):
        return torch.isinf(x)
    return torch.isposinf(x) if call.get("detect_positive", 1) else torch.isneginf(x)


@operator("LeakyRelu")
def _leaky_relu(call: Call, x: Tensor) -> Tensor:
    return F.leaky_relu(x, call.get("alpha", 0.01))


@operator("Elu")
def _elu(call: Call, x: Tensor) -> Tensor:
    return F.elu(x, call.get("alpha", 1.0))


@operator("Celu")
def _celu(call: Call, x: Tensor) -> Tensor:
    return F.celu(x, call.get("alpha", 1.0))


@operator("Selu")
def _selu(call: Call, x: Tensor) -> Tensor:
    """torch fixes alpha and gamma at the standard's defaults; others are written out."""
    alpha, gamma = float(call.get("alpha", 1.6732632423543772)), float(call.get("gamma", 1.0507009873554805))
    if abs(alpha - 1.6732632423543772) < 1e-5 and abs(gamma - 1.0507009873554805) < 1e-5:
        return F.selu(x)
    return gamma * F.elu(x, alpha)


@operator("ThresholdedRelu")
def _thresholded_relu(call: Call, x: Tensor) -> Tensor:
    return F.threshold(x, call.get("alpha", 1.0), 0.0)


@operator("HardSigmoid")
def _hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    alpha, beta = call.get("alpha", 0.2), call.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-5 and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


@operator("Gelu")
def _gelu(call: Call, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=call.get("approximate", "none"))


@operator("Swish")
def _swish(call: Call, x: Tensor) -> Tensor:
    alpha = call.get("alpha", 1.0)
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@operator("Shrink")
def _shrink(call: Call, x: Tensor) -> Tensor:
    bias, lambd = call.get("bias", 0.0), call.get("lambd", 0.5)
    if bias == 0.0:
        return F.hardshrink(x, lambd)
    if bias == lambd:
        return F.softshrink(x, lambd)
    raise WorkloadError(f"bias {bias} differs from 0 and from lambd {lambd}", "a hard or a soft shrinkage")


@operator("PRelu", weights=(1,))
def _prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """torch's prelu takes one slope, or one a channel (dimension 1); others are written out."""
    channels = x.shape[1] if x.ndim > 1 else 1
    per_channel = slope.ndim >= x.ndim - 1 and slope.numel() == channels == slope.shape[1 - x.ndim]
    if slope.numel() == 1 or per_channel:
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, x * slope, x)


def _random_like(call: Call, x: Tensor) -> Tensor:
    dtype = torch_dtype(int(call.need("dtype"))) if call.get("dtype") else None
    draw = torch.randn_like if "Normal" in call.node.operator else torch.rand_like
    return draw(x, dtype=dtype)


operator("RandomNormalLike", "RandomUniformLike", pure=False)(_random_like)


@operator("RandomNormal", "RandomUniform", pure=False)
def _random(call: Call) -> Tensor:
    draw = torch.randn if call.node.operator == "RandomNormal" else torch.rand
    return draw(list(call.need("shape")), dtype=torch_dtype(int(call.get("dtype", 1))), device=call.device)


@operator("Bernoulli", pure=False)
def _bernoulli(call: Call, x: Tensor) -> Tensor:
    drawn = torch.bernoulli(x)
    return drawn.to(torch_dtype(int(call.need("dtype")))) if call.get("dtype") else drawn
