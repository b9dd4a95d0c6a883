"""Annealed local search over mappings, compiled; one mapping, or a set of trade-offs between time and energy."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from solvers.errors import SolverError
from solvers.mapping.bounds import bound_and_start
from solvers.mapping.evaluate import PROVEN, as_batch, finish
from solvers.mapping.greedy import MOVE_S, greedy_assignment
from solvers.mapping.problem import Incumbent, Mapping, MappingProblem
from solvers.mapping.solver import WEIGHTS, MappingSolver, Request

if TYPE_CHECKING:
    from solvers.mapping._kernels import Arrays

LEAST_MOVES = 1000  # a round


def start_temperature(problem: MappingProblem, moves: int) -> float:
    """Return the temperature to start annealing from, in units of the start's value: hotter where moves are many.

    Measured on random problems: with few moves for each of the K x S single moves, anything hot is never cooled again;
    with many, heat is what leaves local minima. A period, the largest of many loads, has more of these than a path.
    """
    heat = 0.015 if problem.regime == "pipelined" else 0.0015
    return min(0.3, max(0.002, heat * moves / (problem.segments * problem.modes)))


class LocalSearch(MappingSolver):
    """Moves one segment, a block of consecutive ones, swaps two segments or two slots; annealed, memory hard.

    Starts from the best of the warm start, the greedy mapping, each single slot, and the mappings that the lower bound
    met. Its effort is a count of moves, so that the same seed gives the same answer; the deadline is a guard only.
    """

    name = "local_search"
    required_modules = ("numba",)

    def __init__(self, *, rounds: int = 2, moves_per_segment: int = 45) -> None:
        """Anneal `rounds` times from the best so far, each for moves_per_segment x K moves."""
        if rounds < 0 or moves_per_segment < 0:
            raise SolverError(f"rounds {rounds} and moves_per_segment {moves_per_segment}", "zero or more")
        self.rounds = rounds
        self.moves_per_segment = moves_per_segment

    @classmethod
    def weight(cls, problem: MappingProblem) -> float:
        """Return nothing for the pipelined regime, where `annealing` does as much and more; see MappingSolver."""
        return 0.0 if problem.regime == "pipelined" else WEIGHTS[cls.role]

    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Return the best mapping met. Stops early where the bound is reached, or at the deadline between rounds."""
        from solvers.mapping import _annealing
        from solvers.mapping._kernels import arrays

        started, seed = request.started, request.seed
        compiled = arrays(problem)
        weight = np.array([problem.latency_weight, problem.energy_weight])
        bound, met = bound_and_start(problem)
        candidates = as_batch(problem, request.warm_start, met, *simple_starts(problem, compiled, request))
        chosen, value = _annealing.best_start(compiled, weight, candidates)
        if chosen < 0:
            return finish(problem, None, lower_bound=bound, solver=self.name, started=started)
        x, order = candidates[chosen].copy(), np.arange(problem.segments)
        history = [Incumbent(wall_s=perf_counter() - started, objective=value, lower_bound=bound)]
        moves = max(LEAST_MOVES, self.moves_per_segment * problem.segments)
        hot = start_temperature(problem, moves)
        for turn in range(self.rounds):
            if bound >= value * PROVEN or request.left_s <= 0:
                break
            after = _annealing.anneal(
                compiled,
                _annealing.WEIGHTED,
                weight,
                moves,
                hot / (1 + 2 * (turn % 2)),
                seed * self.rounds + turn,
                x,
                order,
            )
            request.spend(moves * problem.segments * MOVE_S)
            if after < value:
                value = after
                history.append(Incumbent(wall_s=perf_counter() - started, objective=value, lower_bound=bound))
        return finish(
            problem,
            x,
            order=order if problem.free_order else None,
            lower_bound=bound,
            solver=self.name,
            started=started,
            history=history,
            objective=value,
        )


def simple_starts(problem: MappingProblem, compiled: Arrays, request: Request) -> list[NDArray[np.int64]]:
    """Return the greedy mapping, if it finds one in time, and all segments on each slot that can hold them."""
    single = np.flatnonzero(compiled.ok.all(axis=0))
    starts = [np.full(problem.segments, s, dtype=np.int64) for s in single.tolist()]
    greedy = greedy_assignment(problem, compiled, request)
    return starts if greedy is None else [greedy, *starts]
