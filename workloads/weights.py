"""What weights take in memory where several layers use them: each byte of a weight lies there once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workloads.graph import WorkloadGraph


def weight_bytes_of_groups(
    graph: WorkloadGraph, growth: NDArray[np.float64], group_of_layer: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """Return the bytes [count] of weights that the layers of each group [N] keep; parts of one weight are joined.

    `growth` [N] is that of the bytes of a layer's weights, at another precision; of layers that share one, the largest.
    """
    parts = graph.weight_parts
    if not len(parts):
        return np.zeros(count)
    group = group_of_layer[parts["layer"]]
    order = np.lexsort((parts["first"], parts["weight"], group))
    parts, group = parts[order], group[order]
    new = (np.diff(group, prepend=-1) != 0) | (np.diff(parts["weight"], prepend=-1) != 0)
    weight = np.cumsum(new) - 1  # of each part, counted anew in each group
    ends, rank = np.unique(parts["end"], return_inverse=True)
    offset = weight * len(ends)
    reached = ends[np.maximum.accumulate(rank + offset) - offset]  # by this part and those before it
    before = np.where(new, 0, np.roll(reached, 1))
    added = np.maximum(parts["end"] - np.maximum(parts["first"], before), 0)
    scale = np.maximum.reduceat(growth[parts["layer"]], np.flatnonzero(new))[weight]
    weights: NDArray[np.float64] = np.bincount(group, added * scale, count).astype(np.float64)
    return weights
