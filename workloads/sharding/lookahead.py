"""What becomes of a dimension: which part of a segment reads it how, so that a cut fits those who come later.

A cut of a projection's channels has to give each member whole heads, and the same share of queries, keys and values; of
what a gated linear unit reads, the same share of both halves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import fx

from workloads.sharding.layout import groups_of
from workloads.sharding.views import (
    Expand,
    Narrow,
    Parts,
    Permute,
    Reshape,
    Select,
    View,
    arguments,
    is_list_of_views,
    view_of,
)

Role = Literal["channel", "sequence", ""]

DEPTH = 40
"""Calls in a row that are followed."""

NORMS = ("group_norm", "batch_norm", "instance_norm")
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What the readers of a dimension ask: a cut of each of `parts` alike that leaves runs of `granule` whole."""

    parts: tuple[int, ...]
    granule: int = 1
    role: Role = ""


class Lookahead:
    """Follows dimensions through the calls of a segment."""

    def __init__(self, nodes: tuple[fx.Node, ...]) -> None:
        self._nodes = set(nodes)
        self._known: dict[tuple[fx.Node, int], Fate | None] = {}

    def fate(self, node: fx.Node, dim: int, depth: int = DEPTH) -> Fate | None:
        """Return what the readers ask of a cut along `dim` of what a call returns, None where one cannot take any."""
        if (node, dim) not in self._known:
            self._known[node, dim] = Fate(parts=(_size(node, dim),))  # where there are no readers
            self._known[node, dim] = self._follow(node, dim, depth)
        return self._known[node, dim]

    def _follow(self, node: fx.Node, dim: int, depth: int) -> Fate | None:
        whole = Fate(parts=(_size(node, dim),))
        found = whole
        if not depth:
            return whole
        for user in node.users:
            if user not in self._nodes:
                continue
            for fate in self._asked(node, dim, user, depth - 1):
                if fate is None:
                    return None
                found = Fate(
                    parts=fate.parts if len(fate.parts) > len(found.parts) else found.parts,
                    granule=math.lcm(fate.granule, found.granule),
                    role=found.role or fate.role,
                )
        return found

    def _asked(self, node: fx.Node, dim: int, user: fx.Node, depth: int) -> list[Fate | None]:
        """What each reading of `node` by `user` asks."""
        if is_list_of_views(user):
            items = [item for item in user.users if item in self._nodes]
            return self._items(node, dim, [(item, found[1]) for item in items if (found := view_of(item))], depth)
        found = view_of(user)
        if found is not None and found[0] is node:
            return self._items(node, dim, [(user, found[1])], depth)
        return [self._operator(node, dim, user, depth)]

    def _items(self, node: fx.Node, dim: int, items: list[tuple[fx.Node, View]], depth: int) -> list[Fate | None]:
        """What the readers of views ask of their source; parts of it that views cut out are cut alike."""
        edges = {0, _size(node, dim)}
        asked: list[Fate | None] = []
        for item, view in items:
            match view:
                case Narrow() if view.dim == dim:
                    edges |= {view.start, view.stop}
                    later = self.fate(item, dim, depth)
                    asked.append(later and Fate(parts=(_size(node, dim),), granule=later.granule, role=later.role))
                case Select() if view.dim == dim:
                    return [None]
                case _:
                    asked.append(self._viewed(node, dim, item, view, depth))
        if len(edges) > 2:
            bounds = sorted(edges)
            parts = tuple(end - start for start, end in pairwise(bounds))
            asked.append(Fate(parts=parts))
        return asked

    def _viewed(self, node: fx.Node, dim: int, item: fx.Node, view: View, depth: int) -> Fate | None:
        match view:
            case Permute():
                return self.fate(item, view.dims.index(dim), depth)
            case Select():
                return self.fate(item, dim - (dim > view.dim), depth)
            case Expand():
                return self.fate(item, dim + len(view.new) - len(view.old), depth)
            case Reshape():
                return self._reshaped(dim, item, view, depth)
            case Parts() if dim >= view.rank:
                return None
            case _:
                return self.fate(item, dim, depth)

    def _reshaped(self, dim: int, item: fx.Node, view: Reshape, depth: int) -> Fate | None:
        """Of a dimension that becomes several, the first of them whose readers can take a cut."""
        ours, theirs = next(pair for pair in groups_of(view.old, view.new) if dim in pair[0])
        size, refused = view.old[dim], False
        before = math.prod(view.old[ours.start : dim])
        for new in theirs:
            outer, inner = math.prod(view.new[theirs.start : new]), math.prod(view.new[new + 1 : theirs.stop])
            if view.new[new] == 1 and size > 1:
                continue
            later = self.fate(item, new, depth)
            if later is None:
                refused = True
                continue
            if before == outer and view.new[new] == size:
                return later
            if before == 1 and outer * view.new[new] * inner == size:
                parts = tuple(part * inner for part in later.parts) * outer
                return Fate(parts=parts, granule=later.granule * inner, role=later.role)
            return Fate(parts=(size,), role=later.role)
        return None if refused else Fate(parts=(size,))

    def _operator(self, node: fx.Node, dim: int, user: fx.Node, depth: int) -> Fate | None:
        """What an operator that is no view asks of the dimension."""
        whole = Fate(parts=(_size(node, dim),))
        if not isinstance(user.target, torch._ops.OpOverload) or not isinstance(user.meta.get("val"), torch.Tensor):
            return whole
        name = user.target._schema.name.removeprefix("aten::")
        call, rank = arguments(user), len(node.meta["val"].shape)
        first = next(iter(call.values()))
        if first is not node and name in (*NORMS, *CONVOLUTIONS, "linear", "layer_norm", "prelu"):
            return whole  # a weight that is computed
        if name in CONVOLUTIONS:
            return self._convolution(call, whole, user, dim, depth)
        if name == "linear":
            return _with_role(whole, "channel" if dim == rank - 1 else "sequence" if dim == rank - 2 else "")
        if name in ("matmul", "bmm"):
            return _with_role(whole, "channel" if dim == rank - 1 else "sequence" if dim == rank - 2 else "channel")
        if name == "scaled_dot_product_attention":
            return None if dim == rank - 1 else _with_role(whole, "sequence" if dim == rank - 2 else "channel")
        if name == "glu":
            halved = call["dim"] % rank == dim
            later = self.fate(user, dim, depth)
            if later is None or not halved:
                return later
            return Fate(parts=later.parts * 2, granule=later.granule, role=later.role or "channel")
        if name in NORMS:
            later = self.fate(user, dim, depth)
            groups = call.get("num_groups", 1) if dim == 1 else 1
            role: Role = "channel" if dim == 1 else "sequence" if dim == rank - 1 else ""
            if later is None:
                return None
            granule = math.lcm(later.granule, whole.parts[0] // groups) if groups > 1 else later.granule
            return Fate(parts=later.parts, granule=granule, role=role)
        if name == "layer_norm":
            inside = dim >= rank - len(call["normalized_shape"])
            return _with_role(
                self.fate(user, dim, depth), "channel" if inside else "sequence" if dim == rank - 2 else ""
            )
        if name in ("softmax", "_softmax", "log_softmax") and call["dim"] % rank == dim:
            return None
        out = user.meta["val"].shape
        shifted = dim + len(out) - rank
        if torch.Tag.pointwise in user.target.tags or name in ALIKE:
            return self.fate(user, shifted, depth) if out[shifted] == whole.parts[0] else whole
        if name in ("cat", "pad", "constant_pad_nd") and out[dim] == whole.parts[0]:
            return self.fate(user, dim, depth)
        return whole

    def _convolution(self, call: Mapping[str, Any], whole: Fate, user: fx.Node, dim: int, depth: int) -> Fate | None:
        if dim > 1:
            return _with_role(whole, "sequence")
        if dim == 0 or call["groups"] == 1:
            return _with_role(whole, "channel" if dim else "")
        per_group = whole.parts[0] // call["groups"]
        later = self.fate(user, 1, depth)
        if later is None:
            return Fate(parts=whole.parts, granule=per_group, role="channel")
        made = _size(user, 1) // call["groups"]
        if any(part % made for part in later.parts) or (later.granule % made and later.granule != 1):
            return Fate(parts=whole.parts, granule=per_group, role="channel")
        parts = tuple(part // made * per_group for part in later.parts)
        return Fate(parts=parts, granule=max(later.granule // made, 1) * per_group, role="channel")


ALIKE = frozenset(["clone", "contiguous", "dropout", "to", "_to_copy", "softmax", "prelu", "cumsum"])
"""Operators whose result has the shape of their first argument, as element-wise ones."""


def _with_role(fate: Fate | None, role: Role) -> Fate | None:
    return fate and Fate(parts=fate.parts, granule=fate.granule, role=fate.role or role)


def _size(node: fx.Node, dim: int) -> int:
    return int(node.meta["val"].shape[dim])
