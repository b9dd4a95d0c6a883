"""Annealing by incremental moves: each is evaluated in the time of a segment's edges, millions of them a second."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from solvers.errors import SolverError
from solvers.mapping._merging import least_cut, merged_ends
from solvers.mapping.bounds import bound_and_start
from solvers.mapping.evaluate import PROVEN, as_batch, best_of, evaluate, finish
from solvers.mapping.local_search import LocalSearch, simple_starts
from solvers.mapping.problem import Incumbent, Mapping, MappingProblem
from solvers.mapping.solver import WEIGHTS, MappingSolver, Request

STAGES = 8  # of a round: the temperature falls, and the power of the norm that smooths T rises
SQUARINGS = (3, 3, 4, 4, 5, 5, 6, 6)  # the power is 2 to this: 8 to 64
HEAT = (0.05, 0.01, 0.02, 0.1)  # of the objective, at the start of rounds in turn
COLD = 1e-3  # of the heat, at the end of a round
CANDIDATES = 16  # modes tried for a unit
MOVE_S = 5e-7  # on a common core
CHUNK = 200_000  # moves between looks at the clock: a fraction of a second
GROWTH = 2.0  # of the moves of a round, after one that found nothing better
WHOLE_WORK = 3_000_000  # moves x segments of a round of whole evaluations: about a second
SMALL, LARGE = 2_000, 20_000  # segments x modes, beyond which exact models help less, and hardly
RELAXING = 0.5  # of the deadline for the relaxation, at most
# What a slot costs that is fuller than it can be, by stages of every other round: in what its memory is worth at the
# relaxation's prices, or in this share of the objective a slot if that is more.
FULL = (0.5, 0.7, 1.0, 1.5, 2.0, 4.0, 10.0, 100.0)
LEAST_FULL = 1e-3
MERGING = (np.inf, 0.3, 0.1)  # rounds in turn keep edges together whose cut takes that share of the objective


class Annealing(MappingSolver):
    """Moves one unit, swaps two, moves blocks along edges, swaps slots; T smoothed by a norm that sharpens.

    Units are groups, and in some rounds also what an expensive edge joins: those that a better mapping cannot cut, and
    for a coarse search others that the best one does not cut. What has no loads (serial, offload, concurrent slots) is
    annealed with whole evaluations, as `local_search` does, in more rounds. Its effort is a count of moves.
    """

    name = "annealing"
    required_modules = ("numba", "ortools")

    def __init__(self, *, patience: int = 9, moves_per_choice: int = 30) -> None:
        """Stop after `patience` rounds without a better mapping; a round's moves per unit and mode grow from there."""
        if patience < 0 or moves_per_choice < 1:
            raise SolverError(f"patience {patience} and moves_per_choice {moves_per_choice}", "zero or more, and one")
        self.patience = patience
        self.moves_per_choice = moves_per_choice

    @classmethod
    def weight(cls, problem: MappingProblem) -> float:
        """Return more where moves are quick, and most where nothing else is; see MappingSolver."""
        if not incremental(problem):
            return WEIGHTS[cls.role]
        size = problem.segments * problem.modes
        if problem.contiguous and size <= LARGE:  # stages are found by dynamic programming, as a rule
            return 1.0
        return 10.0 if size <= SMALL else 30.0 if size <= LARGE else 60.0

    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Return the best mapping met. Stops early where the bound is reached, else at its effort or the deadline."""
        from solvers.mapping._kernels import arrays

        if not incremental(problem):
            return self._whole(problem, request)
        compiled = arrays(problem)
        bound, met = bound_and_start(problem)
        starts = as_batch(problem, request.warm_start, met, *simple_starts(problem, compiled, request))
        run = _Run(problem, request, max(bound, request.lower_bound))
        if len(starts):
            run.begin(starts)
            run.relax()
            self._rounds(run)
        return finish(
            problem,
            run.best_legal,
            lower_bound=run.bound,
            solver=self.name,
            started=request.started,
            history=run.history,
        )

    def _rounds(self, run: _Run) -> None:
        problem = run.problem
        moves = self.moves_per_choice * (int(problem.unit.max()) + 1) * min(problem.modes, CANDIDATES)
        number = stale = 0
        while stale < self.patience and not run.over:
            if run.round(number, moves):
                stale = 0
            else:
                stale += 1
                moves = int(moves * GROWTH)
            number += 1

    def _whole(self, problem: MappingProblem, request: Request) -> Mapping:
        """Anneal with whole evaluations of each move."""
        per_segment = int(np.clip(WHOLE_WORK // problem.segments**2, 1, 300))
        mapping = LocalSearch(rounds=2 * self.patience, moves_per_segment=per_segment).search(problem, request)
        return replace(mapping, solver=self.name)


def incremental(problem: MappingProblem) -> bool:
    """Whether moves can be evaluated by what they change: loads of a pipeline, or no time at all."""
    timed = problem.time_weight > 0 or np.isfinite(problem.max_latency_ms)
    if timed and (problem.regime != "pipelined" or problem.never_busy.any()):
        return False
    return problem.regime != "offload" and not (problem.contiguous and problem.stash_bytes.any())


def stage_ranks(problem: MappingProblem, assignment: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return [M] the place of each mode in an order in which no edge of the mapping goes back; unused modes last."""
    modes = problem.modes
    source, target = (assignment[problem.edges[problem.ordering, end]] for end in (0, 1))
    feeds = np.zeros((modes, modes), dtype=np.bool_)
    feeds[source, target] = source != target
    used = np.bincount(assignment, minlength=modes) > 0
    left = used.copy()
    order: list[int] = []
    while left.any():
        ready = np.flatnonzero(left & ~feeds[left].any(axis=0))
        if not len(ready):
            raise SolverError("the stages feed each other in a circle")
        order += ready.tolist()
        left[ready] = False
    rank = np.empty(modes, dtype=np.int64)
    rank[[*order, *np.flatnonzero(~used)]] = np.arange(modes)
    return rank


class _Run:
    """What a search knows while it goes on."""

    def __init__(self, problem: MappingProblem, request: Request, bound: float) -> None:
        self.problem, self.request, self.bound = problem, request, bound
        self.best: NDArray[np.int64] | None = None
        self.value = np.inf
        self.history: list[Incumbent] = []
        self.cut = least_cut(problem)
        self.full = np.inf  # what a slot may cost that is full twice over
        self.prices = np.full(problem.slots, problem.time_weight), np.zeros(problem.slots)  # of a ms, and of a byte

    def begin(self, starts: NDArray[np.int64]) -> None:
        """Take the best legal start, within the limits on time and energy if any is."""
        objective = evaluate(self.problem, starts).objective
        if not np.isfinite(objective).any():  # annealing looks for what is within the limits
            unlimited = replace(self.problem, max_latency_ms=np.inf, max_energy_mj=np.inf)
            self.best = best_of(unlimited, starts)
            return
        self.take(starts[int(np.argmin(objective))], float(objective.min()))

    def relax(self) -> None:
        """Bound loads and memory by linear programming; take the mapping that its shares make, and its prices."""
        from solvers.mapping._load_relaxation import LoadRelaxation

        if self.over or not LoadRelaxation.applies(self.problem):
            return
        relaxed = LoadRelaxation(self.problem, self.request, share=RELAXING)
        self.bound = max(self.bound, relaxed.prove(self.value))
        self.prices = relaxed.prices
        self.full = max(relaxed.full, LEAST_FULL * self.value / self.problem.slots)
        for assignment in relaxed.mappings():
            value = float(evaluate(self.problem, assignment).objective[0])
            if value < self.value:
                self.take(assignment, value)

    def take(self, assignment: NDArray[np.int64], value: float) -> None:
        """Make it the best."""
        self.best, self.value = assignment.copy(), value
        wall_s = perf_counter() - self.request.started
        self.history.append(Incumbent(wall_s=wall_s, objective=value, lower_bound=self.bound))

    @property
    def best_legal(self) -> NDArray[np.int64] | None:
        """The best within all limits, or None."""
        return self.best if np.isfinite(self.value) else None

    @property
    def over(self) -> bool:
        """Whether nothing is left to find, or no time."""
        return self.bound >= self.value * PROVEN or self.request.left_s <= 0

    def merged(self, share: float) -> NDArray[np.int64]:
        """Return [K] units: groups, and the ends of edges within a mode whose cut takes that share of the objective."""
        problem, best = self.problem, self.best
        if best is None:
            return problem.unit
        same = best[problem.edges[:, 0]] == best[problem.edges[:, 1]]
        return merged_ends(problem, same & (self.cut >= min(share, 1.0) * self.value))

    def _size(self) -> float:
        """The objective of the best, limits or not: what temperatures are measured in."""
        if self.best is None or np.isfinite(self.value):
            return max(self.value, 1e-300)
        figures = evaluate(self.problem, self.best)
        energy = self.problem.energy_weight * float(figures.energy_mj[0])
        return max(self.problem.latency_weight * float(figures.latency_ms[0]) + energy, 1e-300)

    def round(self, number: int, moves: int) -> bool:
        """Anneal once from the best; return whether that made it better."""
        from solvers.mapping._incremental import state_of
        from solvers.mapping._moves import anneal
        from solvers.mapping._random import seeded
        from solvers.mapping._units import units_of

        problem, best, value = self.problem, self.best, self.value
        if best is None:
            return False
        unit = self.merged(MERGING[number % len(MERGING)])
        units = units_of(problem, unit, CANDIDATES, self.prices)
        at = np.zeros(int(unit.max()) + 1, dtype=np.int64)
        at[unit] = best
        rank = stage_ranks(problem, best) if problem.contiguous else np.arange(problem.modes)
        state = state_of(units, at, rank, SQUARINGS[0])
        random = seeded(self.request.seed * 4099 + number)
        hot = HEAT[number % len(HEAT)] * self._size()
        met, found, found_rank = value, at.copy(), rank.copy()
        chunks = -(-moves // (STAGES * CHUNK))
        for step in range(STAGES * chunks):
            heat, cold = (hot * COLD ** (i / (STAGES * chunks)) for i in (step, step + 1))
            squarings = SQUARINGS[step // chunks]
            count = -(-moves // (STAGES * chunks))
            full = np.inf if number % 2 else self.full * FULL[step // chunks]
            met = anneal(units, state, count, heat, cold, squarings, full, random, found, found_rank, met)
            self.request.spend(count * MOVE_S)
            if self.request.left_s <= 0:
                break
        if not met < value:
            return False
        exact = float(evaluate(problem, found[unit]).objective[0])  # sums of moves are off by rounding
        if not exact < value:
            return False
        self.take(found[unit], exact)
        return True
