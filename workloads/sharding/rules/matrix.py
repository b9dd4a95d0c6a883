"""Matrix products and attention: cut along any index of the product.

By an output index every operand that has it is cut alike and the others are whole (column parallel: the rows of a
weight; heads; positions of queries); by an index that is summed over each member makes a sum still to be done (row
parallel). Megatron-LM (arXiv 1909.08053) pairs the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workloads.sharding.flow import Flow
from workloads.sharding.held import Each, Held
from workloads.sharding.layout import FULL, PARTIAL, Cut, Placement, Shard, parts_cut
from workloads.sharding.rules.convolution import convolution
from workloads.sharding.rules.operation import (
    Operation,
    Option,
    Rule,
    call_local,
    channel_cut,
    seeds,
    shards_of,
)

Indices = Sequence[str]
"""A name for each dimension of a tensor; "" where its size is 1 and it is repeated."""


def product(
    flow: Flow, call: Operation, terms: Sequence[Indices], out: Indices, *, fixed: frozenset[str] = frozenset()
) -> list[Option]:
    """Options of a product of operands with these indices; `fixed` ones cannot be cut.

    An operand of fewer dimensions that has no index that is summed over is added (a bias): where a sum is still to be
    done, the first member alone adds it.
    """
    summed = {index for term in terms for index in term if index} - set(out)
    candidates = _candidates(flow, call, terms, out, summed)
    found = []
    for index, cut in candidates:
        if index in fixed:
            continue
        wants = tuple(Shard(list(term).index(index), cut) if index in term else FULL for term in terms)
        if index in out:
            found.append(Option(wants=wants, out=Shard(list(out).index(index), cut)))
        else:
            found.append(_summed_option(flow, call, terms, out, wants, summed))
    return found


def _candidates(
    flow: Flow, call: Operation, terms: Sequence[Indices], out: Indices, summed: set[str]
) -> list[tuple[str, Cut]]:
    """Indices and cuts worth trying: how operands lie, then what the way asks for."""
    found: list[tuple[str, Cut]] = []
    for held, term in zip(call.operands, terms, strict=True):
        for shard in shards_of(flow, held):
            if (pair := (term[shard.dim], shard.cut)) not in found and pair[0]:
                found.append(pair)
    if flow.policy.way == "sequence":
        rows = [dim for dim in (len(out) - 2, len(out) - 1)[: len(out)] if dim >= 0 and out[dim]]
        weighted = any(held.root.kind == "weight" for held in call.operands)
        if weighted and len(out) > 1:
            rows = rows[:1]
        fresh = not any(shards_of(flow, held) for held in call.operands)
        return [*found, *((out[seed.dim], seed.cut) for seed in seeds(flow, call, rows) if fresh and out[seed.dim])]
    for dim in _channel_dims(call, out):
        cut = channel_cut(flow, call, dim)
        if cut is not None and (out[dim], cut) not in found:
            found.append((out[dim], cut))
    for index in sorted(summed):
        for held, term in zip(call.operands, terms, strict=True):
            if index in term:
                cut = parts_cut((held.shape[list(term).index(index)],), flow.members)
                if cut is not None and not any(index == known for known, _ in found):
                    found.append((index, cut))
    return found


def _channel_dims(call: Operation, out: Indices) -> list[int]:
    """Dimensions of the result in the order in which they are cut by heads or channels: heads, columns, rows."""
    last = len(out) - 1
    if any(held.root.kind == "weight" for held in call.operands):
        return [last]
    return [dim for dim in (*range(1, last - 1), last, last - 1, 0) if 0 <= dim <= last and out[dim]]


def _summed_option(
    flow: Flow, call: Operation, terms: Sequence[Indices], out: Indices, wants: tuple[Placement, ...], summed: set[str]
) -> Option:
    added = {position for position, term in enumerate(terms) if not summed & set(term)}
    last = len(out) - 1
    cut = channel_cut(flow, call, last) or parts_cut((call.shape[last],), flow.members)
    preferred = Shard(last, cut) if cut is not None and out[last] else _any_even(flow, call)
    if not added:
        return Option(wants=wants, out=PARTIAL, preferred=preferred)

    def run(flow: Flow, call: Operation, pieces: Sequence[Each]) -> Each:
        given = [
            Each(node if member == 0 else None for member, node in enumerate(piece)) if position in added else piece
            for position, piece in enumerate(pieces)
        ]
        return call_local(flow, call, given)

    return Option(wants=wants, out=PARTIAL, preferred=preferred, run=run)


def _any_even(flow: Flow, call: Operation) -> Shard | None:
    for dim in sorted(range(len(call.shape)), key=lambda dim: -call.shape[dim]):
        cut = parts_cut((call.shape[dim],), flow.members)
        if cut is not None:
            return Shard(dim, cut)
    return None


def _indices(shape: Sequence[int], names: Sequence[str], sizes: Mapping[str, int] | None = None) -> list[str]:
    """The last of `names`, one a dimension; none where the tensor is repeated along it."""
    mine = list(names)[len(names) - len(shape) :]
    return [name if sizes is None or sizes[name] == size else "" for name, size in zip(mine, shape, strict=True)]


def linear(flow: Flow, call: Operation) -> list[Option]:
    """[..., k] by weight [n, k], bias [n]."""
    rows = [f"row{dim}" for dim in range(len(call.shape) - 1)]
    terms: list[list[str]] = [[*rows, "k"], ["n", "k"], ["n"]]
    if len(call.held("weight").shape) != 2:
        return []
    return product(flow, call, terms[: len(call.operands)], [*rows, "n"])


def matmul(flow: Flow, call: Operation) -> list[Option]:
    """[..., m, k] by [..., k, n]."""
    left, right = call.operands
    if len(left.shape) < 2 or len(right.shape) < 2:
        return []
    batch = [f"batch{dim}" for dim in range(len(call.shape) - 2)]
    sizes = dict(zip([*batch, "m", "n"], call.shape, strict=True)) | {"k": left.shape[-1]}
    terms = [_indices(left.shape, [*batch, "m", "k"], sizes), _indices(right.shape, [*batch, "k", "n"], sizes)]
    return product(flow, call, terms, [*batch, "m", "n"])


def addmm(flow: Flow, call: Operation) -> list[Option]:
    """[m, k] by [k, n] and a bias [n]."""
    if len(call.held("self").shape) != 1 or call.arguments["alpha"] != 1 or call.arguments["beta"] != 1:
        return []
    options = product(flow, call, [["n"], ["m", "k"], ["k", "n"]], ["m", "n"])
    return [option for option in options if option.out != PARTIAL]


def einsum(flow: Flow, call: Operation) -> list[Option]:
    """Any product of distinct indices."""
    equation = str(call.arguments["equation"]).replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if "." in equation or not arrow or any(len(set(term)) < len(term) for term in (*terms, out)):
        return []
    return product(flow, call, [list(term) for term in terms], list(out))


def attention(flow: Flow, call: Operation) -> list[Option]:
    """By examples, heads, or positions of queries, for which keys and values have to be whole."""
    rank = len(call.shape)
    if call.arguments.get("enable_gqa") or rank < 3:
        return []
    names = [*(f"batch{dim}" for dim in range(rank - 3)), "head", "query", "key", "inner", "value"]
    lead = names[: rank - 2]
    sizes = dict(zip([*lead, "query", "value"], [*call.shape[: rank - 2], *call.shape[-2:]], strict=True))
    key = call.held("key")
    sizes |= {"query": call.shape[-2], "key": key.shape[-2], "inner": key.shape[-1], "value": call.shape[-1]}
    terms = [
        _indices(call.held("query").shape, [*lead, "query", "inner"], sizes),
        _indices(key.shape, [*lead, "key", "inner"], sizes),
        _indices(call.held("value").shape, [*lead, "key", "value"], sizes),
    ]
    mask: Any = call.arguments.get("attn_mask")
    if isinstance(mask, Held):
        terms.append(_indices(mask.shape, [*lead, "query", "key"], sizes))
    fixed = {"key", "inner", "value"} | ({"query"} if call.arguments.get("is_causal") else set())
    return product(flow, call, terms, [*lead, "query", "value"], fixed=frozenset(fixed))


RULES: dict[str, Rule] = {
    "linear": linear,
    **dict.fromkeys(("matmul", "bmm", "mm"), matmul),
    "addmm": addmm,
    "einsum": einsum,
    "scaled_dot_product_attention": attention,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), convolution),
}
