"""The bound of Gilmore (1962) and Lawler (1963) on quadratic assignment: one segment a slot, only energy counts."""

from __future__ import annotations

import numpy as np

from solvers.mapping.bounds import SAFETY
from solvers.mapping.problem import MappingProblem


def gilmore_lawler_bound(problem: MappingProblem) -> float:
    """Return a bound on the objective of mappings [K] that put each segment on a slot [S] of its own, K <= S.

    Segment i on slot p pays at least half of what its edges cost if its largest flows could take the shortest ways from
    p; each such pair of i and p has that price and its own energy, and the cheapest assignment of all pairs is a bound.
    Routes cost the same both ways.
    """
    from scipy.optimize import linear_sum_assignment

    count = problem.segments
    flow = np.zeros((count, count))
    np.add.at(flow, tuple(problem.edges.T), problem.edge_bytes)
    flow += flow.T
    largest = -np.sort(-flow, axis=1)[:, : count - 1]  # that of a segment with itself, zero, is among the least
    apart = ~np.eye(problem.slots, dtype=np.bool_)
    ways = np.sort(problem.route_mj_per_byte[apart].reshape(problem.slots, -1), axis=1)[:, : count - 1]
    price = problem.energy_mj + largest @ ways.T / 2
    return float(problem.energy_weight * price[linear_sum_assignment(price)].sum()) * SAFETY
