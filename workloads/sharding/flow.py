"""The flow of tensors through the members of a split: where each one lies, and what brings it where it is wanted.

Whatever wants a tensor placed otherwise than it lies gets it by a local slice where that is enough, else by a
collective, which is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from workloads.sharding.held import Each, Held
from workloads.sharding.layout import FULL, PARTIAL, Cut, Full, Partial, Placement, Shard, even_cut
from workloads.sharding.lookahead import Lookahead
from workloads.sharding.member_graphs import MemberGraphs
from workloads.sharding.program import SegmentPart, shape_of

Way = Literal["heads", "channels", "sequence"]
"""By what a segment is split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a split is sought. `eager`: cut also what no operator asks to be cut. `axis`: spatial dimension from the end.

    `seed`: deal channels out by a random permutation where nothing in the segment depends on their order.
    """

    way: Way
    eager: bool = True
    axis: int = 1
    seed: int | None = None


class Flow(MemberGraphs):
    """The members' graphs of a segment's part of a program, and where its tensors lie."""

    def __init__(self, part: SegmentPart, members: int, policy: Policy, full_inputs: frozenset[str]) -> None:
        super().__init__(members)
        self.part, self.policy = part, policy
        self.lookahead = Lookahead(part.nodes)
        self.cuts: dict[str, tuple[str, Placement]] = {}  # placeholder -> weight and how it is cut
        self.inputs: dict[str, Placement] = {}  # input -> how members get it
        self.orders: dict[str, Tensor] = {}  # index tensors by name
        self._full_inputs = full_inputs

    # --- where a tensor lies -----------------------------------------------------------------------------------------

    def weight(self, node: fx.Node, name: str) -> Held:
        """A parameter, buffer or constant."""
        return Held(shape=shape_of(node), dtype=node.meta["val"].dtype, kind="weight", name=name)

    def input(self, node: fx.Node) -> Held:
        """A tensor that the segment reads."""
        return Held(shape=shape_of(node), dtype=node.meta["val"].dtype, kind="input", name=node.name)

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
        return self.placeholders(name, held, want)

    def _take_input(self, held: Held, want: Placement) -> Each | None:
        """Give every member its slice of an input, or all of it; None where it gets all and cuts it itself."""
        sliced = isinstance(want, Shard) and want.cut.even and want.cut.bounds is not None
        if not sliced or held.name in self._full_inputs:
            self.inputs[held.name] = FULL
            held.own[FULL] = self.placeholders(held.name, held, FULL)
            return held.own[FULL] if want == FULL else None
        self.inputs[held.name] = want
        return self.placeholders(held.name, held, want)

    # --- from one placement to another -------------------------------------------------------------------------------

    def _convert(self, held: Held, want: Placement) -> Each:
        forms = held.forms()
        if FULL in forms:
            assert isinstance(want, Shard)
            return self.sliced(self.place(held, FULL), want)
        if isinstance(want, Shard):
            for form in forms:
                if (
                    isinstance(form, Shard)
                    and form.dim == want.dim
                    and (moved := _moved(form.cut, want.cut)) is not None
                ):
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
        return self.emit(torch.ops.aten.index_select.default, [pieces, want.dim, self._index(want.cut.pieces)])

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

    def _taken(self, pieces: Each, dim: int, order: NDArray[np.int64]) -> Each:
        return self.emit(torch.ops.aten.index_select.default, [pieces, dim, self._index([order] * self.members)])

    def _index(self, orders: Sequence[NDArray[np.int64]]) -> Each:
        """Index tensors, one for each member; what is the same for all is held once."""
        names: dict[int, str] = {}
        shown = torch.empty(len(orders[0]), dtype=torch.int64, device="meta")
        nodes = []
        for graph, order in zip(self.graphs, orders, strict=True):
            if id(order) not in names:
                names[id(order)] = f"order_{len(self.orders)}"
                self.orders[names[id(order)]] = torch.from_numpy(np.ascontiguousarray(order))
            node = graph.create_node("get_attr", names[id(order)])
            node.meta["val"] = shown if len(order) == len(shown) else shown.new_empty(len(order))
            nodes.append(node)
        return Each(nodes)

    def window(self, held: Held, dim: int, wanted: Sequence[tuple[int, int]]) -> tuple[Each, list[tuple[int, int]]]:
        """Return pieces of runs of `dim` that overlap: member g's has the indices `wanted[g]`, those there are.

        Also return the runs that they have: a halo exchange where the tensor is cut there and neighbours hold enough,
        else slices of the whole tensor.
        """
        size = held.shape[dim]
        inside = [(min(max(a, 0), size), max(min(b, size), 0)) for a, b in wanted]
        form = next((f for f in held.forms() if isinstance(f, Shard) and f.dim == dim and f.cut.bounds), None)
        cut = even_cut(size, self.members)
        if not held.forms() and cut is not None and not self.asked_full(held):
            form = Shard(dim, cut)
            self.place(held, form)
        if form is not None and FULL not in held.forms():
            bounds = form.cut.bounds
            assert bounds is not None
            before = max(max(start - a, 0) for start, (a, _) in zip(bounds[1:-1], inside[1:], strict=True))
            after = max(max(b - end, 0) for end, (_, b) in zip(bounds[1:-1], inside[:-1], strict=True))
            reach = all(
                a >= s - before and b <= e + after for (a, b), s, e in zip(inside, bounds, bounds[1:], strict=False)
            )
            if reach and max(before, after) <= min(form.cut.lengths):
                pieces = self._overlapping(held, form, before, after, inside)
                return pieces, inside
        whole = self.place(held, FULL)
        starts, stops = (Each(column) for column in zip(*inside, strict=True))
        return self.emit(torch.ops.aten.slice.Tensor, [whole, dim, starts, stops]), inside

    def asked_full(self, held: Held) -> bool:
        """Whether an input has to come whole."""
        return held.root.kind != "input" or held.root.name in self._full_inputs

    def _overlapping(self, held: Held, form: Shard, before: int, after: int, inside: Sequence[tuple[int, int]]) -> Each:
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
    """How far members reach into the one before and the next where runs are cut anew; None where that is too far."""
    if old.bounds is None or new.bounds is None or old.size != new.size:
        return None
    pairs = list(zip(old.bounds[1:-1], new.bounds[1:-1], strict=True))
    before, after = max(max(o - n, 0) for o, n in pairs), max(max(n - o, 0) for o, n in pairs)
    return (before, after) if max(before, after) <= min(old.lengths) else None
