"""Teams: what it costs to run a segment on several slots together, split over them or replicated.

At the boundary of segments a tensor lies evenly on the slots of the mode that made it, a piece of 1/G on each. So an
edge between modes p and q moves, from each slot of p to each other slot of q, 1/(G_p G_q) of its bytes, and nothing
within one mode. A split segment that needs its inputs whole, or cut otherwise than they come, passes them on within its
team first (see dse.boundaries).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise, permutations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dse.boundaries import Relay, made_by, relays
from dse.errors import DseError
from dse.proxy.model import LayerQuestion, cost_model

if TYPE_CHECKING:
    from torch import nn

    from chiplib.package import Routes
    from dse.cost_table import CostTable
    from workloads.graph import WorkloadGraph
    from workloads.sharding import SegmentSplit, TensorLayout

TeamWay = Literal["channels", "sequence", "replicate"]
"""How a team shares a segment: by channels (or heads), along the sequence, or whole inputs in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """Slots that run segments together, in one way."""

    slots: tuple[int, ...]
    way: TeamWay

    @property
    def size(self) -> int:
        """G, how many slots share."""
        return len(self.slots)


@dataclass(frozen=True, kw_only=True, eq=False)
class TeamCosts:
    """What K segments cost on T teams: what a MappingProblem takes beside its slots. Infinite where not allowed."""

    teams: tuple[Team, ...]  # [T]
    members: NDArray[np.bool_]  # [T, S]
    compute_ms: NDArray[np.float64]  # [K, T] of each slot of the team
    energy_mj: NDArray[np.float64]  # [K, T] dynamic, of all slots
    own_ms: NDArray[np.float64]  # [K, T] compute_ms without collectives
    own_mj: NDArray[np.float64]  # [K, T] energy_mj without collectives
    resident_bytes: NDArray[np.float64]  # [K, T] on each slot
    allowed: NDArray[np.bool_]  # [K, T]
    splits: dict[tuple[int, int], SegmentSplit]  # segment and team -> what it runs; replicas have none
    low_ms: NDArray[np.float64] | None = None  # [K, T] interval of own_ms, of models that give one
    high_ms: NDArray[np.float64] | None = None  # [K, T]

    def at(self, end: Literal["low", "high"]) -> TeamCosts:
        """Return the costs with what chips compute at that end of its interval. What links do is taken as known.

        Raises DseError where the model gives no intervals.
        """
        own_ms = self.low_ms if end == "low" else self.high_ms
        if own_ms is None:
            raise DseError("the cost model of these teams gives no intervals", "model: learned")
        waits = np.where(self.allowed, self.compute_ms, 0.0) - np.where(self.allowed, self.own_ms, 0.0)
        return replace(self, own_ms=own_ms, compute_ms=own_ms + waits)

    def relays(self, segment: int, team: int) -> tuple[Relay, ...]:
        """Return what the members of a segment's split pass on among themselves before it starts."""
        return relays(self.splits[segment, team], made_by(self.splits, team))

    def collective_bytes(self, segment: int, team: int, float_bytes: int) -> NDArray[np.float64]:
        """Return the bytes [collectives, members] that each sends to the others for a segment, in order.

        Values have `float_bytes`; what members pass on before they start comes last.
        """
        passed_on = [_scaled(relay, float_bytes) for relay in self.relays(segment, team)]
        return np.vstack([self.splits[segment, team].at(float_bytes).sent_bytes, *passed_on])

    def sent_within(self, segment: int, team: int, float_bytes: int) -> NDArray[np.float64]:
        """Return the bytes [members] that each sends to the others for a segment in all."""
        total: NDArray[np.float64] = self.collective_bytes(segment, team, float_bytes).sum(axis=0)
        return total


def aligned_teams(slots: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return groups of `sizes` of consecutive slots, none of a size overlapping another: nested or apart.

    Raises DseError for a size that is no divisor of the next larger one, or below 2.
    """
    ordered = sorted(set(sizes))
    if (ordered and ordered[0] < 2) or any(large % small for small, large in pairwise(ordered)):
        raise DseError(
            f"teams of {', '.join(map(str, sizes))} slots", "sizes from 2, each dividing the next, such as 2,4"
        )
    return [tuple(slots[first : first + size]) for size in ordered for first in range(0, len(slots) - size + 1, size)]


def team_costs(
    table: CostTable,
    splits: Sequence[SegmentSplit],
    *,
    teams: Sequence[tuple[int, ...]],
    replicate: bool = False,
) -> TeamCosts:
    """Cost the segments of a table on teams of its slots.

    `splits` are the valid ways in which segments can be split; of several by channels or heads for as many members the
    one with the least time counts. A segment is allowed on a team where it is on each of its slots. A split takes the
    time of its slowest member and of its collectives; `replicate` adds teams that run every G-th input whole, which
    shortens a pipeline's period (each slot is then busy for 1/G of the segment's time).
    """
    segments, routes = table.segments, table.system.routes
    slots = table.latency_ms.shape[1]
    found = [Team(slots=chosen, way=way) for chosen in teams for way in ("channels", "sequence")]
    found += [Team(slots=chosen, way="replicate") for chosen in teams if replicate]
    shape = len(segments), len(found)
    compute_ms, energy_mj, own_ms, own_mj, low_ms, high_ms = np.full((6, *shape), np.inf)
    resident = np.zeros(shape)
    chosen_split: dict[tuple[int, int], SegmentSplit] = {}
    priced = _priced(table, splits)
    sized = [split.at(segments.float_bytes) for split in splits]
    in_order = sorted(range(len(splits)), key=lambda number: splits[number].segment)
    for t, team in enumerate(found):
        on = list(team.slots)
        if team.way == "replicate":
            compute_ms[:, t] = own_ms[:, t] = table.latency_ms[:, on].max(axis=1) / team.size
            energy_mj[:, t] = own_mj[:, t] = table.energy_mj[:, on].mean(axis=1)
            if table.costs.low_ms is not None:
                low_ms[:, t], high_ms[:, t] = (
                    table.at(end).latency_ms[:, on].max(axis=1) / team.size for end in ("low", "high")
                )
            resident[:, t] = segments.weight_bytes + 2.0 * segments.output_bytes
            continue
        types = table.type_of_slot[on]
        if (types >= len(table.costs.chips)).any():
            continue
        made: dict[str, TensorLayout] = {}
        for k, tried in groupby(in_order, key=lambda number: splits[number].segment):
            for number in tried:
                split, cost = splits[number], priced[number]
                if split.groups != team.size or (split.way == "sequence") != (team.way == "sequence"):
                    continue
                sizes = sized[number]
                passed_on = [_scaled(relay, segments.float_bytes) for relay in relays(split, made)]
                wait_ms, moved_mj = collective_costs(routes, on, np.vstack([sizes.sent_bytes, *passed_on]))
                slowest_ms = cost.slowest(cost.latency_ms, types)
                if slowest_ms + wait_ms < compute_ms[k, t]:
                    own_ms[k, t], compute_ms[k, t] = slowest_ms, slowest_ms + wait_ms
                    own_mj[k, t] = float(cost.energy_mj[np.arange(team.size), types].sum())
                    energy_mj[k, t] = own_mj[k, t] + moved_mj
                    if cost.low_ms is not None and cost.high_ms is not None:
                        low_ms[k, t], high_ms[k, t] = (
                            cost.slowest(ends, types) for ends in (cost.low_ms, cost.high_ms)
                        )
                    resident[k, t] = float(sizes.weight_bytes.max()) + 2.0 * segments.output_bytes[k] / team.size
                    chosen_split[k, t] = split
            if (k, t) in chosen_split:
                made |= {layout.tensor: layout for layout in chosen_split[k, t].outputs}
    members = np.zeros((len(found), slots), dtype=np.bool_)
    for t, team in enumerate(found):
        members[t, list(team.slots)] = True
    everywhere = np.stack([table.allowed[:, list(team.slots)].all(axis=1) for team in found], axis=1)
    allowed = np.isfinite(compute_ms) & everywhere if found else np.zeros(shape, dtype=np.bool_)
    return TeamCosts(
        teams=tuple(found),
        members=members,
        compute_ms=np.where(allowed, compute_ms, np.inf),
        energy_mj=np.where(allowed, energy_mj, np.inf),
        own_ms=np.where(allowed, own_ms, np.inf),
        own_mj=np.where(allowed, own_mj, np.inf),
        low_ms=None if table.costs.low_ms is None else np.where(allowed, low_ms, np.inf),
        high_ms=None if table.costs.low_ms is None else np.where(allowed, high_ms, np.inf),
        resident_bytes=resident,
        allowed=allowed,
        splits=chosen_split,
    )


def split_teams(
    workload: str | nn.Module,
    table: CostTable,
    *,
    sizes: Sequence[int] = (2,),
    replicate: bool = False,
    inputs: Sequence[Any] | None = None,
    permute_seed: int | None = None,
    only: Iterable[int] | None = None,
) -> TeamCosts:
    """Split the segments of a workload over teams of the occupied slots of a table, and cost them.

    `workload` is what the table's segments are of: a name, a model file, or a module with the `inputs` of its trace.
    Teams are those of `aligned_teams`; `replicate` and the choice between splits are as in `team_costs`. With a
    `permute_seed` channels are dealt out by a random permutation where nothing in a segment depends on their order.
    `only` those segments are split that are named, where some are.

    Raises
    ------
    DseError
        For sizes of teams that do not nest, or more than there are slots with chips.
    WorkloadError
        If the model cannot be exported, or its program is no flat list of operator calls.
    """
    from workloads import exported
    from workloads.sharding import Splitter

    slots = [slot for slot, chip in enumerate(table.system.chips) if chip is not None]
    if too_large := [size for size in sizes if size > len(slots)]:
        raise DseError(f"there is no team of {too_large[0]} slots", f"{len(slots)} slots have chips")
    teams = aligned_teams(slots, sizes)
    splitter = Splitter(exported(workload, table.segments.graph, inputs), table.segments)
    splits = []
    for size in sorted(set(sizes)):
        for segment in range(len(table.segments)) if only is None else sorted(set(only)):
            found = splitter.ways(segment, groups=size)
            if permute_seed is not None:
                found = tuple(
                    splitter.split(segment, groups=size, way="channels", permute_seed=permute_seed)
                    if split.way == "channels"
                    else split
                    for split in found
                )
            splits += [split for split in found if split.valid]
    return team_costs(table, splits, teams=teams, replicate=replicate)


def mode_routes(routes: Routes, members: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """Return the route arrays of a MappingProblem between modes: `members` [M, S] says which slots each uses.

    An edge's pieces go side by side: it takes the longest route's latency and the time of the link that carries most.
    """
    modes = len(members)
    links = routes.uses_link.shape[-1]
    latency, per_byte, energy = (np.zeros((modes, modes)) for _ in range(3))
    held = np.zeros((modes, modes, links))
    for p, q in permutations(range(modes), 2):
        source, target = np.flatnonzero(members[p]), np.flatnonzero(members[q])
        share = 1.0 / (len(source) * len(target))
        pairs = np.ix_(source, target)
        on_link = share * (routes.ms_per_byte[pairs][..., None] * routes.uses_link[pairs]).sum(axis=(0, 1))
        latency[p, q] = routes.latency_ms[pairs].max()
        per_byte[p, q] = max(on_link.max(initial=0.0), share * routes.ms_per_byte[pairs].max())
        energy[p, q] = share * routes.mj_per_byte[pairs].sum()
        if per_byte[p, q]:
            held[p, q] = on_link / per_byte[p, q]
    return {
        "route_latency_ms": latency,
        "route_ms_per_byte": per_byte,
        "route_mj_per_byte": energy,
        "route_links": held,
    }


def _scaled(relay: Relay, float_bytes: int) -> NDArray[np.float64]:
    """Bytes [members] that each sends with floating values of `float_bytes`."""
    traced = relay.layout.float_bytes
    return relay.sent_bytes * (float_bytes / traced if traced else 1.0)


def collective_costs(
    routes: Routes, on: Sequence[int] | NDArray[np.int64], sent: NDArray[np.float64]
) -> tuple[float, float]:
    """Return time in ms and energy in mJ of collectives in which each slot of `on` sends `sent` [C, G] bytes, evenly.

    They come one after the other: each takes the longest route's latency, and the time of the link that carries most.
    """
    if not len(sent):
        return 0.0, 0.0
    there = np.asarray(on)
    pairs = np.ix_(there, there)
    per_link = (routes.ms_per_byte[pairs][..., None] * routes.uses_link[pairs]).sum(axis=1)  # [G, L] a byte to each
    to_each = sent / (len(on) - 1)  # [C, G]
    slowest = np.maximum(
        (to_each @ per_link).max(axis=1, initial=0.0), (to_each * routes.ms_per_byte[pairs].max(axis=1)).max(axis=1)
    )
    wait_ms = float(slowest.sum() + len(sent) * routes.latency_ms[pairs].max())
    return wait_ms, float((to_each @ routes.mj_per_byte[pairs].sum(axis=1)).sum())


def crowded(table: CostTable, members: NDArray[np.bool_]) -> tuple[str, ...]:
    """Say which slots break a network rule, as `CostTable.crowded`, where segments run on `members` [K, S]."""
    size, ranked = members.sum(axis=1), np.argsort(~members, axis=1, kind="stable")
    said: list[str] = []
    for turn in range(int(size.max())):
        said += table.crowded(ranked[np.arange(len(members)), np.minimum(turn, size - 1)])
    return tuple(dict.fromkeys(said))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Priced:
    """What the members of a split cost on each chip type, [members, chip types]."""

    latency_ms: NDArray[np.float64]
    energy_mj: NDArray[np.float64]
    low_ms: NDArray[np.float64] | None
    high_ms: NDArray[np.float64] | None

    def slowest(self, values_ms: NDArray[np.float64], types: NDArray[np.int64]) -> float:
        """The largest of the members' values on chips of these types."""
        return float(values_ms[np.arange(len(types)), types].max())


def _priced(table: CostTable, splits: Sequence[SegmentSplit]) -> list[_Priced]:
    """Price the members of each split, in one call of the model."""
    costs = table.costs
    if not splits:
        return []
    members = [member for split in splits for member in split.members]
    rows = [row for split in splits for row in split.at(costs.segments.float_bytes).rows]
    asked = LayerQuestion(
        layers=np.concatenate(rows),
        chips=costs.features,
        precision=costs.precision,
        graph=_together([member.graph for member in members]),
        types=costs.chips,
        software=costs.software,
        calibrations=costs.calibrations,
    )
    layers = cost_model(costs.model).predict(asked)
    ends = np.cumsum([len(row) for row in rows])
    first = np.cumsum([0, *(len(split.members) for split in splits)])

    def by_split(values: NDArray[np.float64] | None) -> list[NDArray[np.float64]] | None:
        if values is None:
            return None
        of_member = np.stack([part.sum(axis=0) for part in np.split(values, ends[:-1])])
        return [of_member[a:b] for a, b in pairwise(first)]

    latency_ms, energy_mj, low_ms, high_ms = map(
        by_split, (layers.latency_ms, layers.energy_mj, layers.low_ms, layers.high_ms)
    )
    assert latency_ms is not None and energy_mj is not None
    return [
        _Priced(
            latency_ms=latency_ms[number],
            energy_mj=energy_mj[number],
            low_ms=None if low_ms is None else low_ms[number],
            high_ms=None if high_ms is None else high_ms[number],
        )
        for number in range(len(splits))
    ]


def _together(graphs: Sequence[WorkloadGraph]) -> WorkloadGraph:
    """One graph that holds the layers of all, without edges."""
    from workloads.graph import WorkloadGraph

    return WorkloadGraph(
        name=graphs[0].name,
        layers=tuple(layer for graph in graphs for layer in graph.layers),
        edges=np.zeros((0, 2), np.int64),
        edge_bytes=np.zeros(0, np.int64),
        parameters=0,
        weight_bytes=0,
        batch=graphs[0].batch,
    )
