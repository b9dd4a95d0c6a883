"""Cut a model along a mapping in which teams of slots run split segments: a piece for each slot in use."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx
from torch.fx.node import map_aggregate

from dse.boundaries import Laid, arriving, even_pieces, made_by, moved, wanted
from dse.errors import DseError
from dse.mapped_model.cut import Held, Piece, Relayed, Share, Step, Transfer, charged_bytes, crossing_parts, given_spans
from dse.mapped_model.memory import Memory, Part
from dse.mapped_model.regions import Region
from dse.teams import Team, TeamCosts
from workloads.layer_program import LayerProgram, Read, View
from workloads.segments import SegmentGraph
from workloads.sharding import SegmentSplit, TensorLayout


@dataclass(frozen=True, kw_only=True, eq=False)
class TeamCut:
    """A model cut along a mapping with teams. Bytes are those of the traced dtypes.

    `program` holds the members' pieces of the weights too. `contract_bytes` [E] are what a MappingProblem charges each
    edge; `laid_bytes` [E] what its pieces are by how the tensors lie: the same, except between teams that share slots
    and where pieces are uneven. `collective_bytes` [K] are what the members of each split send among themselves.
    """

    program: LayerProgram
    pieces: tuple[Piece, ...]
    contract_bytes: NDArray[np.float64]
    laid_bytes: NDArray[np.int64]
    collective_bytes: NDArray[np.int64]


def team_cut(program: LayerProgram, segments: SegmentGraph, assignment: NDArray[np.int64], teams: TeamCosts) -> TeamCut:
    """Return the pieces for an `assignment` [K] to modes: slots, then these teams. Of replicas the first runs.

    Raises DseError where a segment is on a team that does not run it, and as `cut`.
    """
    return _Cutter(program, segments, assignment, teams).cut()


class _Cutter:
    def __init__(
        self, program: LayerProgram, segments: SegmentGraph, assignment: NDArray[np.int64], teams: TeamCosts
    ) -> None:
        self.program, self.segments, self.teams = program, segments, teams
        slots = teams.members.shape[1]
        self.home: list[tuple[int, ...]] = []  # slots of each segment, in the order of the members
        self.team: list[int] = []  # of each split segment, -1 of the others
        for k, mode in enumerate(assignment.tolist()):
            if mode < slots:
                self.home.append((mode,))
                self.team.append(-1)
                continue
            team: Team = teams.teams[mode - slots]
            whole = team.way == "replicate"
            if not whole and (k, mode - slots) not in teams.splits:
                raise DseError(
                    f"segment {k} ({segments[k].name}) is not split by {team.way} over slots "
                    f"{', '.join(map(str, team.slots))}",
                    "a mapping of the problem that these teams are of",
                )
            self.home.append(team.slots[:1] if whole else team.slots)
            self.team.append(-1 if whole else mode - slots)
        self.base = list(program.base)
        self.extents = list(program.extents)
        self.given = dict(program.given)
        self.held: dict[tuple[str, int, bytes], int] = {}  # pieces of weights -> storage
        self.tag = len(segments.edges)

    def split(self, k: int) -> SegmentSplit | None:
        """The split of a segment, None where one slot runs it whole."""
        return None if self.team[k] < 0 else self.teams.splits[k, self.team[k]]

    @cached_property
    def made(self) -> dict[int, dict[str, TensorLayout]]:
        """Team -> what its splits make."""
        return {team: made_by(self.teams.splits, team) for team in set(self.team) if team >= 0}

    def cut(self) -> TeamCut:
        segments, edges = self.segments, self.segments.edges
        parts = crossing_parts(self.program, segments, np.ones(len(edges), bool))
        leaving: dict[int, list[Transfer]] = defaultdict(list)
        arriving_at: dict[int, list[Transfer]] = defaultdict(list)
        laid = np.zeros(len(edges), np.int64)
        for edge, crossing in parts.items():
            source, target = edges[edge].tolist()
            if self.home[source] == self.home[target] and self.team[source] == self.team[target]:
                continue
            for transfer in self._transfers(edge, source, target, crossing):
                leaving[source].append(transfer)
                arriving_at[target].append(transfer)
                laid[edge] += sum(self._nbytes(part) for part in transfer.parts)
        slots = sorted({slot for home in self.home for slot in home})
        pieces = tuple(self._piece(slot, leaving, arriving_at) for slot in slots)
        charged = charged_bytes(segments)
        overlap = [self._overlap(*edge) for edge in edges.tolist()]
        contract = charged * (1.0 - np.array(overlap)) if len(edges) else np.zeros(0)
        return TeamCut(
            program=replace(self.program, base=tuple(self.base), extents=tuple(self.extents), given=self.given),
            pieces=pieces,
            contract_bytes=contract,
            laid_bytes=np.where(np.array(overlap, float) > 0, laid, charged),
            collective_bytes=np.array([self._collective_bytes(k) for k in range(len(segments))], np.int64),
        )

    # --- boundaries --------------------------------------------------------------------------------------------------

    def _overlap(self, source: int, target: int) -> float:
        """Part of an edge that stays where it is: all of it within one mode."""
        if self.home[source] == self.home[target] and self.team[source] == self.team[target]:
            return 1.0
        ours, theirs = self.home[source], self.home[target]
        return len(set(ours) & set(theirs)) / (len(ours) * len(theirs))

    def _transfers(self, edge: int, source: int, target: int, crossing: Sequence[Part]) -> Iterable[Transfer]:
        by_slots: dict[tuple[int, int], list[Region]] = defaultdict(list)
        for part in crossing:
            base = self.program.base[part.view.storage]
            layout = self._layout(source, base.storage, made=True)
            here = _alone(base) if layout is None else wanted(layout)
            there = self._arriving(target, base)
            whole = part.view is part.base or part == Part(base, base)
            for i, sender in enumerate(self.home[source]):
                for j, receiver in enumerate(self.home[target]):
                    picks = None if sender == receiver else moved(here, i, there, j)
                    if picks is None:
                        continue
                    perm = None
                    if layout is not None and layout.perm is not None and layout.dim is not None:
                        perm = layout.dim, layout.perm
                        picks = {**picks, layout.dim: np.argsort(layout.perm)[picks[layout.dim]]}
                    region = Region(base=_sized(base), picks=picks, part=None if whole else part, perm=perm)
                    if self._nbytes(region):
                        by_slots[sender, receiver].append(region)
        for (sender, receiver), regions in by_slots.items():
            yield Transfer(edge=edge, source=sender, target=receiver, parts=tuple(regions))

    def _layout(self, k: int, storage: int, *, made: bool) -> TensorLayout | None:
        split = self.split(k)
        layouts = () if split is None else split.outputs if made else split.inputs
        return next((each for each in layouts if self.program.tensors[each.tensor].storage == storage), None)

    def _arriving(self, k: int, base: View) -> Laid:
        split, layout = self.split(k), self._layout(k, base.storage, made=False)
        if split is None:
            return _alone(base)
        if layout is None:  # what is counted as read and the members do not use
            return even_pieces(base.shape, split.groups)
        return arriving(layout, self.made[self.team[k]], split.groups)

    def _nbytes(self, region: Region | Part) -> int:
        """Bytes of a region, by its indices."""
        assert isinstance(region, Region)
        if region.part is not None:
            memory = Memory({region.base.storage: (0, self.extents[region.base.storage])})
            return int(region.gather(memory).numel())
        shape = list(region.base.shape)
        for dim, indices in region.picks.items():
            shape[dim] = len(indices)
        return int(np.prod(shape)) * region.base.dtype.itemsize

    def _collective_bytes(self, k: int) -> int:
        split = self.split(k)
        if split is None:
            return 0
        passed_on = sum(float(relay.sent_bytes.sum()) for relay in self.teams.relays(k, self.team[k]))
        return sum(sum(each.sent_bytes) for each in split.collectives) + round(passed_on)

    # --- what a slot runs --------------------------------------------------------------------------------------------

    def _piece(self, slot: int, leaving: dict[int, list[Transfer]], arriving_at: dict[int, list[Transfer]]) -> Piece:
        program, segments = self.program, self.segments
        of_layer = segments.segment_of_layer
        mine = [k for k, home in enumerate(self.home) if slot in home]
        answers, laid = [], []
        for number, output in enumerate(program.outputs):
            if not isinstance(output, Read) or output.producer is None:
                continue
            k = int(of_layer[output.producer])
            if slot not in self.home[k]:
                continue
            layout = self._layout(k, output.view.storage, made=True)
            if layout is None:
                answers.append((number, output.view))
            else:
                laid.append(self._held_region(layout, self.home[k].index(slot)))
        steps = []
        for k in mine:
            share = self._share(k, slot)
            steps.append(
                Step(
                    segment=k,
                    name=segments[k].name,
                    receives=tuple(t for t in arriving_at[k] if t.target == slot),
                    calls=() if share else tuple(program.calls[i] for i in segments[k].layer_indices),
                    frees=((),),
                    sends=tuple(t for t in leaving[k] if t.source == slot),
                    share=share,
                )
            )
        kept = {view.storage for _, view in answers} | {region.base.storage for region in laid}
        steps = _with_frees(steps, kept)
        spans, given = given_spans(replace(program, extents=tuple(self.extents)), steps)
        return Piece(slot=slot, steps=tuple(steps), spans=spans, given=given, outputs=tuple(answers), laid=tuple(laid))

    def _held_region(self, layout: TensorLayout, member: int) -> Region:
        made = self._made(layout, member)
        assert made.dim is not None and made.indices is not None
        perm = None if made.perm is None else (made.dim, made.perm)
        return Region(base=_sized(made.view), picks={made.dim: made.indices}, perm=perm)

    def _made(self, layout: TensorLayout, member: int) -> Held:
        """Where a member puts its piece of an output: behind those of the members before it, if they are permuted."""
        view = self.program.tensors[layout.tensor]
        if layout.perm is None:
            return Held(view, layout.dim, layout.pieces[member])
        ends = np.cumsum([len(piece) for piece in layout.pieces])
        indices = np.arange(ends[member] - len(layout.pieces[member]), ends[member])
        return Held(view, layout.dim, indices, layout.perm)

    def _share(self, k: int, slot: int) -> Share | None:
        split = self.split(k)
        if split is None:
            return None
        home, number = self.home[k], self.home[k].index(slot)
        member, tag = split.members[number], self.tag + k
        layouts = {layout.tensor: layout for layout in split.inputs}
        passed_on = []
        for relay in self.teams.relays(k, self.team[k]):
            base = _sized(self.program.tensors[relay.layout.tensor])
            for i, j in np.argwhere(~np.eye(split.groups, dtype=bool)).tolist():
                picks = moved(relay.source, i, relay.target, j) if number in (i, j) else None
                if picks is not None:
                    region = Region(base=base, picks=picks)
                    passed_on.append(Relayed(home[i], home[j], region))
        return Share(
            slots=home,
            member=number,
            tag=tag,
            relays=tuple(passed_on),
            program=pickle.dumps(_on_processor(member.program)),
            inputs=tuple(self._held(layouts[name], number) for name in member.inputs),
            weights=tuple(self._weight(piece.name, piece.dim, piece.indices) for piece in member.weights),
            outputs=tuple(self._made(layout, number) for layout in split.outputs),
        )

    def _held(self, layout: TensorLayout, member: int) -> Held:
        view = self.program.tensors[layout.tensor]
        return Held(view, layout.dim, None if layout.full else layout.pieces[member])

    def _weight(self, name: str, dim: int, indices: NDArray[np.int64] | None) -> View:
        """Return a member's piece of a weight as a storage of its own."""
        whole = self.program.weights[name]
        if indices is None:
            return whole
        key = name, dim, indices.tobytes()
        if key not in self.held:
            tensor = self.program.given[whole.storage].detach()
            piece = tensor.index_select(dim, torch.from_numpy(indices)).contiguous()
            self.held[key] = len(self.base)
            self.base.append(View(len(self.base), piece.dtype, tuple(piece.shape), piece.stride(), 0))
            self.extents.append(self.base[-1].end)
            self.given[self.held[key]] = piece
        return self.base[self.held[key]]


def _alone(base: View) -> Laid:
    return Laid(shape=base.shape or (1,), dim=None, pieces=())


def _on_processor(program: fx.GraphModule) -> fx.GraphModule:
    """Return a program that makes its tensors on the processor, whatever device it was exported on."""

    def here(argument: Any) -> Any:
        return torch.device("cpu") if isinstance(argument, torch.device) else argument

    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph, {}))
    for node in graph.nodes:
        node.args, node.kwargs = map_aggregate(node.args, here), map_aggregate(node.kwargs, here)
    return fx.GraphModule(program, graph)


def _sized(base: View) -> View:
    """Return a view with a dimension."""
    return base if base.shape else replace(base, shape=(1,), stride=(1,))


def _with_frees(steps: Sequence[Step], kept: set[int]) -> list[Step]:
    """Free what nothing uses any more after each call, and after what is sent last."""
    last: dict[int, tuple[int, int]] = {}
    for place, step in enumerate(steps):
        sent = {part.base.storage for transfer in step.sends for part in transfer.parts}
        last |= dict.fromkeys(step.storages(), (place, len(step.calls)))
        for number, call in enumerate(step.calls):
            for view in (*(read.view for read in call.reads), *call.writes, *call.outputs):
                if view.storage not in sent:
                    last[view.storage] = place, number
    freed: list[list[list[int]]] = [[[] for _ in range(len(step.calls) + 1)] for step in steps]
    for storage, (place, number) in last.items():
        if storage not in kept:
            freed[place][number].append(storage)
    return [replace(step, frees=tuple(map(tuple, mine))) for step, mine in zip(steps, freed, strict=True)]
