"""Generalised assignment: units on slots at least energy, where nothing but memory binds them."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from solvers.mapping._linear_model import LinearModel
from solvers.mapping._mapping_milp import time_counts
from solvers.mapping.feasibility import runnable
from solvers.mapping.problem import MappingProblem

MOVES_A_SECOND = 12e6  # of the time given; measured were 8 million (a shared core) to 20 million
FIRST_MOVES = 20_000  # a unit, of the first annealing, but at most a third of all
RESTART_MOVES = 100_000  # a unit, after which all begins anew: starts differ by more than cycles gain
NEAR = 6  # slots, by loss, that a unit moves to
CHAINS = 4  # slots of a chain of moves
HOT, COLD = 0.25, 0.15  # temperatures, in shares of the median loss of a unit's third best slot
# Price of a byte that a slot lacks, in shares of the mean price of a byte, first and last. Slots begin as soft as that,
# and stiffen: units find slots of little loss first, and then those among them that fill the slots.
LACKING = 0.02, 50.0
# Then cycles from the best, softened to that price and stiffened again in so many moves a unit, in turn (thermal
# cycling, Moebius et al. 1997): they find what one long annealing does not, and no one depth serves every instance.
CYCLES = ((0.15, 1500), (0.3, 500), (0.1, 500), (0.3, 150), (0.6, 500))
CYCLE_HOT = 0.25


def applies(problem: MappingProblem) -> bool:
    """Whether energy is all that counts, and memory all that binds: no time, routes, stages, teams or workspace."""
    timed = time_counts(problem) or np.isfinite(problem.max_energy_mj)
    routed = problem.edge_bytes.any() and problem.route_mj_per_byte.any()
    bound = problem.contiguous or len(problem.teams) or problem.workspace_bytes.any() or problem.regime == "offload"
    return not (timed or routed or bound) and bool(np.isfinite(problem.capacity_bytes).all())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Assignment:
    """The problem by units, with the prices of its linear relaxation: see `_priced_assignment`."""

    unit: NDArray[np.int64]  # [K]
    loss: NDArray[np.float64]  # [U, S] mJ, inf where not allowed
    held: NDArray[np.float64]  # [U, S] bytes
    capacity: NDArray[np.float64]  # [S]
    price: NDArray[np.float64]  # [S] mJ a byte
    start: NDArray[np.int64]  # [U] the relaxation's answer, rounded: it may not fit

    @classmethod
    def of(cls, problem: MappingProblem, *, deadline_s: float) -> Assignment | None:
        """Solve the linear relaxation; None where that takes longer, or has no solution."""
        units, slots = int(problem.unit.max()) + 1, problem.slots
        cost, held = np.zeros((2, units, slots))
        allowed = np.ones((units, slots), dtype=np.bool_)
        np.logical_and.at(allowed, problem.unit, runnable(problem))
        np.add.at(cost, problem.unit, np.where(problem.allowed, problem.energy_mj, 0.0))
        np.add.at(held, problem.unit, problem.held_bytes + problem.stash[:, None])
        u, s = np.nonzero(allowed)
        model = LinearModel()
        x = model.add_columns(len(u), upper=np.inf, cost=cost[u, s])
        model.add_rows(units, u, x, 1.0, lower=1.0, upper=1.0)
        memory = model.add_rows(slots, s, x, held[u, s], upper=problem.capacity_bytes)
        solved = model.solve("glop", deadline_s=deadline_s)
        if solved.status != "optimal" or solved.values is None or solved.duals is None:
            return None
        share = np.zeros((units, slots))
        share[u, s] = solved.values[x]
        price = np.maximum(0.0, -solved.duals[memory])
        priced = np.where(allowed, cost + price * held, np.inf)
        return cls(
            unit=problem.unit,
            loss=priced - priced.min(axis=1, keepdims=True),
            held=held,
            capacity=problem.capacity_bytes.astype(np.float64),
            price=price,
            start=share.argmax(axis=1),
        )

    def improve(self, *, seconds: float, seed: int) -> list[NDArray[np.int64]]:
        """Return better and better assignments [K], annealed from the relaxation in at most that time."""
        from solvers.mapping._priced_assignment import anneal_chains

        units, slots = self.loss.shape
        near = np.argsort(self.loss, axis=1, kind="stable")[:, : min(NEAR, slots)]
        third = np.sort(self.loss, axis=1)[:, min(2, slots - 1)]
        usual = np.median(third[np.isfinite(third)]) if np.isfinite(third).any() else 0.0
        usual = usual or float(self.loss[np.isfinite(self.loss)].mean()) or 1.0
        byte = self.price.mean() or usual / max(self.held.mean(), 1e-300)
        loss = np.where(np.isfinite(self.loss), self.loss, 1e6 * (usual + self.price.max() * self.capacity.max()))
        until, left = perf_counter() + seconds, int(MOVES_A_SECOND * seconds)
        found: list[NDArray[np.int64]] = []
        least, turn, spent = np.inf, 0, RESTART_MOVES * units
        first = min(FIRST_MOVES * units, left // 3)
        while left > 0 and perf_counter() < until:
            if spent >= RESTART_MOVES * units:
                here, value_here, spent = self.start, np.inf, 0
                soft, hot, moves = LACKING[0], HOT, first
            else:
                soft, a_unit = CYCLES[turn % len(CYCLES)]
                hot, moves = CYCLE_HOT, a_unit * units
            x = here.copy()
            value = anneal_chains(
                loss, near, self.held, self.capacity, self.price, x, moves,
                hot * usual, COLD * usual, np.array([soft, LACKING[1]]) * byte, CHAINS, seed + turn,
            )  # fmt: skip
            if value <= value_here:
                here, value_here = x, value
            if value < least:
                least = value
                found.append(x[self.unit])
            left, spent, turn = left - moves, spent + moves, turn + 1
        return found
