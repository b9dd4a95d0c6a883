"""Why no mapping can satisfy a problem's constraints, as data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.check import segment_name
from solvers.mapping.problem import Infeasibility, MappingProblem


def runnable(problem: MappingProblem) -> NDArray[np.bool_]:
    """Return [K, S]: whether segment k is allowed on slot s and fits there alone."""
    need = problem.resident_bytes + problem.workspace_bytes
    return problem.allowed & (need[:, None] <= problem.capacity_bytes)


def room_bytes(problem: MappingProblem, runs: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return [S]: an upper bound on the resident bytes of slot s, its least workspace taken off; 0 where unusable.

    `runs` [K, S] is what `runnable` returns.
    """
    least_workspace = np.where(runs, problem.workspace_bytes[:, None], np.inf).min(axis=0, initial=np.inf)
    return np.where(runs.any(axis=0), problem.capacity_bytes - least_workspace, 0.0)


def explain_infeasible(problem: MappingProblem) -> tuple[Infeasibility, ...]:
    """Return the constraints that no mapping can meet, with what would meet them; empty where none is proven so.

    Proofs, in this order, each only where the ones before find nothing: a segment allowed nowhere; a segment that is
    larger than every slot where it is allowed; segments that can run only on some slots and whose resident bytes exceed
    what those hold together, even if segments could be cut (Hall's condition, tested for all slots and for the unions
    of one or two segments' slots).
    """
    allowed = problem.allowed.any(axis=1)
    if not allowed.all():
        return tuple(
            Infeasibility(
                constraint="deployability",
                subject=segment_name(problem, k),
                demand=1,
                bound=0,
                unit="slots that can run it",
                levers=("add a chip that can run it", "relax the rule or precision that forbids it"),
            )
            for k in np.flatnonzero(~allowed).tolist()
        )
    need = problem.resident_bytes + problem.workspace_bytes
    runs = runnable(problem)
    if not runs.any(axis=1).all():
        return tuple(_too_large(problem, k, float(need[k])) for k in np.flatnonzero(~runs.any(axis=1)).tolist())
    if shortage := _shortage(problem, runs):
        return (shortage,)
    return ()


def _too_large(problem: MappingProblem, k: int, need: float) -> Infeasibility:
    largest = float(problem.capacity_bytes[problem.allowed[k]].max())
    return Infeasibility(
        constraint="memory",
        subject=f"{segment_name(problem, k)} on the largest slot where it may run",
        demand=need,
        bound=largest,
        unit="bytes",
        levers=(
            f"a chip with at least {need:,.0f} bytes",
            "smaller segments",
            f"a precision or batch that needs {largest / need:.1%} of the bytes" if need else "fewer bytes",
        ),
    )


def _shortage(problem: MappingProblem, runs: NDArray[np.bool_]) -> Infeasibility | None:
    """Return the set of slots that is shortest of memory for what can run nowhere else, or None."""
    room = room_bytes(problem, runs)
    resident = problem.resident_bytes
    # Segments with the same slots are one node; a set of such classes needs all that its slots offer together.
    patterns, group = np.unique(runs, axis=0, return_inverse=True)
    demand = np.bincount(group.ravel(), weights=resident, minlength=len(patterns))
    worst: tuple[float, NDArray[np.bool_], float, float] | None = None
    for slots in _unions(patterns):
        inside = ~(patterns & ~slots).any(axis=1)  # classes that can run on these slots only
        wanted, offered = float(demand[inside].sum()), float(room[slots].sum())
        excess = wanted - offered
        if excess > 1e-9 * max(offered, 1.0) and (worst is None or excess > worst[0]):
            worst = (excess, slots, wanted, offered)
    if worst is None:
        return None
    excess, slots, wanted, offered = worst
    where = "all slots" if slots.all() else f"slots {', '.join(map(str, np.flatnonzero(slots).tolist()))}"
    what = "all segments" if slots.all() else "the segments that can run nowhere else"
    return Infeasibility(
        constraint="memory",
        subject=f"{what} on {where} together",
        demand=wanted,
        bound=offered,
        unit="bytes",
        levers=(
            f"{excess:,.0f} bytes more on {where}",
            f"a precision or batch that needs {offered / wanted:.1%} of the bytes",
        ),
    )


def _unions(patterns: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Return unions of slot patterns to test (Hall's condition): each alone, each pair, and all."""
    some = patterns[:64]
    pairs = (some[:, None] | some[None]).reshape(-1, patterns.shape[1])
    return list(np.unique(np.concatenate([patterns, pairs, patterns.any(axis=0, keepdims=True)]), axis=0))
