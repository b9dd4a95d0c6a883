"""The mixed-integer linear model of a mapping problem, pipelined or of energy alone.

x[u, m] says that unit u (a group, or a segment alone) runs in mode m. T is at least every slot's and link's load.

Ports: left[f, p] >= x[u, p] - x[v, p] for each consumer v of a flow f out of u, entered[f, q] >= x[v, q] - x[u, q].
Routes: way[e, p, c] is 1 where edge e leaves mode p for one of the modes to which it costs the same from there
(class c): as tight as one variable a pair of modes, and as few as the routes have different costs.
Stages (contiguous): before[q, p] orders the modes in use; past[u, p], the sum of before[q, p] * x[u, q], says that u is
in a stage before p. Both past and past + x, "in p or before it", never rise along an edge ("ideals" of the graph): that
is what lets no edge go back, and it is tight where the order is known, as that of interchangeable slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import frexp

import numpy as np
from numpy.typing import NDArray

from solvers.mapping._linear_model import Backend, LinearModel
from solvers.mapping.check import TOLERANCE
from solvers.mapping.evaluate import evaluate
from solvers.mapping.feasibility import runnable
from solvers.mapping.problem import MappingProblem
from solvers.mapping.symmetry import canonical, interchangeable_slots

Assignment = NDArray[np.int64]
Ids = NDArray[np.int64]
PLAIN_RANGE = 1.0, 1e6  # values between them are not scaled: the solvers' tolerances of 1e-9 are absolute


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proven:
    """What a solver says of the problem: `bound` is in units of the objective, before any margin."""

    status: str
    assignment: Assignment | None  # [K]
    bound: float


def time_counts(problem: MappingProblem) -> bool:
    """Whether T plays a part: in the objective, or in a limit."""
    static = problem.static_w > 0 and np.isfinite(problem.max_energy_mj)
    return bool(problem.time_weight > 0 or np.isfinite(problem.max_latency_ms) or static)


def columns_needed(problem: MappingProblem) -> int:
    """Return how many variables a model would hold, at most about."""
    units, modes = int(problem.unit.max()) + 1, problem.modes
    pairs = len(problem.edges)
    routed = _has_routes(problem)
    return modes * (
        units
        + (2 * pairs if problem.has_ports else 0)
        + (pairs * modes if routed else 0)
        + (units * modes if problem.contiguous else 0)
    )


def _has_routes(problem: MappingProblem) -> bool:
    linked = (problem.route_ms_per_byte[:, :, None] * problem.route_links).any()
    return bool((linked and problem.regime == "pipelined") or problem.route_mj_per_byte.any())


class MappingMilp:
    """The model of one problem, with a hint: every column's value for a mapping to start from."""

    def __init__(self, problem: MappingProblem, start: Assignment | None) -> None:
        self.problem = problem
        self.model = LinearModel()
        self.hint: list[NDArray[np.float64]] = []
        self.units = int(problem.unit.max()) + 1
        self.modes = problem.modes
        self.runs = np.ones((self.units, self.modes), dtype=np.bool_)
        np.logical_and.at(self.runs, problem.unit, runnable(problem))
        self.groups = interchangeable_slots(problem)
        self.place = self._unit_start(start)
        self.timed = time_counts(problem)
        value = evaluate(problem, start) if start is not None else None
        self.ms = _unit_of(float(value.latency_ms[0]) if value else _sum_of(problem.compute_ms, problem.allowed))
        self.ticks = _unit_of(float(value.objective[0]) if value else _dearest(problem))
        self.energy: list[tuple[Ids, NDArray[np.float64]]] = []  # columns, and mJ of each
        self.loads: dict[int, list[tuple[Ids, NDArray[np.float64]]]] = {}  # slot, or S + link: columns, and ms of each

        self._assign()
        self._memory()
        if problem.contiguous:
            self._stages()
        else:
            self._break_symmetry()
        if problem.has_ports and self.timed:
            self._ports()
        if _has_routes(problem):
            self._routes()
        self._objective(float(value.latency_ms[0]) if value else np.nan)

    # --- the pieces -------------------------------------------------------------------------------------------------

    def _columns(self, hint: NDArray[np.float64], upper: float = 1.0, integer: bool = False) -> Ids:
        self.hint.append(np.asarray(hint, dtype=np.float64).ravel())
        return self.model.add_columns(self.hint[-1].size, upper=upper, integer=integer)

    def _unit_start(self, start: Assignment | None) -> NDArray[np.int64] | None:
        """[U] mode of each unit to start from, slots renamed to follow the symmetry cuts; None without one."""
        if start is None:
            return None
        p = self.problem
        first = np.unique(p.unit, return_index=True)[1]
        if len(p.teams):  # then no slots are interchangeable
            return start[first]
        if not p.contiguous:
            return canonical(start, self.groups)[first]
        rank = _stage_order(p, start)
        rename = np.arange(p.modes)
        for group in self.groups:
            for new, old in zip(group, sorted(group, key=lambda s: rank.get(s, p.modes)), strict=True):
                rename[old] = new
        return rename[start][first]

    def _is(self, unit: Ids, mode: Ids) -> NDArray[np.float64]:
        """Value of x[unit, mode] in the start; nan without one."""
        return (
            np.full(np.broadcast_shapes(unit.shape, mode.shape), np.nan)
            if self.place is None
            else (self.place[unit] == mode).astype(np.float64)
        )

    def _assign(self) -> None:
        p = self.problem
        unit, mode = np.nonzero(self.runs)
        self.x = np.full((self.units, self.modes), -1, dtype=np.int64)
        self.x[unit, mode] = columns = self._columns(self._is(unit, mode), integer=True)
        self.model.add_rows(self.units, unit, columns, 1.0, lower=1.0, upper=1.0)
        if p.energy_mj.any():
            self.energy.append((columns, self._summed(p.energy_mj)[unit, mode]))
        for s in range(p.slots) if self.timed else ():
            on = p.members[mode, s]
            if not p.never_busy[s]:
                self.loads[s] = [(columns[on], self._summed(p.compute_ms)[unit[on], mode[on]])]

    def _summed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """[U, M] of values [K, M]."""
        total = np.zeros((self.units, self.modes))
        np.add.at(total, self.problem.unit, np.where(self.problem.allowed, values, 0.0))
        return total

    def _largest(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """[U, M] of values [K, M]."""
        largest = np.zeros((self.units, self.modes))
        np.maximum.at(largest, self.problem.unit, np.where(self.problem.allowed, values, 0.0))
        return largest

    def _memory(self) -> None:
        """What is held, in shares of the capacity, and the largest workspace."""
        p = self.problem
        held = self._summed(p.held_bytes + p.stash[:, None])
        workspace = self._largest(np.broadcast_to(p.workspace_bytes[:, None], p.compute_ms.shape))
        for s in np.flatnonzero(np.isfinite(p.capacity_bytes)).tolist():
            unit, mode = np.nonzero(self.runs & p.members[:, s])
            columns, capacity = self.x[unit, mode], float(p.capacity_bytes[s])
            bytes_, space = held[unit, mode], workspace[unit, mode]
            if not len(unit) or bytes_.sum() + space.max(initial=0.0) <= capacity or not capacity:
                continue
            rows, cells = np.zeros(len(unit), dtype=np.int64), [columns]
            if space.any():
                on = self._is(unit, mode)
                largest = self._columns(np.array([np.max(on * space / capacity, initial=0.0)]))
                count = len(unit)
                self.model.add_rows(
                    count,
                    np.tile(np.arange(count), 2),
                    np.concatenate([np.repeat(largest, count), columns]),
                    np.concatenate([np.ones(count), -space / capacity]),
                    lower=0.0,
                )
                cells.append(largest)
                rows = np.append(rows, 0)
            shares = np.append(bytes_ / capacity, np.ones(len(rows) - len(unit)))
            self.model.add_rows(1, rows, np.concatenate(cells), shares, upper=1.0)

    def _break_symmetry(self) -> None:
        """Interchangeable slots begin in the order of their numbers."""
        for group in self.groups:
            for one, other in pairwise(group):
                for u in np.flatnonzero(self.runs[:, other]).tolist():
                    earlier = self.x[:u, one][self.runs[:u, one]]
                    cells = np.append(earlier, self.x[u, other])
                    self.model.add_rows(1, 0, cells, np.append(np.ones(len(earlier)), -1.0), lower=0.0)

    def _stages(self) -> None:
        p, modes = self.problem, self.modes
        shared = np.flatnonzero(p.members.sum(axis=0) > 1)
        if len(shared):
            taken = self._is(np.arange(self.units)[:, None], np.arange(modes)[None]).max(axis=0)
            used = self._columns(taken, integer=True)
            unit, mode = np.nonzero(self.runs)
            rows = np.tile(np.arange(len(unit)), 2)
            cells = np.concatenate([used[mode], self.x[unit, mode]])
            self.model.add_rows(len(unit), rows, cells, np.repeat([1.0, -1.0], len(unit)), lower=0.0)
            for s in shared.tolist():
                self.model.add_rows(1, 0, used[p.members[:, s]], 1.0, upper=1.0)
        pairs = _unit_pairs(p, p.edges[p.ordering])
        if not len(pairs):
            return
        column, constant = self._order()
        past = {m: self._past(m, column, constant) for m in range(modes)}
        for m in range(modes):
            for inside in (False, True):  # in a stage before m; in m or before it
                for u, v in pairs.tolist():
                    self._row(self._step(past[m], u, v, m, inside))

    def _step(
        self, past: list[list[tuple[int, float]]], u: int, v: int, m: int, inside: bool
    ) -> list[tuple[int, float]]:
        """Cells of past[u] - past[v], or with x[u, m] - x[v, m]."""
        cells = past[u] + [(column, -value) for column, value in past[v]]
        if inside:
            cells = cells + [(int(self.x[w, m]), sign) for w, sign in ((u, 1.0), (v, -1.0)) if self.runs[w, m]]
        return cells

    def _order(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return before [M, M] as columns (-1: known) and as constants; a total order of the modes."""
        modes = self.modes
        constant = np.full((modes, modes), np.nan)
        np.fill_diagonal(constant, 0.0)
        for group in self.groups:
            for i, slot in enumerate(group):
                constant[slot, group[i + 1 :]], constant[group[i + 1 :], slot] = 1.0, 0.0
        one, other = np.nonzero(np.triu(np.isnan(constant), 1))
        rank = np.full(modes, np.nan)
        if self.place is not None:
            named = _stage_order(self.problem, self.place[self.problem.unit])
            rank = np.array([named.get(m, modes + m) for m in range(modes)], dtype=np.float64)  # unused ones last
        column = np.full((modes, modes), -1, dtype=np.int64)
        hint = np.where(np.isnan(rank[one]), np.nan, rank[one] < rank[other])
        column[one, other] = self._columns(hint, integer=True)
        p, q, r = (i.ravel() for i in np.indices((modes, modes, modes)))
        fine = (p != q) & (q != r) & (p != r)
        for i, j, k in zip(p[fine].tolist(), q[fine].tolist(), r[fine].tolist(), strict=True):
            cells, upper = [], 1.0
            for (a, b), sign in (((i, j), 1.0), ((j, k), 1.0), ((i, k), -1.0)):
                terms, fixed = _before(column, constant, a, b)
                cells += [(c, sign * value) for c, value in terms]
                upper -= sign * fixed
            if cells:
                columns, values = zip(*cells, strict=True)
                self.model.add_rows(1, 0, columns, values, upper=upper)
        return column, constant

    def _past(self, m: int, column: NDArray[np.int64], constant: NDArray[np.float64]) -> list[list[tuple[int, float]]]:
        """Cells of past[u, m] for each unit u: the sum over modes q of before[q, m] * x[u, q]."""
        cells: list[list[tuple[int, float]]] = [[] for _ in range(self.units)]
        for q in range(self.modes):
            on = np.flatnonzero(self.runs[:, q])
            if q == m or not len(on) or constant[q, m] == 0.0:
                continue
            if constant[q, m] == 1.0:
                product = self.x[on, q]
            else:
                ((order, sign),), fixed = _before(column, constant, q, m)
                ahead = fixed + sign * self.hint_of(order)
                product = self._columns(self._is(on, np.array(q)) * ahead)
                count = len(on)
                rows = np.arange(count)
                self.model.add_rows(
                    count, np.tile(rows, 2), np.append(product, self.x[on, q]), np.repeat([1.0, -1.0], count), upper=0.0
                )
                self.model.add_rows(
                    count,
                    np.tile(rows, 2),
                    np.append(product, np.full(count, order)),
                    np.repeat([1.0, -sign], count),
                    upper=fixed,
                )
                self.model.add_rows(
                    count,
                    np.tile(rows, 3),
                    np.concatenate([product, self.x[on, q], np.full(count, order)]),
                    np.repeat([1.0, -1.0, -sign], count),
                    lower=fixed - 1.0,
                )
            for u, c in zip(on.tolist(), product.tolist(), strict=True):
                cells[u].append((c, 1.0))
        return cells

    def hint_of(self, column: int) -> float:
        """Return the value of one column in the start."""
        return float(np.concatenate(self.hint)[column])

    def _ports(self) -> None:
        """What leaves and enters modes: outputs of one unit with the same consumers are one flow."""
        p = self.problem
        readers: dict[int, set[int]] = {}
        for i, j in p.edges.tolist():
            if p.unit[i] != p.unit[j]:
                readers.setdefault(i, set()).add(int(p.unit[j]))
        flows: dict[tuple[int, tuple[int, ...]], float] = {}
        for k, targets in readers.items():
            key = int(p.unit[k]), tuple(sorted(targets))
            flows[key] = flows.get(key, 0.0) + float(p.output_bytes[k])
        into, out = p.ports
        for (u, consumers), size in flows.items():
            to = np.array(consumers)
            for m in range(self.modes):
                slots = np.flatnonzero(p.members[m] & ~p.never_busy)
                there, reading = bool(self.runs[u, m]), self.runs[to, m]
                for rate, leaving in ((out[m], True), (into[m], False)):
                    if not (rate * size and len(slots)) or not (there if leaving else reading.any()):
                        continue
                    home, elsewhere = self._is(np.array([u]), np.array(m)), self._is(to, np.array(m))
                    flag = self._columns(np.max((home - elsewhere) * (1 if leaving else -1)).clip(0.0))
                    for v, has in zip(to.tolist(), reading.tolist(), strict=True):
                        cells = [(int(flag[0]), 1.0)]
                        cells += [(int(self.x[u, m]), -1.0 if leaving else 1.0)] if there else []
                        cells += [(int(self.x[v, m]), 1.0 if leaving else -1.0)] if has else []
                        if leaving or has:
                            columns, values = zip(*cells, strict=True)
                            self.model.add_rows(1, 0, columns, values, lower=0.0)
                    for s in slots.tolist():
                        self.loads[s].append((flag, np.array([rate * size])))

    def _routes(self) -> None:
        """Energy and link loads of edges between modes."""
        p = self.problem
        links = p.route_ms_per_byte[:, :, None] * p.route_links
        if not self.timed:
            links = links[:, :, :0]
        cost = np.concatenate([p.route_mj_per_byte[:, :, None], links], axis=2)  # [M, M, 1 + L]
        _, kind = np.unique(cost.reshape(self.modes**2, -1), axis=0, return_inverse=True)
        kinds = kind.reshape(self.modes, self.modes)
        cheap: NDArray[np.bool_] = np.asarray(~cost.any(axis=2))
        sizes: dict[tuple[int, int], float] = {}
        for (i, j), size in zip(p.edges.tolist(), p.edge_bytes.tolist(), strict=True):
            pair = int(p.unit[i]), int(p.unit[j])
            if pair[0] != pair[1] and size:
                sizes[pair] = sizes.get(pair, 0.0) + size
        for (u, v), size in sizes.items():
            to = np.flatnonzero(self.runs[v])
            arrive: dict[int, list[tuple[int, float]]] = {int(q): [] for q in to}  # what lets v be in mode q
            for m in np.flatnonzero(self.runs[u]).tolist():
                rest = [(int(self.x[u, m]), 1.0)]  # of x[u, m], what goes where it costs nothing
                for c in np.unique(kinds[m, to[~cheap[m, to]]]).tolist():
                    reached = to[(kinds[m, to] == c) & ~cheap[m, to]]
                    on = self._is(np.array(u), np.array(m)) * self._is(np.array(v), reached).sum()
                    way = int(self._columns(on)[0])
                    rest.append((way, -1.0))
                    self._row([(way, -1.0), *((int(self.x[v, q]), 1.0) for q in reached)])
                    for q in reached.tolist():
                        arrive[q].append((way, 1.0))
                    each = size * cost[m, int(reached[0])]
                    if each[0]:
                        self.energy.append((np.array([way]), each[:1]))
                    for link in np.flatnonzero(each[1:]).tolist():
                        self.loads.setdefault(p.slots + link, []).append((np.array([way]), each[1 + link : 2 + link]))
                free = to[cheap[m, to]].tolist()
                self._row(rest)
                self._row([*((c, -value) for c, value in rest), *((int(self.x[v, q]), 1.0) for q in free)])
                for q in free:
                    arrive[q] += rest
            for q, cells in arrive.items():
                self._row([*cells, (int(self.x[v, q]), -1.0)])

    def _row(self, cells: list[tuple[int, float]]) -> None:
        """Add the row: the cells' sum is at least zero."""
        if not cells:
            return
        columns, values = zip(*cells, strict=True)
        self.model.add_rows(1, 0, columns, values, lower=0.0)

    def _objective(self, start_ms: float) -> None:
        p = self.problem
        columns = [ids for ids, _ in self.energy]
        mj = [values for _, values in self.energy]
        cost = [p.energy_weight * values for values in mj]
        if self.timed:
            most = p.max_latency_ms * (1 + TOLERANCE) / self.ms if np.isfinite(p.max_latency_ms) else np.inf
            time = self._columns(np.array([start_ms / self.ms]), upper=most)
            columns.append(time)
            cost.append(np.array([p.time_weight * self.ms]))
            mj.append(np.array([p.static_w * self.ms]))
            for parts in self.loads.values():
                ids = np.concatenate([time, *(ids for ids, _ in parts)])
                shares = np.concatenate([[1.0], *(-values / self.ms for _, values in parts)])
                self.model.add_rows(1, 0, ids, shares, lower=0.0)
            largest = self._largest(p.compute_ms)
            for s in np.flatnonzero(p.never_busy).tolist():
                for u in np.flatnonzero((self.runs & p.members[:, s]).any(axis=1)).tolist():
                    on = self.runs[u] & p.members[:, s]
                    ids, shares = np.append(self.x[u, on], time), np.append(-largest[u, on] / self.ms, 1.0)
                    self.model.add_rows(1, 0, ids, shares, lower=0.0)
        if not columns:
            return
        ids = np.concatenate(columns)
        if np.isfinite(p.max_energy_mj):
            limit = max(p.max_energy_mj, np.finfo(float).tiny)
            self.model.add_rows(1, 0, ids, np.concatenate(mj) / limit, upper=1 + TOLERANCE)
        self.model.add_cost(ids, np.concatenate(cost) / self.ticks)

    # --- and the answer ---------------------------------------------------------------------------------------------

    def solve(self, backend: Backend, *, deadline_s: float, seed: int, nodes: int | None = None) -> Proven:
        """Return what the solver says, after so many seconds and nodes of its tree at most."""
        hint = None if self.place is None else np.concatenate(self.hint)
        solved = self.model.solve(backend, deadline_s=deadline_s, seed=seed, hint=hint, nodes=nodes)
        assignment = None if solved.values is None else self._read(solved.values)
        return Proven(status=solved.status, assignment=assignment, bound=max(0.0, solved.bound * self.ticks))

    def _read(self, values: NDArray[np.float64]) -> Assignment:
        """The assignment [K] nearest to a solution's values."""
        shares = np.where(self.runs, values[self.x], -1.0)
        mode: Ids = shares.argmax(axis=1)
        return mode[self.problem.unit]


def _unit_of(value: float) -> float:
    """A power of two near a thousandth of `value`, 1 where it is of a plain size."""
    low, high = PLAIN_RANGE
    return 1.0 if not np.isfinite(value) or low <= value < high or value <= 0 else 2.0 ** (frexp(value)[1] - 10)


def _sum_of(values: NDArray[np.float64], allowed: NDArray[np.bool_]) -> float:
    return float(np.where(allowed, values, 0.0).max(axis=1).sum())


def _dearest(problem: MappingProblem) -> float:
    time, energy = (_sum_of(values, problem.allowed) for values in (problem.compute_ms, problem.energy_mj))
    return problem.time_weight * time + problem.energy_weight * energy


def _unit_pairs(problem: MappingProblem, edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Edges [E, 2] of segments -> those of different units, each once."""
    pairs = problem.unit[edges].reshape(-1, 2)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def _before(
    column: NDArray[np.int64], constant: NDArray[np.float64], one: int, other: int
) -> tuple[list[tuple[int, float]], float]:
    """before[one, other] as cells and a constant: known, a column, or 1 minus that of the other way round."""
    if not np.isnan(constant[one, other]):
        return [], float(constant[one, other])
    if column[one, other] >= 0:
        return [(int(column[one, other]), 1.0)], 0.0
    return [(int(column[other, one]), -1.0)], 1.0


def _stage_order(problem: MappingProblem, assignment: Assignment) -> dict[int, int]:
    """Place of each mode in use in an order in which no edge between forward segments goes back."""
    waiting = {int(m): set[int]() for m in assignment.tolist()}
    for i, j in assignment[problem.edges[problem.ordering]].tolist():
        if i != j:
            waiting[j].add(i)
    order: dict[int, int] = {}
    while len(order) < len(waiting):
        ready = [m for m, first in waiting.items() if m not in order and first <= order.keys()]
        if not ready:
            return {}
        order[min(ready)] = len(order)
    return order
