"""Gradients through the proxy's features: how they grow with a layer's quantities, and fall with a chip's rates.

Features are worked out in numpy at whole sizes (dse.proxy.features); what a gate or a mix of chips makes of them is
added here in torch. Between two whole sizes, what is padded to tiles keeps the padding of the nearer one, so that the
features are those of numpy at whole sizes, and smooth round each.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dse.proxy.columns import SHAPES, VECTOR_OPERATORS
from dse.proxy.features import (
    CACHE_BYTES_PER_FLOP,
    LEAST,
    NAMES,
    RATES,
    TILES,
    WINOGRAD,
    WORK,
    Features,
    matrix_extents,
)

Array = NDArray[np.float64]

EXTENTS = ("products", "m", "n", "k")
SMALL = 1e-4
"""Relative step of the derivatives of EXTENTS, which are monomials of sizes, or sums of two."""

GROWTH: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in EXTENTS},
    **{name: (name,) for name in ("flops", "bytes", "activation_bytes", "weight_bytes")},
    **{f"flops_in_tiles_{m}x{n}": ("flops",) for m, n in TILES},
    "tiles_32": ("products", "m", "n"),
    "tiles_128": ("products", "m", "n"),
    "padded_k": ("k",),
    **{name: (name,) for name in ("seq_q", "seq_kv", "batch", "heads", "kv_heads")},
    "pixels": ("din", "hin", "win"),
    "all_pixels": ("din", "hin", "win", "batch"),
    "dram_bytes": ("bytes",),  # on a chip without a cache
}
"""Column of WORK -> quantities that it is proportional to."""


def work_growth(base: Features, whole: Mapping[str, Array], numbers: Mapping[str, Tensor]) -> Tensor:
    """Return what is to be added to `base.work` [N, WORK], worked out at `whole` sizes [N], for the `numbers` [N]."""
    kind = base.names[:, NAMES.index("op_type")]
    shape = {name: whole.get(name, np.full(len(base), np.nan)) for name in SHAPES}
    grown = {name: _log_change(numbers[name], whole[name]) for name in SHAPES if name in numbers}
    grown = {name: change for name, change in grown.items() if change.requires_grad or bool((change != 0).any())}
    changes = {name: change for name, change in grown.items() if name not in EXTENTS}
    for name, change in grown.items():
        more, less = (matrix_extents(kind, shape | {name: shape[name] * factor}) for factor in (1 + SMALL, 1 - SMALL))
        for extent, high, low in zip(EXTENTS, more, less, strict=True):
            exponent = np.log(high / low) / np.log((1 + SMALL) / (1 - SMALL))
            if exponent.any():
                changes[extent] = changes.get(extent, 0.0) + torch.from_numpy(exponent) * change
    weights = numbers.get("weight_bytes", torch.from_numpy(whole["weight_bytes"]))
    parts = {"flops": numbers["flops"], "bytes": numbers["bytes"], "weight_bytes": weights + 1.0}
    parts["activation_bytes"] = numbers["bytes"] - weights
    for name, value in parts.items():
        changes[name] = torch.log(value.clamp(min=1.0)) - torch.from_numpy(base.work[:, WORK.index(name)])
    zero = torch.zeros(len(base), dtype=torch.float64)
    columns = [sum((changes[part] for part in GROWTH[name] if part in changes), zero) for name in WORK]
    return torch.stack(columns, dim=1)


def beyond_cache(work: Tensor, moved: Tensor, cache_bytes: Tensor) -> Tensor:
    """Return `work` [N, WORK] with the bytes of DRAM, of all that are moved [N], on chips with such a cache [N]."""
    dram = torch.log((moved - cache_bytes).clamp(min=1.0))
    return torch.where(torch.tensor([name == "dram_bytes" for name in WORK]), dram[:, None], work)


def _log_change(value: Tensor, whole: Array) -> Tensor:
    """Return log(value / whole) [N]; 0 where the size does not apply."""
    at = torch.from_numpy(whole)
    known = torch.isfinite(at) & torch.isfinite(value)
    return torch.where(
        known, torch.log(torch.where(known, value, 1.0).clamp(min=LEAST) / torch.where(known, at, 1.0)), 0
    )


def physics(
    kinds: NDArray[np.object_], taps: Array, flops: Tensor, moved: Tensor, rates: Tensor, cache_bytes: Tensor
) -> tuple[Tensor, Tensor]:
    """Return logs of the least ms that physics allows [N] and of the roofline's two times [N, 2], as features.physics.

    From operator kinds [N], taps of kernels [N], FLOPs, bytes and cache bytes [N], and rates [N, RATES].
    """
    fast = torch.from_numpy(np.char.startswith(kinds.astype(str), "conv") & (taps > 1))
    vector = torch.from_numpy(np.isin(kinds, VECTOR_OPERATORS))
    rate = dict(zip(RATES, rates.unbind(1), strict=True))
    compute_ms = flops / torch.where(vector, rate["vector"], rate["peak"])
    from_dram = (moved - cache_bytes).clamp(min=0.0) / rate["bandwidth"]
    from_cache = moved / (CACHE_BYTES_PER_FLOP * rate["vector"])
    shortest = compute_ms / torch.where(fast, WINOGRAD, 1.0)
    floor_ms = torch.maximum(torch.maximum(shortest, from_dram), from_cache)
    terms_ms = torch.stack([compute_ms, moved / rate["bandwidth"]], dim=1)
    return torch.log(floor_ms.clamp(min=LEAST)), torch.log(terms_ms.clamp(min=LEAST))
