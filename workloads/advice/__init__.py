"""What bounds a workload, and what a chip can be built with against it: from the figures of any graph, by no name.

Each rule looks at one thing; it speaks where its figure crosses a threshold that stands in its file with the reason.
"""

from __future__ import annotations

from collections.abc import Callable

from workloads.advice import arithmetic, storage, traffic
from workloads.advice.record import Advice, Figures
from workloads.graph import WorkloadGraph

__all__ = ["RULES", "Advice", "advise"]

RULES: tuple[Callable[[Figures], Advice | None], ...] = (
    arithmetic.convolutions,
    arithmetic.matrix_products,
    arithmetic.attention_projections,
    arithmetic.attention_products,
    storage.attention_scores,
    arithmetic.transforms,
    arithmetic.recurrences,
    arithmetic.complex_products,
    storage.weight_storage,
    storage.training_state,
    storage.tables,
    storage.live_tensors,
    storage.waiting_tensors,
    traffic.streamed_weights,
    traffic.vector_chains,
    traffic.copies,
    traffic.functions,
    traffic.tiny_kernels,
)


def advise(graph: WorkloadGraph, seconds: float | None = None) -> tuple[Advice, ...]:
    """Return the bottlenecks of a graph, the most severe first.

    Parameters
    ----------
    graph
        As traced: its bytes are those of the traced precision and batch.
    seconds
        Of signal that its input is, for figures a second; None where that has no meaning.
    """
    if not graph.layers:
        return ()
    figures = Figures(graph=graph, seconds=seconds)
    found = [advice for rule in RULES if (advice := rule(figures)) is not None]
    return tuple(sorted(found, key=lambda advice: -advice.severity))
