"""A training step as a pipeline: what its passes keep together, and what a stage stashes from one to the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from workloads.segments import SegmentGraph


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingTerms:
    """What a MappingProblem takes of a training step of K segments."""

    group: NDArray[np.int64]  # [K] segments that work on the same weights share one: they belong on one chip
    backward: NDArray[np.bool_]  # [K] of the backward pass or the optimiser
    stash_bytes: NDArray[np.float64]  # [K] what it writes for the backward pass


def training_terms(segments: SegmentGraph) -> TrainingTerms:
    """Return the terms of a training step; of an inference every segment is alone, forward, and stashes nothing.

    A segment with any layer of the backward pass or the optimiser counts as such. Forward and backward segments that
    read the same parameter are a group, and so is what shares one with any of them. A segment of the optimiser joins
    the group of which it updates most bytes: it may update others' as well, where it holds several layers.
    """
    graph = segments.graph
    phase = np.array([layer.phase for layer in graph.layers])
    segment_of_layer = segments.segment_of_layer
    count = len(segments)
    backward, updates = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    backward[segment_of_layer[phase != "forward"]] = True
    updates[segment_of_layer[phase == "optimizer"]] = True
    if not backward.any():
        return TrainingTerms(group=np.arange(count), backward=backward, stash_bytes=np.zeros(count))
    parts = graph.weight_parts
    of_part = segment_of_layer[parts["layer"]]
    trained = np.isin(parts["weight"], np.unique(parts["weight"][phase[parts["layer"]] == "optimizer"]))
    group = _sharing(of_part[trained & ~updates[of_part]], parts["weight"][trained & ~updates[of_part]], count)
    home = np.full(int(parts["weight"].max(initial=-1)) + 1, -1)  # group that reads a weight
    read = ~updates[of_part]
    home[parts["weight"][read]] = group[of_part[read]]
    here = np.flatnonzero(trained & updates[of_part] & (home[parts["weight"]] >= 0))
    segment, sizes = of_part[here], (parts["end"] - parts["first"])[here]
    pairs, first, inverse = np.unique(
        np.stack([segment, home[parts["weight"][here]]]), axis=1, return_index=True, return_inverse=True
    )
    updated = np.bincount(inverse.reshape(-1), weights=sizes, minlength=len(first))
    most = np.lexsort((first, -updated, pairs[0]))  # by segment, the group with most bytes first
    joining, place = np.unique(pairs[0, most], return_index=True)
    group[joining] = pairs[1, most[place]]
    source, target = segments.edges[:, 0], segments.edges[:, 1]
    saved = ~backward[source] & backward[target]
    largest = np.zeros(count)
    np.maximum.at(largest, source[saved], segments.edge_bytes[saved])
    return TrainingTerms(group=group, backward=backward, stash_bytes=np.minimum(largest, segments.output_bytes))


def _sharing(segment: NDArray[np.int64], weight: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Number [K] of the connected component of each segment, where those that read one weight are connected."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes = count + int(weight.max(initial=-1)) + 1
    graph = coo_array((np.ones(len(weight)), (segment, count + weight)), shape=(nodes, nodes))
    component: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return component[:count]
