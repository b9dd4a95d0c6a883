"""List scheduling by rank, with insertion: HEFT and PEFT, for latency."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.bounds import lower_bound
from solvers.mapping.evaluate import as_batch, evaluate, finish
from solvers.mapping.greedy import greedy_assignment
from solvers.mapping.problem import Mapping, MappingProblem, Regime
from solvers.mapping.solver import MappingSolver, Request

if TYPE_CHECKING:
    from solvers.mapping._kernels import Arrays


class Heft(MappingSolver):
    """Heterogeneous Earliest Finish Time (Topcuoglu, Hariri, Wu, IEEE TPDS 13(3), 2002).

    Segments are taken by upward rank (the mean length of the longest path from them to the end), and each goes into the
    first idle time of the slot where it ends first, energy weighed in. The schedule keeps its own order where the
    problem leaves that free. Where segments run in number order, they are taken by number, and there is no idle time to
    go into: what is left of HEFT then is the earliest finish. Where memory runs out on the way, the mapping is repaired
    as that of `greedy` is.
    """

    name = "heft"
    role = "construct"
    regimes: ClassVar[tuple[Regime, ...]] = ("serial",)
    required_modules = ("numba",)

    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Return the mapping by earliest finish, or the warm start where that is better."""
        from solvers.mapping._kernels import arrays

        compiled = arrays(problem)
        number_order = np.arange(problem.segments)
        candidates: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        if (scheduled := self.schedule(problem, compiled)) is not None:
            candidates.append(scheduled)
        else:
            repaired = greedy_assignment(problem, compiled, request)
            orders = (number_order, self.sequence(compiled)) if problem.free_order else (number_order,)
            candidates += [(repaired, order) for order in orders if repaired is not None]
        candidates += [(row, number_order) for row in as_batch(problem, request.warm_start)]
        best, chosen = np.inf, None
        for x, order in candidates:
            value = float(evaluate(problem, x, order if problem.free_order else None).objective[0])
            if value < best:
                best, chosen = value, (x, order)
        return finish(
            problem,
            chosen[0] if chosen else None,
            order=chosen[1] if chosen and problem.free_order else None,
            lower_bound=lower_bound(problem),
            solver=self.name,
            started=request.started,
        )

    def schedule(self, problem: MappingProblem, compiled: Arrays) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Return the mapping [K] and the order [K] of its starts, or None where some segment fits nowhere any more."""
        from solvers.mapping._heft_kernel import insertion_schedule

        k = problem.segments
        sequence = self.sequence(compiled) if problem.free_order else np.arange(k)
        x, start, end = np.zeros(k, dtype=np.int64), np.zeros(k), np.zeros(k)
        ahead = self.ahead(compiled)
        if not insertion_schedule(compiled, sequence, ahead, problem.time_weight, problem.energy_weight, x, start, end):
            return None
        place = np.argsort(sequence)
        return x, np.lexsort((place, end, start))  # a topological order: an input starts no later, nor ends later

    def sequence(self, compiled: Arrays) -> NDArray[np.int64]:
        """Return the segments [K] as they are taken, inputs first."""
        from solvers.mapping._heft_kernel import upward_ranks

        rank = np.zeros(compiled.compute.shape[0])
        upward_ranks(compiled, rank)
        return np.argsort(-rank, kind="stable")

    def ahead(self, compiled: Arrays) -> NDArray[np.float64]:
        """Return what a finish in each mode is looked upon as costing more, in ms [K, M]."""
        return np.zeros(compiled.compute.shape)


class Peft(Heft):
    """Predict Earliest Finish Time (Arabnejad and Barbosa, IEEE TPDS 25(3), 2014): HEFT that looks to the end.

    A finish in a mode counts with the least time from there to the end, were every slot free (the optimistic cost
    table); the mean of that over the modes is a segment's rank.
    """

    name = "peft"
    role = "construct"

    def sequence(self, compiled: Arrays) -> NDArray[np.int64]:
        """Return the segments [K] by rank, each as soon as its inputs are taken."""
        rank = self.ahead(compiled).mean(axis=1)
        waiting = np.diff(compiled.first)
        ready = [(-rank[k], k) for k in np.flatnonzero(waiting == 0).tolist()]
        heapify(ready)
        taken = []
        while ready:
            k = heappop(ready)[1]
            taken.append(k)
            for e in compiled.out_edge[compiled.out_first[k] : compiled.out_first[k + 1]].tolist():
                j = int(compiled.target[e])
                waiting[j] -= 1
                if not waiting[j]:
                    heappush(ready, (-rank[j], j))
        return np.array(taken, dtype=np.int64)

    def ahead(self, compiled: Arrays) -> NDArray[np.float64]:
        """Return the optimistic cost table in ms [K, M]."""
        from solvers.mapping._heft_kernel import optimistic_costs

        table = np.zeros(compiled.compute.shape)
        optimistic_costs(compiled, table)
        return table
