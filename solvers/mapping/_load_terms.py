"""What units cost their slots at least, in any pipelined mapping that is better than a given objective."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solvers.mapping._merging import least_cut, merged_ends
from solvers.mapping.check import TOLERANCE
from solvers.mapping.feasibility import mode_capacity, room_bytes, runnable
from solvers.mapping.problem import MappingProblem

AWAY = 30.0  # what it costs a unit to be nowhere, in the mean price where loads are even


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Terms:
    """U units in M modes; zeros where a unit cannot be, but `cost`, which is inf there."""

    problem: MappingProblem
    unit: NDArray[np.int64]  # [K] of each segment
    usable: NDArray[np.bool_]  # [U, M]
    load_ms: NDArray[np.float64]  # [U, M] on each slot of the mode
    cost: NDArray[np.float64]  # [U, M] weighted energy
    held: NDArray[np.float64]  # [U, M] bytes on each slot of the mode
    room: NDArray[np.float64]  # [S] bytes
    away: NDArray[np.float64]  # [U]

    def same(self, other: Terms) -> bool:
        """Whether the two say the same."""
        if self.usable.shape != other.usable.shape:
            return False
        return bool((self.usable == other.usable).all() and (self.load_ms == other.load_ms).all())

    def even_prices(self) -> NDArray[np.float64]:
        """Return prices [S] of a ms with which all slots are about as attractive."""
        problem = self.problem
        total = self.load_ms.sum(axis=0)
        even = np.where(total > 0, self.usable.sum(axis=0) / np.where(total > 0, total, 1.0), 0.0)[: problem.slots]
        even[problem.never_busy] = 0.0
        return np.asarray(problem.time_weight * even / max(even.sum(), 1e-300))

    def bound(self, prices: tuple[NDArray[np.float64], NDArray[np.float64]]) -> float:
        """Return the bound that prices [S] of a ms, which sum to the weight of T, and of a byte give."""
        return float(self.priced(*prices).min(axis=1).sum() - prices[1] @ self.room)

    def priced(self, load: NDArray[np.float64], memory: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return [U, M] what each unit costs in each mode, at prices [S] of a ms and of a byte; inf where unusable."""
        members = self.problem.members.astype(np.float64)
        return np.asarray(self.load_ms * (members @ load) + self.cost + self.held * (members @ memory))


def terms_below(problem: MappingProblem, target: float) -> Terms:
    """Return what holds for mappings with an objective below `target`.

    No edge whose cut alone costs as much is cut, and no unit is where it costs as much by itself. Where two units that
    an edge joins cannot be together for the same reason, the edge is cut, and its bytes pass the ports.
    """
    unit = merged_ends(problem, least_cut(problem) >= target)
    units, modes = int(unit.max()) + 1, problem.modes
    runs = runnable(problem)
    workspace = np.zeros(units)
    np.maximum.at(workspace, unit, problem.workspace_bytes)
    time_ms, energy_mj, held = (
        _summed(np.where(problem.allowed, values, 0.0), unit, units)
        for values in (problem.compute_ms, problem.energy_mj, problem.held_bytes + problem.stash[:, None])
    )
    hosts = ~(problem.members & ~problem.never_busy).any(axis=1)  # a host's segments run side by side
    alone_ms = time_ms.copy()
    alone_ms[:, hosts] = 0.0
    largest = np.where(problem.allowed, problem.compute_ms, 0.0)[:, hosts]
    np.maximum.at(alone_ms, (unit[:, None], np.flatnonzero(hosts)), largest)
    usable = np.ones((units, modes), dtype=np.bool_)
    np.logical_and.at(usable, unit, runs)
    usable &= held + workspace[:, None] <= mode_capacity(problem)
    longest_ms = problem.max_latency_ms * (1 + TOLERANCE)

    def bearable(time_ms: NDArray[np.float64], energy_mj: NDArray[np.float64]) -> NDArray[np.bool_]:
        objective = problem.time_weight * time_ms + problem.energy_weight * energy_mj
        return np.asarray((objective < target) & (time_ms <= longest_ms))

    usable &= bearable(alone_ms, energy_mj)
    load_ms = time_ms
    if problem.has_ports and np.isfinite(target):
        source, reader = unit[problem.edges[:, 0]], unit[problem.edges[:, 1]]
        apart = source != reader
        source, reader = source[apart], reader[apart]
        together = usable[source] & usable[reader]
        together &= held[source] + held[reader] <= mode_capacity(problem)
        together &= bearable(
            np.where(hosts, 0.0, alone_ms[source] + alone_ms[reader]), energy_mj[source] + energy_mj[reader]
        )
        load_ms = load_ms + _port_ms(problem, unit, problem.edges[apart, 0], reader, together)
        usable &= bearable(np.where(hosts, alone_ms, load_ms), energy_mj)
    cost = np.where(usable, problem.energy_weight * energy_mj, np.inf)
    load_ms, held = np.where(usable, load_ms, 0.0), np.where(usable, held, 0.0)
    room = np.where(np.isfinite(problem.capacity_bytes), room_bytes(problem, runs), held.max(axis=1).sum())
    price = np.where(usable, problem.time_weight * load_ms, 0.0) + np.where(usable, cost, 0.0)
    mean = float(price.sum()) / problem.slots / max(int(usable.sum()), 1)
    away = AWAY * mean + 2.0 * np.where(usable, price, np.inf).min(axis=1)
    return Terms(problem=problem, unit=unit, usable=usable, load_ms=load_ms, cost=cost, held=held, room=room, away=away)


def _port_ms(
    problem: MappingProblem,
    unit: NDArray[np.int64],
    output: NDArray[np.int64],
    reader: NDArray[np.int64],
    together: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Return [U, M] what ports of a mode take at least for a unit in it: edges [N] from segment `output` to unit
    `reader` cross them where the ends cannot be `together` [N, M].

    An output leaves once; it enters a mode once for all of its readers there, so each bears an equal part.
    """
    into, out = problem.ports
    size = problem.output_bytes
    units, modes = int(unit.max()) + 1, problem.modes
    leaves = np.zeros((problem.segments, modes), dtype=np.bool_)
    np.logical_or.at(leaves, output, ~together)
    port_ms = _summed(leaves * size[:, None] * out, unit, units)
    pair, at = np.unique(output * units + reader, return_index=True)
    readers = np.bincount(pair // units, minlength=problem.segments)
    share = size[pair // units] / readers[pair // units]
    np.add.at(port_ms, pair % units, ~together[at] * share[:, None] * into)
    return port_ms


def _summed(values: NDArray[np.float64], unit: NDArray[np.int64], units: int) -> NDArray[np.float64]:
    total = np.zeros((units, values.shape[1]))
    np.add.at(total, unit, values)
    return total
