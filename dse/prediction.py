"""What gave the latencies of a design: model, data and intervals, and what of the design lies outside of the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Mapping as Dict
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dse.proxy.model import Outside
from dse.proxy.software import Software
from dse.simulate import simulate
from solvers.mapping.evaluate import evaluate

if TYPE_CHECKING:
    from dse.cost_table import CostTable, SegmentCosts
    from dse.teams import TeamCosts
    from dse.timeline import Timeline
    from solvers.mapping.problem import Mapping, MappingProblem
    from solvers.placement.problem import Placement

Interval = tuple[float, float]


def basis(costs: SegmentCosts, chips: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the model of `costs` as JSON values, of a fitted one with what it rests on and speaks for.

    `software` is by chip, for `chips` where given; `data` are sources of measured rows and how many rows; `coverage` is
    the share of measurements that should lie within an interval. Empty and None where the model was not fitted.
    """
    evidence = costs.layers.evidence
    wanted = [chip.name for chip in costs.chips if chips is None or chip.name in chips]
    by_chip = dict(zip([chip.name for chip in costs.chips], evidence.software if evidence else (), strict=False))
    return {
        "model": costs.model,
        "framework": costs.software.framework or None,
        "timer": costs.software.timer or None,
        "software": {name: asdict(by_chip[name]) for name in wanted if name in by_chip},
        "data": dict(evidence.data) if evidence else {},
        "coverage": evidence.coverage if evidence else None,
        "fingerprint": evidence.fingerprint if evidence else None,
        "calibrated": [name for name in wanted if evidence and name in evidence.calibrated],
    }


def chips_by_software(prediction: Dict[str, Any]) -> dict[Software, list[str]]:
    """Return the chips of a prediction, as `basis` describes it, by the software that it speaks for there."""
    chips: dict[Software, list[str]] = {}
    for chip, software in prediction["software"].items():
        chips.setdefault(Software(**software), []).append(chip)
    return chips


def ends_of(table: CostTable, segment: int, slot: int) -> dict[str, float | None]:
    """Return latency_low_ms and latency_high_ms of a segment on a slot; None where the model gives no interval."""
    costs, column = table.costs, int(table.type_of_slot[slot])
    low, high = (None if ends is None else float(ends[segment, column]) for ends in (costs.low_ms, costs.high_ms))
    return {"latency_low_ms": low, "latency_high_ms": high}


def outside(table: CostTable, assignment: NDArray[np.int64]) -> dict[str, Any]:
    """Return what of a mapped design lies outside of the model's data, as JSON values.

    `share` of the layers' time, and `cases`: chip, operator kind, reasons (labels of Outside), layers, and their share,
    the largest first. All that the model was fitted to, and models that were not fitted, have share 0 and no cases.
    """
    costs = table.costs
    codes = costs.layers.outside
    if codes is None:
        return {"share": 0.0, "cases": []}
    column = table.type_of_slot[assignment][costs.segments.segment_of_layer]  # [N]
    here = np.arange(len(column))
    time_ms, code = costs.layers.latency_ms[here, column], codes[here, column]
    total = float(time_ms.sum()) or 1.0
    cases: dict[tuple[str, str, int], list[float]] = {}
    for n in np.flatnonzero(code).tolist():
        key = (costs.chips[column[n]].name, costs.segments.graph.layers[n].kind.value, int(code[n]))
        cases.setdefault(key, []).append(float(time_ms[n]))
    rows = [
        {
            "chip": chip,
            "kind": kind,
            "reasons": list(Outside(reason).labels),
            "layers": len(times),
            "share": min(sum(times) / total, 1.0),
        }
        for (chip, kind, reason), times in cases.items()
    ]
    rows.sort(key=lambda row: -row["share"])  # type: ignore[operator]
    return {"share": _share(time_ms, code > 0), "cases": rows}


def outside_by_chip(every: Iterable[SegmentCosts]) -> list[dict[str, Any]]:
    """Return how much of the workload lies outside of the model's data on each chip, as JSON values.

    A row a chip and element of `every` that has some: chip, precision, batch, `share` of all layers' time there, and
    `reasons`: label of Outside -> share. The largest share first.
    """
    rows: list[dict[str, Any]] = []
    for costs in every:
        codes, latency_ms = costs.layers.outside, costs.layers.latency_ms
        for column, chip in enumerate(costs.chips):
            if codes is None or not codes[:, column].any() or not chip.supports(costs.precision):
                continue
            time_ms, code = latency_ms[:, column], codes[:, column]
            shares = {flag: _share(time_ms, (code & flag) > 0) for flag in Outside}
            rows.append(
                {
                    "chip": chip.name,
                    "precision": str(costs.precision),
                    "batch": costs.segments.batch,
                    "share": _share(time_ms, code > 0),
                    "reasons": {flag.labels[0]: share for flag, share in shares.items() if share > 0},
                }
            )
    return sorted(rows, key=lambda row: -row["share"])


def _share(time_ms: NDArray[np.float64], layers: NDArray[np.bool_]) -> float:
    """Return the share of all time that some layers take: exactly 1 where it is all of them."""
    return 1.0 if layers.all() else float(time_ms[layers].sum() / (time_ms.sum() or 1.0))


def mapping_interval(
    table: CostTable, problem: MappingProblem, mapping: Mapping, teams: TeamCosts | None = None
) -> Interval | None:
    """Return the interval of a mapping's time as `problem` has it (see `intervals`); None where there is none.

    `teams` are those of the problem. Between its ends members of a split are off to the same side, too.
    """
    if table.costs.low_ms is None:
        return None
    order = mapping.order[None] if len(mapping.order) else None
    ends: tuple[Literal["low"], Literal["high"]] = ("low", "high")
    ends_ms: list[float] = []
    for end in ends:
        compute_ms = table.at(end).latency_ms
        if teams is not None and teams.teams:
            compute_ms = np.hstack([compute_ms, teams.at(end).compute_ms])
        ends_ms.append(
            float(evaluate(replace(problem, compute_ms=compute_ms), mapping.assignment[None], order).latency_ms[0])
        )
    return ends_ms[0], ends_ms[1]


def intervals(timeline: Timeline, placement: Placement | None, *, contention: bool = True) -> dict[str, Interval]:
    """Return the interval of each metric of time of a simulated design; empty where the model gives none.

    The design is simulated again with all layers at the low, and at the high ends of their intervals: as if all
    predictions were off to the same side. Those for one chip mostly are; where they are not the interval is wider than
    it need be. What links do is taken as known.
    """
    table = timeline.table
    if table.costs.low_ms is None:
        return {}
    found = [timeline] + [
        simulate(
            table.segments,
            timeline.work.modes,
            table.system,
            placement,
            inputs=timeline.inputs,
            regime=timeline.regime,
            contention=contention,
            table=table.at(end),
            teams=None if timeline.teams is None else timeline.teams.at(end),
            order=timeline.order,
        )
        for end in ("low", "high")
    ]
    latency_ms = [each.latency_ms for each in found]
    per_s = [1e3 * table.segments.batch / each.period_ms for each in found]
    return {
        "latency_ms": (float(min(latency_ms)), float(max(latency_ms))),
        "throughput_per_s": (float(min(per_s)), float(max(per_s))),
    }
