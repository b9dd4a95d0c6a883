"""Norms: by what they leave apart; where what they average over is cut, members add up their moments.

Mean and mean square deviation are summed one after the other, as accurate as in one place (two passes); that is two
all-reduces of a number each for every mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workloads.sharding.flow import Flow
from workloads.sharding.held import Each, Held
from workloads.sharding.layout import FULL, Placement, Shard
from workloads.sharding.rules.operation import Operation, Option, Rule, seeds, shards_of
from workloads.sharding.team import Team, sent_bytes


def _standardised(team: Team, x: Tensor, dims: list[int], count: int, eps: float) -> Tensor:
    """`x` less its mean over `dims`, over its deviation, where these hold `count` values on all members together."""
    mean = team.all_reduce(x.sum(dims, keepdim=True)) / count
    centred = x - mean
    variance = team.all_reduce(centred.square().sum(dims, keepdim=True)) / count
    return centred * torch.rsqrt(variance + eps)


def team_layer_norm(
    team: Team, x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float, count: int
) -> Tensor:
    """Layer norm over the last dimensions, of which each member holds a piece, `count` values in all."""
    out = _standardised(team, x, list(range(-len(shape), 0)), count, eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def team_group_norm(
    team: Team,
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    count: int,
    lead: list[int],
) -> Tensor:
    """Group norm of [B, C, ...] where each member holds a piece of every group, `count` values of a group in all.

    `lead` is the shape of weight and bias that fits to x: [1, C, 1, ...].
    """
    grouped = x.reshape(x.shape[0], groups, -1)
    out = _standardised(team, grouped, [-1], count, eps).reshape(x.shape)
    out = out if weight is None else out * weight.reshape(lead)
    return out if bias is None else out + bias.reshape(lead)


def layer_norm(flow: Flow, call: Operation) -> list[Option]:
    """By any dimension it does not average over; else by the last one, with shared moments."""
    x, rank = call.held("input"), len(call.shape)
    inside = len(call.arguments["normalized_shape"])
    found = []
    cuts = shards_of(flow, x) or seeds(flow, call, range(rank))
    for shard in cuts:
        if shard.dim < rank - inside:
            found.append(Option(wants=(shard, *(FULL for _ in call.operands[1:])), out=shard))
        elif inside == 1 or call.operands[1:] == ():
            mine = Shard(shard.dim - (rank - inside), shard.cut)
            found.append(_shared(flow, call, shard, (mine,) * (len(call.operands) - 1), _run_layer_norm))
    return found


def _shared(
    flow: Flow, call: Operation, shard: Shard, rest: tuple[Placement, ...], run: Any, groups: int | None = None
) -> Option:
    """The option with shared moments, two all-reduces."""
    rows = _means(call, groups)
    sent = 2 * sent_bytes("all_reduce", rows, call.outputs[0].dtype.itemsize, flow.members)
    return Option(wants=(shard, *rest), out=shard, run=run, extra_bytes=sent)


def _means(call: Operation, groups: int | None) -> int:
    """How many means it takes: of layer norm a position each, of group norm a group each."""
    if groups is None:
        return call.outputs[0].numel() // _count(call)
    return call.shape[0] * groups


def _count(call: Operation) -> int:
    inside = 1
    for size in call.arguments["normalized_shape"]:
        inside *= int(size)
    return inside


def _optional(call: Operation, pieces: Sequence[Each]) -> dict[str, Any]:
    """Pieces of weight and bias, None where there is none."""
    rest = iter(pieces[1:])
    return {name: next(rest) if isinstance(call.arguments[name], Held) else None for name in ("weight", "bias")}


def _run_layer_norm(flow: Flow, call: Operation, pieces: Sequence[Each]) -> Each:
    given = _optional(call, pieces)
    shape = call.arguments["normalized_shape"]
    local = Each(list(node.meta["val"].shape[-len(shape) :]) for node in pieces[0])
    made = flow.emit(
        team_layer_norm,
        [flow.team, pieces[0], local, given["weight"], given["bias"], call.arguments["eps"], _count(call)],
        layer=call.layer,
        counted=torch.ops.aten.layer_norm.default,
        shapes=[tuple(node.meta["val"].shape) for node in pieces[0]],
    )
    return _noted(flow, call, made, None)


def _noted(flow: Flow, call: Operation, made: Each, groups: int | None) -> Each:
    for _ in range(2):
        flow.note_exchange("all_reduce", _means(call, groups), call.outputs[0].dtype.itemsize, made, call.operands[0])
    return made


def group_norm(flow: Flow, call: Operation) -> list[Option]:
    """By examples; by whole groups of channels; else with shared moments."""
    x, groups = call.held("input"), int(call.arguments["num_groups"])
    size = x.shape[1] // groups
    found = []
    for shard in shards_of(flow, x) or seeds(flow, call, range(len(call.shape))):
        affine: tuple[Placement, ...] = tuple(FULL for _ in call.operands[1:])
        if shard.dim == 0:
            found.append(Option(wants=(shard, *affine), out=shard))
        elif shard.dim == 1:
            cut: tuple[Placement, ...] = tuple(Shard(0, shard.cut) for _ in call.operands[1:])
            local = [_whole_groups(piece, size) for piece in shard.cut.pieces]
            if all(local):
                found.append(Option(wants=(shard, *cut), out=shard, changes={"num_groups": Each(local)}))
            elif groups == 1:
                found.append(_shared(flow, call, shard, cut, _run_group_norm, groups))
        else:
            found.append(_shared(flow, call, shard, affine, _run_group_norm, groups))
    return found


def _whole_groups(piece: Any, size: int) -> int:
    """How many groups of `size` channels a piece holds, 0 where it holds parts of one or mixes them."""
    if len(piece) % size:
        return 0
    rows = piece.reshape(-1, size) // size
    return len(rows) if (rows == rows[:, :1]).all() else 0


def _lead(call: Operation) -> list[int]:
    """Shape in which numbers of a channel meet a tensor [B, C, ...]."""
    return [1, -1] + [1] * (len(call.shape) - 2)


def _run_group_norm(flow: Flow, call: Operation, pieces: Sequence[Each]) -> Each:
    given, groups = _optional(call, pieces), int(call.arguments["num_groups"])
    made = flow.emit(
        team_group_norm,
        [
            *(flow.team, pieces[0], groups, given["weight"], given["bias"], call.arguments["eps"]),
            *(call.outputs[0].numel() // (call.shape[0] * groups), _lead(call)),
        ],
        layer=call.layer,
        counted=torch.ops.aten.group_norm.default,
        shapes=[tuple(node.meta["val"].shape) for node in pieces[0]],
    )
    return _noted(flow, call, made, groups)


def per_channel(flow: Flow, call: Operation) -> list[Option]:
    """Batch norm in evaluation: every value for itself, with numbers of its channel (dimension 1)."""
    x = call.held("input")
    if call.arguments.get("training"):
        return []
    found = []
    for shard in shards_of(flow, x) or seeds(flow, call, range(len(call.shape))):
        rest: Placement = Shard(0, shard.cut) if shard.dim == 1 else FULL
        found.append(Option(wants=(shard, *(rest for _ in call.operands[1:])), out=shard))
    return found


def instance_norm(flow: Flow, call: Operation) -> list[Option]:
    """By examples and channels, each of which has moments of its own; else with shared moments."""
    x = call.held("input")
    if not call.arguments["use_input_stats"] or any(
        isinstance(call.arguments[name], Held) for name in ("running_mean", "running_var")
    ):
        return []
    found = []
    for shard in shards_of(flow, x) or seeds(flow, call, range(len(call.shape))):
        rest: Placement = Shard(0, shard.cut) if shard.dim == 1 else FULL
        wants = (shard, *(rest for _ in call.operands[1:]))
        if shard.dim < 2:
            found.append(Option(wants=wants, out=shard))
        else:
            found.append(_shared(flow, call, shard, wants[1:], _run_instance_norm, call.shape[1]))
    return found


def team_instance_norm(
    team: Team,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: None,
    var: None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn: bool,
    count: int,
    lead: list[int],
) -> Tensor:
    """Instance norm of [B, C, ...] where each member holds a piece of every channel, `count` values of one in all."""
    return team_group_norm(team, x, x.shape[1], weight, bias, eps, count, lead)


def _run_instance_norm(flow: Flow, call: Operation, pieces: Sequence[Each]) -> Each:
    given, arguments = _optional(call, pieces), call.arguments
    made = flow.emit(
        team_instance_norm,
        [
            *(flow.team, pieces[0], given["weight"], given["bias"], None, None, True, arguments["momentum"]),
            *(arguments["eps"], False, call.outputs[0].numel() // (call.shape[0] * call.shape[1]), _lead(call)),
        ],
        layer=call.layer,
        counted=torch.ops.aten.instance_norm.default,
        shapes=[tuple(node.meta["val"].shape) for node in pieces[0]],
    )
    return _noted(flow, call, made, call.shape[1])


RULES: dict[str, Rule] = {
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "batch_norm": per_channel,
    "instance_norm": instance_norm,
}
