"""Which layers of a workload belong to attention, told by what they compute and not by what modules are called."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workloads.graph import MATRIX_KINDS, Layer, OperatorKind, WorkloadGraph


def attention_layers(graph: WorkloadGraph) -> NDArray[np.bool_]:
    """Which layers [N] belong to attention.

    Kernels of attention are fused ones (kind ATTENTION) and chains of two products of activations, where the second
    reads what the first has computed with no product by a weight between them: the scores and the values with softmax
    (arXiv 1706.03762), with squared ReLU (gated attention units, arXiv 2202.10447), or keys by values and queries in
    linear attention (arXiv 2006.16236).

    To attention belong the kernels and all layers called in or under a module whose forward pass calls one: the
    projections of queries, keys, values and of the output, and their backward pass and updates. The model itself is no
    such module, nor is one where the two products of a chain are called by different modules: there the kernels alone
    count.
    """
    kernels, modules = _kernels(graph)

    def inside(layer: Layer) -> bool:
        parts = layer.module.split(".")
        return any(".".join(parts[:length]) in modules for length in range(1, len(parts) + 1))

    return np.array([i in kernels or inside(layer) for i, layer in enumerate(graph.layers)], np.bool_)


def _kernels(graph: WorkloadGraph) -> tuple[set[int], set[str]]:
    """Kernels of attention, and the modules that call them."""
    kernels = {i for i, layer in enumerate(graph.layers) if layer.kind is OperatorKind.ATTENTION}
    modules = {graph.layers[i].module for i in kernels if graph.layers[i].phase == "forward"}
    sources: dict[int, list[int]] = {}
    for producer, consumer in graph.edges.tolist():
        sources.setdefault(consumer, []).append(producer)
    carried: dict[int, frozenset[int]] = {}  # the products that a layer's output is made of, without a weight between
    for i, layer in enumerate(graph.layers):
        if layer.phase != "forward":
            break
        carried[i] = frozenset[int]().union(*(carried[source] for source in sources.get(i, [])))
        if layer.kind is OperatorKind.MATMUL:
            kernels |= carried[i] | ({i} if carried[i] else set())
            modules |= {layer.module for first in carried[i] if graph.layers[first].module == layer.module}
            carried[i] = frozenset({i})
        elif layer.kind in MATRIX_KINDS:
            carried[i] = frozenset()
    return kernels, modules - {""}
