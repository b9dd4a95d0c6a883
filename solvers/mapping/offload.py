"""Search and bound for offloads: every accelerator runs its segments as one call, a host runs the rest."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from solvers.errors import SolverError
from solvers.mapping.bounds import SAFETY, bounds_and_starts
from solvers.mapping.evaluate import PROVEN, as_batch, finish
from solvers.mapping.local_search import simple_starts
from solvers.mapping.problem import Incumbent, Mapping, MappingProblem, Regime
from solvers.mapping.solver import MappingSolver, Request

if TYPE_CHECKING:
    from solvers.mapping._kernels import Arrays

ROUND_WORK = 60_000_000  # moves x segments of one round: a second or two
LEAST_MOVES = 2_000
MOVE_S = 1e-7  # of a move and segment, on a common core
HEATS = (0.03, 0.01, 0.1, 0.003)  # temperature at the start of a round, in units of its start's value
PATHS = 120  # whose bounds are tried


class OffloadSearch(MappingSolver):
    """Moves segments and stretches of the graph between calls and the host; annealed, memory hard.

    A stretch is all that lies on a way between two segments, so that moves seldom let a path leave a call and come
    back. It starts from the best of the warm start, the simple mappings, and those that the bounds met. The bound is
    the better of `lower_bound` and of `path_time_bound`. Its effort is a count of moves, so that the same seed gives
    the same answer; the deadline is a guard only.
    """

    name = "offload_search"
    regimes: ClassVar[tuple[Regime, ...]] = ("offload",)
    required_modules = ("numba",)

    def __init__(self, *, rounds: int = 36) -> None:
        """Anneal `rounds` times, each from the best so far or from the best start."""
        if rounds < 0:
            raise SolverError(f"rounds is {rounds}", "zero or more")
        self.rounds = rounds

    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Return the best mapping met. Stops early where the bound is reached, or at the deadline between rounds."""
        from solvers.mapping._annealing import best_start
        from solvers.mapping._kernels import arrays
        from solvers.mapping._offload_kernel import anneal_calls

        started = request.started
        compiled = arrays(problem)
        weight = np.array([problem.latency_weight, problem.energy_weight])
        bounds, starts = bounds_and_starts(problem, np.stack([weight, [0.0, 1.0]]), compiled)
        time_ms, cut = path_time_bound(problem, compiled)
        apart = sum(float(w * least) for w, least in zip(weight, (time_ms, bounds[1]), strict=True) if w)
        bound = max(float(bounds[0]), apart)
        simple = simple_starts(problem, compiled, request)
        candidates = as_batch(problem, request.warm_start, *starts, *cut, *simple)
        chosen, value = best_start(compiled, weight, candidates)
        if chosen < 0:
            return finish(problem, None, lower_bound=bound, solver=self.name, started=started)
        first = candidates[chosen]
        best = first.copy()
        history = [Incumbent(wall_s=perf_counter() - started, objective=value, lower_bound=bound)]
        moves = max(LEAST_MOVES, min(ROUND_WORK // problem.segments, 3_000 * problem.segments))
        for turn in range(self.rounds):
            if bound >= value * PROVEN or request.left_s <= 0:
                break
            x = (first if turn % 3 == 2 else best).copy()
            hot = HEATS[turn % len(HEATS)]
            after = anneal_calls(compiled, weight, moves, hot, request.seed * self.rounds + turn, x)
            request.spend(moves * problem.segments * MOVE_S)
            if after < value:
                best, value = x, after
                history.append(Incumbent(wall_s=perf_counter() - started, objective=value, lower_bound=bound))
        return finish(
            problem,
            best,
            lower_bound=bound,
            solver=self.name,
            started=started,
            history=history,
            objective=value,
        )


def path_time_bound(problem: MappingProblem, compiled: Arrays) -> tuple[float, list[NDArray[np.int64]]]:
    """Return a lower bound on T in ms of every legal offload, and mappings [K], legal or not, that come near it.

    The best that `_offload_bound` has for some paths of the graph, those that weigh much in time first. It takes
    milliseconds a path, and knows memory, ports and that a call ends as one: see there.
    """
    from solvers.mapping._offload_bound import heaviest_path, path_bound

    rng = np.random.default_rng(0)
    slowest = np.where(problem.allowed, problem.compute_ms, 0.0).max(axis=1)
    seen: set[bytes] = set()
    bound = 0.0
    cut: list[NDArray[np.int64]] = []
    for turn in range(PATHS):
        weight = slowest * (rng.uniform(0.0, 1.0, problem.segments) if turn else 1.0)
        if turn % 2:
            ports_ms = problem.output_bytes * problem.ports.sum(axis=0).max()
            weight = (weight + rng.random() * ports_ms) * rng.uniform(0.0, 1.0, problem.segments)
        path = heaviest_path(compiled, weight)
        if path.tobytes() in seen:
            continue
        seen.add(path.tobytes())
        time_ms, call = path_bound(compiled, path)
        if time_ms == np.inf:
            return np.inf, []
        if time_ms > bound or not cut:
            cut.append(_along(problem, compiled, path, call))
            bound = max(bound, float(time_ms))
    return bound * SAFETY, cut


def _along(
    problem: MappingProblem, compiled: Arrays, path: NDArray[np.int64], call: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the mapping [K] with the calls of the path's places, and all else on the host that is fastest there."""
    from solvers.mapping._offload_kernel import stretch

    hosts, slots = np.flatnonzero(problem.never_busy), np.flatnonzero(~problem.never_busy)
    x = np.zeros(problem.segments, dtype=np.int64)
    if len(hosts):
        x = hosts[np.where(compiled.ok[:, hosts], compiled.compute[:, hosts], np.inf).argmin(axis=1)]
    inside = np.zeros(problem.segments, dtype=np.bool_)
    for c in np.unique(call[call >= 0]).tolist():
        on = path[call == c]
        stretch(compiled, int(on[0]), int(on[-1]), inside, x, int(slots[c]))
    return x
