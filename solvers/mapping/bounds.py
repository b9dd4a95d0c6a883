"""Lower bounds that hold for every mapping of a problem, none solved."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.problem import MappingProblem

if TYPE_CHECKING:
    from solvers.mapping._kernels import Arrays

SAFETY = 1 - 1e-9  # a bound is multiplied by it: two orders of summation in float64 differ by less
_KNOWN: WeakKeyDictionary[MappingProblem, tuple[float, NDArray[np.int64] | None]] = WeakKeyDictionary()
_CONTRACTION_TURNS = 30
_WORK = 400_000  # route costs looked at in one dual; keeps K = 60, S = 16 under a millisecond


def lower_bound(problem: MappingProblem) -> float:
    """Return a lower bound on the objective of every legal mapping; inf where some segment can run nowhere.

    Takes the best of a Lagrangian dual of the whole objective (memory priced) and of a bound on T plus one on the
    energy. The dual is exact for chains in the serial regime while memory has room. `_relaxation` gives the formulas.
    """
    return bound_and_start(problem)[0]


def lower_bounds(problem: MappingProblem, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [W]: for each row (a, b) of weights [W, 2] a lower bound on a * T + b * E of every legal mapping.

    The problem's own weights play no part. T is in ms, of the problem's regime; E is the whole energy in mJ, static
    part included. Weights are zero or more; a row of zeros is bounded by 0.
    """
    return bounds_and_starts(problem, weights)[0]


def bound_and_start(problem: MappingProblem) -> tuple[float, NDArray[np.int64] | None]:
    """Return `lower_bound`, and a legal mapping [K] that its dual met, or None; worked out once for each problem."""
    if problem not in _KNOWN:
        bounds, starts = bounds_and_starts(problem, np.array([[problem.latency_weight, problem.energy_weight]]))
        _KNOWN[problem] = float(bounds[0]), starts[0] if starts else None
    return _KNOWN[problem]


def bounds_and_starts(
    problem: MappingProblem, weights: NDArray[np.float64], compiled: Arrays | None = None
) -> tuple[NDArray[np.float64], list[NDArray[np.int64]]]:
    """Return `lower_bounds`, and the legal mappings [K] that their duals met, at most one a row: good starts."""
    from solvers.mapping._kernels import arrays
    from solvers.mapping._relaxation import dual_bound, pipelined_time_bound, serial_time_bound

    a = compiled or arrays(problem)
    iterations = int(np.clip(_WORK / max(1, problem.segments * problem.modes**2), 8, 40))
    paths = problem.regime != "pipelined"
    time_ms = serial_time_bound(a) if paths else pipelined_time_bound(a, _CONTRACTION_TURNS)
    x = np.zeros(problem.segments, dtype=np.int64)
    bounds = np.zeros(len(weights))
    starts: list[NDArray[np.int64]] = []
    energy_mj = 0.0  # dynamic; asked for once, and only where a row weighs both
    rows = [(a_ + b * problem.static_w, b) for a_, b in np.asarray(weights, dtype=np.float64).tolist()]
    if any(time_weight and energy_weight for time_weight, energy_weight in rows):
        energy_mj, _ = dual_bound(a, 0.0, 1.0, iterations, x)
    for w, (time_weight, energy_weight) in enumerate(rows):
        bound, value = dual_bound(a, time_weight, energy_weight, iterations, x)
        if np.isfinite(value):
            starts.append(x.copy())
        apart = time_weight * time_ms if time_weight else 0.0
        if time_weight and energy_weight:
            apart += energy_weight * energy_mj
        bounds[w] = max(bound, apart) * SAFETY
    return bounds, starts
