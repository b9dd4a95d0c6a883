"""The workload of a design, by whatever name it is asked for; and no figures of one that is counted in part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import workloads
from dse.errors import DseError
from workloads.describe import uncounted_operators
from workloads.files import is_model_file

if TYPE_CHECKING:
    from workloads import WorkloadGraph
    from workloads.graph import Mode


def workload_graph(
    name: str, *, mode: Mode = "inference", length: int | None = None, seconds: float | None = None
) -> WorkloadGraph:
    """Return a workload.

    `name` is one of the catalogue, any model by `package.module:factory`, or a model file; `length` (in samples, frames
    or tokens) or `seconds` of signal are those of a workload of the catalogue.

    Raises
    ------
    WorkloadError
        If there is no such model or length, or it cannot be traced.
    DseError
        If some of its operators are not counted.
    """
    of_the_user = _of_the_user(name)
    resized = length is not None or seconds is not None
    if of_the_user and resized:
        raise DseError(f"{name} has no length to set", "a factory that returns its example inputs at that length")
    if of_the_user:
        graph = workloads.trace_factory(name, mode=mode)
    elif resized:
        graph = workloads.family(name, mode=mode).at(length=length, seconds=seconds)
    else:
        graph = workloads.load(name, mode=mode)
    require_counted(graph)
    return graph


def describe_workload(name: str, graph: WorkloadGraph) -> dict[str, Any]:
    """Return the object of workload.json: of a model of the catalogue with what its entry says of it."""
    from workloads.describe import describe, describe_entry

    return describe(graph) if _of_the_user(name) else describe_entry(graph, workloads.entry(name))


def _of_the_user(name: str) -> bool:
    return ":" in name or is_model_file(name)


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
