"""Pipelined mappings relaxed to loads and memory: a linear programme that bounds T and shows where to start.

Each unit goes to modes in shares; a slot's load is at most T and its bytes at most its room. Any prices w >= 0 of the
loads that sum to the weight of T, and mu >= 0 of the bytes, give a bound,

    sum over units of min over modes of [w load + energy_weight * energy + mu bytes]  -  sum over slots of mu room,

which is worked out anew from the programme's duals over all modes: rounding costs tightness, never soundness. Modes are
brought in as the prices ask for them (column generation), so that a thousand slots are in reach.

Of a mapping better than a known one, more is known (`terms_below`); so a value is tried, and bisected (Lenstra, Shmoys
and Tardos 1990): where the bound on mappings better than it reaches it, there are none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from solvers.mapping._linear_model import LinearModel
from solvers.mapping._load_terms import Terms, terms_below
from solvers.mapping.bounds import SAFETY
from solvers.mapping.evaluate import evaluate
from solvers.mapping.problem import MappingProblem
from solvers.mapping.solver import Request

FIRST = 12  # modes of a unit in the first programme
MORE = 4  # that each further one gets
ROUNDS = 20
HALVINGS = 6
ENOUGH = 1e-4  # relative, to the programme's value
NEARLY = 1.01  # what edges may add, where they matter little
WINDOW = 3  # slots whose units are assigned anew together
WINDOW_S, WINDOW_NODES, WINDOW_GAP = 0.3, 500, 1e-3  # of one such programme, at most
STALE = 150  # of them in a row that do not help
CELL_S = 2e-4  # to solve a programme, a column of it, about


class LoadRelaxation:
    """The relaxation of one problem: `prove` makes its bound, `mappings` what follows from its shares."""

    def __init__(self, problem: MappingProblem, request: Request, *, share: float) -> None:
        """Take `share` of the time that the request has left, at most."""
        self.problem, self.request = problem, request
        self.until_s = request.left_s * (1.0 - share)  # time left when it is over
        self.bound = 0.0  # proven so far
        self.prices = np.zeros(problem.slots), np.zeros(problem.slots)  # [S] of a ms and of a byte, of the last try
        self._known = np.zeros((problem.segments, problem.modes), dtype=np.bool_)  # in the last programme
        self._terms: Terms | None = None  # of the last try
        self._solved: tuple[Terms, NDArray[np.float64]] | None = None  # the last programme's, and its shares [U, M]

    @property
    def full(self) -> float:
        """What a slot that is full would save with twice its memory, at the prices: the most of all slots."""
        room = np.zeros(1) if self._terms is None else self._terms.room * self.prices[1]
        return float(room.max())

    @staticmethod
    def applies(problem: MappingProblem) -> bool:
        """Whether the problem is one that it bounds: its time is a largest load."""
        return problem.regime == "pipelined" and problem.time_weight > 0

    @property
    def _left_s(self) -> float:
        return self.request.left_s - self.until_s

    def prove(self, incumbent: float = np.inf) -> float:
        """Return a bound on the objective of every mapping, at most `incumbent`, that of a known one; 0.0: none."""
        self.bound = max(self.bound, min(incumbent, self._below(incumbent)))
        high = incumbent
        for _ in range(HALVINGS if np.isfinite(incumbent) else 0):
            middle = (self.bound + high) / 2
            if high <= self.bound * (1 + ENOUGH) or self._left_s <= 0:
                break
            if self._below(middle) >= middle:
                self.bound = middle
            else:
                high = middle
        return self.bound

    def _below(self, target: float) -> float:
        """Bound on the objective of mappings that are better than `target`; inf where a unit has no mode left."""
        terms = terms_below(self.problem, target)
        if not terms.usable.any(axis=1).all():
            return np.inf
        if self._terms is not None and terms.same(self._terms):
            return self.bound  # what is known of the target adds nothing
        self._terms = terms
        chosen = np.zeros_like(terms.usable)
        np.logical_or.at(chosen, terms.unit, self._known)
        prices = (terms.even_prices(), np.zeros(self.problem.slots))
        _add(chosen, terms.priced(*prices), FIRST)
        best = terms.bound(prices)
        for _ in range(ROUNDS):
            solution = self._solve(terms, chosen & terms.usable) if self._left_s > 0 else None
            if solution is None:
                break
            value, duals = solution
            between = (prices[0] + duals[0]) / 2, (prices[1] + duals[1]) / 2  # the duals jump about (Wentges 1997)
            missing = np.zeros_like(chosen)
            for trial in (duals, between):
                found = terms.bound(trial)
                if found > best:
                    best, prices = found, trial
                price = terms.priced(*trial)
                in_it = np.where(chosen, price, np.inf).min(axis=1)[:, None]
                short = (price < in_it - 1e-12 * np.abs(in_it)) & ~chosen
                missing |= short
                _add(chosen, np.where(short, price, np.inf), MORE)
            if best >= min(target, value * (1 - ENOUGH)) or not missing.any():
                break
        self._known = chosen[terms.unit]
        self.prices = prices
        return best * SAFETY

    def _solve(
        self, terms: Terms, chosen: NDArray[np.bool_]
    ) -> tuple[float, tuple[NDArray[np.float64], NDArray[np.float64]]] | None:
        """Value of the programme over the `chosen` modes, and its prices [S] of a ms and of a byte; None: no time."""
        problem = self.problem
        programme = _Programme(terms, chosen)
        solved = programme.model.solve("glop", deadline_s=self._limit_s(self._left_s))
        self.request.spend(CELL_S * programme.model.columns)
        if solved.duals is None or solved.values is None or solved.status != "optimal":
            return None
        self._solved = terms, programme.shares(solved.values)
        load = np.maximum(-solved.duals[programme.loads], 0.0)
        load[problem.never_busy] = 0.0
        if load.sum() > problem.time_weight:
            load *= problem.time_weight / load.sum()
        return solved.bound, (load, np.maximum(-solved.duals[programme.memory] / programme.scale, 0.0))

    def _limit_s(self, seconds: float) -> float:
        """What a solver may take by the clock, which has no say where the answer is to be the same each time."""
        return np.inf if self.request.deterministic else seconds

    def mappings(self) -> Iterator[NDArray[np.int64]]:
        """Yield mappings [K] that follow the shares, legal or not: rounded; with even loads where only these matter."""
        if self._solved is None:
            return
        terms, shares = self._solved
        at = self._rounded(terms, shares)
        rounded = at[terms.unit]
        yield rounded
        edgeless = replace(self.problem, edges=np.zeros((0, 2), dtype=np.int64), edge_bytes=np.zeros(0))
        value, without = (float(evaluate(p, rounded).objective[0]) for p in (self.problem, edgeless))
        if value <= without * NEARLY and not self.problem.energy_weight:
            yield self._evened(terms, at)[terms.unit]

    def _rounded(self, terms: Terms, shares: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return modes [U] by the shares, legal as far as memory goes.

        Units that are whole stay; the others, few as the programme has few rows, follow largest first: each to the mode
        that is then least loaded, among those with memory left.
        """
        problem = self.problem
        at = shares.argmax(axis=1)
        whole = shares.max(axis=1) > 1 - 1e-6
        load, used = np.zeros(problem.slots), np.zeros(problem.slots)
        rows = np.flatnonzero(whole)
        load += (terms.load_ms[rows, at[rows]][:, None] * problem.members[at[rows]]).sum(axis=0)
        used += (terms.held[rows, at[rows]][:, None] * problem.members[at[rows]]).sum(axis=0)
        members = problem.members
        for u in sorted(np.flatnonzero(~whole).tolist(), key=lambda u: -float(terms.held[u].max())):
            fullest = np.where(members, used - terms.room, -np.inf).max(axis=1) + terms.held[u]
            busiest = np.where(members, load, 0.0).max(axis=1) + terms.load_ms[u]
            price = np.where(terms.usable[u], problem.time_weight * busiest + terms.cost[u], np.inf)
            fits = price + np.where(fullest > 0, np.inf, 0.0)
            m = int(np.argmin(fits if np.isfinite(fits).any() else price))
            at[u] = m
            load[members[m]] += terms.load_ms[u, m]
            used[members[m]] += terms.held[u, m]
        return np.asarray(at, dtype=np.int64)

    def _evened(self, terms: Terms, start: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return modes [U] with a smaller largest load: the units of a few slots at a time, the busiest one among them,
        are assigned anew by an integer programme, until that helps no more or the time is over.
        """
        problem, rng = self.problem, np.random.default_rng(self.request.seed)
        at, every = start.copy(), np.arange(len(start))
        busy = np.flatnonzero(~problem.never_busy)
        width, stale = min(WINDOW, len(busy)), 0
        while stale < STALE and self._left_s > 0 and width > 1:
            load, used = (
                (amount[every, at][:, None] * problem.members[at]).sum(axis=0) for amount in (terms.load_ms, terms.held)
            )
            top = busy[load[busy].argmax()]
            if problem.time_weight * load[top] <= self.bound * (1 + ENOUGH):
                break
            others = busy[busy != top]
            spare = load[top] - load[others] + load[top] * 1e-3
            window = np.append(rng.choice(others, width - 1, replace=False, p=spare / spare.sum()), top)
            free = np.flatnonzero(np.isin(at, window))
            before = load[window].max()
            for amount, total in ((terms.load_ms, load), (terms.held, used)):
                np.subtract.at(total, at[free], amount[free, at[free]])
            found = self._window(terms, free, window, load, used)
            stale += 1
            if found is None:
                continue
            np.add.at(load, found, terms.load_ms[free, found])
            if load[window].max() < before * (1 - 1e-9):
                at[free] = found
                stale = 0
        return np.asarray(at, dtype=np.int64)

    def _window(
        self,
        terms: Terms,
        free: NDArray[np.int64],
        window: NDArray[np.int64],
        load: NDArray[np.float64],
        used: NDArray[np.float64],
    ) -> NDArray[np.int64] | None:
        """Return slots of the `free` units, among those of the window, with the least largest load there, or None.

        `load` and `used` [S] are those of all other units.
        """
        model, count = LinearModel(), len(window)
        row, place = np.nonzero(terms.usable[np.ix_(free, window)])
        unit, slot = free[row], window[place]
        columns = model.add_columns(len(row), integer=True)
        period = model.add_columns(1, upper=np.inf, cost=1.0)
        model.add_rows(len(free), row, columns, 1.0, lower=1.0, upper=1.0)
        model.add_rows(
            count,
            np.append(place, np.arange(count)),
            np.append(columns, np.full(count, period[0])),
            np.append(terms.load_ms[unit, slot], np.full(count, -1.0)),
            upper=-load[window],
        )
        scale = max(float(terms.room.max()), 1.0)
        room = (terms.room - used)[window] / scale
        model.add_rows(count, place, columns, terms.held[unit, slot] / scale, upper=room)
        limit_s = self._limit_s(min(self._left_s, WINDOW_S))
        solved = model.solve("gscip", deadline_s=limit_s, gap=WINDOW_GAP, nodes=WINDOW_NODES)
        self.request.spend(WINDOW_S / 10)
        if solved.values is None:
            return None
        chosen = solved.values[columns] > 0.5
        found = np.empty(len(free), dtype=np.int64)
        found[row[chosen]] = slot[chosen]
        return found


class _Programme:
    """The linear programme over some modes of each unit."""

    def __init__(self, terms: Terms, chosen: NDArray[np.bool_]) -> None:
        """State it. A unit may also be nowhere, at a cost that no good price reaches: it has a solution."""
        problem, model = terms.problem, LinearModel()
        self.model, self.shape = model, chosen.shape
        self.unit, self.mode = unit, mode = np.nonzero(chosen)
        slots, units = problem.slots, len(chosen)
        cost = terms.cost[unit, mode]
        self.columns = columns = model.add_columns(len(unit), upper=np.inf, cost=cost)
        period = model.add_columns(1, upper=np.inf, cost=problem.time_weight)
        nowhere = model.add_columns(units, upper=np.inf, cost=terms.away)
        members = np.append(unit, np.arange(units)), np.append(columns, nowhere)
        model.add_rows(units, *members, 1.0, lower=1.0, upper=1.0)
        cell, slot = np.nonzero(problem.members[mode])
        timed = ~problem.never_busy[slot]
        every = np.flatnonzero(~problem.never_busy)
        self.loads = model.add_rows(
            slots,
            np.concatenate([slot[timed], every]),
            np.concatenate([columns[cell[timed]], np.full(len(every), period[0])]),
            np.concatenate([terms.load_ms[unit, mode][cell[timed]], np.full(len(every), -1.0)]),
            upper=0.0,
        )
        self.scale = max(float(terms.room.max()), 1.0)  # of bytes, so that the numbers are near one
        held = terms.held[unit, mode][cell] / self.scale
        self.memory = model.add_rows(slots, slot, columns[cell], held, upper=terms.room / self.scale)

    def shares(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return [U, M] of a solution."""
        shares = np.zeros(self.shape)
        shares[self.unit, self.mode] = values[self.columns]
        return shares


def _add(chosen: NDArray[np.bool_], price: NDArray[np.float64], count: int) -> None:
    """Mark the `count` modes of each unit with the least finite prices."""
    count = min(count, price.shape[1])
    rows = np.arange(len(price))[:, None]
    columns = np.argpartition(price, count - 1, axis=1)[:, :count]
    chosen[rows, columns] |= np.isfinite(price[rows, columns])
