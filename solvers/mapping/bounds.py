"""Lower bounds that hold for every mapping of a problem, none solved."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.problem import MappingProblem

SAFETY = 1 - 1e-9  # a bound is multiplied by it: two orders of summation in float64 differ by less
_WORK = 400_000  # route costs looked at in one dual; keeps K = 60, S = 16 under a millisecond


def lower_bound(problem: MappingProblem) -> float:
    """Return a lower bound on the objective of every legal mapping; inf where some segment can run nowhere.

    Takes the best of a Lagrangian dual of the whole objective (memory priced) and of a bound on T plus one on the
    energy. The dual is exact for chains in the serial regime while memory has room. `_relaxation` gives the formulas.
    """
    return float(lower_bounds(problem, np.array([[problem.latency_weight, problem.energy_weight]]))[0])


def lower_bounds(problem: MappingProblem, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [W]: for each row (a, b) of weights [W, 2] a lower bound on a * T + b * E of every legal mapping.

    The problem's own weights play no part. E is the whole energy, static part included. Raises nothing: a row of
    zeros is bounded by 0.
    """
    return _bounds_and_starts(problem, weights)[0]


def relaxed_mappings(problem: MappingProblem, weights: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Return the legal mappings [K] that the duals of `lower_bounds` met, one a row of weights at most."""
    return _bounds_and_starts(problem, weights)[1]


def bound_and_start(problem: MappingProblem) -> tuple[float, NDArray[np.int64] | None]:
    """Return `lower_bound` and a legal mapping [K] that its dual met, if it met one."""
    bounds, starts = _bounds_and_starts(problem, np.array([[problem.latency_weight, problem.energy_weight]]))
    return float(bounds[0]), starts[0] if starts else None


def time_bound(problem: MappingProblem) -> float:
    """Return a lower bound on T in ms, of the problem's regime."""
    return float(lower_bounds(problem, np.array([[1.0, 0.0]]))[0])


def _bounds_and_starts(
    problem: MappingProblem, weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], list[NDArray[np.int64]]]:
    from solvers.mapping._kernels import arrays
    from solvers.mapping._relaxation import dual_bound, pipelined_time_bound, serial_time_bound

    compiled = arrays(problem)
    iterations = int(np.clip(_WORK / max(1, problem.segments * problem.slots**2), 8, 40))
    time_ms = serial_time_bound(compiled) if compiled.serial else pipelined_time_bound(compiled, 30)
    start = np.zeros(problem.segments, dtype=np.int64)
    bounds = np.zeros(len(weights))
    starts: list[NDArray[np.int64]] = []
    energy_mj = None
    for w, (latency_weight, energy_weight) in enumerate(np.asarray(weights, dtype=np.float64).tolist()):
        time_weight = latency_weight + energy_weight * problem.static_w
        bound, value = dual_bound(compiled, time_weight, energy_weight, iterations, start)
        if np.isfinite(value):
            starts.append(start.copy())
        if time_weight and energy_weight and energy_mj is None:
            energy_mj = dual_bound(compiled, 0.0, 1.0, iterations, start)[0]
        apart = time_weight * time_ms + (energy_weight * energy_mj if energy_weight and energy_mj is not None else 0.0)
        bounds[w] = max(bound, apart if time_weight else 0.0) * SAFETY
    return bounds, starts
