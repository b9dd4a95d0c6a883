"""Reductions: along what is kept each member for itself; of what is cut and goes, a sum is left to be done."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workloads.sharding.flow import Flow
from workloads.sharding.held import Each
from workloads.sharding.layout import FULL, PARTIAL, Shard, parts_cut
from workloads.sharding.rules.operation import Operation, Option, Rule, call_local, seeds, shards_of
from workloads.sharding.team import Team, sent_bytes


def _reduced(call: Operation) -> list[int]:
    """Dimensions that go."""
    rank = len(call.operands[0].shape)
    dims = call.arguments.get("dim")
    if dims is None or dims == []:
        return list(range(rank))
    return [dim % rank for dim in ([dims] if isinstance(dims, int) else dims)]


def _kept(flow: Flow, call: Operation) -> list[Option]:
    """Cut along a dimension that stays."""
    x, gone = call.operands[0], _reduced(call)
    keep = bool(call.arguments.get("keepdim", False))
    found = []
    shards = shards_of(flow, x)
    if not shards:
        stays = [dim for dim in range(len(x.shape)) if dim not in gone]
        position = {dim if keep else place: dim for place, dim in enumerate(stays)}
        if flow.policy.way != "sequence" or not x.free:
            shards = [Shard(position[seed.dim], seed.cut) for seed in seeds(flow, call, list(position))]
    for shard in shards:
        if shard.dim not in gone:
            out = shard.dim if keep else shard.dim - sum(dim < shard.dim for dim in gone)
            found.append(Option(wants=(shard,), out=Shard(out, shard.cut)))
    return found


def _open(flow: Flow, call: Operation) -> list[Shard]:
    """How the operand is cut along dimensions that go; where it is whole, how it could be."""
    x, gone = call.operands[0], _reduced(call)
    shards = [shard for shard in shards_of(flow, x) if shard.dim in gone]
    if shards or not x.free or x.root.kind == "weight" or flow.policy.way != "sequence":
        return shards
    cuts = [(dim, parts_cut((x.shape[dim],), flow.members)) for dim in sorted(gone, key=lambda dim: -x.shape[dim])]
    return [Shard(dim, cut) for dim, cut in cuts if cut is not None][:1]


def _preferred(flow: Flow, call: Operation) -> Shard | None:
    for dim in sorted(range(len(call.shape)), key=lambda dim: -call.shape[dim]):
        cut = parts_cut((call.shape[dim],), flow.members)
        if cut is not None:
            return Shard(dim, cut)
    return None


def total(flow: Flow, call: Operation) -> list[Option]:
    """Sum."""
    found = _kept(flow, call)
    for shard in _open(flow, call):
        found.append(Option(wants=(shard,), out=PARTIAL, preferred=_preferred(flow, call)))
    return found


def mean(flow: Flow, call: Operation) -> list[Option]:
    """Mean: a member's own mean counts as much as it holds of the tensor."""
    found = _kept(flow, call)
    for shard in _open(flow, call):

        def run(flow: Flow, call: Operation, pieces: Sequence[Each], shard: Shard = shard) -> Each:
            made = call_local(flow, call, pieces)
            shares = Each(length / shard.cut.size for length in shard.cut.lengths)
            return flow.emit(torch.ops.aten.mul.Tensor, [made, shares])

        found.append(Option(wants=(shard,), out=PARTIAL, preferred=_preferred(flow, call), run=run))
    return found


def team_vector_norm(team: Team, x: Tensor, order: float, dims: list[int], keepdim: bool) -> Tensor:
    """Root of the sum of squares along dimensions of which each member holds a piece."""
    return team.all_reduce(x.abs().square().sum(dims, keepdim=keepdim)).sqrt()


def vector_norm(flow: Flow, call: Operation) -> list[Option]:
    """Euclidean norm; along what is cut the members add up their squares."""
    found = _kept(flow, call)
    if call.arguments["ord"] != 2 or call.outputs[0].dtype != call.operands[0].dtype:
        return found
    sent = sent_bytes("all_reduce", call.outputs[0].numel(), call.outputs[0].dtype.itemsize, flow.members)
    for shard in _open(flow, call):
        found.append(Option(wants=(shard,), out=FULL, run=_run_vector_norm, extra_bytes=sent))
    return found


def _run_vector_norm(flow: Flow, call: Operation, pieces: Sequence[Each]) -> Each:
    output = call.outputs[0]
    made = flow.emit(
        team_vector_norm,
        [flow.team, pieces[0], 2, _reduced(call), bool(call.arguments.get("keepdim", False))],
        layer=call.layer,
        counted=torch.ops.aten.linalg_vector_norm.default,
        shapes=[call.shape] * flow.members,
    )
    flow.note_exchange("all_reduce", output.numel(), output.dtype.itemsize, made, call.operands[0])
    return made


def team_deviation(team: Team, x: Tensor, dims: list[int], correction: float, keepdim: bool, count: int) -> Tensor:
    """Standard deviation along dimensions of which each member holds a piece, `count` values in all."""
    average = team.all_reduce(x.sum(dims, keepdim=True)) / count
    squares = team.all_reduce((x - average).square().sum(dims, keepdim=True)) / max(count - correction, 0)
    out = squares.sqrt()
    return out if keepdim else out.squeeze(tuple(dims))


def deviation(flow: Flow, call: Operation) -> list[Option]:
    """Standard deviation, with shared moments along what is cut."""
    found = _kept(flow, call)
    if call.outputs[0].dtype != call.operands[0].dtype:  # of complex values
        return found
    rows = call.outputs[0].numel()
    sent = 2 * sent_bytes("all_reduce", rows, call.outputs[0].dtype.itemsize, flow.members)
    for shard in _open(flow, call):
        found.append(Option(wants=(shard,), out=FULL, run=_run_deviation, extra_bytes=sent))
    return found


def _run_deviation(flow: Flow, call: Operation, pieces: Sequence[Each]) -> Each:
    x, output, arguments = call.operands[0], call.outputs[0], call.arguments
    correction = arguments.get("correction")
    if correction is None:
        correction = 1.0 if arguments.get("unbiased", True) else 0.0
    dims = _reduced(call)
    count = 1
    for dim in dims:
        count *= x.shape[dim]
    made = flow.emit(
        team_deviation,
        [flow.team, pieces[0], dims, correction, bool(arguments.get("keepdim", False)), count],
        layer=call.layer,
        counted=torch.ops.aten.std.correction,
        shapes=[call.shape] * flow.members,
    )
    for _ in range(2):
        flow.note_exchange("all_reduce", output.numel(), output.dtype.itemsize, made, x)
    return made


RULES: dict[str, Rule] = {
    "sum": total,
    "mean": mean,
    "linalg_vector_norm": vector_norm,
    "std": deviation,
    **dict.fromkeys(("amax", "amin", "var", "prod", "all", "any", "argmax", "argmin"), _kept),
}
