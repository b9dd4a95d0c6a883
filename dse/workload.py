"""The workload of a design, by whatever name it is asked for; and no figures of one that is counted in part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import workloads
from dse.errors import DseError
from workloads.describe import uncounted_operators
from workloads.errors import WorkloadError
from workloads.files import is_own_model

if TYPE_CHECKING:
    from workloads import Family, WorkloadGraph
    from workloads.run_mode import RunMode


def workload_graph(
    name: str,
    *,
    mode: RunMode = "inference",
    batch: int | None = None,
    length: int | None = None,
    seconds: float | None = None,
) -> WorkloadGraph:
    """Return a workload.

    `name` is one of the catalogue, any model by `package.module:factory`, or a model file. `batch` is dimension 0 of
    its inputs; `length` (in samples, frames or tokens) or `seconds` of signal are those of a workload of the
    catalogue. What is None stays as the catalogue, the factory or the file has it.

    Raises
    ------
    WorkloadError
        If there is no such model or length, or it cannot be traced.
    DseError
        If it does not run at this batch, or some of its operators are not counted.
    """
    return sized(workloads.family(name, mode=mode), batch=batch, length=length, seconds=seconds)


def sized(
    family: Family, *, batch: int | None = None, length: int | None = None, seconds: float | None = None
) -> WorkloadGraph:
    """Return a workload at a size, as `workload_graph` does."""
    try:
        graph = family.at(batch=batch, length=length, seconds=seconds, exact=True)
    except WorkloadError as error:
        if batch in (None, family.batch):
            raise
        raise DseError(f"batch {batch}: {error.message}", f"batch {family.batch}; or {error.hint}") from error
    require_counted(graph)
    return graph


def describe_workload(name: str, graph: WorkloadGraph) -> dict[str, Any]:
    """Return the object of workload.json: of a model of the catalogue with what its entry says of it."""
    from workloads.describe import describe, describe_entry

    return describe(graph) if is_own_model(name) else describe_entry(graph, workloads.entry(name))


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
