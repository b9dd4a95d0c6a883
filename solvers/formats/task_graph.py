"""Task graphs on heterogeneous processors, as list scheduling is tested on them (HEFT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from solvers.errors import SolverError
from solvers.formats.fields import parse
from solvers.formats.instance import Instance, InstanceFormat, Reading, Source, topological_order
from solvers.mapping.problem import MappingProblem

Time = Annotated[float, Ge(0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    W: tuple[tuple[Time, ...], ...]
    edges: tuple[tuple[int, int, Time], ...]


class TaskGraph(InstanceFormat):
    """Tasks of given times on P unlike processors; an edge takes its time where it joins two processors.

    JSON: `W` [tasks][processors], the computation cost of a task on a processor, and `edges` as [from, to,
    communication cost], tasks numbered from 0. That is the model of Topcuoglu, Hariri, Wu, "Performance-effective and
    low-complexity task scheduling for heterogeneous computing" (IEEE TPDS 13(3), 2002): the schedule length is the
    objective, links are never busy, and the order in which a processor runs its tasks is part of the answer.
    """

    name = "task_graph"
    layout = "JSON with W [tasks][processors] and edges [from, to, cost]"

    def recognises(self, source: Source) -> bool:
        """Whether the JSON holds W and edges."""
        found: Any = source.document
        return isinstance(found, dict) and {"W", "edges"} <= found.keys()

    def read(self, source: Source, reading: Reading) -> Instance:
        """Return the instance; ids are the tasks' numbers in the file."""
        path = source.path
        stated = parse(_File, source.document, path)
        tasks = len(stated.W)
        processors = len(stated.W[0]) if tasks else 0
        if not processors:
            raise SolverError(f"{path}: W is {'empty' if not tasks else 'without processors'}", "a row a task")
        for n, row in enumerate(stated.W):
            if len(row) != processors:
                raise SolverError(f"{path}: W[{n}] has {len(row)} processors, W[0] has {processors}", "equally many")
        for e, (i, j, _) in enumerate(stated.edges):
            for end in (i, j):
                if not 0 <= end < tasks:
                    raise SolverError(f"{path}: edges[{e}] names task {end}", f"0 to {tasks - 1}")
        pairs = [(i, j) for i, j, _ in stated.edges]
        order = topological_order(range(tasks), pairs, path)
        number = np.empty(tasks, dtype=np.int64)
        number[order] = np.arange(tasks)
        nothing = np.zeros((processors, processors))
        return Instance(
            name=path.stem,
            path=path,
            format=self.name,
            ids=tuple(order),
            devices=tuple(f"processor {p}" for p in range(processors)),
            problem=MappingProblem(
                compute_ms=np.array(stated.W)[order],
                energy_mj=np.zeros((tasks, processors)),
                edges=number[np.array(pairs, dtype=np.int64).reshape(-1, 2)],
                edge_bytes=np.array([cost for *_, cost in stated.edges]),
                route_latency_ms=nothing,
                route_ms_per_byte=1.0 - np.eye(processors),
                route_mj_per_byte=nothing,
                route_links=np.zeros((processors, processors, 0)),
                resident_bytes=np.zeros(tasks),
                workspace_bytes=np.zeros(tasks),
                capacity_bytes=np.full(processors, np.inf),
                allowed=np.ones((tasks, processors), dtype=np.bool_),
                regime="serial",
                free_order=True,
                contiguous=bool(reading.contiguous),
            ),
        )
