"""A lower bound on the period of pipelines with ports: no cover of the graph by parts that each fit into it.

A *part* is a set of units on one slot. For a trial period tau, let P_g(pi) be the most that a part of load at most tau
on a slot of kind g earns, where unit u earns pi_u. A mapping of period <= tau is a partition into parts, so that

    sum_u pi_u <= sum_g slots_g * P_g(pi)        for every pi,

and any pi that breaks it proves that T > tau. Good ones are the duals of a covering LP over the parts met so far, each
the answer of a P_g: column generation (Dantzig and Wolfe 1960; for cutting stock Gilmore and Gomory 1961; the quotient
of both sides as bound: Farley 1990). P_g is a small integer programme; its proven bound is used, never its value. What
a part's ports move counts in full, which is what bounds by average load do not see: a part that is large computes too
long, one that is small has edges to the rest. Where two periods are tried, the larger keeps the parts of the smaller.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from solvers.mapping._linear_model import LinearModel
from solvers.mapping.feasibility import runnable
from solvers.mapping.problem import MappingProblem
from solvers.mapping.solver import Request

# What is proven is proven in float64: earnings are rounded up by this share, periods down.
SAFETY = 1e-6
PRICING_GAP = 0.003  # relative; finer ones cost more time than they gain
SMOOTHING = 0.6  # share of the best prices so far in those that parts are sought for (Wentges 1997)
PROBES = 12  # periods tried at most: halves of what is left between bound and best mapping
NEAR = 0.01  # relative; where so little is left, the best mapping's own period is tried next
CLOSE = 2e-6  # relative; where so little is left, nothing more is tried
# A column of a covering LP and of a pricing problem, where the deadline is counted in work; nodes of the latter.
COVER_S, PRICING_S, PRICING_NODES = 1e-4, 3e-4, 2_000

Part = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Kind:
    """Slots that cost the same: how many, and what units [U] take of one."""

    slots: int
    compute_ms: NDArray[np.float64]
    allowed: Part
    port_in: float
    port_out: float
    concurrent: bool
    held: NDArray[np.float64]
    capacity: float

    @property
    def has_ports(self) -> bool:
        return bool(self.port_in or self.port_out) and not self.concurrent


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Flow:
    """Outputs of one unit that the same units consume."""

    source: int
    targets: NDArray[np.int64]
    size: float


@dataclass(eq=False)
class PartsBound:
    """The bound of one problem: `prove` finds it, `period_ms` is where it stands."""

    problem: MappingProblem
    period_ms: float  # proven so far
    kinds: list[_Kind] = field(init=False)
    flows: list[_Flow] = field(init=False)
    parts: list[tuple[int, Part, float]] = field(init=False, default_factory=list)  # kind, part, load
    prices: NDArray[np.float64] | None = field(init=False, default=None)

    @staticmethod
    def applies(problem: MappingProblem) -> bool:
        """Whether the problem is one of those that it bounds: pipelined, with ports, without teams."""
        return problem.regime == "pipelined" and problem.has_ports and not len(problem.teams)

    def __post_init__(self) -> None:
        self.kinds = _kinds(self.problem)
        self.flows = _flows(self.problem)

    def prove(self, best_ms: float, *, request: Request, start: NDArray[np.int64] | None = None) -> float:
        """Return a period [ms] that no mapping is below, at most that of the best known one, within the deadline.

        Tries periods between what is proven and `best_ms`; `start` [K] is a mapping whose parts are a good beginning.
        """
        if start is not None:
            first = np.unique(self.problem.unit, return_index=True)[1]
            kind_of = _kind_of_slots(self.problem)
            for s in np.unique(start).tolist():
                self._add(int(kind_of[s]), start[first] == s)
        high = best_ms
        for _ in range(PROBES):
            if high - self.period_ms <= CLOSE * high or request.left_s <= 0:
                break
            near = high - self.period_ms <= NEAR * high
            trial = high * (1 - SAFETY) if near else (self.period_ms + high) / 2
            proven = self._none_fits(trial, request)
            if proven is None:
                break
            if proven:
                self.period_ms = trial * (1 - 1e-9)
            else:
                high = trial
        return self.period_ms

    def _none_fits(self, period: float, request: Request) -> bool | None:
        """Whether no mapping has that period: True where proven, False where this bound cannot, None: out of time."""
        priced = self.prices
        best = 0.0
        while request.left_s > 0:
            found, cover, exact = self._cover(period, request)
            if found is None:
                return None
            trial = found if priced is None else SMOOTHING * priced + (1 - SMOOTHING) * found
            earned, fresh = 0.0, False
            for g, kind in enumerate(self.kinds):
                most, part = self._most(kind, trial, period, request)
                earned += kind.slots * most
                fresh |= part is not None and self._add(g, part)
            asked = float(trial.sum())
            if asked > earned * (1 + SAFETY) + SAFETY * np.abs(trial).sum():
                self.prices = trial
                return True
            quotient = asked / earned if earned > 0 else 0.0
            if quotient >= best:
                best, priced, self.prices = quotient, trial, trial
            if exact and cover <= 1:
                return False
            if not fresh:
                if np.array_equal(trial, found) or np.abs(trial - found).max() <= 1e-9 * np.abs(found).max():
                    return False
                priced = (trial + found) / 2
        return None

    def _add(self, g: int, part: Part) -> bool:
        """Keep a part for slots of kind g; return whether it is a new one."""
        kind = self.kinds[g]
        if not kind.has_ports or not part.any() or (part & ~kind.allowed).any():
            return False
        if any(h == g and np.array_equal(other, part) for h, other, _ in self.parts):
            return False
        self.parts.append((g, part, self._load(kind, part)))
        return True

    def _load(self, kind: _Kind, part: Part) -> float:
        load = float(kind.compute_ms[part].sum())
        for flow in self.flows:
            inside = part[flow.targets]
            if part[flow.source]:
                load += 0.0 if inside.all() else flow.size * kind.port_out
            else:
                load += flow.size * kind.port_in if inside.any() else 0.0
        return load

    def _cover(self, period: float, request: Request) -> tuple[NDArray[np.float64] | None, float, bool]:
        """Return prices [U] of units, how many times the slots a cover by the parts needs, and whether it is one.

        Slots without ports are cut freely: their units need no parts. What no part covers costs twice its fair share.
        """
        units = len(self.kinds[0].compute_ms)
        model = LinearModel()
        times = model.add_columns(1, upper=np.inf, cost=1.0)
        quickest = np.min([np.where(k.allowed, k.compute_ms, np.inf) for k in self.kinds], axis=0)
        share = 2 * quickest / max(quickest.sum(), 1e-300) + 2 / units
        slack = model.add_columns(2 * units, upper=np.inf, cost=np.tile(share, 2))
        rows, columns = [np.tile(np.arange(units), 2)], [slack]
        values = [np.repeat([1.0, -1.0], units)]
        for g, kind in enumerate(self.kinds):
            if kind.has_ports:
                fits = [part for h, part, load in self.parts if h == g and load <= period]
                use = model.add_columns(len(fits), upper=np.inf)
                for column, part in zip(use.tolist(), fits, strict=True):
                    rows.append(np.flatnonzero(part))
                    columns.append(np.full(int(part.sum()), column))
                    values.append(np.ones(int(part.sum())))
                cells, taken = np.append(use, times), np.append(np.ones(len(fits)), -float(kind.slots))
            else:
                free = np.flatnonzero(kind.allowed & (kind.compute_ms <= period))
                use = model.add_columns(len(free), upper=np.inf)
                rows.append(free)
                columns.append(use)
                values.append(np.ones(len(free)))
                if kind.concurrent:
                    continue
                cells = np.append(use, times)
                taken = np.append(kind.compute_ms[free] / period, -float(kind.slots))
            model.add_rows(1, 0, cells, taken, upper=0.0)
        order = np.argsort(np.concatenate(rows), kind="stable")
        cover = model.add_rows(
            units,
            np.concatenate(rows)[order],
            np.concatenate(columns)[order],
            np.concatenate(values)[order],
            lower=1.0,
            upper=1.0,
        )
        solved = model.solve("glop", deadline_s=np.inf if request.deterministic else request.left_s)
        request.spend(model.columns * COVER_S)
        if solved.status != "optimal" or solved.values is None or solved.duals is None:
            return None, np.inf, False
        return solved.duals[cover], float(solved.values[times][0]), bool(solved.values[slack].max() <= 1e-9)

    def _most(
        self, kind: _Kind, prices: NDArray[np.float64], period: float, request: Request
    ) -> tuple[float, Part | None]:
        """Return a bound on what a part of that kind earns within the period, and a good part (None: none found)."""
        able = kind.allowed & (kind.compute_ms <= period)
        gain = np.where(able, prices, 0.0)
        if not kind.has_ports:
            return _fractional(gain, np.zeros_like(gain) if kind.concurrent else kind.compute_ms, period), None
        model = LinearModel()
        x = model.add_columns(len(gain), upper=able.astype(float), integer=True, cost=-gain)
        cells, load = [x], [kind.compute_ms / period]
        for flow in self.flows:
            for rate, sign in ((kind.port_out, 1.0), (kind.port_in, -1.0)):
                if not rate:
                    continue
                crosses = model.add_columns(1)
                count = len(flow.targets)
                model.add_rows(
                    count,
                    np.tile(np.arange(count), 3),
                    np.concatenate([np.repeat(crosses, count), np.full(count, x[flow.source]), x[flow.targets]]),
                    np.repeat([1.0, -sign, sign], count),
                    lower=0.0,
                )
                cells.append(crosses)
                load.append(np.array([flow.size * rate / period]))
        ids = np.concatenate(cells)
        model.add_rows(1, np.zeros(len(ids), dtype=np.int64), ids, np.concatenate(load), upper=1.0)
        if kind.held.sum() > kind.capacity > 0:
            model.add_rows(1, np.zeros(len(x), dtype=np.int64), x, kind.held / kind.capacity, upper=1.0)
        limit_s, nodes = (np.inf, PRICING_NODES) if request.deterministic else (request.left_s, None)
        solved = model.solve("highs", deadline_s=limit_s, gap=PRICING_GAP, nodes=nodes)
        request.spend(model.columns * PRICING_S)
        bound = -solved.bound if np.isfinite(solved.bound) else float(gain.clip(0.0).sum())
        return max(0.0, bound) * (1 + SAFETY), None if solved.values is None else solved.values[x] > 0.5


def _fractional(gain: NDArray[np.float64], size: NDArray[np.float64], room: float) -> float:
    """Return the most that units earn that are cut freely into that room (Dantzig 1957), rounded up."""
    some = np.flatnonzero(gain > 0)
    free = some[size[some] == 0]
    some = some[size[some] > 0]
    order = some[np.argsort(-gain[some] / size[some], kind="stable")]
    before = np.cumsum(size[order]) - size[order]
    shares = ((room - before) / size[order]).clip(0.0, 1.0)
    return float(gain[free].sum() + (gain[order] * shares).sum()) * (1 + SAFETY)


def _kind_table(problem: MappingProblem) -> NDArray[np.float64]:
    """[S, ...] what a slot costs; slots with the same row are of one kind."""
    runs = runnable(problem)
    parts = [np.where(runs, problem.compute_ms, 0.0), runs, np.where(runs, problem.held_bytes, 0.0)]
    return np.concatenate([*parts, problem.ports, problem.capacity_bytes[None], problem.never_busy[None]]).T


def _kind_of_slots(problem: MappingProblem) -> NDArray[np.int64]:
    kind: NDArray[np.int64] = np.unique(_kind_table(problem), axis=0, return_inverse=True)[1].ravel()
    return kind


def _kinds(problem: MappingProblem) -> list[_Kind]:
    kind_of, runs = _kind_of_slots(problem), runnable(problem)
    units = int(problem.unit.max()) + 1
    kinds = []
    for g in range(int(kind_of.max()) + 1):
        s = int(np.flatnonzero(kind_of == g)[0])
        cost = problem.compute_ms[:, s]
        time, held = np.zeros(units), np.zeros(units)
        allowed = np.ones(units, dtype=np.bool_)
        np.logical_and.at(allowed, problem.unit, runs[:, s])
        if problem.never_busy[s]:
            np.maximum.at(time, problem.unit, np.where(runs[:, s], cost, 0.0))
        else:
            np.add.at(time, problem.unit, np.where(runs[:, s], cost, 0.0))
        np.add.at(held, problem.unit, np.where(runs[:, s], problem.held_bytes[:, s] + problem.stash, 0.0))
        kinds.append(
            _Kind(
                slots=int((kind_of == g).sum()),
                compute_ms=time,
                allowed=allowed,
                port_in=float(problem.ports[0, s]),
                port_out=float(problem.ports[1, s]),
                concurrent=bool(problem.never_busy[s]),
                held=held,
                capacity=float(problem.capacity_bytes[s]),
            )
        )
    return kinds


def _flows(problem: MappingProblem) -> list[_Flow]:
    unit = problem.unit
    readers: dict[int, set[int]] = {}
    for i, j in problem.edges.tolist():
        if unit[i] != unit[j]:
            readers.setdefault(i, set()).add(int(unit[j]))
    sizes: dict[tuple[int, tuple[int, ...]], float] = {}
    for k, targets in readers.items():
        key = int(unit[k]), tuple(sorted(targets))
        sizes[key] = sizes.get(key, 0.0) + float(problem.output_bytes[k])
    return [_Flow(source=u, targets=np.array(targets), size=size) for (u, targets), size in sizes.items() if size > 0]
