"""Generalised assignment: units on slots at least energy, where nothing but memory binds them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from solvers.mapping._linear_model import LinearModel
from solvers.mapping._mapping_milp import time_counts
from solvers.mapping.bounds import SAFETY
from solvers.mapping.check import MEMORY_TOLERANCE
from solvers.mapping.feasibility import runnable
from solvers.mapping.problem import MappingProblem
from solvers.mapping.solver import Request

STEP_S = 1e-9  # of compiled work, on a common core
CELL_S = 3e-5  # of the linear relaxation, a unit and slot
GRAINS = 2_000  # of a slot's capacity, at least, where bytes have to be rounded
MOST_GRAINS = 20_000  # of the largest slot, where they need not be
NEAR = 8  # slots, by loss, that a unit of a chain moves to
# Of a dive: subgradient steps before the first units are fixed, and before each of the others; the share of units fixed
# at a time; how far above the bound the steps aim; noise on how much slots agree, which makes dives differ.
FIRST, TURNS, SHARE, ABOVE, NOISE = 50, 20, 0.1, 0.002, 0.2
ROUNDS = 20  # of chains after a dive, the first of them to mend it
KICKS = 3
NARROWINGS, NARROWER = 6, 0.95  # at most, and while each leaves no more than that share
MEND_S = 1.0  # for the first assignment, even where the deadline has passed


def applies(problem: MappingProblem) -> bool:
    """Whether energy is all that counts, and memory all that binds: no time, routes, stages, teams or workspace."""
    timed = time_counts(problem) or np.isfinite(problem.max_energy_mj)
    routed = problem.edge_bytes.any() and problem.route_mj_per_byte.any()
    bound = problem.contiguous or len(problem.teams) or problem.workspace_bytes.any() or problem.regime == "offload"
    return not (timed or routed or bound) and bool(np.isfinite(problem.capacity_bytes).all())


@dataclass(frozen=True, kw_only=True, eq=False)
class Assignment:
    """The problem by units, with the prices of its linear relaxation: see `_knapsack_kernel` and `_chain_search`."""

    unit: NDArray[np.int64]  # [K]
    cost: NDArray[np.float64]  # [U, S] mJ, inf where not allowed
    held: NDArray[np.float64]  # [U, S] bytes
    capacity: NDArray[np.float64]  # [S]
    unit_price: NDArray[np.float64]  # [U] mJ
    byte_price: NDArray[np.float64]  # [S] mJ a byte
    largest: NDArray[np.int64]  # [U] slot of its largest part

    @classmethod
    def of(cls, problem: MappingProblem, request: Request) -> Assignment | None:
        """Solve the linear relaxation; None where it has no solution.

        Where it takes over an eighth of the time left, prices are left to `dual`.
        """
        units, slots = int(problem.unit.max()) + 1, problem.slots
        cost, held = np.zeros((2, units, slots))
        allowed = np.ones((units, slots), dtype=np.bool_)
        np.logical_and.at(allowed, problem.unit, runnable(problem))
        np.add.at(cost, problem.unit, np.where(problem.allowed, problem.energy_mj, 0.0))
        np.add.at(held, problem.unit, problem.held_bytes + problem.stash[:, None])
        u, s = np.nonzero(allowed)
        model = LinearModel()
        x = model.add_columns(len(u), upper=np.inf, cost=cost[u, s])
        once = model.add_rows(units, u, x, 1.0, lower=1.0, upper=1.0)
        memory = model.add_rows(slots, s, x, held[u, s], upper=problem.capacity_bytes)
        solved = model.solve("glop", deadline_s=np.inf if request.deterministic else max(MEND_S, request.left_s / 8))
        request.spend(len(u) * CELL_S)
        if solved.status == "infeasible" or not allowed.any(axis=1).all():
            return None
        part, unit_price, byte_price = -cost, np.where(allowed, cost, np.inf).min(axis=1), np.zeros(slots)
        if solved.status == "optimal" and solved.values is not None and solved.duals is not None:
            part = np.zeros((units, slots))
            part[u, s] = solved.values[x]
            unit_price, byte_price = solved.duals[once], np.maximum(0.0, -solved.duals[memory])
        return cls(
            unit=problem.unit,
            cost=np.where(allowed, cost, np.inf),
            held=held,
            capacity=problem.capacity_bytes.astype(np.float64),
            unit_price=unit_price,
            byte_price=byte_price,
            largest=np.where(allowed, part, -np.inf).argmax(axis=1),
        )

    @cached_property
    def loss(self) -> NDArray[np.float64]:
        """[U, S] mJ that a unit costs in a slot, its bytes priced, above where it costs least."""
        priced = self.cost + self.byte_price * self.held
        loss: NDArray[np.float64] = priced - priced.min(axis=1, keepdims=True)
        return loss

    @cached_property
    def grain(self) -> NDArray[np.float64]:
        """[S] bytes that knapsacks count in: what divides all of a slot's units, or a share of its capacity."""
        grain: NDArray[np.float64] = np.maximum(self.capacity / GRAINS, 1e-300)
        if (self.held % 1).any() or self.held.max() >= 2**53:
            return grain
        whole: NDArray[np.float64] = np.gcd.reduce(self.held.astype(np.int64), axis=0).clip(1).astype(np.float64)
        return whole if (self.capacity / whole).max() <= MOST_GRAINS else np.maximum(whole, grain)

    @cached_property
    def room(self) -> NDArray[np.int64]:
        """[S] grains in a slot's capacity, at least."""
        most = np.minimum(self.capacity * (1 + MEMORY_TOLERANCE), self.held.sum(axis=0))
        room: NDArray[np.int64] = np.floor(most / self.grain * (1 + 1e-12) + 1e-9).astype(np.int64)
        return room

    @cached_property
    def weight(self) -> NDArray[np.int64]:
        """[U, S] grains of a unit, rounded to the nearest."""
        weight: NDArray[np.int64] = np.rint(self.held / self.grain).astype(np.int64)
        return weight

    @cached_property
    def least_weight(self) -> NDArray[np.int64]:
        """[U, S] grains of a unit, rounded down: every assignment that fits still does."""
        return np.floor(self.held / self.grain * (1 + 1e-12)).clip(max=self.weight).astype(np.int64)

    @cached_property
    def step_mj(self) -> float:
        """What divides all costs, 0 where they are not whole."""
        costs = self.cost[np.isfinite(self.cost)]
        if (costs % 1).any() or costs.max(initial=0.0) >= 2**53:
            return 0.0
        return float(np.gcd.reduce(costs.astype(np.int64)))

    def proven(self, bound_mj: float) -> float:
        """Return a bound rounded: down for safety, up to the next value that an assignment can have."""
        safe = bound_mj * SAFETY
        return float(np.ceil(safe / self.step_mj) * self.step_mj) if self.step_mj else safe

    def dual(self, *, best_mj: float, request: Request, share: float) -> tuple[float, Assignment]:
        """Return a bound on the energy by the Lagrangian dual, and the problem at its prices.

        It takes at most that share of the deadline. `best_mj` is that of the best known assignment, inf without one.
        """
        from solvers.mapping._knapsack_kernel import dual

        price = self.unit_price.copy()
        most = int(max(0.0, min(request.left_s, request.deadline_s * share)) / STEP_S)
        bound, work = dual(price, self.cost, self.least_weight, self.room, best_mj, most)
        request.spend(work * STEP_S)
        priced = replace(self, unit_price=price)
        if not self.byte_price.any():
            priced = replace(priced, byte_price=self._marginal(price))
            priced = replace(priced, largest=priced.loss.argmin(axis=1))
        return self.proven(bound), priced

    def _marginal(self, price: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return [S] mJ that a byte more of each slot would earn at prices [U] of units that are cut freely."""
        earned = np.zeros(len(self.capacity))
        for s in range(len(earned)):
            gain = price - self.cost[:, s]
            some = np.flatnonzero((gain > 0) & (self.held[:, s] > 0))
            density = gain[some] / self.held[some, s]
            order = np.argsort(-density, kind="stable")
            last = int(np.searchsorted(np.cumsum(self.held[some[order], s]), self.capacity[s], side="right"))
            if last < len(order):
                earned[s] = density[order[last]]
        return earned

    def narrowed(self, *, best_mj: float, request: Request, share: float) -> tuple[float, NDArray[np.bool_]]:
        """Return a bound like `dual`, at most `best_mj`, and [K, S] where a better assignment can have a segment.

        What cannot be part of a better one is left out of the next dual, which bounds the better ones, a few times.
        """
        from solvers.mapping._knapsack_kernel import reduced_costs

        bound, narrow = 0.0, self
        reach = best_mj * (1 + 1e-9) - self.step_mj
        for _ in range(NARROWINGS):
            proven, narrow = narrow.dual(best_mj=best_mj, request=request, share=share / NARROWINGS)
            bound = max(bound, proven)
            low, rise = reduced_costs(narrow.unit_price, narrow.cost, self.least_weight, self.room)
            request.spend(self.cost.size * float(self.room.mean()) * 3 * STEP_S)
            before = np.isfinite(narrow.cost)
            may = before & ((low + rise) * SAFETY <= reach)
            narrow = replace(narrow, cost=np.where(may, narrow.cost, np.inf))
            if not may.any(axis=1).all():
                bound = best_mj
            if bound >= best_mj or may.sum() > NARROWER * before.sum() or request.left_s <= 0:
                break
        return min(bound, best_mj), np.isfinite(narrow.cost)[self.unit]

    def dive(self, *, request: Request, turn: int) -> NDArray[np.int64] | None:
        """Return an assignment [K], which may break a capacity, or None where time ran out."""
        from solvers.mapping._knapsack_kernel import dive

        units = len(self.cost)
        seed = request.seed * 1_000_003 + turn
        x, free = np.zeros(units, dtype=np.int64), np.ones(units, dtype=np.bool_)
        noise, most = NOISE if turn else 0.0, int(max(0.0, request.left_s) / STEP_S)
        work = dive(
            self.unit_price, self.cost, self.weight, self.room, free, x,
            FIRST, TURNS, SHARE, ABOVE, noise, seed, most,
        )  # fmt: skip
        if work < 0:
            request.spend(max(0.0, request.left_s))
            return None
        request.spend(work * STEP_S)
        self._mend(x, request, seed)
        return x[self.unit]

    def rounded(self, request: Request) -> NDArray[np.int64]:
        """Return the linear relaxation's answer, each unit in its largest part, mended: an assignment [K], quickly.

        It is made even where the deadline has passed.
        """
        x = self.largest.copy()
        self._mend(x, request, request.seed)
        return x[self.unit]

    def _mend(self, x: NDArray[np.int64], request: Request, seed: int) -> None:
        """Improve x [U] in place by chains, until it fits and beyond."""
        from solvers.mapping._chain_search import chain_search

        near = np.argsort(self.loss, axis=1, kind="stable")[:, :NEAR].copy()
        usual = float(self.loss[np.isfinite(self.loss)].mean()) or 1.0
        byte = self.byte_price.mean() or usual / max(self.held.mean(), 1e-300)
        _, work = chain_search(
            self.loss, near, self.held, self.capacity, self.byte_price, 2 * self.byte_price + 0.1 * byte, x,
            ROUNDS, KICKS, 1e-9 * usual, seed, int(max(MEND_S, request.left_s) / STEP_S),
        )  # fmt: skip
        request.spend(work * STEP_S)
