"""The flow of tensors through the members of a split: where each one lies, and what brings it where it is wanted.

One operator call of the segment becomes one call of each member, in a graph of its own. Whatever wants a tensor placed
otherwise than it lies gets it by a local slice where that is enough, else by a collective, which is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx

from workloads.sharding.layout import FULL, PARTIAL, Cut, Full, Partial, Placement, Shard, even_cut
from workloads.sharding.lookahead import Lookahead
from workloads.sharding.program import SegmentPart
from workloads.sharding.team import halo_bytes, sent_bytes
from workloads.sharding.views import View

Way = Literal["heads", "channels", "sequence"]
"""By what a segment is split."""


class Each(tuple[Any, ...]):
    """What each member has in one place: nodes of their graphs, or arguments."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a split is sought. `eager`: cut also what no operator asks to be cut. `axis`: spatial dimension from the end.

    `seed`: deal channels out by a random permutation where nothing in the segment depends on their order.
    """

    way: Way
    eager: bool = True
    axis: int = 1
    seed: int | None = None


@dataclass(slots=True, eq=False)
class Held:
    """A tensor of the segment, and the placements in which the members have it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: Literal["made", "input", "weight"] = "made"
    name: str = ""  # of an input or a weight
    own: dict[Placement, Each] = field(default_factory=dict)
    source: Held | None = None
    view: View | None = None  # of `source`
    layer: int = -1  # which a view is, where it copies
    preferred: Shard | None = None  # of a sum still to be done: how to cut it

    @property
    def root(self) -> Held:
        """What it is a view of."""
        held = self
        while held.source is not None:
            held = held.source
        return held

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def forms(self) -> list[Placement]:
        """Placements in which it lies, views of the source's included."""
        found = list(self.own)
        if self.source is not None and self.view is not None:
            for placement in self.source.forms():
                through = self.view.forward(placement) if isinstance(placement, Shard) else placement
                if through is not None and through not in found:
                    found.append(through)
        return found

    @property
    def free(self) -> bool:
        """Whether every member has it whole, or can: it is (a view of) a weight, or an input not yet asked for."""
        root = self.root
        return FULL in self.forms() or root.kind == "weight" or (root.kind == "input" and not root.own)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exchange:
    """A collective: what each member sends, and for which layer; `calls` are the members' nodes."""

    kind: str
    sent_bytes: tuple[int, ...]
    layer: int
    calls: Each
    source: Held


class Flow:
    """The members' graphs while they are built."""

    def __init__(self, part: SegmentPart, members: int, policy: Policy, full_inputs: frozenset[str]) -> None:
        self.part, self.members, self.policy = part, members, policy
        self.lookahead = Lookahead(part.nodes)
        self.graphs = [fx.Graph() for _ in range(members)]
        self.team = Each(graph.placeholder("team") for graph in self.graphs)
        self.exchanges: list[Exchange] = []
        self.layer = -1  # that is being placed
        self.cuts: dict[str, tuple[str, Placement]] = {}  # placeholder -> weight and how it is cut
        self.inputs: dict[str, Placement] = {}  # input -> how members get it
        self.orders: dict[str, Tensor] = {}  # index tensors by name
        self._full_inputs = full_inputs

    # --- calls -------------------------------------------------------------------------------------------------------

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
        calls = []
        for member, graph in enumerate(self.graphs):
            mine = [_of_member(value, member) for value in args]
            named = {name: _of_member(value, member) for name, value in (kwargs or {}).items()}
            node = graph.call_function(target, tuple(mine), named)
            if shapes is None:
                with torch.no_grad():
                    made = target(*map(_meta, mine), **{name: _meta(value) for name, value in named.items()})
            else:
                first = next(value for value in mine if isinstance(value, fx.Node) and "val" in value.meta)
                made = torch.empty(shapes[member], dtype=first.meta["val"].dtype, device="meta")
            node.meta.update(val=made, layer=layer, counted=counted)
            calls.append(node)
        return Each(calls)

    def exchange(
        self, kind: str, pieces: Each, arguments: tuple[int, ...], shapes: Sequence[Sequence[int]], source: Held
    ) -> Each:
        """Call a collective of the team; `shapes` are those of the results."""
        calls, sent = [], []
        for member, (graph, piece, shape) in enumerate(zip(self.graphs, pieces, shapes, strict=True)):
            node = graph.call_method(kind, (self.team[member], piece, *arguments))
            given: Tensor = piece.meta["val"]
            node.meta.update(val=torch.empty(tuple(shape), dtype=given.dtype, device="meta"), layer=-1)
            calls.append(node)
            size = given.element_size()
            if kind == "halo":
                dim, before, after = arguments
                index = given.numel() // given.shape[dim] * size
                sent.append(halo_bytes(index, before, after, member, self.members))
            else:
                sent.append(sent_bytes(kind, given.numel(), size, self.members))
        made = Each(calls)
        self.exchanges.append(
            Exchange(kind=kind, sent_bytes=tuple(sent), layer=self.layer, calls=made, source=source)
        )
        return made

    def note_exchange(self, kind: str, elements: int, itemsize: int, calls: Each, source: Held) -> None:
        """Record a collective that runs inside a call."""
        sent = sent_bytes(kind, elements, itemsize, self.members)
        self.exchanges.append(
            Exchange(kind=kind, sent_bytes=(sent,) * self.members, layer=self.layer, calls=calls, source=source)
        )

    # --- where a tensor lies -----------------------------------------------------------------------------------------

    def weight(self, node: fx.Node, name: str) -> Held:
        """A parameter, buffer or constant."""
        value = node.meta["val"]
        return Held(shape=_shape(value), dtype=value.dtype, kind="weight", name=name)

    def input(self, node: fx.Node) -> Held:
        """A tensor that the segment reads."""
        value = node.meta["val"]
        return Held(shape=_shape(value), dtype=value.dtype, kind="input", name=node.name)

    def cost(self, held: Held, want: Placement) -> int:
        """Bytes that a member sends, about, to have the tensor placed so."""
        forms, size, members = held.forms(), held.nbytes, self.members
        if want in forms or held.free:
            return 0
        if not forms and held.source is not None:  # a view that no piece of its source is a piece of
            return self.cost(held.source, FULL)
        share = size * (members - 1) // members
        if PARTIAL in forms:
            return 2 * share if isinstance(want, Full) else share
        for form in forms:
            if isinstance(want, Shard) and isinstance(form, Shard):
                if form.dim != want.dim:
                    return share // members if want.cut.even else share
                if (moved := _moved(form.cut, want.cut)) is not None:
                    return sum(moved) * (size // max(form.cut.size, 1))
        return share

    def place(self, held: Held, want: Placement) -> Each:
        """Return the members' pieces of the tensor, placed so."""
        if want not in held.own:
            held.own[want] = self._place(held, want)
        return held.own[want]

    def _place(self, held: Held, want: Placement) -> Each:
        if held.kind == "weight":
            return self._cut_weight(held, want)
        if held.kind == "input" and not held.own and (made := self._take_input(held, want)) is not None:
            return made
        if held.source is not None and held.view is not None:
            for placement in held.source.forms():
                through = held.view.forward(placement) if isinstance(placement, Shard) else placement
                if through == want:
                    return self._view(held, placement, want)
            before = held.view.inverse(want) if isinstance(want, Shard) else want
            same = held.nbytes >= held.source.nbytes
            near = held.source.free or same or not held.forms()
            if before is not None and near and not isinstance(before, Partial):
                return self._view(held, before, want)
            if held.source.free or not held.forms():
                self.place(held, FULL)
        return self._convert(held, want)

    def _view(self, held: Held, before: Placement, want: Placement) -> Each:
        assert held.source is not None and held.view is not None
        pieces = self.place(held.source, before)
        shards = [placement if isinstance(placement, Shard) else None for placement in (before, want)]
        target, arguments = held.view.local(shards[0], shards[1], self.members)
        rest = [Each(column) for column in zip(*arguments, strict=True)]
        return self.emit(target, [pieces, *rest], layer=held.layer)

    def _cut_weight(self, held: Held, want: Placement) -> Each:
        number = len(self.cuts)
        name = f"weight_{number}"
        self.cuts[name] = held.name, want
        return self._placeholders(name, held, want)

    def _take_input(self, held: Held, want: Placement) -> Each | None:
        """Give every member its slice of an input, or all of it; None where it gets all and cuts it itself."""
        sliced = isinstance(want, Shard) and want.cut.even and want.cut.bounds is not None
        if not sliced or held.name in self._full_inputs:
            self.inputs[held.name] = FULL
            held.own[FULL] = self._placeholders(held.name, held, FULL)
            return held.own[FULL] if want == FULL else None
        self.inputs[held.name] = want
        return self._placeholders(held.name, held, want)

    def _placeholders(self, name: str, held: Held, placement: Placement) -> Each:
        made = []
        for graph, shape in zip(self.graphs, self.shapes(held.shape, placement), strict=True):
            with graph.inserting_after(_last_placeholder(graph)):
                node = graph.placeholder(name)
            node.meta["val"] = torch.empty(shape, dtype=held.dtype, device="meta")
            made.append(node)
        return Each(made)

    def shapes(self, shape: Sequence[int], placement: Placement) -> list[list[int]]:
        """Shape of each member's piece."""
        shapes = [list(shape) for _ in range(self.members)]
        if isinstance(placement, Shard):
            for mine, length in zip(shapes, placement.cut.lengths, strict=True):
                mine[placement.dim] = length
        return shapes

    # --- from one placement to another ---------------------------------------------------------------------------------

    def _convert(self, held: Held, want: Placement) -> Each:
        forms = held.forms()
        if FULL in forms:
            assert isinstance(want, Shard)
            return self.sliced(self.place(held, FULL), want)
        if isinstance(want, Shard):
            for form in forms:
                if isinstance(form, Shard) and form.dim == want.dim and (moved := _moved(form.cut, want.cut)) is not None:
                    return self._rebound(held, form, want, moved)
        form = next((form for form in forms if isinstance(form, Shard)), forms[0])
        pieces = self.place(held, form)
        if isinstance(form, Partial):
            if isinstance(want, Full):
                return self.exchange("all_reduce", pieces, (), self.shapes(held.shape, FULL), held)
            assert isinstance(want, Shard)
            if want.cut.even:
                ordered = self._ordered(pieces, want.dim, want.cut)
                return self.exchange("reduce_scatter", ordered, (want.dim,), self.shapes(held.shape, want), held)
            return self.sliced(self.place(held, FULL), want)
        assert isinstance(form, Shard)
        if isinstance(want, Shard) and want.dim != form.dim and want.cut.even and form.cut.even:
            pieces = self._ordered(pieces, want.dim, want.cut)
            pieces = self.exchange("all_to_all", pieces, (want.dim, form.dim), self.shapes(held.shape, want), held)
            return self._restored(pieces, form.dim, form.cut)
        if isinstance(want, Shard):
            return self.sliced(self.place(held, FULL), want)
        pieces = self.exchange("all_gather", pieces, (form.dim,), self.shapes(held.shape, FULL), held)
        return self._restored(pieces, form.dim, form.cut)

    def sliced(self, pieces: Each, want: Shard) -> Each:
        """Return each member's part of a tensor that all have whole."""
        if want.cut.bounds is not None:
            starts, stops = Each(want.cut.bounds[:-1]), Each(want.cut.bounds[1:])
            return self.emit(torch.ops.aten.slice.Tensor, [pieces, want.dim, starts, stops])
        index = Each(self._order(member, piece) for member, piece in enumerate(want.cut.pieces))
        return self.emit(torch.ops.aten.index_select.default, [pieces, want.dim, index])

    def _rebound(self, held: Held, form: Shard, want: Shard, moved: tuple[int, int]) -> Each:
        """Move the bounds between members by fewer indices than any of them holds."""
        before, after = moved
        old, new = form.cut.bounds, want.cut.bounds
        assert old is not None and new is not None
        pieces = self.place(held, form)
        starts = [max(start - before, 0) if g else start for g, start in enumerate(old[:-1])]
        if before or after:
            ends = [end + after * (g < self.members - 1) for g, end in enumerate(old[1:])]
            shapes = self.shapes(held.shape, form)
            for shape, start, end in zip(shapes, starts, ends, strict=True):
                shape[form.dim] = end - start
            pieces = self.exchange("halo", pieces, (form.dim, before, after), shapes, held)
        first = Each(b - start for b, start in zip(new[:-1], starts, strict=True))
        last = Each(b - start for b, start in zip(new[1:], starts, strict=True))
        return self.emit(torch.ops.aten.slice.Tensor, [pieces, want.dim, first, last])

    def _ordered(self, pieces: Each, dim: int, cut: Cut) -> Each:
        """Put whole tensors into the order of the members."""
        if cut.bounds is not None:
            return pieces
        return self._taken(pieces, dim, cut.order)

    def _restored(self, pieces: Each, dim: int, cut: Cut) -> Each:
        """Put joined pieces back into the tensor's order."""
        if cut.bounds is not None:
            return pieces
        return self._taken(pieces, dim, np.argsort(cut.order))

    def _taken(self, pieces: Each, dim: int, order: np.ndarray[Any, np.dtype[np.int64]]) -> Each:
        index = Each(self._order(member, order) for member in range(self.members))
        return self.emit(torch.ops.aten.index_select.default, [pieces, dim, index])

    def _order(self, member: int, order: np.ndarray[Any, np.dtype[np.int64]]) -> fx.Node:
        """An index tensor of a member."""
        name = f"order_{len(self.orders)}"
        self.orders[name] = torch.from_numpy(np.ascontiguousarray(order))
        node = self.graphs[member].create_node("get_attr", name)
        node.meta["val"] = self.orders[name].to("meta")
        return node

    def window(self, held: Held, dim: int, wanted: Sequence[tuple[int, int]]) -> tuple[Each, list[tuple[int, int]]]:
        """Return pieces of runs of `dim` that overlap: member g's has the indices `wanted[g]`, those there are.

        Also return the runs that they have: a halo exchange where the tensor is cut there and neighbours hold enough,
        else slices of the whole tensor.
        """
        size = held.shape[dim]
        inside = [(min(max(a, 0), size), max(min(b, size), 0)) for a, b in wanted]
        form = next((f for f in held.forms() if isinstance(f, Shard) and f.dim == dim and f.cut.bounds), None)
        if form is None or FULL in held.forms():
            if not held.forms() and (cut := even_cut(size, self.members)) is not None and not self.asked_full(held):
                form = Shard(dim, cut)
                self.place(held, form)
        if form is not None and FULL not in held.forms():
            bounds = form.cut.bounds
            assert bounds is not None
            before = max(max(start - a, 0) for start, (a, _) in zip(bounds[1:-1], inside[1:], strict=True))
            after = max(max(b - end, 0) for end, (_, b) in zip(bounds[1:-1], inside[:-1], strict=True))
            reach = all(a >= s - before and b <= e + after for (a, b), s, e in zip(inside, bounds, bounds[1:], strict=False))
            if reach and max(before, after) <= min(form.cut.lengths):
                pieces = self._overlapping(held, form, before, after, inside)
                return pieces, inside
        whole = self.place(held, FULL)
        starts, stops = (Each(column) for column in zip(*inside, strict=True))
        return self.emit(torch.ops.aten.slice.Tensor, [whole, dim, starts, stops]), inside

    def asked_full(self, held: Held) -> bool:
        """Whether an input has to come whole."""
        return held.root.kind != "input" or held.root.name in self._full_inputs

    def _overlapping(
        self, held: Held, form: Shard, before: int, after: int, inside: Sequence[tuple[int, int]]
    ) -> Each:
        bounds = form.cut.bounds
        assert bounds is not None
        pieces = self.place(held, form)
        starts = [start - before * (g > 0) for g, start in enumerate(bounds[:-1])]
        ends = [end + after * (g < self.members - 1) for g, end in enumerate(bounds[1:])]
        if before or after:
            shapes = self.shapes(held.shape, form)
            for shape, start, end in zip(shapes, starts, ends, strict=True):
                shape[form.dim] = end - start
            pieces = self.exchange("halo", pieces, (form.dim, before, after), shapes, held)
        first = Each(a - start for (a, _), start in zip(inside, starts, strict=True))
        last = Each(b - start for (_, b), start in zip(inside, starts, strict=True))
        if all(a == 0 and b == end - start for a, b, start, end in zip(first, last, starts, ends, strict=True)):
            return pieces
        return self.emit(torch.ops.aten.slice.Tensor, [pieces, form.dim, first, last])


def _moved(old: Cut, new: Cut) -> tuple[int, int] | None:
    """How far members reach into the one before and the next, where runs are cut otherwise; None where that is too far."""
    if old.bounds is None or new.bounds is None or old.size != new.size:
        return None
    pairs = list(zip(old.bounds[1:-1], new.bounds[1:-1], strict=True))
    before, after = max(max(o - n, 0) for o, n in pairs), max(max(n - o, 0) for o, n in pairs)
    return (before, after) if max(before, after) <= min(old.lengths) else None


def _of_member(value: Any, member: int) -> Any:
    """The argument of one member."""
    if isinstance(value, Each):
        return value[member]
    if isinstance(value, list | tuple):
        return [_of_member(item, member) for item in value]
    return value


def _meta(value: Any) -> Any:
    """An argument for a call that computes nothing."""
    if isinstance(value, fx.Node):
        return value.meta["val"]
    if isinstance(value, list | tuple):
        return [_meta(item) for item in value]
    return torch.device("meta") if isinstance(value, torch.device) else value


def _shape(value: Tensor) -> tuple[int, ...]:
    return tuple(int(size) for size in value.shape)


def _last_placeholder(graph: fx.Graph) -> fx.Node:
    return [node for node in graph.nodes if node.op == "placeholder"][-1]


Emitter = Callable[..., Each]
