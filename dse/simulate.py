"""Event simulation of a mapped workload on a system: slots that compute, links that carry, memory that fills."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chiplib.chip import Precision
from dse.cost_table import CostTable, cost_table
from dse.errors import DseError
from dse.proxy.model import DEFAULT
from dse.timeline import SPAN, TRANSFER, Timeline, steady_period_ms
from solvers.mapping.problem import Mapping, Regime

if TYPE_CHECKING:
    from chiplib.system import System
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
) -> Timeline:
    """Simulate `inputs` inputs (batches) of a mapped workload.

    `mapping` gives the slot of each segment [K]. `layout` says in which slot of the package each chip lies
    (`site[c]` of the c-th occupied slot); without one, chips lie where the system has them. A `table` of this system
    spares computing it; `model`, `precision`, `framework` and `timer` are then the table's.

    A slot runs one segment at a time, without preemption. The transfer of an edge between slots is ready when its
    producer has ended, holds every link of its route for bytes x ms_per_byte (cut-through: the circuit is held) and
    arrives a route latency after that. With `contention` a link carries one transfer at a time, in the order in which
    they became ready (ties: lower input, then lower edge); without, a transfer never waits.

    serial     One input at a time. A slot runs its segments in number order, as MappingProblem has it.
    pipelined  Inputs enter as long as fewer than `window` are in flight. Of the segments that are ready, a slot takes
               that of the oldest input, then the lowest. By Little's law a rate 1 / P and a latency L mean L / P inputs
               in flight. The default window is the least of 1, 1.5, 2 and 3 times L / P, with L that of an input alone
               and P the load of the busiest slot or link, that comes within 2 % of the rate 1 / P (or of them the one
               with the best rate): the pipe is full, and inputs do not queue for longer than that needs.

    Raises DseError for an unknown regime, and where the mapping does not fit the workload, a segment may not run where
    it is put, or the layout does not fit the system.
    """
    if table is None:
        table = cost_table(segments, system, model=model, precision=precision, framework=framework, timer=timer)
    elif table.system is not system:
        raise DseError("the cost table is of another system", "make it with cost_table(segments, system)")
    if regime not in get_args(Regime):
        raise DseError(f"no regime is called {regime!r}", f"one of {', '.join(get_args(Regime))}")
    if inputs < 1 or (window is not None and window < 1):
        raise DseError(f"cannot simulate {inputs} inputs with a window of {window}", "both at least 1")
    assignment = _checked_assignment(mapping.assignment if isinstance(mapping, Mapping) else mapping, table)
    site_of_slot = site_of_slots(system, layout)
    job = _Job.of(table, assignment, site_of_slot, regime)
    if regime == "serial":
        window = 1
    elif window is None:
        window = _filling_window(job, inputs, contention)
    window = min(window, inputs)
    events = job.run(inputs=inputs, window=window, contention=contention)
    without = job.run(inputs=inputs, window=window, contention=False) if events.waited else events
    return Timeline(
        compute=_spans(events, assignment),
        transfers=_transfers(events, job, assignment),
        makespan_ms=float(events.end.max()),
        table=table,
        assignment=assignment,
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

    compute_ms: NDArray[np.float64]  # [K]
    slot: NDArray[np.int64]  # [K]
    slots: int
    links: int
    producer_start: NDArray[np.int64]  # [K + 1]
    order: NDArray[np.int64]
    consumer: NDArray[np.int64]  # [E']: the edges, then in the serial regime what keeps slots in number order
    remote: NDArray[np.bool_]  # [E']
    hold_ms: NDArray[np.float64]  # [E']
    latency_ms: NDArray[np.float64]  # [E']
    link_start: NDArray[np.int64]  # [E' + 1]
    link: NDArray[np.int64]

    @classmethod
    def of(cls, table: CostTable, assignment: NDArray[np.int64], site: NDArray[np.int64], regime: Regime) -> _Job:
        segments, routes = table.segments, table.system.routes
        count = len(assignment)
        producer, consumer = segments.edges[:, 0], segments.edges[:, 1]
        cut = assignment[producer] != assignment[consumer]
        if regime == "serial":  # a slot's segments one after another: each waits for the one before
            by_slot = np.argsort(assignment, kind="stable")
            follows = assignment[by_slot[1:]] == assignment[by_slot[:-1]]
            producer = np.concatenate([producer, by_slot[:-1][follows]])
            consumer = np.concatenate([consumer, by_slot[1:][follows]])
        edges = len(producer)
        remote = np.zeros(edges, np.bool_)
        remote[: len(cut)] = cut
        hold_ms, latency_ms = np.zeros(edges), np.zeros(edges)
        crossing = np.flatnonzero(remote)
        p, q = site[assignment[producer[crossing]]], site[assignment[consumer[crossing]]]
        hold_ms[crossing] = segments.edge_bytes[crossing] * routes.ms_per_byte[p, q]
        latency_ms[crossing] = routes.latency_ms[p, q]
        uses = routes.uses_link[p, q]
        row, link = np.nonzero(uses)
        per_edge = np.zeros(edges, np.int64)
        per_edge[crossing] = np.bincount(row, minlength=len(crossing))
        return cls(
            compute_ms=table.latency_ms[np.arange(count), assignment],
            slot=assignment,
            slots=len(site),
            links=uses.shape[1],
            producer_start=_offsets(np.bincount(producer, minlength=count)),
            order=np.argsort(producer, kind="stable"),
            consumer=np.ascontiguousarray(consumer),
            remote=remote,
            hold_ms=hold_ms,
            latency_ms=latency_ms,
            link_start=_offsets(per_edge),
            link=np.ascontiguousarray(link),
        )

    def run(self, *, inputs: int, window: int, contention: bool) -> _Events:
        from dse.simulate_kernels import run_events  # compiled: loaded only where a simulation runs

        start, end, sent, arrived, waited = run_events(
            self.compute_ms,
            self.slot,
            self.slots,
            self.producer_start,
            self.order,
            self.consumer,
            self.remote,
            self.hold_ms,
            self.latency_ms,
            self.link_start,
            self.link,
            self.links,
            inputs,
            window,
            contention,
        )
        return _Events(start=start, end=end, sent=sent, arrived=arrived, waited=bool(waited))

    def period_ms(self, contention: bool) -> float:
        """Load of one input on the busiest slot, and with contention on the busiest link."""
        load = float(np.bincount(self.slot, weights=self.compute_ms).max())
        if contention and len(self.link):
            held = np.repeat(self.hold_ms, np.diff(self.link_start))
            load = max(load, float(np.bincount(self.link, weights=held).max()))
        return load


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


def _checked_assignment(assignment: ArrayLike, table: CostTable) -> NDArray[np.int64]:
    slots = np.array(assignment, np.int64, order="C")
    count, width = table.latency_ms.shape
    if slots.shape != (count,):
        raise DseError(f"the mapping has shape {slots.shape}, the workload {count} segments", "one slot a segment")
    if slots.min() < 0 or slots.max() >= width:
        bad = int(np.flatnonzero((slots < 0) | (slots >= width))[0])
        raise DseError(f"segment {bad} is mapped to slot {slots[bad]}", f"slots are 0 to {width - 1}")
    allowed = table.allowed[np.arange(count), slots]
    if not allowed.all():
        segment = int(np.flatnonzero(~allowed)[0])
        raise DseError(f"segment {segment} cannot run on slot {slots[segment]}", table.why_not(segment, slots[segment]))
    if crowded := table.crowded(slots):
        raise DseError(f"the mapping breaks a rule of a chip: {crowded[0]}", "fewer layers there, or one more chip")
    return slots


def _spans(events: _Events, assignment: NDArray[np.int64]) -> NDArray[np.void]:
    inputs, count = events.start.shape
    spans = np.empty((inputs, count), SPAN)
    spans["segment"] = np.arange(count)
    spans["slot"] = assignment
    spans["input"] = np.arange(inputs)[:, None]
    spans["start_ms"], spans["end_ms"] = events.start, events.end
    return spans.reshape(-1)


def _transfers(events: _Events, job: _Job, assignment: NDArray[np.int64]) -> NDArray[np.void]:
    crossing = np.flatnonzero(job.remote)
    producer = np.empty(len(job.consumer), np.int64)
    producer[job.order] = np.repeat(np.arange(len(assignment)), np.diff(job.producer_start))
    moves = np.empty((len(events.sent), len(crossing)), TRANSFER)
    moves["edge"] = crossing
    moves["input"] = np.arange(len(events.sent))[:, None]
    moves["source"] = assignment[producer[crossing]]
    moves["target"] = assignment[job.consumer[crossing]]
    moves["start_ms"], moves["end_ms"] = events.sent[:, crossing], events.arrived[:, crossing]
    return moves.reshape(-1)
