"""Padding: the ends of a cut dimension belong to the members at its ends."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from workloads.sharding.flow import Flow
from workloads.sharding.held import Each
from workloads.sharding.layout import Shard, run_cut
from workloads.sharding.rules.operation import Operation, Option, Rule, seeds, shards_of


def pad(flow: Flow, call: Operation) -> list[Option]:
    """Along what is not padded each piece for itself; a padded end belongs to the member at that end."""
    x = call.operands[0]
    amounts = list(call.arguments["pad"])
    rank = len(x.shape)
    padded = {rank - 1 - place // 2: (amounts[place], amounts[place + 1]) for place in range(0, len(amounts), 2)}
    padded = {dim: ends for dim, ends in padded.items() if any(ends)}
    constant = call.arguments.get("mode", "constant") == "constant"
    found = []
    for shard in shards_of(flow, x) or seeds(flow, call, [dim for dim in range(rank) if dim not in padded]):
        if shard.dim not in padded:
            found.append(Option(wants=(shard,), out=shard))
        elif constant and (option := _padded(flow, call, shard, padded[shard.dim], amounts)) is not None:
            found.append(option)
    return found


def _padded(flow: Flow, call: Operation, shard: Shard, ends: tuple[int, int], amounts: list[int]) -> Option | None:
    bounds, size = shard.cut.bounds, shard.cut.size
    before, after = ends
    if bounds is None or bounds[1] + before < 1 or size - bounds[-2] + after < 1:
        return None
    out = (0, *(edge + before for edge in bounds[1:-1]), size + before + after)
    place = 2 * (len(call.shape) - 1 - shard.dim)
    each = []
    for member in range(flow.members):
        mine = list(amounts)
        mine[place] = before if member == 0 else 0
        mine[place + 1] = after if member == flow.members - 1 else 0
        each.append(mine)

    def run(flow: Flow, call: Operation, pieces: Sequence[Each]) -> Each:
        value = call.arguments.get("value")
        target = torch.ops.aten.constant_pad_nd.default
        return flow.emit(target, [pieces[0], Each(each), 0 if value is None else value], layer=call.layer)

    return Option(wants=(shard,), out=Shard(shard.dim, run_cut(out)), run=run)


RULES: dict[str, Rule] = {"pad": pad, "constant_pad_nd": pad}
