"""The workload of a design, by whatever name it is asked for; and no figures of one that is counted in part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import workloads
from dse.errors import DseError
from workloads.describe import uncounted_operators
from workloads.files import is_model_file

if TYPE_CHECKING:
    from workloads import Reference, WorkloadGraph


def workload_graph(name: str) -> tuple[WorkloadGraph, Sequence[Reference]]:
    """Return a workload and its published figures.

    `name` is one of the catalogue, any model by `package.module:factory`, or a model file.

    Raises
    ------
    WorkloadError
        If there is no such model, or it cannot be traced.
    DseError
        If some of its operators are not counted.
    """
    of_the_user = ":" in name or is_model_file(name)
    graph = workloads.trace_factory(name) if of_the_user else workloads.load(name)
    require_counted(graph)
    return graph, () if of_the_user else workloads.entry(name).references


def require_counted(graph: WorkloadGraph) -> None:
    """Raise DseError that names the operators of a graph that are not counted: its totals would not be whole."""
    if not graph.refused:
        return
    rows = uncounted_operators(graph)
    named = "; ".join(
        f"{row['name']} ({row['count']} calls{', first at ' + row['sources'][0] if row['sources'] else ''})"
        for row in rows
    )
    raise DseError(f"{graph.name} has operators that are not counted: {named}", rows[0]["hint"])
