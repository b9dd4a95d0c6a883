"""Convolutions: cut by output channels, input channels, groups, examples, or along an axis with a halo."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from workloads.sharding.flow import Flow
from workloads.sharding.held import Each, Held
from workloads.sharding.layout import FULL, PARTIAL, Cut, Placement, Shard, even_cut, parts_cut, run_cut
from workloads.sharding.rules.operation import Operation, Option, call_local, channel_cut, shards_of
from workloads.sharding.views import Narrow, view_of


def convolution(flow: Flow, call: Operation) -> list[Option]:
    """Options of a convolution, transposed or not, of an input [B, C, ...]."""
    x, weight = call.held("input"), call.held("weight")
    if len(x.shape) != len(weight.shape):
        return []  # without a dimension of examples
    found = []
    for shard in shards_of(flow, x):
        if shard.dim == 0:
            found.append(Option(wants=(shard, *_rest(call, FULL, FULL)), out=shard))
        elif shard.dim > 1 and (option := _spatial(flow, call, shard.dim)) is not None:
            found.append(option)
    if flow.policy.way == "sequence":
        if not shards_of(flow, x):
            axes = seeds_along(flow, call)
            found += [option for dim in axes if (option := _spatial(flow, call, dim)) is not None]
        return found
    return found + (_by_channels(flow, call) if call.arguments["groups"] == 1 else _by_groups(flow, call))


def seeds_along(flow: Flow, call: Operation) -> list[int]:
    """Axes to begin to cut, the policy's first."""
    axes = list(range(2, len(call.shape)))
    first = len(call.shape) - flow.policy.axis
    return sorted(axes, key=lambda dim: dim != first)


def _rest(call: Operation, weight: Placement, bias: Placement) -> tuple[Placement, ...]:
    return (weight, bias) if isinstance(call.arguments["bias"], Held) else (weight,)


def _transposed(call: Operation) -> bool:
    return "transpose" in call.name


def _by_channels(flow: Flow, call: Operation) -> list[Option]:
    """By output channels of a whole input, or by input channels, which leaves a sum to be done."""
    x, transposed = call.held("input"), _transposed(call)
    found = []
    cut = channel_cut(flow, call, 1)
    if cut is not None:
        wants = (FULL, *_rest(call, Shard(int(transposed), cut), Shard(0, cut)))
        found.append(Option(wants=wants, out=Shard(1, cut)))
    inputs = [shard.cut for shard in shards_of(flow, x) if shard.dim == 1]
    if not inputs and (even := parts_cut((x.shape[1],), flow.members)) is not None:
        inputs = [even]
    preferred = Shard(1, cut) if cut is not None else _longest_axis(flow, call)
    for mine in inputs:
        wants = (Shard(1, mine), *_rest(call, Shard(int(not transposed), mine), FULL))
        found.append(Option(wants=wants, out=PARTIAL, preferred=preferred, run=_first_adds_bias))
    return found


def _longest_axis(flow: Flow, call: Operation) -> Shard | None:
    """An axis of the result that the members' number divides."""
    for dim in sorted(range(2, len(call.shape)), key=lambda dim: -call.shape[dim]):
        cut = even_cut(call.shape[dim], flow.members)
        if cut is not None:
            return Shard(dim, cut)
    return None


def _first_adds_bias(flow: Flow, call: Operation, pieces: Sequence[Each]) -> Each:
    """Of a sum still to be done the first member alone adds the bias."""
    bias = [Each(node if member == 0 else None for member, node in enumerate(piece)) for piece in pieces[2:]]
    return call_local(flow, call, [*pieces[:2], *bias])


def _by_groups(flow: Flow, call: Operation) -> list[Option]:
    """Whole groups on each member; of a depthwise convolution a channel each."""
    x, groups = call.held("input"), int(call.arguments["groups"])
    read, made = x.shape[1] // groups, call.shape[1] // groups
    found = []
    for shard in shards_of(flow, x):
        if shard.dim == 1 and (numbers := _groups_held(shard.cut, read)) is not None:
            found.append(_group_option(call, shard.cut, numbers, made))
    if not found and not groups % flow.members:
        out = channel_cut(flow, call, 1, granule=made)
        numbers = _groups_held(out, made) if out is not None else None
        if numbers is not None:
            pieces = ((mine[:, None] * read + np.arange(read)).ravel() for mine in numbers)
            found.append(_group_option(call, Cut(x.shape[1], tuple(pieces)), numbers, made))
    return found


def _groups_held(cut: Cut, size: int) -> list[NDArray[np.int64]] | None:
    """Numbers of the groups of `size` channels that each member holds, None where it holds parts of one."""
    numbers = []
    for piece in cut.pieces:
        if len(piece) % size:
            return None
        rows = piece.reshape(-1, size)
        if not np.array_equal(rows, rows[:, :1] + np.arange(size)) or (rows[:, 0] % size).any():
            return None
        numbers.append(rows[:, 0] // size)
    return numbers


def _group_option(call: Operation, cut: Cut, numbers: Sequence[NDArray[np.int64]], made: int) -> Option:
    pieces = tuple((mine[:, None] * made + np.arange(made)).ravel() for mine in numbers)
    out = Cut(call.shape[1], pieces)
    weight = Shard(0, cut if _transposed(call) else out)
    wants = (Shard(1, cut), *_rest(call, weight, Shard(0, out)))
    return Option(wants=wants, out=Shard(1, out), changes={"groups": Each(len(mine) for mine in numbers)})


# --- along an axis ---------------------------------------------------------------------------------------------------


def _each(value: int | Sequence[int], axes: int) -> list[int]:
    items = [value] if isinstance(value, int) else list(value)
    return items * axes if len(items) == 1 else items


def _spatial(flow: Flow, call: Operation, dim: int) -> Option | None:
    """Each member makes a run of `dim` of the result, of the window of the input that it depends on."""
    if isinstance(call.arguments["padding"], str):
        return None
    bounds = _out_bounds(flow, call, dim)
    if bounds is None:
        return None
    out = Shard(dim, run_cut(bounds))
    windows = _windows(call, dim, bounds)
    x = call.held("input")
    length = x.shape[dim]
    cut = _own_cut(shards_of(flow, x), dim)
    extra = 0 if x.free else x.nbytes
    if not x.free and cut is not None and cut.bounds is not None:
        reach = sum(
            max(start - max(a, 0), 0) + max(min(b, length) - end, 0)
            for (a, b), start, end in zip(windows, cut.bounds, cut.bounds[1:], strict=False)
        )
        extra = reach * x.nbytes // length // flow.members

    def run(flow: Flow, call: Operation, pieces: Sequence[Each]) -> Each:
        return _run_windows(flow, call, pieces, dim, bounds, windows)

    return Option(wants=(None, *_rest(call, FULL, FULL)), out=out, run=run, extra_bytes=extra)


def _own_cut(forms: Sequence[Shard], dim: int) -> Cut | None:
    return next((form.cut for form in forms if form.dim == dim and form.cut.bounds is not None), None)


def _out_bounds(flow: Flow, call: Operation, dim: int) -> tuple[int, ...] | None:
    """Where the members' runs of the result begin and end: even ones, where a view cuts the ends off, of that view."""
    size, members = call.shape[dim], flow.members
    start, stop = _kept(flow, call, dim)
    if (stop - start) % members == 0:
        inner = [start + g * (stop - start) // members for g in range(1, members)]
        return (0, *inner, size)
    if size % members == 0:
        return tuple(g * size // members for g in range(members + 1))
    own = _own_cut(shards_of(flow, call.held("input")), dim)
    if own is None or own.bounds is None or size < members:
        return None
    return tuple(round(edge * size / own.size) for edge in own.bounds)


def _kept(flow: Flow, call: Operation, dim: int) -> tuple[int, int]:
    """The run of `dim` of the result that its readers read, through element-wise operators."""
    node, size = call.node, call.shape[dim]
    for _ in range(4):
        users = [user for user in node.users if user in flow.part.nodes]
        if len(users) != 1 or node in flow.part.outputs:
            break
        found = view_of(users[0])
        if found is not None:
            view = found[1]
            return (
                (view.start, view.stop)
                if isinstance(view, Narrow) and view.dim == dim and view.step == 1
                else (0, size)
            )
        target = users[0].target
        if not isinstance(target, torch._ops.OpOverload) or torch.Tag.pointwise not in target.tags:
            break
        node = users[0]
        if tuple(node.meta["val"].shape) != call.shape:
            break
    return 0, size


def _windows(call: Operation, dim: int, bounds: Sequence[int]) -> list[tuple[int, int]]:
    """Indices of the input that each run of the result depends on; those outside of it are zeros."""
    axes, axis = len(call.shape) - 2, dim - 2
    kernel = call.held("weight").shape[dim]
    stride, padding, dilation = (_each(call.arguments[name], axes)[axis] for name in ("stride", "padding", "dilation"))
    spread = dilation * (kernel - 1)
    runs = pairwise(bounds)
    if not _transposed(call):
        return [(a * stride - padding, (b - 1) * stride - padding + spread + 1) for a, b in runs]
    return [
        (min(-((spread - padding - a) // stride), (a + padding) // stride), (b - 1 + padding) // stride + 1)
        for a, b in runs
    ]


def _run_windows(
    flow: Flow,
    call: Operation,
    pieces: Sequence[Each],
    dim: int,
    bounds: Sequence[int],
    windows: Sequence[tuple[int, int]],
) -> Each:
    axes, axis = len(call.shape) - 2, dim - 2
    held, inside = flow.window(call.held("input"), dim, windows)
    names = ("stride", "padding", "dilation", "output_padding")
    sizes = {name: _each(call.arguments[name], axes) for name in names if name in call.arguments}
    padding = [*sizes["padding"]]
    padding[axis] = 0
    if not _transposed(call):
        ends = [(a - low, high - b) for (a, b), (low, high) in zip(inside, windows, strict=True)]
        if any(map(any, ends)):
            blank = [0] * (2 * (axes - 1 - axis))
            pads = Each([*blank, before, after] for before, after in ends)
            held = flow.emit(torch.ops.aten.constant_pad_nd.default, [held, pads])
        return call_local(flow, call, [held, *pieces[1:]], {"padding": padding})
    stride, spread = sizes["stride"][axis], sizes["dilation"][axis] * (call.held("weight").shape[dim] - 1)
    starts, extra = [], []
    for (a, b), (low, high) in zip(pairwise(bounds), inside, strict=True):
        first = a + sizes["padding"][axis] - low * stride
        starts.append(first)
        extra.append(max(first + (b - a) - ((high - low - 1) * stride + spread + 1), 0))
    output_padding = Each(
        [*sizes["output_padding"][:axis], more, *sizes["output_padding"][axis + 1 :]] for more in extra
    )
    made = call_local(flow, call, [held, *pieces[1:]], {"padding": padding, "output_padding": output_padding})
    stops = Each(s + b - a for s, a, b in zip(starts, bounds[:-1], bounds[1:], strict=True))
    return flow.emit(torch.ops.aten.slice.Tensor, [made, dim, Each(starts), stops])
