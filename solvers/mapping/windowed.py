"""Windowed: the exact model on a few segments at a time, the rest fixed, for problems too large to model whole.

A period is the largest of many loads, so that no window by itself makes it less where several slots are equally busy.
Each window of slots therefore evens out its own loads, those of the others kept below the period; excess load wanders
from window to window (neighbouring stages where contiguous) until no window of slots can be made more even. Where T is
a path, or energy counts, a window is a run of consecutive segments and makes the whole objective smaller.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from solvers.mapping._incumbent import Best, begin
from solvers.mapping.cp_sat import CpSat
from solvers.mapping.evaluate import PROVEN, finish
from solvers.mapping.problem import Mapping, MappingProblem
from solvers.mapping.solver import MappingSolver, Request

if TYPE_CHECKING:
    from solvers.mapping._cp_model.units import Units

WHOLE = 40  # units up to which the window is the whole problem
PASSES = ((2, 40, 0.5), (3, 60, 1.0), (4, 90, 2.0), (4, 150, 5.0), (6, 200, 10.0))
"""Slots of a window, units that are free in it at most, and CP-SAT's deterministic seconds for it; then the next."""
NEAR = 8  # modes that a segment may move to where the window is one of segments
MOST_PAIRS = 400  # windows of slots that are looked at in a pass
MOST_ROUTES = 1_000_000  # edges x pairs of modes: with more it takes seconds to state a window
BUILD_S = 1e-4  # to state a segment of the model, about


class Windowed(MappingSolver):
    """CP-SAT on a moving window. It stops when no window improves, or at the deadline; small problems are one window.

    The effort for each window is a count of work: the same seed gives the same answer unless the deadline cuts it.
    """

    name = "windowed"
    role = "improve"
    required_modules = ("ortools", "numba")

    @classmethod
    def proves(cls, problem: MappingProblem) -> bool:
        """Return whether one window is enough."""
        return problem.segments <= WHOLE

    @classmethod
    def weight(cls, problem: MappingProblem) -> float:
        """Return nothing where CP-SAT takes the whole problem itself, or windows are slow; see MappingSolver."""
        slow = len(problem.edges) * problem.modes**2 > MOST_ROUTES
        if problem.segments <= WHOLE or slow:
            return 0.0
        return 2.0 if problem.contiguous else 8.0  # stages of whole problems are proven soon

    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Return the best mapping of all windows; see MappingSolver."""
        from solvers.mapping._cp_model.units import Units

        units = Units.from_problem(problem)
        if units.count <= WHOLE:
            return replace(CpSat().search(problem, request), solver=self.name)
        best, bound = begin(problem, request)
        if best.assignment is not None:
            _Sweep(problem, request, units, best, bound).run()
        return finish(
            problem,
            best.assignment,
            order=best.order,
            lower_bound=bound,
            solver=self.name,
            started=request.started,
            history=best.history,
        )


class _Sweep:
    """Passes of windows over one problem."""

    def __init__(self, problem: MappingProblem, request: Request, units: Units, best: Best, bound: float) -> None:
        self.problem, self.request, self.units, self.best, self.bound = problem, request, units, best, bound
        self.first = np.unique(units.of, return_index=True)[1]
        self.rng = np.random.default_rng(request.seed)
        self.changed = np.zeros(problem.modes, dtype=np.int64)  # how often each mode's units have changed
        self.even = problem.regime == "pipelined" and not problem.energy_weight  # windows of slots even out loads
        self.work_s = 0.0  # for a window of this pass

    def run(self) -> None:
        """Go through windows, wider with each pass in which none improves."""
        for width, free, work_s in PASSES:
            self.work_s = work_s
            improved = True
            while improved and not self._over():
                improved = self._slots(width, free) if self.even else self._segments(free)

    def _over(self) -> bool:
        return self.request.left_s <= 0 or self.bound >= self.best.objective * PROVEN

    @property
    def _modes(self) -> NDArray[np.int64]:
        """[U] mode of each unit in the best mapping."""
        assert self.best.assignment is not None
        modes: NDArray[np.int64] = self.best.assignment[self.first]
        return modes

    def _segments(self, free: int) -> bool:
        """Free runs of consecutive units, half of each in the next one too; return whether any improved."""
        improved = False
        for low in range(0, max(1, self.units.count - free // 2), free // 2):
            if self._over():
                break
            inside = np.arange(low, min(low + free, self.units.count))
            improved |= self._solve(inside, self._near(inside), None)
        return improved

    def _near(self, inside: NDArray[np.int64]) -> NDArray[np.int64]:
        """Modes that the units inside use, and those that are cheapest for them."""
        p = self.problem
        if p.modes <= NEAR:
            return np.arange(p.modes)
        cost = p.time_weight * self.units.compute_ms[inside] + p.energy_weight * self.units.energy_mj[inside]
        rank = np.where(self.units.runs[inside], cost, np.inf).sum(axis=0)
        used = np.bincount(self._modes[inside], minlength=p.modes)
        return np.lexsort((np.arange(p.modes), rank, -used))[: max(NEAR, int((used > 0).sum()))]

    def _slots(self, width: int, free: int) -> bool:
        """Free the units of a few slots, first where evening them out promises most; return whether any improved."""
        tried: set[tuple[tuple[int, int], ...]] = set()
        improved = False
        while not self._over():
            for modes in self._windows(width):
                key = tuple((m, int(self.changed[m])) for m in modes)
                if key not in tried:
                    break
            else:
                return improved
            tried.add(key)
            inside = np.flatnonzero(np.isin(self._modes, modes))
            watched = np.asarray(self.problem.members[list(modes)].any(axis=0), dtype=np.bool_)
            for some in self._parts(inside, free):
                if self._over():
                    break
                if self._solve(some, np.array(modes), watched):
                    improved = True
                    break
        return improved

    def _windows(self, width: int) -> Iterator[tuple[int, ...]]:
        """Yield windows of modes, those with the largest load above their mean first."""
        from solvers.mapping._cp_model.stages import stage_order

        p, modes = self.problem, self._modes
        load = self._loads()
        if p.contiguous:
            order = stage_order(p, self.units.of, modes, []) or []
            width = min(width, p.modes)
            windows = [tuple(order[i : i + width]) for i in range(p.modes - width + 1)]
        else:
            busiest = np.argsort(-load, kind="stable")
            some = combinations(busiest.tolist(), min(width, p.modes))
            windows = [w for w, _ in zip(some, range(MOST_PAIRS), strict=False)]
        promise = [float(load[list(w)].max() - load[list(w)].mean()) for w in windows]
        top = [float(load[list(w)].max()) for w in windows]
        for i in sorted(range(len(windows)), key=lambda i: (-promise[i], -top[i], windows[i])):
            yield windows[i]

    def _loads(self) -> NDArray[np.float64]:
        """[M] computing and port time of each mode."""
        p, modes = self.problem, self._modes
        load = np.zeros(p.modes)
        np.add.at(load, modes, self.units.compute_ms[np.arange(self.units.count), modes])
        into, out = p.ports
        for output in self.units.outputs:
            home = int(modes[output.source])
            away = {int(m) for m in modes[list(output.readers)]} - {home}
            if away:
                load[home] += output.size * out[home]
                for m in away:
                    load[m] += output.size * into[m]
        return load

    def _parts(self, inside: NDArray[np.int64], free: int) -> Iterator[NDArray[np.int64]]:
        """Yield at most `free` of the units inside at a time: runs in number order that overlap, then any others."""
        if len(inside) <= free:
            yield inside
            return
        starts = range(0, len(inside) - free // 2, free // 2)
        for low in starts:
            yield inside[low : low + free]
        for _ in starts:
            yield np.sort(self.rng.choice(inside, free, replace=False))

    def _solve(self, inside: NDArray[np.int64], modes: NDArray[np.int64], watched: NDArray[np.bool_] | None) -> bool:
        """Solve the problem in which only the units inside move, among those modes; keep what is better."""
        from solvers.mapping._cp_model.model import Model, Window

        p, best, request = self.problem, self.best, self.request
        start = best.assignment
        assert start is not None
        window = Window(self._stages(), watched)
        model = Model(_fixed_but(p, self.units, start, inside, modes), start, 0.0, best.objective, window)
        time_s = np.inf if request.deterministic else max(request.left_s, 0.01)
        outcome = model.solve(time_s=time_s, work_s=self.work_s, seed=request.seed)
        request.spend(outcome.work_s + BUILD_S * p.segments)
        if outcome.found is None or (outcome.found.assignment == start).all():
            return False
        before = self._local(watched)
        known, order = best.objective, best.order
        if not best.take(outcome.found.assignment, outcome.found.order, self.bound, equal=True):
            return False
        if best.objective == known and self._local(watched) >= before * (1 - 1e-9):
            best.assignment, best.order = start, order
            return False
        moved = start != outcome.found.assignment
        self.changed[np.union1d(start[moved], outcome.found.assignment[moved])] += 1
        return True

    def _local(self, watched: NDArray[np.bool_] | None) -> float:
        """Return the largest load that the window watches; inf where it watches the objective."""
        if watched is None:
            return np.inf
        load = self.problem.members.T @ self._loads()
        return float(load[watched].max())

    def _stages(self) -> list[int] | None:
        from solvers.mapping._cp_model.stages import stage_order

        return stage_order(self.problem, self.units.of, self._modes, []) if self.problem.contiguous else None


def _fixed_but(
    problem: MappingProblem,
    units: Units,
    start: NDArray[np.int64],
    inside: NDArray[np.int64],
    modes: NDArray[np.int64],
) -> MappingProblem:
    """Return the problem in which all units but those inside stay where they are: a group a mode.

    Those inside stay too, or move to one of `modes`.
    """
    free = np.isin(units.of, inside)
    group = np.where(free, problem.modes + units.of, start)
    keep = np.zeros((problem.segments, problem.modes), dtype=np.bool_)
    keep[np.ix_(free, modes)] = True
    keep[np.arange(problem.segments), start] = True
    return replace(problem, group=group, allowed=problem.allowed & keep)
