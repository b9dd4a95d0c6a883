"""Greedy list scheduling: each segment, in order, where it costs least at that moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.bounds import lower_bound
from solvers.mapping.evaluate import best_of, finish
from solvers.mapping.problem import Mapping, MappingProblem
from solvers.mapping.solver import MappingSolver, Request

if TYPE_CHECKING:
    from solvers.mapping._kernels import Arrays

REPAIRS = 4  # attempts to pack the memory, where list scheduling runs out of it
MOVE_S = 2e-8  # a move that is evaluated in full, a segment, about
REPAIR_WORK = 20_000_000  # moves x segments of one attempt at most: a fraction of a second


class Greedy(MappingSolver):
    """Each segment goes where it ends first (serial) or to the slot least loaded (pipelined), energy weighed in.

    That is how heavy segments find the free slots. Where it runs out of memory, a legal mapping is sought by packing
    the largest segments first and annealing away what does not fit. Deterministic for a seed.
    """

    name = "greedy"
    role = "construct"
    required_modules = ("numba",)

    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Return the greedy mapping, or the warm start where that is better."""
        from solvers.mapping._kernels import arrays

        greedy = greedy_assignment(problem, arrays(problem), request)
        found = best_of(problem, [greedy, request.warm_start])
        return finish(problem, found, lower_bound=lower_bound(problem), solver=self.name, started=request.started)


def greedy_assignment(problem: MappingProblem, compiled: Arrays, request: Request) -> NDArray[np.int64] | None:
    """Return a legal mapping [K] by list scheduling, or by repair where that runs out of memory, or None.

    No attempt to repair starts after the deadline.
    """
    from solvers.mapping import _annealing

    x = np.zeros(problem.segments, dtype=np.int64)
    if _annealing.list_schedule(compiled, problem.time_weight, problem.energy_weight, x):
        return x
    if not compiled.ok.any(axis=1).all():
        return None
    moves = max(1000, min(200 * problem.segments, REPAIR_WORK // problem.segments))
    for turn in range(REPAIRS):
        if request.left_s < 0:
            return None
        if problem.contiguous:  # whole runs: all on the largest slot
            x[:] = int(np.argmax(problem.capacity_bytes))
        else:
            _annealing.largest_first(compiled, x)
        order = np.arange(problem.segments)
        excess = _annealing.anneal(
            compiled, _annealing.EXCESS, np.ones(2), moves, 1.0, request.seed * REPAIRS + turn, x, order
        )
        request.spend(moves * problem.segments * MOVE_S)
        if excess == 0:
            return x
    return None
