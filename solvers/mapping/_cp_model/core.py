"""The decisions of the model, and its ticks: whole numbers that stand for time and energy."""

from __future__ import annotations

from math import floor, frexp, inf
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from solvers.mapping._cp_model.units import Units
from solvers.mapping.check import TOLERANCE
from solvers.mapping.problem import MappingProblem

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

SCALE_BITS = 36  # the objective in ticks: about 2**36, so that rounding down a hundred terms costs 2e-9 of it
_SHARE_BITS = 20  # of the coefficients that add static energy to dynamic one


class Core:
    """x[u, m]: unit u runs in mode m. Everything else of the model hangs on these.

    Costs are multiplied by a rate and rounded down, limits up: no mapping is lost, and none counts for more than it
    costs. `best` is the objective of a known mapping, inf where there is none: what costs more is out.
    """

    def __init__(
        self,
        problem: MappingProblem,
        units: Units,
        start: NDArray[np.int64] | None,
        best: float,
    ) -> None:
        from ortools.sat.python import cp_model

        self.problem, self.units, self.start = problem, units, start
        self.cp = cp_model.CpModel()
        self.never, self.always = self.cp.new_constant(0), self.cp.new_constant(1)
        self._scale(best)
        self.x = {
            (u, m): self.boolean(f"x{u},{m}", None if start is None else bool(start[u] == m))
            for u, m in zip(*(i.tolist() for i in np.nonzero(units.runs)), strict=True)
        }
        for u in range(units.count):
            self.cp.add_exactly_one(self.x[u, m] for m in self.modes_of(u))

    def _scale(self, best: float) -> None:
        p = self.problem
        most_ms, most_mj = _most(p, self.units)
        most = min(best, p.time_weight * most_ms + p.energy_weight * most_mj)
        self.scale = _rate(most)
        if p.time_weight:
            most_ms = min(most_ms, most / p.time_weight)
        if p.energy_weight:
            most_mj = min(most_mj, most / p.energy_weight)
        most_ms, most_mj = min(most_ms, p.max_latency_ms), min(most_mj, p.max_energy_mj)
        self.time_rate = self.scale * p.time_weight or _rate(most_ms)
        self.energy_rate = self.scale * p.energy_weight
        if not self.energy_rate:
            together = self.time_rate / p.static_w if p.static_w else 0.0  # both parts in the same ticks
            fits = 2.0 ** (SCALE_BITS - 8) < together * most_mj < 2.0 ** (SCALE_BITS + 4)
            self.energy_rate = together if fits else _rate(most_mj)
        self.latest = floor(most_ms * self.time_rate * (1 + TOLERANCE)) + 1
        self.dearest = floor(most_mj * self.energy_rate * (1 + TOLERANCE)) + 1
        self.counts_energy = bool(p.energy_weight) or p.max_energy_mj < inf
        self.counts_time = bool(p.time_weight) or p.max_latency_ms < inf or (self.counts_energy and p.static_w > 0)

    def boolean(self, name: str, hint: bool | None = None) -> cp_model.IntVar:
        """Return a new 0-1 variable, with what the start says of it."""
        variable = self.cp.new_bool_var(name)
        if hint is not None:
            self.cp.add_hint(variable, int(hint))
        return variable

    def modes_of(self, u: int) -> list[int]:
        """Return the modes in which unit u can run."""
        return [int(m) for m in np.flatnonzero(self.units.runs[u])]

    def units_of(self, m: int) -> list[int]:
        """Return the units that can run in mode m."""
        return [int(u) for u in np.flatnonzero(self.units.runs[:, m])]

    def modes_on(self, s: int) -> list[int]:
        """Return the modes that use slot s."""
        return [int(m) for m in np.flatnonzero(self.problem.members[:, s])]

    def time_ticks(self, ms: Any) -> Any:
        """Milliseconds -> ticks, rounded down; more than is allowed is one more than that: larger would overflow."""
        return np.floor(np.minimum(np.asarray(ms) * self.time_rate, self.latest + 1)).astype(np.int64)

    def energy_ticks(self, mj: Any) -> Any:
        """Millijoules -> ticks; see `time_ticks`."""
        return np.floor(np.minimum(np.asarray(mj) * self.energy_rate, self.dearest + 1)).astype(np.int64)

    def minimise(self, time: Any, energy: list[Any], bound: float, slack: int) -> None:
        """State the objective and the limits. `time` is T in ticks, `energy` the dynamic part's terms.

        `bound` is a lower bound of the objective; rounding down may have taken `slack` ticks off a mapping.
        """
        p, objective = self.problem, []
        spent: Any = sum(energy)
        if p.max_energy_mj < inf:
            spent = self.cp.new_int_var(0, self.dearest, "E")
            self.cp.add(spent >= sum(energy))
            if p.static_w:
                ratio = p.static_w * self.energy_rate / self.time_rate
                share = 1.0 if ratio == 1.0 else 2.0**_SHARE_BITS / max(1.0, ratio)
                limit = floor(p.max_energy_mj * self.energy_rate * share * (1 + TOLERANCE)) + 1
                if limit < 2**61:
                    self.cp.add(floor(share) * spent + floor(share * ratio * (1 + 1e-15)) * time <= limit)
        if p.time_weight:
            objective.append(time)
        if p.energy_weight:
            objective.append(spent)
        total: Any = sum(objective)
        worst = floor(self.latest * bool(p.time_weight) + self.dearest * bool(p.energy_weight)) + 2
        least = max(0, floor(self.scale * bound) - slack)
        self.cp.add_linear_constraint(total, min(least, worst), worst)
        self.cp.minimize(total)


def _rate(most: float) -> float:
    """Ticks a unit, so that `most` is about 2**SCALE_BITS of them; a power of two, exact but for rounding down."""
    return float(2.0 ** (SCALE_BITS - frexp(most)[1])) if 0 < most < inf else 1.0


def _most(problem: MappingProblem, units: Units) -> tuple[float, float]:
    """Return no less than T and the dynamic energy of any mapping: everything at its dearest, one after the other."""
    p = problem
    into, out = p.ports
    shares = max(1.0, float(p.route_links.max(initial=0.0)))
    wait = p.route_latency_ms.max() + p.edge_bytes * p.route_ms_per_byte.max() * shares
    ports = sum(o.size for o in units.outputs) * (out.max() + into.sum())
    ms = float(units.compute_ms.max(axis=1).sum() + wait.sum() + ports)
    mj = float(units.energy_mj.max(axis=1).sum() + p.edge_bytes.sum() * p.route_mj_per_byte.max())
    return ms * (1 + TOLERANCE), mj * (1 + TOLERANCE)
