"""solve_mapping: a problem and the name of a solver in, the best mapping and its bound out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.problem import Mapping, MappingProblem
from solvers.mapping.solver import mapping_solver


def solve_mapping(
    problem: MappingProblem,
    solver: str = "cp_sat",
    *,
    deadline_s: float = 10.0,
    seed: int = 0,
    warm_start: NDArray[np.int64] | None = None,
    deterministic: bool = False,
) -> Mapping:
    """Return the best mapping that the named solver finds until the deadline, with a lower bound on the objective.

    `warm_start` [K] is a mapping to start from; the answer is never worse than it where it is legal. `deterministic`
    counts the deadline in seconds of work by counts that no clock enters: the answer is then the same on every machine,
    however long it takes.

    Raises SolverError for a solver that does not exist or lacks a module, and for what MappingSolver.solve refuses.
    """
    return mapping_solver(solver).solve(
        problem, deadline_s=deadline_s, seed=seed, warm_start=warm_start, deterministic=deterministic
    )
