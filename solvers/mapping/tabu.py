"""Tabu search for quadratic assignment: one segment a slot, energy of distances times bytes made small."""

from __future__ import annotations

from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from solvers.errors import SolverError
from solvers.mapping._gilmore_lawler import gilmore_lawler_bound
from solvers.mapping.bounds import lower_bound
from solvers.mapping.evaluate import PROVEN, as_batch, evaluate, finish
from solvers.mapping.feasibility import runnable
from solvers.mapping.problem import Incumbent, Mapping, MappingProblem
from solvers.mapping.solver import MappingSolver, Request

ELITE = 10  # solutions that are bred
SWAPS_PER_ITEM = (4, 40, 400)  # of a search; short ones find structure, long ones what has none: equal time for each
SLICE = 800_000_000  # exchanges x items ** 2 of one search at most: about a second
PAIR_S = 1.2e-9  # for each of them, on a common core
STALE = 6  # children for each of the elite without a better elite, until it is shaken
SHAKEN = 0.5  # share of children that have one parent, a part of it shuffled


class Tabu(MappingSolver):
    """Breeds permutations: two of an elite have a child, which robust tabu search then makes as good as it can.

    Taillard 1991 (the search), Benlic and Hao 2015 (the breeding). It does problems in which every slot can hold
    exactly one segment, any of them, and only energy counts, over routes that cost the same both ways.
    """

    name = "tabu"
    required_modules = ("numba",)

    def __init__(self, *, children_per_item: int = 100) -> None:
        """Breed `children_per_item` x slots children unless the deadline comes first."""
        if children_per_item < 0:
            raise SolverError(f"children_per_item is {children_per_item}", "zero or more")
        self.children_per_item = children_per_item

    @classmethod
    def refusal(cls, problem: MappingProblem) -> str:
        """Return what of the problem is not quadratic assignment."""
        if problem.time_weight > 0 or np.isfinite([problem.max_latency_ms, problem.max_energy_mj]).any():
            return "objectives or limits of time, or limits of energy"
        if len(problem.teams) or int(problem.unit.max()) + 1 < problem.segments or problem.contiguous:
            return "teams, groups or contiguous stages"
        if problem.stash_bytes.any() or problem.free_order or problem.regime == "offload":
            return "stashes, a free order or the offload regime"
        if not np.array_equal(problem.route_mj_per_byte, problem.route_mj_per_byte.T):
            return "routes whose energy depends on the direction"
        if not runnable(problem).all():
            return "segments that cannot run on every slot"
        least_two = np.sort(problem.held_bytes, axis=0)[:2].sum(axis=0)
        if problem.segments > 1 and not (least_two > problem.capacity_bytes).all():
            return "slots that hold more than one segment"
        return f"{problem.segments} segments on {problem.slots} slots" if problem.segments > problem.slots else ""

    @classmethod
    def weight(cls, problem: MappingProblem) -> float:
        """Return much: of what it does, it does nearly everything best; see MappingSolver."""
        return 1_000.0

    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Return the best mapping met. Stops early where the bound is reached, else at its effort or the deadline."""
        from solvers.mapping._random import seeded
        from solvers.mapping._robust_tabu import shuffled

        bound = max(lower_bound(problem), request.lower_bound, gilmore_lawler_bound(problem))
        run = _Breeding(problem, request, seeded(request.seed))
        warm = as_batch(problem, request.warm_start)
        if len(warm) and np.isfinite(evaluate(problem, warm).objective[0]):
            run.take(np.concatenate([warm[0], np.setdiff1d(np.arange(problem.slots), warm[0])]))
        for _ in range(ELITE):
            if not run.late or not run.elite:
                run.take(run.improved(shuffled(problem.slots, run.state)))
        for _ in range(self.children_per_item * problem.slots):
            if run.late or bound >= run.best_value * PROVEN:
                break
            run.breed()
        return finish(
            problem,
            run.best[: problem.segments],
            lower_bound=bound,
            solver=self.name,
            started=request.started,
            history=[Incumbent(wall_s=s, objective=v, lower_bound=bound) for s, v in run.history],
        )


class _Breeding:
    """An elite of permutations: place of each item; items beyond the segments stand for empty slots."""

    def __init__(self, problem: MappingProblem, request: Request, state: NDArray[np.uint64]) -> None:
        n, k = problem.slots, problem.segments
        self.request, self.state = request, state
        flow = np.zeros((n, n))
        np.add.at(flow, (problem.edges[:, 0], problem.edges[:, 1]), problem.edge_bytes)
        linear = np.zeros((n, n))
        linear[:k] = problem.energy_mj
        self.matrices = flow + flow.T, np.ascontiguousarray(problem.route_mj_per_byte, dtype=np.float64), linear
        self.weight = problem.energy_weight
        self.elite: list[NDArray[np.int64]] = []
        self.values: list[float] = []
        self.stale = 0
        self.best, self.best_value = np.arange(n), np.inf
        self.history: list[tuple[float, float]] = []

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return self.request.left_s <= 0

    def improved(self, p: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what a search from p [n] finds."""
        from solvers.mapping._random import random
        from solvers.mapping._robust_tabu import tabu_search

        odds = np.cumsum(1.0 / np.array(SWAPS_PER_ITEM))
        per_item = SWAPS_PER_ITEM[int(np.searchsorted(odds, random(self.state) * odds[-1]))]
        turns = min(per_item * len(p), SLICE // len(p) ** 2 + 1)
        tabu_search(*self.matrices, p, turns, self.state)
        self.request.spend(turns * len(p) ** 2 * PAIR_S)
        return p

    def take(self, p: NDArray[np.int64]) -> None:
        """Let p [n] into the elite where that has room, or p is better than its worst and new."""
        from solvers.mapping._robust_tabu import cost_of

        value = float(cost_of(*self.matrices, p))
        if self.weight * value < self.best_value:
            self.best, self.best_value = p.copy(), self.weight * value
            self.history.append((perf_counter() - self.request.started, self.best_value))
        if len(self.elite) < ELITE:
            self.elite.append(p)
            self.values.append(value)
            return
        worst = int(np.argmax(self.values))
        if value < self.values[worst] and not any(np.array_equal(p, other) for other in self.elite):
            self.elite[worst], self.values[worst] = p, value
            self.stale = 0
        else:
            self.stale += 1

    def breed(self) -> None:
        """Make one more child; where the elite has long stood still, shake all of it but the best instead."""
        from solvers.mapping._random import random
        from solvers.mapping._robust_tabu import child_of, shaken

        n, state = len(self.best), self.state
        if n < 2:
            return
        if self.stale > STALE * ELITE:
            others = [p for i, p in enumerate(self.elite) if i != int(np.argmin(self.values))]
            self.elite, self.values, self.stale = [], [], 0
            self.take(self.best.copy())
            for p in others:
                if not self.late:
                    self.take(self.improved(shaken(p, max(2, n // 2), state)))
            return
        first = int(random(state) * len(self.elite))
        second = int(random(state) * len(self.elite))
        if first == second or random(state) < SHAKEN:
            child = shaken(self.elite[first], 2 + int(random(state) * max(1, n // 4)), state)
        else:
            child = child_of(self.elite[first], self.elite[second], state)
        self.take(self.improved(child))
