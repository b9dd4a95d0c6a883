"""One design point in detail: what a report draws it from (`timelines/DESIGN-POINT.json` of docs/run_folder.md)."""

from __future__ import annotations

from collections.abc import Mapping as Dict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dse.prediction import basis, ends_of, intervals, outside
from dse.proxy.model import Bound, Outside
from dse.residency import weights_of_slots
from solvers.mapping.problem import Mapping

if TYPE_CHECKING:
    from dse.cost_table import CostTable
    from dse.timeline import Timeline
    from solvers.placement.problem import Placement

MEMORY_EVENTS = 2000
"""Changes of live memory kept at most; of a longer list each slot keeps its peak and an even sample."""


def detail(
    timeline: Timeline,
    *,
    table: CostTable,
    placement: Placement,
    mapping: Mapping | Dict[str, Any],
) -> dict[str, Any]:
    """Return everything that a report shows of one simulated point, as plain JSON values.

    `table` and `placement` are those that the timeline was simulated with; `mapping` is the solver's answer, or its
    solver, objective, lower_bound, gap and status. Who keeps it adds `design`, `point` and `params`.
    """
    metrics = timeline.metrics()
    return {
        "schema": 1,
        "metrics": metrics.as_dict(),
        "prediction": basis(table.costs, table.system.names)
        | {"intervals": {name: list(ends) for name, ends in intervals(timeline, placement).items()}}
        | {"outside": outside(table, timeline.work.lead_slot)},
        "package": _package(table),
        "chips": _chips(timeline, table, placement),
        "links": _links(timeline, table),
        "segments": _segments(timeline, table),
        "layers": _layers(timeline, table),
        "rooflines": _rooflines(table),
        **spans(timeline),
        "memory": [list(event) for event in thinned(timeline.memory, MEMORY_EVENTS).tolist()],
        "cost": {item: float(usd) for item, usd in table.system.cost.items.items()},
        "energy": energy_split(timeline),
        "mapping": _mapping(mapping),
        "contention": {"with_ms": timeline.latency_ms, "without_ms": timeline.latency_without_contention_ms},
        "placement": {
            "wirelength_byte_mm": float(placement.wirelength_byte_mm),
            "lower_bound": float(placement.lower_bound),
            "solver": placement.solver,
        },
    }


def spans(timeline: Timeline) -> dict[str, list[list[float]]]:
    """Return what ran where and when: `compute`, of a team a span on each slot, and `transfers`, of an edge its pieces.

    compute: [segment, slot, input, start_ms, end_ms]; transfers: [from segment, to segment, input, source slot, target
    slot, start_ms, end_ms, bytes].
    """
    edges = timeline.table.segments.edges
    return {
        "compute": [list(span) for span in timeline.compute.tolist()],
        "transfers": [[*edges[edge].tolist(), *rest] for edge, *rest in timeline.transfers.tolist()],
    }


def energy_split(timeline: Timeline) -> dict[str, float]:
    """Return the energy of one sample by item, mJ; the items sum to `energy_mj` of the metrics.

    A layer's dynamic energy is divided as FLOPs x pJ/FLOP stands to bytes x pJ/byte; that of a segment which a team
    runs as if its first slot ran it.
    """
    costs, energy = timeline.table.costs, timeline.energy
    slot, of_layer = timeline.work.lead_slot, costs.segments.segment_of_layer
    column = timeline.table.type_of_slot[slot][of_layer]  # [N]
    rows, chips = costs.segments.features, costs.features[column]
    compute = rows["flops"] * chips["pj_per_flop"]
    memory = (rows["weight_bytes"] + rows["input_bytes"] + rows["output_bytes"]) * chips["pj_per_byte"]
    both = compute + memory
    dynamic = costs.layers.energy_mj[np.arange(len(rows)), column]
    whole_mj = timeline.table.energy_mj[np.arange(len(slot)), slot]
    dynamic = (
        dynamic
        * np.where(whole_mj > 0.0, timeline.work.energy_mj / np.where(whole_mj > 0.0, whole_mj, 1.0), 0.0)[of_layer]
    )
    compute_mj = float((dynamic * compute / np.where(both > 0.0, both, 1.0)).sum()) / costs.segments.batch
    return {
        "compute": compute_mj,
        "memory": energy.dynamic_mj - compute_mj,
        "links": energy.links_mj,
        "static": energy.static_mj,
    }


def thinned(events: NDArray[np.void], limit: int) -> NDArray[np.void]:
    """Return at most `limit` of the memory events, in order: of each slot its ends, its peak and an even sample."""
    if len(events) <= limit:
        return events
    slots = np.unique(events["slot"])
    share = max(1, limit // len(slots) - 3)
    keep: list[NDArray[np.int64]] = []
    for slot in slots:
        mine = np.flatnonzero(events["slot"] == slot)
        peak = mine[np.argmax(events["bytes"][mine])]
        even = mine[np.linspace(0, len(mine) - 1, min(share, len(mine))).round().astype(np.int64)]
        keep += [even, np.array([mine[0], peak, mine[-1]])]
    return events[np.unique(np.concatenate(keep))]


def _package(table: CostTable) -> dict[str, Any]:
    package = table.system.package
    link = package.link
    return {
        "name": package.name,
        "kind": package.kind,
        "shape": package.shape,
        "width_mm": package.width_mm,
        "height_mm": package.height_mm,
        "topology": package.topology,
        "link": {
            "name": link.name,
            "bandwidth_gb_s": link.bandwidth_gb_s,
            "latency_ns": link.latency_ns,
            "pj_per_bit": link.pj_per_bit,
        },
    }


def _chips(timeline: Timeline, table: CostTable, placement: Placement) -> list[dict[str, Any]]:
    """One object a chip. Its power is what it draws for one input over the time that one input takes up."""
    work, features = timeline.work, table.costs.features
    slots = len(table.type_of_slot)
    dynamic_mj = np.zeros(slots)
    np.add.at(
        dynamic_mj,
        work.parts["slot"],
        (work.energy_mj / work.members)[work.parts["segment"]] / work.variants,
    )
    weights = weights_of_slots(timeline)
    rows = []
    for place, (slot, chip) in enumerate(zip(table.system.occupied, table.system.present, strict=True)):
        turned = bool(placement.rotated[place])
        static_w = float(features["static_w"][table.type_of_slot[slot]])
        rows.append(
            {
                "slot": int(slot),
                "name": chip.name,
                "x_mm": float(placement.x_mm[place]),
                "y_mm": float(placement.y_mm[place]),
                "width_mm": chip.height_mm if turned else chip.width_mm,
                "height_mm": chip.width_mm if turned else chip.height_mm,
                "rotated": turned,
                "busy_ms": float(timeline.slot_busy_ms[slot]),
                "utilisation": float(timeline.slot_busy_ms[slot] / timeline.makespan_ms),
                "peak_memory_mb": float(timeline.peak_memory_bytes[slot]) / 1e6,
                "memory_mb": float(table.system.capacity_bytes[slot]) / 1e6,
                "power_w": static_w + float(dynamic_mj[slot]) / timeline.period_ms,
                "weights_mb": float(weights[slot]) / 1e6,
            }
        )
    return rows


def _links(timeline: Timeline, table: CostTable) -> list[dict[str, Any]]:
    ends = table.system.routes.links
    return [
        {
            "source": int(ends[number, 0]),
            "target": int(ends[number, 1]),
            "bytes": float(timeline.link_bytes[number]),
            "busy_ms": float(timeline.link_busy_ms[number]),
            "utilisation": float(timeline.link_busy_ms[number] / timeline.makespan_ms),
        }
        for number in np.flatnonzero(timeline.link_bytes > 0.0)
    ]


def _segments(timeline: Timeline, table: CostTable) -> list[dict[str, Any]]:
    """One object a segment; of one that a team runs `slot`, and the `bound` there, is the first of its slots."""
    work, slots = timeline.work, len(table.type_of_slot)
    bound = table.costs.bound[np.arange(len(work.modes)), table.type_of_slot[work.lead_slot]]
    no_ends = {"latency_low_ms": None, "latency_high_ms": None}
    return [
        {
            "id": segment.id,
            "name": segment.name,
            "slot": int(slot),
            "latency_ms": float(work.compute_ms[0, k]),
            **(ends_of(table, k, int(slot)) if work.modes[k] < slots else no_ends),
            "energy_mj": float(work.energy_mj[k]),
            "flops": float(segment.flops),
            "bytes": float(segment.bytes),
            "bound": Bound(int(bound[k])).label,
        }
        for k, (segment, slot) in enumerate(zip(table.segments, work.lead_slot, strict=True))
    ]


def _layers(timeline: Timeline, table: CostTable) -> list[dict[str, Any]]:
    """One object a layer; none of a split segment, of whose layers each member runs a part."""
    segments, layers, work = table.segments, table.costs.layers, timeline.work
    slot = work.lead_slot[segments.segment_of_layer]
    column = table.type_of_slot[slot]
    here = np.arange(len(slot))
    outside_of = None if layers.outside is None else layers.outside[here, column]
    latency_ms, bound, moved = (
        values[here, column] for values in (layers.latency_ms, layers.bound, layers.memory_bytes)
    )
    return [
        {
            "index": int(segments.origin[n]),
            "slot": int(slot[n]),
            "latency_ms": float(latency_ms[n]),
            "flops": float(segments.features["flops"][n]),
            "bytes": float(moved[n]),
            "bound": Bound(int(bound[n])).label,
            "outside": [] if outside_of is None else list(Outside(int(outside_of[n])).labels),
        }
        for n in np.flatnonzero(work.members[segments.segment_of_layer] == 1).tolist()
    ]


def _rooflines(table: CostTable) -> dict[str, dict[str, float]]:
    names = ("peak_flops", "vector_flops", "peak_bw", "achievable", "achievable_bw")
    used = set(table.system.names)
    return {
        chip.name: {name: float(table.costs.features[name][column]) for name in names}
        for column, chip in enumerate(table.costs.chips)
        if chip.name in used
    }


def _mapping(mapping: Mapping | Dict[str, Any]) -> dict[str, Any]:
    names = ("solver", "objective", "lower_bound", "gap", "status")
    if isinstance(mapping, Mapping):
        return {name: getattr(mapping, name) for name in names}
    return {name: mapping[name] for name in names}
