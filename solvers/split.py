"""Fine-grained splitting of single segments over several slots, by the acceptance rule of version_c.md 9.3."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solvers.errors import SolverError
from solvers.mapping.evaluate import as_batch, evaluate
from solvers.mapping.problem import MappingProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class FineSplit:
    """What splitting one segment of a mapping is worth."""

    segment: int
    use_fine: bool  # cost_fine + margin < cost_coarse
    mode: int  # the best team of the size asked for; -1 where the segment may run on none
    cost_coarse: float  # objective of the mapping as it is
    cost_fine: float  # with the segment on that team; inf where no such mapping is legal


def try_fine_split_segment(
    problem: MappingProblem,
    assignment: NDArray[np.int64],
    segment: int,
    *,
    groups: int,
    margin: float = 0.0,
    order: NDArray[np.int64] | None = None,
) -> FineSplit:
    """Try one segment of a mapping on every team of `groups` slots, all else as it is.

    Its sub-segments and their collectives are what the problem's teams cost. `margin` is in units of the objective;
    the split is used where it gains more than that.

    Raises SolverError for a segment that does not exist, fewer than two groups, or a negative margin.
    """
    if not 0 <= segment < problem.segments:
        raise SolverError(f"there is no segment {segment}", f"0 to {problem.segments - 1}")
    if groups < 2 or not margin >= 0:
        raise SolverError(f"groups {groups} and margin {margin}", "at least 2, and zero or more")
    coarse = as_batch(problem, assignment)
    size = problem.members.sum(axis=1)
    modes = np.flatnonzero((size == groups) & problem.allowed[segment] & (np.arange(problem.modes) >= problem.slots))
    rows = np.repeat(coarse, 1 + len(modes), axis=0)
    rows[1:, problem.unit == problem.unit[segment]] = modes[:, None]
    orders = None if order is None or not len(order) else np.repeat(order[None], len(rows), axis=0)
    cost = evaluate(problem, rows, orders).objective
    best = int(np.argmin(cost[1:])) if len(modes) else -1
    fine = float(cost[1 + best]) if len(modes) else np.inf
    return FineSplit(
        segment=segment,
        use_fine=bool(fine + margin < cost[0]),
        mode=int(modes[best]) if len(modes) else -1,
        cost_coarse=float(cost[0]),
        cost_fine=fine,
    )


def split_marked(
    problem: MappingProblem,
    assignment: NDArray[np.int64],
    marked: Iterable[tuple[int, int]],
    *,
    margin: float = 0.0,
    order: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], list[FineSplit]]:
    """Try each marked segment (and its number of groups) in turn; return the mapping [K] with what was accepted.

    `marked` are pairs such as (segment.id, segment.fine_groups) of the segments with can_split_fine.
    """
    current = np.array(assignment, dtype=np.int64)
    tried = []
    for segment, groups in marked:
        split = try_fine_split_segment(problem, current, segment, groups=groups, margin=margin, order=order)
        tried.append(split)
        if split.use_fine:
            current[problem.unit == problem.unit[segment]] = split.mode
    return current, tried
