"""What a pipeline's stages are cut from: segments that cannot be parted, in an order in which stages can follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from solvers.mapping.problem import MappingProblem


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Items:
    """I items: groups, and groups in a circle of edges together. Of a contiguous mapping, each is in one stage."""

    item: NDArray[np.int64]  # [K] of each segment, numbered by first segments
    edges: NDArray[np.int64]  # [F, 2] each once: between items, to be respected by the order of stages
    follows: NDArray[np.int64]  # [I] the item beside which one lies that no edge orders; -1: ordered by its edges

    @property
    def count(self) -> int:
        """I, the number of items."""
        return len(self.follows)


def stage_items(problem: MappingProblem) -> Items:
    """Return the items of a problem."""
    units = int(problem.unit.max()) + 1
    u, v = problem.unit[problem.edges[problem.ordering]].T
    graph = coo_array((np.ones(len(u)), (u, v)), shape=(units, units))
    _, component = connected_components(graph, directed=True, connection="strong")
    raw = component[problem.unit]
    _, first, inverse = np.unique(raw, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    item = rank[inverse]
    count = len(first)
    ends = item[problem.edges]
    parted = ends[:, 0] != ends[:, 1]
    edges = np.unique(ends[parted & problem.ordering], axis=0).reshape(-1, 2)
    follows = np.full(count, -1, dtype=np.int64)
    if len(problem.backward):
        unordered = np.ones(count, dtype=np.bool_)
        unordered[item[~problem.backward]] = False
        most = np.zeros(count)
        for (i, j), size in zip(ends[parted].tolist(), problem.edge_bytes[parted].tolist(), strict=True):
            for one, other in ((i, j), (j, i)):
                if unordered[one] and not unordered[other] and size >= most[one]:
                    most[one], follows[one] = size, other
    return Items(item=item, edges=edges, follows=follows)


def topological_order(items: Items, priority: NDArray[np.float64], *, depth_first: bool) -> NDArray[np.int64]:
    """Return the items [I] so that edges go forward: of those that are ready the one of least `priority` [I] next.

    `depth_first`: of those that became ready last.
    """
    source, target = items.edges[:, 0], items.edges[:, 1]
    by_source = np.argsort(source, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(source, minlength=items.count))])
    waiting = np.bincount(target, minlength=items.count)
    waiting[items.follows >= 0] = -1
    order: NDArray[np.int64] = _kahn(first, target[by_source], waiting, priority, depth_first)
    if (items.follows < 0).all():
        return order
    place = np.empty(items.count)
    place[order] = np.arange(len(order))
    beside = items.follows >= 0
    place[beside] = place[items.follows[beside]] + 0.5
    return np.argsort(place, kind="stable")


@njit(cache=True)
def _kahn(first, target, waiting, priority, depth_first):  # type: ignore[no-untyped-def]
    nodes = first.shape[0] - 1
    waiting = waiting.copy()
    ready, since = np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    held = 0
    for i in range(nodes):
        if waiting[i] == 0:
            ready[held], since[held] = i, 0
            held += 1
    order = np.empty(nodes, np.int64)
    done = 0
    while held > 0:
        best = 0
        for i in range(1, held):
            newer = since[i] - since[best] if depth_first else 0
            if newer > 0 or (newer == 0 and priority[ready[i]] < priority[ready[best]]):
                best = i
        node = ready[best]
        held -= 1
        ready[best], since[best] = ready[held], since[held]
        order[done] = node
        done += 1
        for e in range(first[node], first[node + 1]):
            waiting[target[e]] -= 1
            if waiting[target[e]] == 0:
                ready[held], since[held] = target[e], done
                held += 1
    return order[:done]
