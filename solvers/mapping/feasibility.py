"""Why no mapping can satisfy a problem's constraints, as data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.check import TOLERANCE, segment_name
from solvers.mapping.problem import Infeasibility, MappingProblem


def runnable(problem: MappingProblem) -> NDArray[np.bool_]:
    """Return [K, M]: whether segment k is allowed in mode m and fits there alone, in flight for one input."""
    return problem.allowed & (_alone(problem) <= mode_capacity(problem))


def mode_capacity(problem: MappingProblem) -> NDArray[np.float64]:
    """Return [M]: the bytes of the smallest slot of each mode."""
    smallest: NDArray[np.float64] = np.where(problem.members, problem.capacity_bytes, np.inf).min(axis=1)
    return smallest


def _alone(problem: MappingProblem) -> NDArray[np.float64]:
    """Return [K, M]: the bytes that a segment needs on each slot of a mode."""
    return problem.held_bytes + (problem.stash + problem.workspace_bytes)[:, None]


def room_bytes(problem: MappingProblem, runs: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return [S]: an upper bound on the resident bytes of slot s, its least workspace taken off; 0 where unusable.

    `runs` [K, M] is what `runnable` returns.
    """
    by_mode = np.where(runs, problem.workspace_bytes[:, None], np.inf).min(axis=0, initial=np.inf)  # [M]
    least_workspace = np.where(problem.members, by_mode[:, None], np.inf).min(axis=0)
    return np.where(
        np.isfinite(least_workspace), problem.capacity_bytes - np.nan_to_num(least_workspace, posinf=0.0), 0.0
    )


def explain_infeasible(problem: MappingProblem) -> tuple[Infeasibility, ...]:
    """Return the constraints that no mapping can meet, with what would meet them; empty where none is proven so.

    Proofs, in this order, each only where the ones before find nothing: a segment, or a group, allowed nowhere; one
    that is larger than every slot where it is allowed; segments that can run only on some slots and whose bytes exceed
    what those hold together, even if segments could be cut (Hall's condition, tested for all slots and for the unions
    of one or two segments' slots); a limit on time or energy below what every mapping takes.
    """
    units = _Units.of(problem)
    nowhere = np.flatnonzero(~units.allowed.any(axis=1))
    if len(nowhere):
        return tuple(_undeployable(problem, units, u) for u in nowhere.tolist())
    runs = units.allowed & (units.need <= mode_capacity(problem))
    homeless = np.flatnonzero(~runs.any(axis=1))
    if len(homeless):
        return tuple(_too_large(problem, units, u) for u in homeless.tolist())
    if shortage := _shortage(problem, units, runs):
        return (shortage,)
    return _beyond_limits(problem)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Units:
    """Groups as one: each array has a row a group."""

    first: NDArray[np.int64]  # [U] segment
    size: NDArray[np.int64]  # [U] segments
    allowed: NDArray[np.bool_]  # [U, M]
    held: NDArray[np.float64]  # [U, M] bytes on each slot of the mode, of one input in flight
    need: NDArray[np.float64]  # [U, M] with the largest workspace
    workspace: NDArray[np.float64]  # [U] the least workspace of its segments

    @classmethod
    def of(cls, problem: MappingProblem) -> _Units:
        _, first, size = np.unique(problem.unit, return_index=True, return_counts=True)
        shape = (len(first), problem.modes)
        allowed, held = np.ones(shape, dtype=np.bool_), np.zeros(shape)
        largest, least = np.zeros(len(first)), np.full(len(first), np.inf)
        np.logical_and.at(allowed, problem.unit, problem.allowed)
        np.add.at(held, problem.unit, problem.held_bytes + problem.stash[:, None])
        np.maximum.at(largest, problem.unit, problem.workspace_bytes)
        np.minimum.at(least, problem.unit, problem.workspace_bytes)
        need = held + largest[:, None]
        return cls(first=first, size=size, allowed=allowed, held=held, need=need, workspace=least)

    def name(self, problem: MappingProblem, unit: int) -> str:
        name = segment_name(problem, int(self.first[unit]))
        return name if self.size[unit] == 1 else f"the group of {name} ({self.size[unit]} segments)"


def _undeployable(problem: MappingProblem, units: _Units, unit: int) -> Infeasibility:
    levers = ("add a chip that can run it", "relax the rule or precision that forbids it")
    return Infeasibility(
        constraint="deployability",
        subject=units.name(problem, unit),
        demand=1,
        bound=0,
        unit="slots that can run it",
        levers=levers if units.size[unit] == 1 else (*levers, "break up the group"),
    )


def _too_large(problem: MappingProblem, units: _Units, unit: int) -> Infeasibility:
    can = units.allowed[unit]
    missing = np.where(can, units.need[unit] - mode_capacity(problem), np.inf)
    mode = int(missing.argmin())
    need, largest = float(units.need[unit, mode]), float(mode_capacity(problem)[mode])
    return Infeasibility(
        constraint="memory",
        subject=f"{units.name(problem, unit)} on the largest slot where it may run",
        demand=need,
        bound=largest,
        unit="bytes",
        levers=(
            f"a chip with at least {need:,.0f} bytes",
            "smaller segments" if units.size[unit] == 1 else "smaller groups",
            f"a precision or batch that needs {largest / need:.1%} of the bytes" if need else "fewer bytes",
        ),
    )


def _shortage(problem: MappingProblem, units: _Units, runs: NDArray[np.bool_]) -> Infeasibility | None:
    """Return the set of slots that is shortest of memory for what can run nowhere else, or None."""
    by_mode = np.where(runs, units.workspace[:, None], np.inf).min(axis=0, initial=np.inf)
    least_workspace = np.where(problem.members, by_mode[:, None], np.inf).min(axis=0)
    usable = np.isfinite(least_workspace)
    room = np.where(usable, problem.capacity_bytes - np.where(usable, least_workspace, 0.0), 0.0)
    everywhere = units.held * problem.members.sum(axis=1)  # [U, M] bytes over all slots of the mode
    resident = np.where(runs, everywhere, np.inf).min(axis=1)
    slots_of = runs @ problem.members  # [U, S]
    # Units with the same slots are one node; a set of such classes needs all that its slots offer together.
    patterns, group = np.unique(slots_of, axis=0, return_inverse=True)
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


def _beyond_limits(problem: MappingProblem) -> tuple[Infeasibility, ...]:
    """Return the limits that are below a bound of every mapping."""
    from solvers.mapping.bounds import lower_bounds

    found = []
    limits = (("latency", problem.max_latency_ms, "ms"), ("energy", problem.max_energy_mj, "mJ"))
    for (name, limit, unit), weights in zip(limits, np.eye(2), strict=True):
        if not np.isfinite(limit):
            continue
        least = float(lower_bounds(problem, weights[None])[0])
        if least > limit * (1 + TOLERANCE):
            found.append(
                Infeasibility(
                    constraint=f"{name} limit",
                    subject="every mapping",
                    demand=least,
                    bound=limit,
                    unit=unit,
                    levers=(f"a limit of at least {least:,.6g} {unit}", "faster or more frugal chips"),
                )
            )
    return tuple(found)


def _unions(patterns: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Return unions of slot patterns to test (Hall's condition): each alone, each pair, and all."""
    some = patterns[:64]
    pairs = (some[:, None] | some[None]).reshape(-1, patterns.shape[1])
    return list(np.unique(np.concatenate([patterns, pairs, patterns.any(axis=0, keepdims=True)]), axis=0))
