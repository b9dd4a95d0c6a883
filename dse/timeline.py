"""Timeline: what ran where, when, and the metrics that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dse.errors import DseError
from dse.mapped_work import MappedWork, sum_between
from dse.metrics import Metrics
from dse.residency import live_memory
from solvers.mapping.problem import Regime

if TYPE_CHECKING:
    from dse.cost_table import CostTable
    from dse.teams import TeamCosts

SPAN = np.dtype([("segment", "i8"), ("slot", "i8"), ("input", "i8"), ("start_ms", "f8"), ("end_ms", "f8")])
TRANSFER = np.dtype(
    [
        ("edge", "i8"),
        ("input", "i8"),
        ("source", "i8"),
        ("target", "i8"),
        ("start_ms", "f8"),
        ("end_ms", "f8"),
        ("bytes", "f8"),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergySplit:
    """Energy of one sample of an input (a batch), mJ."""

    dynamic_mj: float  # chips: operations and memory
    links_mj: float
    static_mj: float  # of all chips of the system, over the time that it takes up

    @property
    def total_mj(self) -> float:
        """Sum of the parts."""
        return self.dynamic_mj + self.links_mj + self.static_mj


@dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """Spans of compute [n] and of transfers [m] between slots, and what follows from them.

    A transfer's span is the time during which it holds its links and its bytes are under way, hop latency included.
    Spans are ordered by input, then segment, then member of a team; transfers by input, then edge, and its pieces by
    slots. Slots are those of the system; the chip of
    slot s lies in package slot `site_of_slot[s]`, between which the links run.
    """

    compute: NDArray[np.void]  # SPAN [inputs x parts]: a part is a segment on one of its slots
    transfers: NDArray[np.void]  # TRANSFER [pieces of cut edges]
    makespan_ms: float
    table: CostTable
    work: MappedWork
    teams: TeamCosts | None
    order: NDArray[np.int64] | None  # [K] in which slots ran their segments, None: by number
    site_of_slot: NDArray[np.int64]  # [S], -1 where empty
    regime: Regime
    inputs: int
    window: int  # inputs in flight at most
    begin_ms: NDArray[np.float64]  # [inputs] start of the first segment
    complete_ms: NDArray[np.float64]  # [inputs] end of the last
    begin_without_contention_ms: NDArray[np.float64]  # [inputs]
    complete_without_contention_ms: NDArray[np.float64]  # [inputs]
    period_bound_ms: float  # load of the busiest resource by one input: no steady stream is faster

    @property
    def assignment(self) -> NDArray[np.int64]:
        """[K] slot of each segment, or the number of slots and that of its team."""
        return self.work.modes

    @cached_property
    def cut_edges(self) -> NDArray[np.int64]:
        """Edges of which anything crosses between slots, in number order."""
        return np.unique(self.work.pieces["owner"])

    @cached_property
    def slot_busy_ms(self) -> NDArray[np.float64]:
        """[S] time for which each slot computes."""
        busy = np.zeros(len(self.site_of_slot))
        np.add.at(busy, self.compute["slot"], self.compute["end_ms"] - self.compute["start_ms"])
        return busy

    @cached_property
    def sent_bytes(self) -> NDArray[np.float64]:
        """[S, S] bytes from slot to slot, all inputs together: transfers, and collectives of teams."""
        slots, variants = len(self.site_of_slot), self.work.variants
        collectives = self.work.collectives
        runs = np.array([len(range(v, self.inputs, variants)) for v in range(variants)])  # inputs of each variant
        within = collectives.copy()
        within["bytes"] *= runs[collectives["variant"]]
        return sum_between(self.transfers, slots) + sum_between(within, slots)

    @cached_property
    def link_busy_ms(self) -> NDArray[np.float64]:
        """[L] time for which each directed link of the package is held."""
        return self._over_links(self._by_site(self.sent_bytes) * self.table.system.routes.ms_per_byte)

    @cached_property
    def link_bytes(self) -> NDArray[np.float64]:
        """[L] bytes that each directed link carries, all inputs together."""
        return self._over_links(self._by_site(self.sent_bytes))

    def _by_site(self, between: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bring what is between slots [S, S] to the package slots in which their chips lie."""
        moved = np.zeros_like(between)
        there = np.flatnonzero(self.site_of_slot >= 0)
        moved[np.ix_(self.site_of_slot[there], self.site_of_slot[there])] = between[np.ix_(there, there)]
        return moved

    def _over_links(self, between: NDArray[np.float64]) -> NDArray[np.float64]:
        """[L] sum of what is between package slots [S, S] over the links of its route."""
        source, target = np.nonzero(between)
        load: NDArray[np.float64] = between[source, target] @ self.table.system.routes.uses_link[source, target].astype(
            np.float64
        )
        return load

    @cached_property
    def memory(self) -> NDArray[np.void]:
        """MEMORY events, ordered by slot and time: live bytes from that instant on."""
        return live_memory(self)

    @cached_property
    def peak_memory_bytes(self) -> NDArray[np.float64]:
        """[S] the most that each slot ever holds: weights + live activations."""
        peak = np.zeros(len(self.site_of_slot))
        np.maximum.at(peak, self.memory["slot"], self.memory["bytes"])
        return peak

    @cached_property
    def period_ms(self) -> float:
        """Time that one input (batch) takes up: its latency (serial), or one over the steady rate (pipelined).

        The rate of a pipeline is that of `steady_period_ms`; as work done before the first completion counted can
        flatter it, it is never more than 1 / `period_bound_ms`.
        """
        if self.regime == "serial" or self.inputs == 1:
            return float(self.complete_ms[0] - self.begin_ms[0])
        return max(steady_period_ms(self.complete_ms, self.window), self.period_bound_ms)

    @cached_property
    def latency_ms(self) -> float:
        """Start to end of one input: alone (serial), or the mean over the full pipeline."""
        return _mean_latency(self.begin_ms, self.complete_ms, self._warm)

    @cached_property
    def latency_without_contention_ms(self) -> float:
        """What `latency_ms` would be if links carried any number of transfers at a time."""
        return _mean_latency(self.begin_without_contention_ms, self.complete_without_contention_ms, self._warm)

    @cached_property
    def energy(self) -> EnergySplit:
        """Energy of one sample, by where it goes."""
        table, batch = self.table, self.table.segments.batch
        moved = self._by_site(self.sent_bytes) * table.system.routes.mj_per_byte
        return EnergySplit(
            dynamic_mj=float(self.work.energy_mj.sum()) / batch,
            links_mj=float(moved.sum()) / self.inputs / batch,
            static_mj=float(table.system.static_w * self.period_ms) / batch,  # W x ms = mJ
        )

    def metrics(self) -> Metrics:
        """Return the scalars of this design. Utilisation is the mean over all chips of the system.

        Raises DseError where the workload takes no time at all, so that it has no rate.
        """
        system, period_ms = self.table.system, self.period_ms
        if period_ms <= 0.0:
            raise DseError("the workload takes no time on this system", "a layer that computes or moves data")
        energy_mj = self.energy.total_mj
        chips = self.site_of_slot >= 0
        return Metrics(
            latency_ms=self.latency_ms,
            throughput_per_s=1e3 * self.table.segments.batch / period_ms,
            energy_mj=energy_mj,
            peak_memory_mb=float(self.peak_memory_bytes.max()) / 1e6,
            area_mm2=float(system.area_mm2),
            cost_usd=float(system.cost_usd),
            power_w=energy_mj * self.table.segments.batch / period_ms,  # mJ / ms = W
            utilisation=float((self.slot_busy_ms[chips] / self.makespan_ms).mean()),
            contention_ms=self.latency_ms - self.latency_without_contention_ms,
        )

    @property
    def _warm(self) -> int:
        """Inputs that fill the pipe, left out of means and rates."""
        return 0 if self.regime == "serial" else _warm_inputs(self.inputs, self.window)


def steady_period_ms(complete_ms: NDArray[np.float64], window: int) -> float:
    """Return the mean time between completions of two inputs or more, after those that fill the pipe."""
    complete, warm = np.sort(complete_ms), _warm_inputs(len(complete_ms), window)
    return float(complete[-1] - complete[warm]) / (len(complete) - 1 - warm)


def _warm_inputs(inputs: int, window: int) -> int:
    """Return `window`, or half of all inputs where there are fewer."""
    return min(window, (inputs - 1) // 2)


def _mean_latency(begin_ms: NDArray[np.float64], complete_ms: NDArray[np.float64], warm: int) -> float:
    if warm == 0 and len(begin_ms) == 1:
        return float(complete_ms[0] - begin_ms[0])
    return float((complete_ms - begin_ms)[warm:].mean())
