"""MappedWork: which slots run a segment, and what they send each other for it, whatever its mode is.

Splits: every slot of the team runs its member, all of them together (a gang), and sends the others its part of the
collectives. Replicas: one slot of the team runs the whole segment, the next input's goes to the next slot. An edge is
sent as the cost table charges it (see dse.teams): evenly from each slot of its producer to each other slot of its
consumer, the pieces side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import lcm
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dse.errors import DseError
from dse.teams import Team, TeamCosts, collective_costs, crowded

if TYPE_CHECKING:
    from chiplib.package import Routes
    from dse.cost_table import CostTable

PART = np.dtype([("variant", "i8"), ("segment", "i8"), ("member", "i8"), ("slot", "i8")])
PIECE = np.dtype([("variant", "i8"), ("owner", "i8"), ("source", "i8"), ("target", "i8"), ("bytes", "f8")])


@dataclass(frozen=True, kw_only=True, eq=False)
class MappedWork:
    """A mapping of K segments with E edges, slot by slot.

    Input i runs as variant i % R: replicas take inputs in turn. `parts` are ordered by variant, segment and member,
    `pieces` and `collectives` by variant and owner.
    """

    variants: int  # R
    modes: NDArray[np.int64]  # [K] slots, then teams
    compute_ms: NDArray[np.float64]  # [R, K] for which each slot of a segment is busy, collectives included
    energy_mj: NDArray[np.float64]  # [K] dynamic energy of an input, without what moves
    parts: NDArray[np.void]  # PART: who runs a segment
    pieces: NDArray[np.void]  # PIECE: what crosses between slots; the owner is an edge
    collectives: NDArray[np.void]  # PIECE: what the members of a split send each other; the owner is a segment

    @classmethod
    def of(
        cls, table: CostTable, modes: ArrayLike, teams: TeamCosts | None, site: NDArray[np.int64] | None = None
    ) -> MappedWork:
        """Lay out the mapping that gives segment k the mode modes[k], with the chip of slot s in package slot site[s].

        Raises DseError where it does not fit the workload, or a segment may not run where it is put.
        """
        chosen = _checked(np.array(modes, np.int64, order="C"), table, teams)
        if site is None:
            site = np.arange(len(table.type_of_slot))
        slots, count = len(table.type_of_slot), len(chosen)
        at = dict(enumerate(teams.teams, slots)) if teams is not None else {}
        shared = {k: at[int(chosen[k])] for k in np.flatnonzero(chosen >= slots).tolist()}
        variants = lcm(1, *(team.size for team in shared.values() if team.way == "replicate"))
        home = _homes(chosen, shared, variants) if shared else None
        alone = np.minimum(chosen, slots - 1)
        compute_ms = np.tile(table.latency_ms[np.arange(count), alone], (variants, 1))
        energy_mj = table.energy_mj[np.arange(count), alone]
        sends: list[tuple[int, int, int, int, float]] = []
        for k, team in shared.items():
            assert teams is not None
            if team.way == "replicate":
                in_turn = list(team.slots)
                compute_ms[:, k] = np.resize(table.latency_ms[k, in_turn], variants)
                energy_mj[k] = table.energy_mj[k, in_turn].mean()
                continue
            number = int(chosen[k]) - slots
            sent = teams.collective_bytes(k, number, table.segments.float_bytes)
            waits_ms, _ = collective_costs(table.system.routes, site[list(team.slots)], sent)
            compute_ms[:, k] = teams.own_ms[k, number] + waits_ms
            energy_mj[k] = teams.own_mj[k, number]
            each = sent.sum(axis=0) / (team.size - 1)
            sends += [
                (v, k, p, q, size)
                for v in range(variants)
                for p, size in zip(team.slots, each.tolist(), strict=True)
                for q in team.slots
                if p != q and size
            ]
        return cls(
            variants=variants,
            modes=chosen,
            compute_ms=compute_ms,
            energy_mj=energy_mj,
            parts=_parts(chosen, home),
            pieces=_pieces(table, chosen, home),
            collectives=np.array(sorted(sends), PIECE),
        )

    @cached_property
    def shared(self) -> bool:
        """Whether a team runs any segment."""
        return len(self.parts) > len(self.modes)

    @cached_property
    def lead_slot(self) -> NDArray[np.int64]:
        """[K] the slot of a segment, of several the first."""
        first = self.parts[(self.parts["variant"] == 0) & (self.parts["member"] == 0)]
        slots: NDArray[np.int64] = first["slot"]
        return slots

    @cached_property
    def members(self) -> NDArray[np.int64]:
        """[K] how many slots run a segment together."""
        return np.bincount(self.parts["segment"][self.parts["variant"] == 0])

    @property
    def takes_turns(self) -> bool:
        """Whether inputs run on different slots."""
        return self.variants > 1

    def bytes_between(self, slots: int) -> NDArray[np.float64]:
        """[S, S] bytes that an input moves from slot to slot, in the mean over the variants."""
        return sum_between(np.concatenate([self.pieces, self.collectives]), slots) / self.variants


def sum_between(rows: NDArray[np.void], slots: int) -> NDArray[np.float64]:
    """Return the sum [S, S] of the `bytes` of rows from `source` to `target`."""
    pair = rows["source"] * slots + rows["target"]
    total: NDArray[np.float64] = np.bincount(pair, weights=rows["bytes"], minlength=slots * slots).astype(np.float64)
    return total.reshape(slots, slots)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinkHolds:
    """Which links the pieces of an owner hold, and for how long: row v * owners + owner of a CSR matrix."""

    start: NDArray[np.int64]  # [variants x owners + 1]
    link: NDArray[np.int64]
    hold_ms: NDArray[np.float64]

    @classmethod
    def of(
        cls, pieces: NDArray[np.void], *, shape: tuple[int, int], site: NDArray[np.int64], routes: Routes
    ) -> LinkHolds:
        """Sum the pieces of `shape` (variants, owners) by link; the chip of slot s lies in package slot site[s]."""
        if not len(pieces):
            return cls(
                start=np.zeros(shape[0] * shape[1] + 1, np.int64), link=np.zeros(0, np.int64), hold_ms=np.zeros(0)
            )
        p, q = site[pieces["source"]], site[pieces["target"]]
        piece, link = np.nonzero(routes.uses_link[p, q])
        links = max(routes.uses_link.shape[-1], 1)
        row = (pieces["variant"] * shape[1] + pieces["owner"])[piece]
        key, inverse = np.unique(row * links + link, return_inverse=True)
        took_ms = (pieces["bytes"] * routes.ms_per_byte[p, q])[piece]
        return cls(
            start=np.searchsorted(key, links * np.arange(shape[0] * shape[1] + 1)),
            link=key % links,
            hold_ms=np.bincount(inverse, weights=took_ms, minlength=len(key)).astype(np.float64),
        )

    def busiest_ms(self) -> NDArray[np.float64]:
        """Return the longest hold of each row, 0 where it holds none."""
        longest = np.zeros(len(self.start) - 1)
        np.maximum.at(longest, np.repeat(np.arange(len(longest)), np.diff(self.start)), self.hold_ms)
        return longest


Homes = list[list[tuple[int, ...]]]


def _homes(modes: NDArray[np.int64], shared: dict[int, Team], variants: int) -> Homes:
    """Slots of each segment, [R][K]."""
    return [
        [
            (mode,)
            if (team := shared.get(k)) is None
            else (team.slots[v % team.size],)
            if team.way == "replicate"
            else team.slots
            for k, mode in enumerate(modes.tolist())
        ]
        for v in range(variants)
    ]


def _parts(modes: NDArray[np.int64], home: Homes | None) -> NDArray[np.void]:
    if home is None:
        parts = np.zeros(len(modes), PART)
        parts["segment"], parts["slot"] = np.arange(len(modes)), modes
        return parts
    rows = [
        (v, k, member, slot)
        for v, of_segment in enumerate(home)
        for k, slots in enumerate(of_segment)
        for member, slot in enumerate(slots)
    ]
    return np.array(rows, PART)


def _pieces(table: CostTable, modes: NDArray[np.int64], home: Homes | None) -> NDArray[np.void]:
    """Pieces of edges between modes p and q: 1 / (G_p G_q) of the bytes from each slot of p to each other one of q."""
    producer, consumer = table.segments.edges.T
    cut = np.flatnonzero(modes[producer] != modes[consumer])
    producer, consumer, size = producer[cut], consumer[cut], table.segments.edge_bytes[cut]
    if home is None:
        pieces = np.zeros(len(cut), PIECE)
        pieces["owner"], pieces["bytes"] = cut, size
        pieces["source"], pieces["target"] = modes[producer], modes[consumer]
        return pieces
    rows: list[tuple[int, int, int, int, float]] = []
    for v, slots_of in enumerate(home):
        for edge, i, j, whole in zip(*(each.tolist() for each in (cut, producer, consumer, size)), strict=True):
            sources, targets = slots_of[i], slots_of[j]
            share = whole / (len(sources) * len(targets))
            rows += [(v, edge, p, q, share) for p in sources for q in targets if p != q]
    return np.array(rows, PIECE)


def _checked(modes: NDArray[np.int64], table: CostTable, teams: TeamCosts | None) -> NDArray[np.int64]:
    count, slots = table.latency_ms.shape
    allowed, members = table.allowed, np.eye(slots, dtype=np.bool_)
    if teams is not None and teams.teams:
        allowed, members = np.hstack([allowed, teams.allowed]), np.vstack([members, teams.members])
    if modes.shape != (count,):
        raise DseError(f"the mapping has shape {modes.shape}, the workload {count} segments", "one slot a segment")
    if modes.min() < 0 or modes.max() >= len(members):
        bad = int(np.flatnonzero((modes < 0) | (modes >= len(members)))[0])
        further = f", then {len(members) - slots} teams" if len(members) > slots else ""
        raise DseError(f"segment {bad} is mapped to slot {modes[bad]}", f"slots are 0 to {slots - 1}{further}")
    here = allowed[np.arange(count), modes]
    if not here.all():
        segment = int(np.flatnonzero(~here)[0])
        mode = int(modes[segment])
        if mode >= slots:
            on = " and ".join(map(str, np.flatnonzero(members[mode]).tolist()))
            raise DseError(f"segment {segment} cannot run on slots {on} together", "a mapping of these teams' problem")
        raise DseError(f"segment {segment} cannot run on slot {mode}", table.why_not(segment, mode))
    if reasons := crowded(table, members[modes]) if modes.max() >= slots else table.crowded(modes):
        raise DseError(f"the mapping breaks a rule of a chip: {reasons[0]}", "fewer layers there, or one more chip")
    return modes
