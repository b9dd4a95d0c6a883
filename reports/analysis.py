"""What the figures say: ends of the front, shares of segments, the busiest resource, what would help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from dse.metrics import LESS_IS_BETTER
from reports.format import METRIC_LABELS, metric_range, percent
from reports.records import DesignPrediction, Detail, DetailSegment, FrontPoint, Roofline, Summary, Workload


def best(front: Sequence[FrontPoint], metric: str) -> FrontPoint | None:
    """The point of the front that is best in `metric`; the first of several."""
    sign = 1.0 if LESS_IS_BETTER.get(metric, True) else -1.0
    with_it = [point for point in front if isfinite(point.metrics.get(metric, float("nan")))]
    return min(with_it, key=lambda point: sign * point.metrics[metric], default=None)


def same(a: FrontPoint | None, b: FrontPoint | None) -> bool:
    """Whether two points of the front are one."""
    return a is not None and b is not None and (a.design, str(a.point)) == (b.design, str(b.point))


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentShare:
    """One segment, its share of the sum of all segments' latencies, and what would help."""

    segment: DetailSegment
    chip: str
    share: float
    intensity: float | None  # op/B
    ridge: float | None  # op/B, of its chip
    advice: str


def segment_shares(detail: Detail, workload: Workload | None) -> list[SegmentShare]:
    """Segments by falling share of latency."""
    total = sum(segment.latency_ms for segment in detail.segments)
    shares = []
    for segment in sorted(detail.segments, key=lambda segment: (-segment.latency_ms, segment.id)):
        chip = detail.chip_name(segment.slot)
        roofline = detail.rooflines.get(chip)
        shares.append(
            SegmentShare(
                segment=segment,
                chip=chip,
                share=segment.latency_ms / total if total > 0 else 0.0,
                intensity=segment.flops / segment.bytes if segment.bytes > 0 else None,
                ridge=roofline.ridge if roofline else None,
                advice=_advice(detail, segment, roofline, workload),
            )
        )
    return shares


LEVERS = {
    "memory": "2 × bandwidth",
    "compute": "2 × matrix peak",
    "vector": "2 × vector peak",
    "launch": "fewer, larger layers: fuse them, or take a larger batch",
}


def _advice(detail: Detail, segment: DetailSegment, roofline: Roofline | None, workload: Workload | None) -> str:
    """What doubling the resource that binds would save at most, layer by layer where the layers are known."""
    if segment.bound not in LEVERS:
        return ""
    if segment.bound == "launch":  # no faster chip would help, and what would is not of the chip
        return LEVERS[segment.bound]
    members: set[int] = set()
    if workload is not None:
        members = {i for s in workload.segments if s.id == segment.id for i in s.layer_indices}
    layers = [layer for layer in detail.layers if layer.index in members and layer.bound == segment.bound]
    saved = 0.0
    for layer in layers:
        floor = 0.0
        if roofline is not None and segment.bound == "memory" and roofline.compute > 0:
            floor = layer.flops / roofline.compute * 1e3
        elif roofline is not None and segment.bound != "memory" and roofline.bandwidth > 0:
            floor = layer.bytes / roofline.bandwidth * 1e3
        saved += layer.latency_ms - max(layer.latency_ms / 2, min(floor, layer.latency_ms))
    if not layers or segment.latency_ms <= 0:
        return LEVERS[segment.bound]
    return f"{LEVERS[segment.bound]}: up to −{min(saved / segment.latency_ms, 1.0):.0%}".replace("%", " %")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A chip or a link, and the share of time that it is busy."""

    name: str
    utilisation: float
    link: bool


def busiest(detail: Detail) -> Resource | None:
    """The chip or link that is busy for the largest share of the time."""
    chips = [
        Resource(name=f"slot {chip.slot} ({chip.name})", utilisation=chip.utilisation, link=False)
        for chip in detail.chips
    ]
    links = [
        Resource(
            name=f"the link from slot {link.source} to slot {link.target}", utilisation=link.utilisation, link=True
        )
        for link in detail.links
    ]
    return max([*chips, *links], key=lambda resource: resource.utilisation, default=None)


def timed_metric(summary: Summary) -> str:
    """The metric of time whose intervals are worth showing; empty where the model gives none."""
    name = "throughput_per_s" if summary.regime == "pipelined" else "latency_ms"
    return name if any(name in point.intervals for point in summary.front) else ""


def interval_label(name: str) -> str:
    """Return "Latency, interval [ms]"."""
    label, unit = METRIC_LABELS[name]
    return f"{label}, interval [{unit}]"


def trust(prediction: DesignPrediction) -> str:
    """How far the latencies of a design can be trusted, in a sentence."""
    if not prediction.data or prediction.coverage is None:
        return f"Its latencies are of model {prediction.model}, which gives no interval." if prediction.model else ""
    text = f"Its latencies are predicted by model {prediction.model}, fitted to measured operators"
    if ends := prediction.intervals.get("latency_ms"):
        text += f": a latency of {metric_range('latency_ms', ends)} ms is its {percent(prediction.coverage)} interval"
    share = prediction.outside.share
    if share > 0:
        text += (
            f"; {percent(share)} of its layers' time lies outside of what was measured, where an interval is a guess"
        )
    else:
        text += "; all of its layers are like what was measured"
    return text + "."


def chip_colours(detail: Detail) -> dict[str, int]:
    """A colour index for each chip type of the design, in order of appearance."""
    return {name: index for index, name in enumerate(dict.fromkeys(chip.name for chip in detail.chips))}


def runs_of(numbers: Sequence[int]) -> str:
    """Return "0–4, 7, 9–12" for the sorted whole numbers."""
    runs: list[list[int]] = []
    for value in sorted(set(numbers)):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in runs)
