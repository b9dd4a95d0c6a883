"""The members' graphs while they are built: one call of the segment becomes one call of each member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from workloads.sharding.held import Each, Held
from workloads.sharding.layout import Placement, Shard
from workloads.sharding.team import halo_bytes, sent_bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exchange:
    """A collective: what each member sends, and for which layer; `calls` are the members' nodes."""

    kind: str
    sent_bytes: tuple[int, ...]
    layer: int
    calls: Each
    source: Held


class MemberGraphs:
    """A graph for each of `members`, and the exchanges between them. `layer` is the one that is being placed."""

    def __init__(self, members: int) -> None:
        self.members = members
        self.graphs = [fx.Graph() for _ in range(members)]
        self.team = Each(graph.placeholder("team") for graph in self.graphs)
        self.exchanges: list[Exchange] = []
        self.layer = -1

    def emit(
        self,
        target: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None = None,
        *,
        layer: int = -1,
        counted: Any = None,
        shapes: Sequence[Sequence[int]] | None = None,
    ) -> Each:
        """Call `target` in every member's graph; arguments of type Each are a value for each member.

        `layer` is the one whose work it is, -1 for what only the split needs. What is no operator of torch (it calls
        the team) is counted as the operator `counted`, and its result has the `shapes` given.
        """
        calls, known = [], dict[Any, Any]()
        for member, graph in enumerate(self.graphs):
            mine = [_of_member(value, member) for value in args]
            named = {name: _of_member(value, member) for name, value in (kwargs or {}).items()}
            node = graph.call_function(target, tuple(mine), named)
            if shapes is not None:
                first = next(value for value in mine if isinstance(value, fx.Node) and "val" in value.meta)
                made = _empty(known, shapes[member], first.meta["val"].dtype)
            elif (key := (_key(mine), _key(list(named.values())))) in known:  # members whose pieces are alike
                made = known[key]
            else:
                with torch.no_grad():
                    made = target(*map(_meta, mine), **{name: _meta(value) for name, value in named.items()})
                known[key] = made
            node.meta.update(val=made, layer=layer, counted=counted)
            calls.append(node)
        return Each(calls)

    def exchange(
        self, kind: str, pieces: Each, arguments: tuple[int, ...], shapes: Sequence[Sequence[int]], source: Held
    ) -> Each:
        """Call a collective of the team; `shapes` are those of the results."""
        calls, sent, known = [], [], dict[Any, Any]()
        for member, (graph, piece, shape) in enumerate(zip(self.graphs, pieces, shapes, strict=True)):
            node = graph.call_method(kind, (self.team[member], piece, *arguments))
            given: Tensor = piece.meta["val"]
            node.meta.update(val=_empty(known, shape, given.dtype), layer=-1)
            calls.append(node)
            size = given.element_size()
            if kind == "halo":
                dim, before, after = arguments
                index = given.numel() // given.shape[dim] * size
                sent.append(halo_bytes(index, before, after, member, self.members))
            else:
                sent.append(sent_bytes(kind, given.numel(), size, self.members))
        made = Each(calls)
        self.exchanges.append(Exchange(kind=kind, sent_bytes=tuple(sent), layer=self.layer, calls=made, source=source))
        return made

    def note_exchange(self, kind: str, elements: int, itemsize: int, calls: Each, source: Held) -> None:
        """Record a collective that runs inside a call."""
        sent = sent_bytes(kind, elements, itemsize, self.members)
        self.exchanges.append(
            Exchange(kind=kind, sent_bytes=(sent,) * self.members, layer=self.layer, calls=calls, source=source)
        )

    def placeholders(self, name: str, held: Held, placement: Placement) -> Each:
        """Give every member an input called `name`: its piece of a tensor that is placed so."""
        made, known = [], dict[Any, Any]()
        for graph, shape in zip(self.graphs, self.shapes(held.shape, placement), strict=True):
            last = [node for node in graph.nodes if node.op == "placeholder"][-1]
            with graph.inserting_after(last):
                node = graph.placeholder(name)
            node.meta["val"] = _empty(known, shape, held.dtype)
            made.append(node)
        return Each(made)

    def shapes(self, shape: Sequence[int], placement: Placement) -> list[list[int]]:
        """Shape of each member's piece."""
        shapes = [list(shape) for _ in range(self.members)]
        if isinstance(placement, Shard):
            for mine, length in zip(shapes, placement.cut.lengths, strict=True):
                mine[placement.dim] = length
        return shapes


def _of_member(value: Any, member: int) -> Any:
    """The argument of one member."""
    if isinstance(value, Each):
        return value[member]
    if isinstance(value, list | tuple):
        return [_of_member(item, member) for item in value]
    return value


def _empty(known: dict[Any, Any], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor without data; members whose pieces are alike share it."""
    return known.setdefault(tuple(shape), torch.empty(tuple(shape), dtype=dtype, device="meta"))  # type: ignore[no-any-return]


def _key(value: Any) -> Any:
    """Equal for arguments of a call that makes the same of them."""
    if isinstance(value, fx.Node):
        made = value.meta.get("val")
        return tuple(map(id, made)) if isinstance(made, list | tuple) else id(made)
    return tuple(map(_key, value)) if isinstance(value, list | tuple) else (type(value), value)


def _meta(value: Any) -> Any:
    """An argument for a call that computes nothing."""
    if isinstance(value, fx.Node):
        return value.meta["val"]
    if isinstance(value, list | tuple):
        return [_meta(item) for item in value]
    return torch.device("meta") if isinstance(value, torch.device) else value
