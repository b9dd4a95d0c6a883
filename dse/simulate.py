"""Event simulation of a mapped workload on a system: slots that compute, links that carry, memory that fills."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chiplib.chip import Precision
from dse.cost_table import CostTable, cost_table
from dse.errors import DseError
from dse.mapped_work import LinkHolds, MappedWork
from dse.proxy.model import DEFAULT
from dse.timeline import SPAN, TRANSFER, Timeline, steady_period_ms
from solvers.mapping.problem import Mapping, Regime

if TYPE_CHECKING:
    from chiplib.system import System
    from dse.teams import TeamCosts
    from solvers.placement.problem import Placement
    from workloads.segments import SegmentGraph

FILL_FACTORS = (1.0, 1.5, 2.0, 3.0)
FILL_TOLERANCE = 0.02
"""How the default window of a pipeline is found; see `simulate`."""


def simulate(
    segments: SegmentGraph,
    mapping: Mapping | ArrayLike,
    system: System,
    layout: Placement | None = None,
    *,
    inputs: int = 1,
    regime: Regime = "serial",
    contention: bool = True,
    window: int | None = None,
    model: str = DEFAULT,
    precision: Precision | str = Precision.FP16,
    framework: str | None = None,
    timer: str | None = None,
    table: CostTable | None = None,
    teams: TeamCosts | None = None,
    order: ArrayLike | None = None,
) -> Timeline:
    """Simulate `inputs` inputs (batches) of a mapped workload.

    `mapping` gives the slot of each segment [K], or the number of slots and that of one of `teams`. `order` [K] is that
    in which slots run their segments (serial), unless the mapping has one; without, they keep to the numbers. `layout`
    says in which slot of the package each chip lies (`site[c]` of the c-th occupied slot); without one, chips lie where
    the system has them. A `table` of this system spares computing it; `model`, `precision`, `framework` and `timer` are
    then the table's.

    A slot runs one segment at a time, without preemption. The transfer of an edge between slots is ready when its
    producer has ended, holds every link of its route for bytes x ms_per_byte (cut-through: the circuit is held) and
    arrives a route latency after that. With `contention` a link carries one transfer at a time, in the order in which
    they became ready (ties: lower input, then lower edge); without, a transfer never waits.

    A team runs a split segment together: it starts when the turn of the segment has come on all of its slots, and each
    is busy for the slowest member and the collectives, which hold the team's links from the start on. The pieces of an
    edge from or to a team go side by side, each link held for its own part of them. Replicas run an input each, whole.
    Without contention all of this is what MappingProblem charges, and so is the latency of one input.

    serial     One input at a time. A slot runs its segments in number order, or in `order`, as MappingProblem has it.
    pipelined  Inputs enter as long as fewer than `window` are in flight. Of the segments that are ready, a slot takes
               that of the oldest input, then the lowest. By Little's law a rate 1 / P and a latency L mean L / P inputs
               in flight. The default window is the least of 1, 1.5, 2 and 3 times L / P, with L that of an input alone
               and P the load of the busiest slot or link, that comes within 2 % of the rate 1 / P (or of them the one
               with the best rate): the pipe is full, and inputs do not queue for longer than that needs.

    Raises DseError for an unknown regime, and where the mapping does not fit the workload, a segment may not run where
    it is put, the order is none of the segments or does not go with the regime, or the layout does not fit the system.
    """
    if table is None:
        table = cost_table(segments, system, model=model, precision=precision, framework=framework, timer=timer)
    elif table.system is not system:
        raise DseError("the cost table is of another system", "make it with cost_table(segments, system)")
    if regime not in get_args(Regime):
        raise DseError(f"no regime is called {regime!r}", f"one of {', '.join(get_args(Regime))}")
    if inputs < 1 or (window is not None and window < 1):
        raise DseError(f"cannot simulate {inputs} inputs with a window of {window}", "both at least 1")
    if isinstance(mapping, Mapping):
        order = mapping.order if order is None and len(mapping.order) else order
        mapping = mapping.assignment
    site_of_slot = site_of_slots(system, layout)
    work = MappedWork.of(table, mapping, teams, site_of_slot)
    turn = _turns(order, table)
    if regime == "serial":
        window = 1
        if work.takes_turns:
            raise DseError("replicas take inputs in turn, and serial runs one at a time", "regime: pipelined")
    elif order is not None:
        raise DseError("an order of segments does not go with the pipelined regime", "regime: serial")
    job = _Job.of(table, work, site_of_slot, turn if regime == "serial" else None)
    if window is None:
        window = _filling_window(job, inputs, contention)
    window = min(window, inputs)
    events = job.run(inputs=inputs, window=window, contention=contention)
    without = job.run(inputs=inputs, window=window, contention=False) if events.waited else events
    return Timeline(
        compute=_spans(events, work),
        transfers=_transfers(events, work),
        makespan_ms=float(events.end.max()),
        table=table,
        work=work,
        teams=teams,
        order=None if order is None else np.asarray(order, np.int64),
        site_of_slot=site_of_slot,
        regime=regime,
        inputs=inputs,
        window=window,
        begin_ms=events.start.min(axis=1),
        complete_ms=events.end.max(axis=1),
        begin_without_contention_ms=without.start.min(axis=1),
        complete_without_contention_ms=without.end.max(axis=1),
        period_bound_ms=job.period_ms(contention),
    )


def site_of_slots(system: System, layout: Placement | None) -> NDArray[np.int64]:
    """Return the package slot [S] in which the chip of each slot of the system lies; -1 where there is no chip.

    Raises DseError where the layout has another number of chips, or puts two on one site.
    """
    site = np.full(len(system.chips), -1, np.int64)
    occupied = system.occupied
    if layout is None:
        site[occupied] = occupied
        return site
    if len(layout.site) != len(occupied):
        raise DseError(f"the layout places {len(layout.site)} chips, the system has {len(occupied)}", "one site a chip")
    if len(layout.site) and not (layout.site.min() >= 0 and layout.site.max() < len(system.chips)):
        raise DseError(f"the layout has sites beyond the {len(system.chips)} slots of {system.package.name}")
    if len(np.unique(layout.site)) != len(layout.site):
        raise DseError("the layout puts two chips on one site", "each site once")
    site[occupied] = layout.site
    return site


@dataclass(frozen=True, slots=True, kw_only=True)
class _Events:
    """What the event loop found: [inputs, K] of compute, [inputs, R] of transfers."""

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    sent: NDArray[np.float64]
    arrived: NDArray[np.float64]
    waited: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A mapped workload as the event loop takes it."""

    work: MappedWork
    slots: int
    links: int
    member_start: NDArray[np.int64]  # [R x K + 1] slots of a segment: of work.parts
    producer_start: NDArray[np.int64]  # [K + 1]
    order: NDArray[np.int64]
    consumer: NDArray[np.int64]  # [E']: the edges, then in the serial regime what keeps slots in order
    remote: NDArray[np.bool_]  # [R, E']
    carry_ms: NDArray[np.float64]  # [R, E']
    latency_ms: NDArray[np.float64]  # [R, E']
    edge_links: LinkHolds  # of the edges
    inner_links: LinkHolds  # of the segments' collectives

    @classmethod
    def of(cls, table: CostTable, work: MappedWork, site: NDArray[np.int64], turn: NDArray[np.int64] | None) -> _Job:
        """`turn` [K] is the place of each segment in the order that slots keep, None where they keep none."""
        segments, routes = table.segments, table.system.routes
        count, variants, parts = len(work.modes), work.variants, work.parts
        producer, consumer = segments.edges[:, 0], segments.edges[:, 1]
        if turn is not None:  # a slot's segments one after another: each waits for the one before
            mine = parts[parts["variant"] == 0]
            mine = mine[np.lexsort((turn[mine["segment"]], mine["slot"]))]
            follows = mine["slot"][1:] == mine["slot"][:-1]
            producer = np.concatenate([producer, mine["segment"][:-1][follows]])
            consumer = np.concatenate([consumer, mine["segment"][1:][follows]])
        shape = variants, len(producer)
        pieces = work.pieces
        row, p, q = pieces["variant"], site[pieces["source"]], site[pieces["target"]]
        remote, longest_ms, latency_ms = np.zeros(shape, np.bool_), np.zeros(shape), np.zeros(shape)
        remote[row, pieces["owner"]] = True
        np.maximum.at(latency_ms, (row, pieces["owner"]), routes.latency_ms[p, q])
        np.maximum.at(longest_ms, (row, pieces["owner"]), pieces["bytes"] * routes.ms_per_byte[p, q])
        edge_links = LinkHolds.of(pieces, shape=shape, site=site, routes=routes)
        return cls(
            work=work,
            slots=len(site),
            links=routes.uses_link.shape[-1],
            member_start=_offsets(np.bincount(parts["variant"] * count + parts["segment"], minlength=variants * count)),
            producer_start=_offsets(np.bincount(producer, minlength=count)),
            order=np.argsort(producer, kind="stable"),
            consumer=np.ascontiguousarray(consumer),
            remote=remote,
            carry_ms=np.maximum(longest_ms, edge_links.busiest_ms().reshape(shape)),
            latency_ms=latency_ms,
            edge_links=edge_links,
            inner_links=LinkHolds.of(work.collectives, shape=(variants, count), site=site, routes=routes),
        )

    def run(self, *, inputs: int, window: int, contention: bool) -> _Events:
        from dse.simulate_kernels import run_events  # compiled: loaded only where a simulation runs

        start, end, sent, arrived, waited = run_events(
            self.work.compute_ms,
            self.member_start,
            np.ascontiguousarray(self.work.parts["slot"]),
            self.slots,
            self.producer_start,
            self.order,
            self.consumer,
            self.remote,
            self.carry_ms,
            self.latency_ms,
            self.edge_links.start,
            self.edge_links.link,
            self.edge_links.hold_ms,
            self.inner_links.start,
            self.inner_links.link,
            self.inner_links.hold_ms,
            self.links,
            inputs,
            window,
            contention,
        )
        return _Events(start=start, end=end, sent=sent, arrived=arrived, waited=bool(waited))

    def period_ms(self, contention: bool) -> float:
        """Load of one input on the busiest slot, and with contention on the busiest link; the mean of variants."""
        parts = self.work.parts
        busy_ms = self.work.compute_ms[parts["variant"], parts["segment"]]
        load = float(np.bincount(parts["slot"], weights=busy_ms).max())
        if contention and self.links:
            both = self.edge_links, self.inner_links
            link = np.concatenate([each.link for each in both])
            hold_ms = np.concatenate([each.hold_ms for each in both])
            load = max(load, float(np.bincount(link, weights=hold_ms, minlength=self.links).max()))
        return load / self.work.variants


def _filling_window(job: _Job, inputs: int, contention: bool) -> int:
    """Inputs in flight that fill the pipe; see `simulate`."""
    period_ms = job.period_ms(contention)
    if period_ms == 0.0 or inputs == 1:
        return inputs
    depth = float(job.run(inputs=1, window=1, contention=contention).end.max()) / period_ms
    best, least_ms = inputs, np.inf
    for factor in FILL_FACTORS:
        window = min(int(np.ceil(factor * depth)), inputs)
        events = job.run(inputs=inputs, window=window, contention=contention)
        reached_ms = steady_period_ms(events.end.max(axis=1), window)
        if reached_ms < least_ms:
            best, least_ms = window, reached_ms
        if reached_ms <= (1.0 + FILL_TOLERANCE) * period_ms or window == inputs:
            break
    return best


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def _turns(order: ArrayLike | None, table: CostTable) -> NDArray[np.int64]:
    """Return the place [K] of each segment in an order, by number where there is none."""
    count = len(table.segments)
    if order is None or not np.size(order):
        return np.arange(count)
    given = np.asarray(order)
    turn = np.full(count, -1, np.int64)
    if given.shape == (count,) and np.issubdtype(given.dtype, np.integer) and given.min() >= 0 and given.max() < count:
        turn[given] = np.arange(count)
    if turn.min() < 0:
        raise DseError(f"the order is no permutation of {count} segments", "each segment once")
    producer, consumer = table.segments.edges.T
    if (back := np.flatnonzero(turn[producer] > turn[consumer])).size:
        i, j = table.segments.edges[back[0]]
        raise DseError(f"the order runs segment {j} before segment {i}, which it reads of", "a topological order")
    return turn


def _spans(events: _Events, work: MappedWork) -> NDArray[np.void]:
    inputs = len(events.start)
    parts = work.parts.reshape(work.variants, -1)[np.arange(inputs) % work.variants]  # [inputs, P]
    spans = np.empty(parts.shape, SPAN)
    number = np.arange(inputs)[:, None]
    spans["segment"], spans["slot"], spans["input"] = parts["segment"], parts["slot"], number
    spans["start_ms"], spans["end_ms"] = (times[number, parts["segment"]] for times in (events.start, events.end))
    return spans.reshape(-1)


def _transfers(events: _Events, work: MappedWork) -> NDArray[np.void]:
    inputs, pieces = len(events.sent), work.pieces
    first = np.searchsorted(pieces["variant"], np.arange(work.variants + 1))
    rows = [np.arange(first[v], first[v + 1]) for v in range(work.variants)]
    number = np.repeat(np.arange(inputs), [len(rows[i % work.variants]) for i in range(inputs)])
    mine = pieces[np.concatenate([rows[i % work.variants] for i in range(inputs)])]
    moves = np.empty(len(mine), TRANSFER)
    moves["edge"], moves["input"], moves["bytes"] = mine["owner"], number, mine["bytes"]
    moves["source"], moves["target"] = mine["source"], mine["target"]
    moves["start_ms"], moves["end_ms"] = (times[number, mine["owner"]] for times in (events.sent, events.arrived))
    return moves
