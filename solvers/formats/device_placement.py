"""Device placement of network operators on accelerators and CPUs around one host memory.

The JSON of Tarnawski et al., "Efficient Algorithms for Device Placement of DNN Graph Operators" (NeurIPS 2020,
arXiv 2006.16423; github.com/msr-fiddle/dnn-partitioning).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from solvers.errors import SolverError
from solvers.formats.fields import parse
from solvers.formats.instance import Goal, Instance, InstanceFormat, Reading, Source, topological_order
from solvers.mapping.problem import MappingProblem

SAME_COST = 1e-9  # relative; edges out of one node carry the same output


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    """An operator. Times are in ms; `size` is what it keeps in an accelerator's memory, in bytes."""

    id: int
    supportedOnFpga: bool
    cpuLatency: Annotated[float, Ge(0)]
    fpgaLatency: Annotated[float, Ge(0)]
    isBackwardNode: bool
    size: Annotated[float, Ge(0)]
    colorClass: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edge:
    """`cost` is the time, in ms, of moving the output of `sourceId` between an accelerator and host memory."""

    sourceId: int
    destId: int
    cost: Annotated[float, Ge(0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    maxSizePerFPGA: Annotated[float, Ge(0)]
    maxFPGAs: Annotated[int, Ge(0)]
    maxCPUs: Annotated[int, Ge(0)]
    nodes: tuple[_Node, ...]
    edges: tuple[_Edge, ...]


class DevicePlacement(InstanceFormat):
    """Operators on k accelerators and l CPUs; slots are the accelerators, then the CPUs.

    An accelerator pays an operator's `cost` once for its output where a consumer is elsewhere, and once for each
    operator elsewhere that it consumes; CPUs pay nothing. Memory is limited on accelerators only. Operators of one
    `colorClass` go together. `cost` is taken as it stands: `size` of edges disagrees with it in some of the files.

    **throughput**: the load of the busiest device (`pipelined`). **latency**: one sample; each accelerator runs all of
    its operators in one call, and CPU threads are without number (`offload`: one concurrent slot stands for all CPUs,
    whatever maxCPUs says). The file does not say which of the two it is for: without a word from the caller it is
    latency where a folder on its path (or the file) is named latency*, as in the published collection, else throughput.
    """

    name = "device_placement"
    layout = "JSON with maxFPGAs, maxCPUs, maxSizePerFPGA, nodes and edges"
    takes = ("goal",)

    def recognises(self, source: Source) -> bool:
        """Whether the JSON holds nodes, and a key of the devices or of an operator."""
        found: Any = source.document
        if not isinstance(found, dict) or "nodes" not in found:
            return False
        first = found["nodes"][0] if isinstance(found["nodes"], list) and found["nodes"] else {}
        return bool({"maxFPGAs", "maxCPUs", "maxSizePerFPGA"} & found.keys()) or "fpgaLatency" in first

    def read(self, source: Source, reading: Reading) -> Instance:
        """Return the instance; ids are those of the nodes."""
        path = source.path
        stated = parse(_File, source.document, path)
        goal = reading.goal or _goal_of(path)
        accelerators, cpus = stated.maxFPGAs, (1 if goal == "latency" else stated.maxCPUs)
        if not stated.nodes:
            raise SolverError(f"{path}: nodes is empty", "at least one operator")
        if not accelerators + cpus:
            raise SolverError(f"{path}: maxFPGAs and maxCPUs are both 0", "at least one device")
        place = _places(stated.nodes, path)
        pairs, costs = _edges(stated.edges, place, path)
        order = topological_order([node.id for node in stated.nodes], pairs, path)
        nodes = [stated.nodes[n] for n in order]
        number = np.empty(len(order), dtype=np.int64)
        number[order] = np.arange(len(order))
        edges = number[np.array(pairs, dtype=np.int64).reshape(-1, 2)]
        is_cpu = np.arange(accelerators + cpus) >= accelerators
        slots = len(is_cpu)
        times = np.array([(node.fpgaLatency, node.cpuLatency) for node in nodes])
        allowed = np.array([[node.supportedOnFpga, True] for node in nodes])
        kind = is_cpu.astype(np.int64)
        nothing = np.zeros((slots, slots))
        return Instance(
            name=path.stem,
            path=path,
            format=self.name,
            ids=tuple(node.id for node in nodes),
            devices=tuple(f"CPU {s - accelerators}" if cpu else f"accelerator {s}" for s, cpu in enumerate(is_cpu)),
            problem=MappingProblem(
                compute_ms=times[:, kind],
                energy_mj=np.zeros((len(nodes), slots)),
                edges=edges,
                edge_bytes=costs,  # ms at the port's rate of 1 ms a unit
                route_latency_ms=nothing,
                route_ms_per_byte=nothing,
                route_mj_per_byte=nothing,
                route_links=np.zeros((slots, slots, 0)),
                resident_bytes=np.array([node.size for node in nodes]),
                workspace_bytes=np.zeros(len(nodes)),
                capacity_bytes=np.where(is_cpu, np.inf, stated.maxSizePerFPGA),
                allowed=allowed[:, kind],
                group=_groups(nodes),
                backward=np.array([node.isBackwardNode for node in nodes]),
                port_in_ms_per_byte=np.where(is_cpu, 0.0, 1.0),
                port_out_ms_per_byte=np.where(is_cpu, 0.0, 1.0),
                concurrent=is_cpu if goal == "latency" else np.zeros(slots, dtype=np.bool_),
                regime="offload" if goal == "latency" else "pipelined",
                contiguous=bool(reading.contiguous),
                names=tuple(str(node.id) for node in nodes),
            ),
        )


def _goal_of(path: Path) -> Goal:
    return "latency" if any(part.startswith("latency") for part in path.resolve().parts) else "throughput"


def _places(nodes: Sequence[_Node], path: Path) -> dict[int, int]:
    place: dict[int, int] = {}
    for n, node in enumerate(nodes):
        if place.setdefault(node.id, n) != n:
            raise SolverError(f"{path}: nodes[{n}].id {node.id} is that of nodes[{place[node.id]}] too", "unique ids")
    return place


def _edges(
    edges: Sequence[_Edge], place: dict[int, int], path: Path
) -> tuple[list[tuple[int, int]], NDArray[np.float64]]:
    """Return node places and cost of each edge, refusing what leads nowhere and outputs of two costs."""
    pairs, cost_of = [], dict[int, float]()
    for e, edge in enumerate(edges):
        for key, end in (("sourceId", edge.sourceId), ("destId", edge.destId)):
            if end not in place:
                raise SolverError(f"{path}: edges[{e}].{key} is {end}, and no node has that id", "an id of nodes")
        first = cost_of.setdefault(edge.sourceId, edge.cost)
        if abs(edge.cost - first) > SAME_COST * max(edge.cost, first):
            raise SolverError(
                f"{path}: edges[{e}].cost is {edge.cost:g}, and another edge out of node {edge.sourceId} has {first:g}",
                "one cost for all edges out of a node: it moves the same output",
            )
        pairs.append((place[edge.sourceId], place[edge.destId]))
    return pairs, np.array([edge.cost for edge in edges])


def _groups(nodes: Sequence[_Node]) -> NDArray[np.int64]:
    """[K] number of the colour of each node, -1 of one that has none."""
    colours = {node.colorClass: 0 for node in nodes if node.colorClass is not None}
    numbers = {colour: n for n, colour in enumerate(colours)}
    return np.array([-1 if node.colorClass is None else numbers[node.colorClass] for node in nodes])
