"""Segments that belong together: what an edge costs that is cut, and the units that merged edges make."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.problem import MappingProblem


def least_cut(problem: MappingProblem) -> NDArray[np.float64]:
    """Return [E]: a bound on the objective of every mapping that cuts an edge: load of its link or port, energy."""
    apart = ~np.eye(problem.modes, dtype=np.bool_)
    if not apart.any():
        return np.full(len(problem.edges), np.inf)
    on_link = (problem.route_links.max(axis=2, initial=0.0) * problem.route_ms_per_byte)[apart].min()
    hosts = ~(problem.members & ~problem.never_busy).any(axis=1)  # whose ports are never busy either
    enters, leaves = np.where(hosts, 0.0, problem.ports)
    at_port = np.maximum(leaves[:, None], enters)[apart].min()
    time_ms = np.maximum(problem.edge_bytes * on_link, problem.output_bytes[problem.edges[:, 0]] * at_port)
    energy_mj = problem.edge_bytes * problem.route_mj_per_byte[apart].min()
    return np.asarray(problem.time_weight * time_ms + problem.energy_weight * energy_mj)


def merged_ends(problem: MappingProblem, joined: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return [K] units: groups, and the ends of the `joined` [E] edges.

    Where stages are contiguous, also whatever lies on a way from a unit back to itself.
    """
    count = int(problem.unit.max()) + 1
    ends = problem.unit[problem.edges]
    if not len(ends):
        return problem.unit
    unit = _components(ends[joined], count, directed=False)
    if problem.contiguous:
        unit = _components(unit[ends[problem.ordering]], count, directed=True)[unit]
    return np.asarray(unit[problem.unit], dtype=np.int64)


def _components(pairs: NDArray[np.int64], count: int, *, directed: bool) -> NDArray[np.int64]:
    """Return [count] the number of the (strongly) connected component of each node of the graph with edges `pairs`."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=directed, connection="strong")[1], dtype=np.int64)
