"""Element-wise operators, and those that keep all dimensions but the ones they work along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from workloads.sharding.flow import Flow
from workloads.sharding.held import Held
from workloads.sharding.layout import FULL, PARTIAL, Cut, Placement, Shard, joined_cut, parts_cut
from workloads.sharding.rules.operation import Operation, Option, Rule, preferred_of, seeds, shards_of


def pointwise(flow: Flow, call: Operation) -> list[Option]:
    """Cut along any dimension; sums still to be done may be added before they are done."""
    found = list(_sums(flow, call))
    candidates: list[Shard] = []
    for held in call.operands:
        for shard in shards_of(flow, held):
            lifted = Shard(shard.dim + len(call.shape) - len(held.shape), shard.cut)
            if held.shape[shard.dim] == call.shape[lifted.dim] and lifted not in candidates:
                candidates.append(lifted)
    if not candidates:
        candidates = seeds(flow, call, range(len(call.shape)))
    for shard in candidates:
        wants = tuple(_broadcast(held, call.shape, shard) for held in call.operands)
        found.append(Option(wants=wants, out=shard))
    return found


def _broadcast(held: Held, shape: Sequence[int], shard: Shard) -> Placement:
    """How an operand has to lie for the result of `shape` to be cut so."""
    dim = shard.dim - (len(shape) - len(held.shape))
    return Shard(dim, shard.cut) if dim >= 0 and held.shape[dim] == shape[shard.dim] else FULL


def _sums(flow: Flow, call: Operation) -> list[Option]:
    """Where all operands are sums still to be done, and the operator is linear in them together."""
    partial = [PARTIAL in held.forms() for held in call.operands]
    same = all(held.shape == call.shape for held in call.operands)
    linear = call.name in ("add", "sub", "neg", "clone", "contiguous", "dropout") or (
        call.name in ("mul", "div") and len(call.operands) == 1 and isinstance(call.arguments["self"], Held)
    )
    if not (partial and all(partial) and same and linear) or call.arguments.get("rounding_mode"):
        return []
    if call.name in ("add", "sub") and len(call.operands) == 1:
        return []
    preferred = next((p for held in call.operands if (p := preferred_of(held)) is not None), None)
    reason = "every member runs it on its own part of a sum, of the whole shape"
    return [Option(wants=(PARTIAL,) * len(partial), out=PARTIAL, preferred=preferred, reason=reason)]


def prelu(flow: Flow, call: Operation) -> list[Option]:
    """One slope, or one a channel (dimension 1)."""
    x, weight = call.held("self"), call.held("weight")
    shared = weight.shape in ((), (1,))
    found = []
    for shard in shards_of(flow, x) or seeds(flow, call, range(len(call.shape))):
        slopes: Placement = Shard(0, shard.cut) if shard.dim == 1 and not shared else FULL
        found.append(Option(wants=(shard, slopes), out=shard))
    return found


def along(dims_of: Callable[[Operation], Sequence[int]]) -> Rule:
    """The rule of an operator that works along some dimensions of its first operand, and on each of the others alone.

    Other operands have to be whole. The result may differ in size in the dimensions it works along.
    """

    def rule(flow: Flow, call: Operation) -> list[Option]:
        first, *others = call.operands
        rank, shift = len(first.shape), len(call.shape) - len(first.shape)
        inside = {dim % rank for dim in dims_of(call)}
        kept = [dim for dim in range(rank) if dim not in inside and dim < len(call.shape)]
        found = []
        for shard in shards_of(flow, first):
            if shard.dim in kept:
                found.append(shard)
        if not found:
            found = [shard for shard in seeds(flow, call, kept) if shift >= 0]
            for dim in kept:  # also where it is cut along a dimension that the operator works along
                cut = parts_cut((first.shape[dim],), flow.members)
                if cut is not None and Shard(dim, cut) not in found and shards_of(flow, first):
                    found.append(Shard(dim, cut))
        return [Option(wants=(shard, *(FULL for _ in others)), out=shard) for shard in found]

    return rule


def glu(flow: Flow, call: Operation) -> list[Option]:
    """Each half of the channels cut alike, or along another dimension."""
    x = call.held("self")
    dim = call.arguments["dim"] % len(x.shape)
    found = along(lambda call: [call.arguments["dim"]])(flow, call)
    half = call.shape[dim]
    for shard in shards_of(flow, x):
        if shard.dim != dim:
            continue
        kept = [piece[: len(piece) // 2] for piece in shard.cut.pieces]
        paired = all(
            len(piece) == 2 * len(mine) and (mine < half).all() and (piece[len(mine) :] == mine + half).all()
            for piece, mine in zip(shard.cut.pieces, kept, strict=True)
        )
        if paired:
            found.append(Option(wants=(shard,), out=Shard(dim, Cut(half, tuple(kept)))))
    if not found or flow.policy.way != "sequence":
        cut = parts_cut((half, half), flow.members)
        out = parts_cut((half,), flow.members)
        if cut is not None and out is not None and (flow.policy.eager or PARTIAL in x.forms()):
            found.append(Option(wants=(Shard(dim, cut),), out=Shard(dim, out)))
    return found


def cat(flow: Flow, call: Operation) -> list[Option]:
    """Along another dimension each piece for itself; along the cut one, each member joins what it holds of all."""
    dim = call.arguments["dim"] % len(call.shape)
    candidates: list[Shard] = []
    for held in call.operands:
        for shard in shards_of(flow, held):
            if shard.dim != dim and len(held.shape) == len(call.shape) and shard not in candidates:
                candidates.append(shard)
    if not candidates:
        candidates = seeds(flow, call, [d for d in range(len(call.shape)) if d != dim])
    found = [Option(wants=(shard,) * len(call.operands), out=shard) for shard in candidates]
    own = [next((s for s in shards_of(flow, held) if s.dim == dim), None) for held in call.operands]
    cuts = [
        shard.cut if shard is not None else parts_cut((held.shape[dim],), flow.members)
        for held, shard in zip(call.operands, own, strict=True)
    ]
    if flow.policy.way != "sequence" and any(own):
        known = [cut for cut in cuts if cut is not None]
        if len(known) == len(cuts):
            wants = tuple(Shard(dim, cut) for cut in known)
            found.append(Option(wants=wants, out=Shard(dim, joined_cut(known))))
    return found


def stack(flow: Flow, call: Operation) -> list[Option]:
    """Cut along any dimension but the new one."""
    dim = call.arguments["dim"] % len(call.shape)
    found: list[Option] = []
    for held in call.operands:
        for shard in shards_of(flow, held):
            out = Shard(shard.dim + (shard.dim >= dim), shard.cut)
            option = Option(wants=(shard,) * len(call.operands), out=out)
            if out not in [other.out for other in found]:
                found.append(option)
    if not found:
        for out in seeds(flow, call, [d for d in range(len(call.shape)) if d != dim]):
            shard = Shard(out.dim - (out.dim > dim), out.cut)
            found.append(Option(wants=(shard,) * len(call.operands), out=out))
    return found


def embedding(flow: Flow, call: Operation) -> list[Option]:
    """Rows that are looked up by a piece of the indices, or a slice of every row."""
    indices, last = call.held("indices"), len(call.shape) - 1
    found = [Option(wants=(FULL, shard), out=shard) for shard in shards_of(flow, indices)]
    if flow.policy.way != "sequence":
        cut = parts_cut((call.shape[last],), flow.members)
        if cut is not None and flow.policy.eager:
            found.append(Option(wants=(Shard(1, cut), FULL), out=Shard(last, cut)))
    return found


def _given(call: Operation) -> Sequence[int]:
    dim: Any = call.arguments.get("dim", call.arguments.get("dims"))
    return [dim] if isinstance(dim, int) else list(dim)


def _last(count: int) -> Callable[[Operation], Sequence[int]]:
    return lambda call: range(-count, 0)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("clone", "contiguous", "dropout", "to", "_to_copy", "zeros_like"), pointwise),
    **dict.fromkeys(("ones_like", "complex", "polar", "angle", "lift_fresh_copy", "where"), pointwise),
    "prelu": prelu,
    "glu": glu,
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    "stack": stack,
    "embedding": embedding,
    **dict.fromkeys(("softmax", "log_softmax", "cumsum", "cumprod", "flip", "roll"), along(_given)),
    **dict.fromkeys(("fft_fft", "fft_ifft", "fft_rfft", "fft_irfft"), along(_given)),
    **dict.fromkeys(("adaptive_avg_pool1d", "max_pool1d", "avg_pool1d"), along(_last(1))),
    **dict.fromkeys(("upsample_linear1d", "upsample_nearest1d", "stft"), along(_last(1))),
    **dict.fromkeys(("adaptive_avg_pool2d", "max_pool2d", "avg_pool2d", "upsample_nearest2d"), along(_last(2))),
    **dict.fromkeys(("upsample_bilinear2d", "istft"), along(_last(2))),
}
