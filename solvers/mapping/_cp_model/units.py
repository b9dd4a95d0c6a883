"""What has to stay together made one: the decisions that are left, and what runs between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solvers.mapping._stage_items import stage_items
from solvers.mapping.feasibility import mode_capacity
from solvers.mapping.problem import MappingProblem


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """All edges from one unit to another."""

    source: int
    target: int
    edges: tuple[int, ...]
    size: float  # bytes summed
    ordering: bool  # whether the order of contiguous stages has to respect it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Output:
    """What a unit sends to the same set of other units: what ports charge once a mode that it enters."""

    source: int
    readers: tuple[int, ...]
    size: float  # bytes summed over the segments that send it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Units:
    """Segments that run in one mode in every legal mapping, as one; numbered by their first segments.

    Those are the groups, and in a contiguous problem groups whose ordering edges lead in a circle.
    """

    of: NDArray[np.int64]  # [K] unit of each segment
    runs: NDArray[np.bool_]  # [U, M] allowed there, and fits there alone
    compute_ms: NDArray[np.float64]  # [U, M] summed, 0 where it does not run; so are those below
    longest_ms: NDArray[np.float64]  # [U, M] of its largest segment
    energy_mj: NDArray[np.float64]  # [U, M]
    held: NDArray[np.float64]  # [U, M] bytes, stash not included
    stash: NDArray[np.float64]  # [U] bytes of one input
    workspace: NDArray[np.float64]  # [U] bytes, the largest
    pairs: tuple[Pair, ...]
    outputs: tuple[Output, ...]

    @property
    def count(self) -> int:
        """U."""
        return len(self.runs)

    @classmethod
    def from_problem(cls, problem: MappingProblem) -> Units:
        """Return the units of a problem."""
        of = stage_items(problem).item if problem.contiguous else problem.unit
        shape = (int(of.max()) + 1, problem.modes)
        runs, longest = np.ones(shape, dtype=np.bool_), np.zeros(shape)
        compute, energy, held = np.zeros((3, *shape))
        stash, workspace = np.zeros((2, shape[0]))
        np.logical_and.at(runs, of, problem.allowed)
        np.add.at(stash, of, problem.stash)
        np.add.at(held, of, problem.held_bytes)
        np.maximum.at(workspace, of, problem.workspace_bytes)
        runs &= held + (stash + workspace)[:, None] <= mode_capacity(problem) * (1 + 1e-12)
        here = runs[of]
        compute_ms = np.where(here, problem.compute_ms, 0.0)
        np.add.at(compute, of, compute_ms)
        np.maximum.at(longest, of, compute_ms)
        np.add.at(energy, of, np.where(here, problem.energy_mj, 0.0))
        return cls(
            of=of,
            runs=runs,
            compute_ms=compute,
            longest_ms=longest,
            energy_mj=energy,
            held=held,
            stash=stash,
            workspace=workspace,
            pairs=_pairs(problem, of),
            outputs=_outputs(problem, of),
        )


def _pairs(problem: MappingProblem, of: NDArray[np.int64]) -> tuple[Pair, ...]:
    edges: dict[tuple[int, int], list[int]] = {}
    for e, (i, j) in enumerate(of[problem.edges].tolist()):
        if i != j:
            edges.setdefault((i, j), []).append(e)
    return tuple(
        Pair(
            source=i,
            target=j,
            edges=tuple(members),
            size=float(problem.edge_bytes[members].sum()),
            ordering=bool(problem.ordering[members].any()),
        )
        for (i, j), members in edges.items()
    )


def _outputs(problem: MappingProblem, of: NDArray[np.int64]) -> tuple[Output, ...]:
    readers: dict[int, set[int]] = {}
    for i, j in problem.edges.tolist():
        if of[i] != of[j]:
            readers.setdefault(i, set()).add(int(of[j]))
    size: dict[tuple[int, tuple[int, ...]], float] = {}
    for i, units in readers.items():
        key = int(of[i]), tuple(sorted(units))
        size[key] = size.get(key, 0.0) + float(problem.output_bytes[i])
    return tuple(Output(source=u, readers=units, size=amount) for (u, units), amount in size.items() if amount)
