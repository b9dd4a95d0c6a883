"""Memory of slots: what is held, the largest workspace, and what inputs in flight leave there."""

from __future__ import annotations

from math import floor, frexp, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solvers.mapping._cp_model.core import Core
from solvers.mapping.check import MEMORY_TOLERANCE


def limit_memory(core: Core, deeper: dict[int, list[Any]]) -> None:
    """State that the bytes on each slot fit. `deeper[s][d]` is a literal: more than d + 1 inputs in flight on slot s.

    In whole units of bytes, segments rounded down and capacities up, which loses no legal mapping. Whole bytes stay
    exact; fractions are kept to 2**-50 of all bytes.
    """
    p, units = core.problem, core.units
    unit = _unit(p.held_bytes, p.workspace_bytes, p.stash)
    held, stash, workspace = (np.floor(v / unit).astype(np.int64) for v in (units.held, units.stash, units.workspace))
    for s in range(p.slots):
        if not isfinite(p.capacity_bytes[s]):
            continue
        here = [(u, m) for m in core.modes_on(s) for u in core.units_of(m)]
        capacity = floor(p.capacity_bytes[s] * (1 + MEMORY_TOLERANCE) / unit)
        literals = deeper.get(s, [])
        most = _most_held(core, s) + len(literals) * units.stash.sum() + units.workspace.max(initial=0.0)
        if most <= p.capacity_bytes[s]:
            continue
        for depth, literal in enumerate([None, *literals], 1):
            used = sum(int(held[u, m] + depth * stash[u]) * core.x[u, m] for u, m in here)
            for largest, on in _workspaces(core, here, workspace):
                fits = core.cp.add(used + largest * on <= capacity)
                if literal is not None:
                    fits.only_enforce_if(literal)


def _most_held(core: Core, s: int) -> float:
    """Return the bytes on slot s, of one input, were every unit in the mode of that slot that holds most."""
    modes = core.modes_on(s)
    return float(np.where(core.units.runs, core.units.held, 0.0)[:, modes].max(axis=1).sum() + core.units.stash.sum())


def _workspaces(core: Core, here: list[tuple[int, int]], workspace: NDArray[np.int64]) -> list[tuple[int, Any]]:
    """Return (bytes, literal of its use) of each workspace that may be the largest, and none at all."""
    found: list[tuple[int, Any]] = [(0, 0)]
    return found + [(int(workspace[u]), core.x[u, m]) for u, m in here if workspace[u]]


def _unit(*sizes: NDArray[np.float64]) -> float:
    """Return the bytes that one unit of memory in the model stands for."""
    largest = sum(float(v.max(axis=1).sum() if v.ndim == 2 else v.sum()) for v in sizes)
    whole = all((np.floor(v) == v).all() for v in sizes) and largest < 2**53
    return 1.0 if whole or largest == 0 else 2.0 ** (frexp(largest)[1] - 46)
