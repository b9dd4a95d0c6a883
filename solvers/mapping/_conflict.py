"""Of a problem that a search has proven infeasible: which constraints stand in the way, found by giving way on each."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite

import numpy as np

from solvers.mapping.problem import Infeasibility, Mapping, MappingProblem

TRY_S = 0.5  # of work, searching for a mapping without one of the constraints
HALVINGS = 8  # of the factor on memory
MOST_MEMORY = 64.0  # times what there is


def conflicts(problem: MappingProblem) -> tuple[Infeasibility, ...]:
    """Return each constraint without which a mapping was found, and what that mapping needs of it.

    Every lever is enough by itself, as a mapping shows; that less would not be is not proven.
    """
    found = [_time_limit(problem), _energy_limit(problem), _memory(problem), _contiguity(problem), _groups(problem)]
    return tuple(line for line in found if line is not None)


def _mapped(problem: MappingProblem, **changes: object) -> Mapping | None:
    """A mapping of the problem with those fields changed, or None where none is found."""
    from solvers.mapping.local_search import LocalSearch

    changed = replace(problem, **changes)  # type: ignore[arg-type]
    mapping = LocalSearch().solve(changed, deadline_s=TRY_S, deterministic=True)
    return mapping if len(mapping.assignment) else None


def _time_limit(problem: MappingProblem) -> Infeasibility | None:
    if not isfinite(problem.max_latency_ms):
        return None
    mapping = _mapped(problem, max_latency_ms=np.inf, latency_weight=1.0, energy_weight=0.0)
    return None if mapping is None else _limit("latency", mapping.latency_ms, problem.max_latency_ms, "ms")


def _energy_limit(problem: MappingProblem) -> Infeasibility | None:
    if not isfinite(problem.max_energy_mj):
        return None
    mapping = _mapped(problem, max_energy_mj=np.inf, latency_weight=0.0, energy_weight=1.0)
    return None if mapping is None else _limit("energy", mapping.energy_mj, problem.max_energy_mj, "mJ")


def _limit(name: str, needs: float, limit: float, unit: str) -> Infeasibility:
    return Infeasibility(
        constraint=f"{name} limit",
        subject="the best mapping found without it",
        demand=needs,
        bound=limit,
        unit=unit,
        levers=(f"a limit of {needs:,.6g} {unit}",),
    )


def _memory(problem: MappingProblem) -> Infeasibility | None:
    """The least factor on all capacities, to a few percent, with which a mapping is found."""

    def fits(factor: float) -> bool:
        return _mapped(problem, capacity_bytes=problem.capacity_bytes * factor) is not None

    finite = np.isfinite(problem.capacity_bytes)
    if not finite.any() or not fits(MOST_MEMORY):
        return None
    low, high = 0.0, float(np.log(MOST_MEMORY))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(float(np.exp(middle))) else (middle, high)
    has = float(problem.capacity_bytes[finite].sum())
    return Infeasibility(
        constraint="memory",
        subject="all slots, as whole segments fill them",
        demand=has * float(np.exp(high)),
        bound=has,
        unit="bytes",
        levers=(
            f"{100 * (np.exp(high) - 1):.3g} % more memory on every slot",
            "smaller segments",
            f"a precision or batch that needs {np.exp(-high):.1%} of the bytes",
        ),
    )


def _contiguity(problem: MappingProblem) -> Infeasibility | None:
    mapping = _mapped(problem, contiguous=False) if problem.contiguous else None
    if mapping is None:
        return None
    runs = 1 + int((np.diff(mapping.assignment) != 0).sum())
    return Infeasibility(
        constraint="contiguity",
        subject="a mapping found without it",
        demand=max(runs, 1 + len(np.unique(mapping.assignment))),
        bound=len(np.unique(mapping.assignment)),
        unit="runs of segments",
        levers=("slots that need not be stages of a pipeline",),
    )


def _groups(problem: MappingProblem) -> Infeasibility | None:
    if not len(problem.group):
        return None
    mapping = _mapped(problem, group=np.zeros(0, dtype=np.int64))
    if mapping is None:
        return None
    homes = np.unique(np.stack([problem.unit, mapping.assignment]), axis=1)
    apart = int((np.bincount(homes[0]) > 1).sum())
    return Infeasibility(
        constraint="colocation",
        subject="a mapping found without it",
        demand=max(apart, 1),
        bound=0,
        unit="groups apart",
        levers=("smaller groups",),
    )
