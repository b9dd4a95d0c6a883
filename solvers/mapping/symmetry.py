"""Slots that can be exchanged with nothing changed, and the one labelling kept of each such mapping."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.problem import MappingProblem


def interchangeable_slots(problem: MappingProblem) -> list[list[int]]:
    """Return all slots in groups, each rising: exchanging any two of a group keeps every mapping's T, E and legality.

    Two slots are such a pair when their columns agree and when exchanging them leaves all routes as they are, and the
    links up to their numbering. That is transitive, so one member speaks for its group. With teams, none is.
    """
    if len(problem.teams):
        return [[slot] for slot in range(problem.slots)]
    costs = [np.where(problem.allowed, cost, 0.0) for cost in (problem.compute_ms, problem.energy_mj)]
    held = np.where(problem.allowed, problem.held_bytes, 0.0)
    flags = [problem.allowed.astype(np.float64), problem.never_busy[None].astype(np.float64)]
    table = np.concatenate([*costs, held, problem.capacity_bytes[None], problem.ports, *flags])
    routes = [problem.route_ms_per_byte, problem.route_mj_per_byte]
    if problem.regime != "pipelined":
        routes.append(problem.route_latency_ms)
    links = problem.route_links if problem.regime == "pipelined" else problem.route_links[:, :, :0]
    sorted_links = _up_to_numbering(links)
    groups: list[list[int]] = []
    for slot in range(problem.slots):
        for group in groups:
            swap = np.arange(problem.slots)
            swap[[slot, group[0]]] = group[0], slot
            if (
                np.array_equal(table[:, slot], table[:, group[0]])
                and all(np.array_equal(route[np.ix_(swap, swap)], route) for route in routes)
                and np.array_equal(_up_to_numbering(links[np.ix_(swap, swap)]), sorted_links)
            ):
                group.append(slot)
                break
        else:
            groups.append([slot])
    return groups


def _up_to_numbering(links: NDArray[Any]) -> NDArray[Any]:
    """Which routes each link serves [S * S, L], links in lexicographic order."""
    flat = links.reshape(links.shape[0] * links.shape[1], links.shape[2])
    return flat[:, np.lexsort(flat[::-1])] if flat.shape[1] else flat


def canonical(assignment: NDArray[np.int64], groups: list[list[int]]) -> NDArray[np.int64]:
    """Return `assignment` [K] with the slots of each group renamed in the order of their first segments.

    A hint has to follow the symmetry cuts of the model that it is given to; this labelling is the one they keep.
    """
    last = len(assignment)
    rename = np.arange(1 + max(slot for group in groups for slot in group))
    for group in groups:
        first = [int(np.argmax(assignment == slot)) if (assignment == slot).any() else last for slot in group]
        for new, old in zip(group, np.argsort(first, kind="stable"), strict=True):
            rename[group[old]] = new
    return rename[assignment]
