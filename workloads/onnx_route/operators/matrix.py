"""Matrix products, convolutions, attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workloads.errors import WorkloadError
from workloads.onnx_route.operators.pooling import interleaved, window_pads
from workloads.onnx_route.operators.register import Call, operator


@operator("MatMul", weights=(0, 1, 2))
def _matmul(call: Call, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    """Product; with a matrix of weights a linear layer, to which `patterns` has added the bias that follows."""
    if 1 in call.weights and y.ndim == 2 and x.ndim >= 2:
        return F.linear(x, y.t(), bias)
    product = torch.matmul(x, y)
    return product if bias is None else product + bias


@operator("Gemm", weights=(1, 2))
def _gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    left = a.t() if call.get("transA", 0) else a
    weight = b if call.get("transB", 0) else b.t()
    if alpha == 1.0 and (c is None or (beta == 1.0 and c.numel() == weight.shape[0] == c.shape[-1])):
        return F.linear(left, weight, None if c is None else c.reshape(-1))
    y = F.linear(left, weight)
    y = y if alpha == 1.0 else alpha * y
    if c is None or beta == 0.0:
        return y
    return y + (c if beta == 1.0 else beta * c)


def _rank(x: Tensor, weight: Tensor) -> int:
    if x.ndim != weight.ndim or not 3 <= x.ndim <= 5:
        shapes = f"{tuple(x.shape)} and {tuple(weight.shape)}"
        raise WorkloadError(f"input and weight of shapes {shapes} cannot be convolved", "1 to 3 spatial axes each")
    return x.ndim - 2


@operator("Conv", weights=(1, 2))
def convolve(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution; padding that differs between the sides is a pad before it."""
    rank = _rank(x, weight)
    before, after = window_pads(call, x.shape[2:], weight.shape[2:])
    if before != after:
        x, before = F.pad(x, interleaved(before, after)), [0] * rank
    return (F.conv1d, F.conv2d, F.conv3d)[rank - 1](
        x,
        weight,
        bias,
        call.get("strides", [1] * rank),
        before,
        call.get("dilations", [1] * rank),
        call.get("group", 1),
    )


@operator("ConvTranspose", weights=(1, 2))
def _conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = _rank(x, weight)
    strides, dilations = call.get("strides", [1] * rank), call.get("dilations", [1] * rank)
    extra, shape = call.get("output_padding", [0] * rank), call.get("output_shape")
    mode = call.get("auto_pad", "NOTSET")
    spans = [
        s * (n - 1) + o + d * (k - 1) + 1
        for s, n, o, d, k in zip(strides, x.shape[2:], extra, dilations, weight.shape[2:], strict=True)
    ]
    if shape is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        shape = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    if shape is None:
        before, after = window_pads(call, x.shape[2:], weight.shape[2:])
    else:
        totals = [max(span - size, 0) for span, size in zip(spans, shape[-rank:], strict=True)]
        small = [total // 2 for total in totals]
        large = [total - total // 2 for total in totals]
        before, after = (large, small) if mode == "SAME_LOWER" else (small, large)
        extra = [o + max(size - span, 0) for o, size, span in zip(extra, shape[-rank:], spans, strict=True)]
    run = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    if before == after:
        return run(x, weight, bias, strides, before, extra, call.get("group", 1), dilations)
    y = run(x, weight, bias, strides, 0, extra, call.get("group", 1), dilations)
    for axis, (first, last) in enumerate(zip(before, after, strict=True), start=2):
        y = y.narrow(axis, first, y.shape[axis] - first - last)
    return y


@operator("Einsum")
def _einsum(call: Call, *xs: Tensor) -> Tensor:
    return torch.einsum(call.need("equation"), *xs)


@operator("Attention")
def _attention(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    key_lengths: Tensor | None = None,
) -> Any:
    """Scaled dot-product attention of opset 23: [batch, heads, tokens, width], or [batch, tokens, heads x width]."""
    call.only("left_window_size", [-1])
    call.only("right_window_size", [-1])
    if call.wants(3):
        raise WorkloadError("its product of queries and keys is asked for", "leave out the output qk_matmul_output")
    if key_lengths is not None:
        raise WorkloadError("keys of different lengths in a batch are not supported", "without nonpad_kv_seqlen")
    packed = query.ndim == 3
    if packed:
        heads, kv_heads = call.need("q_num_heads"), call.need("kv_num_heads")
        query, key, value = _heads(query, heads), _heads(key, kv_heads), _heads(value, kv_heads)
    if past_key is not None and past_value is not None:
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    scale, causal = call.get("scale"), bool(call.get("is_causal", 0))
    if causal and (mask is not None or past_key is not None or call.get("softcap", 0.0)):
        mask, causal = _causal(query, key, mask, 0 if past_key is None else past_key.shape[2]), False
    present = key, value
    grouped = query.shape[1] != key.shape[1]
    if call.get("softcap", 0.0):
        y = _capped(query, key, value, mask, scale or 1 / math.sqrt(query.shape[-1]), call.get("softcap"))
    else:
        y = F.scaled_dot_product_attention(query, key, value, mask, 0.0, causal, scale=scale, enable_gqa=grouped)
    if packed:
        y = y.transpose(1, 2).flatten(2)
    return (y, *present) if call.wants(1) else y


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:-1], heads, -1).transpose(1, 2)


def _causal(query: Tensor, key: Tensor, mask: Tensor | None, past: int) -> Tensor:
    """Return the mask that also hides the future of queries that follow `past` keys."""
    seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril(past)
    if mask is None:
        return seen
    return mask & seen if mask.dtype == torch.bool else torch.where(seen, mask, -math.inf)


def _capped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, cap: float) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = cap * torch.tanh(torch.matmul(query, key.transpose(-1, -2)) * scale / cap)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return torch.matmul(torch.softmax(scores, -1), value)


@operator("RotaryEmbedding")
def _rotary_embedding(call: Call, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None) -> Tensor:
    """Rotate pairs of features (opset 23, Su et al., arXiv 2104.09864); packed input needs `num_heads`."""
    packed = x.ndim == 3
    y = _heads(x, call.need("num_heads")) if packed else x
    width = call.get("rotary_embedding_dim", 0) or y.shape[-1]
    rotated, kept = y[..., :width], y[..., width:]
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    if call.get("interleaved", 0):
        first, second = rotated[..., 0::2], rotated[..., 1::2]
    else:
        first, second = rotated.chunk(2, -1)
    real, imaginary = first * cos - second * sin, second * cos + first * sin
    if call.get("interleaved", 0):
        rotated = torch.stack([real, imaginary], -1).flatten(-2)
    else:
        rotated = torch.cat([real, imaginary], -1)
    y = torch.cat([rotated, kept], -1) if kept.shape[-1] else rotated
    return y.transpose(1, 2).flatten(2) if packed else y
