"""Views: operators that move no data, and how a cut tensor's pieces become pieces of the view.

`forward` says how the view lies where its source is placed so; `inverse` how the source has to lie for the view to be
placed so. Both return None where the pieces of one are not views of the pieces of the other. `local` makes the call
that a member runs: operator and arguments behind the tensor, each argument for all members.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from workloads.sharding.layout import Cut, Placement, Shard, through_view
from workloads.sharding.program import shape_of

Local = tuple[Any, list[tuple[Any, ...]]]
"""Operator, and for each member its arguments behind the tensor."""

UNEVEN = 2
"""How many times the mean the longest piece may be, where a view leaves pieces of different lengths."""


class View(Protocol):
    """One kind of view."""

    def forward(self, shard: Shard) -> Shard | None:
        """Placement of the view where the source is cut so."""
        ...

    def inverse(self, shard: Shard) -> Placement | None:
        """Placement of the source that makes the view cut so."""
        ...

    def local(self, source: Shard | None, out: Shard | None, members: int) -> Local:
        """What a member runs on its piece; None: the tensor is whole."""
        ...


def _resized(shape: Sequence[int], shard: Shard | None, members: int) -> list[list[int]]:
    """Shape of each member's piece of a tensor."""
    shapes = [list(shape) for _ in range(members)]
    if shard is not None:
        for mine, length in zip(shapes, shard.cut.lengths, strict=True):
            mine[shard.dim] = length
    return shapes


@dataclass(frozen=True, slots=True)
class Permute:
    """Dimensions in another order: dimension i of the view is `dims[i]` of the source."""

    dims: tuple[int, ...]

    def forward(self, shard: Shard) -> Shard | None:
        """See View."""
        return Shard(self.dims.index(shard.dim), shard.cut)

    def inverse(self, shard: Shard) -> Placement | None:
        """See View."""
        return Shard(self.dims[shard.dim], shard.cut)

    def local(self, source: Shard | None, out: Shard | None, members: int) -> Local:
        """See View."""
        return torch.ops.aten.permute.default, [(list(self.dims),)] * members


@dataclass(frozen=True, slots=True)
class Reshape:
    """The same elements in the same order, of shape `old` in `new`."""

    old: tuple[int, ...]
    new: tuple[int, ...]

    def forward(self, shard: Shard) -> Shard | None:
        """See View."""
        return through_view(self.old, shard, self.new)

    def inverse(self, shard: Shard) -> Placement | None:
        """See View."""
        return through_view(self.new, shard, self.old)

    def local(self, source: Shard | None, out: Shard | None, members: int) -> Local:
        """See View."""
        return torch.ops.aten.reshape.default, [(shape,) for shape in _resized(self.new, out, members)]


@dataclass(frozen=True, slots=True)
class Expand:
    """Dimensions of size 1 repeated, and new ones before the first."""

    old: tuple[int, ...]
    new: tuple[int, ...]

    def forward(self, shard: Shard) -> Shard | None:
        """See View."""
        return Shard(shard.dim + len(self.new) - len(self.old), shard.cut)

    def inverse(self, shard: Shard) -> Placement | None:
        """See View."""
        dim = shard.dim - (len(self.new) - len(self.old))
        return Shard(dim, shard.cut) if dim >= 0 and self.old[dim] == self.new[shard.dim] else None

    def local(self, source: Shard | None, out: Shard | None, members: int) -> Local:
        """See View."""
        return torch.ops.aten.expand.default, [(shape,) for shape in _resized(self.new, out, members)]


@dataclass(frozen=True, slots=True)
class Narrow:
    """Indices `start`, `start + step`, ... before `stop` of one dimension."""

    dim: int
    start: int
    stop: int
    step: int = 1

    def forward(self, shard: Shard) -> Shard | None:
        """See View."""
        if shard.dim != self.dim:
            return shard
        pieces = []
        for piece in shard.cut.pieces:
            held = self._held(piece)
            if not len(held) or len(set(np.diff(held).tolist())) > 1:
                return None
            pieces.append((piece[held] - self.start) // self.step)
        size = len(range(self.start, self.stop, self.step))
        if max(map(len, pieces)) * len(pieces) > UNEVEN * size:
            return None
        return Shard(self.dim, Cut(size, tuple(pieces)))

    def inverse(self, shard: Shard) -> Placement | None:
        """See View."""
        return shard if shard.dim != self.dim else None

    def local(self, source: Shard | None, out: Shard | None, members: int) -> Local:
        """See View."""
        if source is None or source.dim != self.dim:
            arguments: list[tuple[Any, ...]] = [(self.dim, self.start, self.stop, self.step)] * members
        else:
            arguments = []
            for piece in source.cut.pieces:
                held = self._held(piece)
                step = int(held[1] - held[0]) if len(held) > 1 else 1
                arguments.append((self.dim, int(held[0]), int(held[-1]) + 1, step))
        return torch.ops.aten.slice.Tensor, arguments

    def _held(self, piece: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in a member's piece that the view keeps."""
        inside = (piece >= self.start) & (piece < self.stop) & ((piece - self.start) % self.step == 0)
        return np.flatnonzero(inside)


@dataclass(frozen=True, slots=True)
class Select:
    """One index of a dimension, which goes."""

    dim: int
    index: int

    def forward(self, shard: Shard) -> Shard | None:
        """See View."""
        return None if shard.dim == self.dim else Shard(shard.dim - (shard.dim > self.dim), shard.cut)

    def inverse(self, shard: Shard) -> Placement | None:
        """See View."""
        return Shard(shard.dim + (shard.dim >= self.dim), shard.cut)

    def local(self, source: Shard | None, out: Shard | None, members: int) -> Local:
        """See View."""
        return torch.ops.aten.select.int, [(self.dim, self.index)] * members


@dataclass(frozen=True, slots=True)
class Parts:
    """Real and imaginary part as a last dimension (view_as_real), or back; `rank` is that of the complex tensor."""

    operator: Any
    rank: int

    def forward(self, shard: Shard) -> Shard | None:
        """See View."""
        return shard if shard.dim < self.rank else None

    def inverse(self, shard: Shard) -> Placement | None:
        """See View."""
        return shard if shard.dim < self.rank else None

    def local(self, source: Shard | None, out: Shard | None, members: int) -> Local:
        """See View."""
        return self.operator, [()] * members


def view_of(node: fx.Node) -> tuple[fx.Node, View] | None:
    """Return source and kind of the view that a call is, None where it is none."""
    if getattr(node.target, "__name__", "") == "getitem":
        source, index = node.args
        assert isinstance(source, fx.Node) and isinstance(index, int)
        rule = _ITEMS.get(_name(source))
        return rule(source, index) if rule is not None else None
    rule_of_one = _VIEWS.get(_name(node))
    if rule_of_one is None:
        return None
    source = node.args[0]
    assert isinstance(source, fx.Node)
    view = rule_of_one(node, source)
    return None if view is None else (source, view)


def is_list_of_views(node: fx.Node) -> bool:
    """Whether a call returns a list of views, which `view_of` tells one by one."""
    return _name(node) in _ITEMS


def _name(node: fx.Node) -> str:
    target = node.target
    return target._schema.name.removeprefix("aten::") if isinstance(target, torch._ops.OpOverload) else ""


def arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of an operator call by name, defaults filled in."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    schema = target._schema.arguments
    bound = {a.name: node.kwargs.get(a.name, a.default_value) for a in schema}
    return bound | {a.name: value for a, value in zip(schema, node.args, strict=False)}


def _reshape(node: fx.Node, source: fx.Node) -> View:
    return Reshape(shape_of(source), shape_of(node))


def _expand(node: fx.Node, source: fx.Node) -> View:
    return Expand(shape_of(source), shape_of(node))


def _permute(node: fx.Node, source: fx.Node) -> View:
    """Of any operator that permutes: what it does to a tensor of distinct strides."""
    rank = len(shape_of(source))
    probe = torch.empty_strided(tuple(range(2, rank + 2)), tuple(range(1, rank + 1)), device="meta")
    moved = node.target(probe, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    return Permute(tuple(stride - 1 for stride in moved.stride()))


def _slice(node: fx.Node, source: fx.Node) -> View:
    call, shape = arguments(node), shape_of(source)
    dim = call["dim"] % len(shape)
    start, stop, step = slice(call["start"], call["end"], call["step"]).indices(shape[dim])
    return Narrow(dim, start, stop, step)


def _narrow(node: fx.Node, source: fx.Node) -> View:
    call, shape = arguments(node), shape_of(source)
    dim = call["dim"] % len(shape)
    start = int(call["start"]) % shape[dim] if shape[dim] else 0
    return Narrow(dim, start, start + int(call["length"]))


def _select(node: fx.Node, source: fx.Node) -> View:
    call, shape = arguments(node), shape_of(source)
    dim = call["dim"] % len(shape)
    return Select(dim, call["index"] % shape[dim])


def _unbound(node: fx.Node, index: int) -> tuple[fx.Node, View]:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    shape, call = shape_of(source), arguments(node)
    dim = call["dim"] % len(shape)
    return source, Select(dim, index % shape[dim])


def _chunk(node: fx.Node, index: int) -> tuple[fx.Node, View]:
    source, call = node.args[0], arguments(node)
    assert isinstance(source, fx.Node)
    dim = call["dim"] % len(shape_of(source))
    sizes = [int(item.shape[dim]) for item in node.meta["val"]]
    index %= len(sizes)
    start = sum(sizes[:index])
    return source, Narrow(dim, start, start + sizes[index])


def _parts(node: fx.Node, source: fx.Node) -> View:
    return Parts(node.target, min(len(shape_of(node)), len(shape_of(source))))


_VIEWS: dict[str, Callable[[fx.Node, fx.Node], View]] = {
    **dict.fromkeys(("view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "_unsafe_view"), _reshape),
    **dict.fromkeys(("view_as", "reshape_as", "alias", "detach", "detach_"), _reshape),
    **dict.fromkeys(("transpose", "permute", "movedim", "moveaxis", "numpy_T", "t", "swapaxes", "mT"), _permute),
    **dict.fromkeys(("expand", "expand_as"), _expand),
    "slice": _slice,
    "narrow": _narrow,
    "select": _select,
    **dict.fromkeys(("view_as_real", "view_as_complex"), _parts),
}

_ITEMS: dict[str, Callable[[fx.Node, int], tuple[fx.Node, View]]] = {
    "unbind": _unbound,
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "tensor_split"), _chunk),
}
