"""Which segments take the time, what binds them, and what would help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.analysis import SegmentShare, segment_shares
from reports.blocks import Block, Cell, Figure, Row, Table, Text, number_cell, text_cell
from reports.format import count, duration, kind_label, metric, metric_range, number, percent
from reports.plots.bars import Bars, draw_bars
from reports.run import Run
from reports.section import NotApplicable, Section
from reports.sections import knee_detail

SHOWN = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class BottleneckInfo:
    """Segments by falling share, shares of what binds, and latency by operator kind."""

    shares: Sequence[SegmentShare]
    by_bound: Sequence[tuple[str, float]]
    by_kind: Sequence[tuple[str, float, int]]  # kind, ms, layers


def bottleneck_info(run: Run) -> BottleneckInfo:
    """Rank the knee's segments."""
    detail = knee_detail(run)
    shares = segment_shares(detail, run.workload)
    if not shares:
        raise NotApplicable("The timeline file of the knee lists no segments.")
    bounds: dict[str, float] = {}
    for entry in shares:
        bounds[entry.segment.bound] = bounds.get(entry.segment.bound, 0.0) + entry.share
    kinds: dict[str, tuple[float, int]] = {}
    layers = run.workload.layers if run.workload else []
    for layer in detail.layers:
        if 0 <= layer.index < len(layers):
            time, many = kinds.get(layers[layer.index].kind, (0.0, 0))
            kinds[layers[layer.index].kind] = (time + layer.latency_ms, many + 1)
    return BottleneckInfo(
        shares=shares,
        by_bound=sorted(bounds.items(), key=lambda item: -item[1]),
        by_kind=sorted(((kind, time, many) for kind, (time, many) in kinds.items()), key=lambda item: -item[1]),
    )


def draw_bottlenecks(info: BottleneckInfo) -> list[Block]:
    """A sentence, the table, and latency by operator kind."""
    words = {
        "memory": "memory bandwidth",
        "compute": "the matrix units",
        "vector": "the vector units",
        "launch": "starting layers",
        "": "nothing named",
    }
    parts = [f"{words.get(bound, bound)} {percent(share)}" for bound, share in info.by_bound]
    blocks: list[Block] = [Text(text=f"Segments by what binds them, as shares of compute time: {', '.join(parts)}.")]
    top = info.shares[:SHOWN]
    timed = any(entry.segment.latency_low_ms is not None for entry in top)
    rows = [
        Row(
            cells=[
                number_cell(str(entry.segment.id), entry.segment.id),
                text_cell(entry.segment.name),
                text_cell(f"{entry.segment.slot}: {entry.chip}"),
                number_cell(metric("latency_ms", entry.segment.latency_ms, unit=False), entry.segment.latency_ms),
                *([_interval(entry)] if timed else []),
                number_cell(percent(entry.share), entry.share),
                text_cell(entry.segment.bound),
                text_cell(entry.advice),
                number_cell(f"{number(entry.intensity)} / {number(entry.ridge)}", entry.intensity),
            ]
        )
        for entry in top
    ]
    covered = percent(sum(entry.share for entry in top))
    columns = ["Segment", "Module", "Slot", "Latency [ms]", *(["Interval [ms]"] if timed else [])]
    columns += ["Share", "Bound by", "What would help"]
    caption = (
        f"The {count(len(top), 'segment')} with the largest latency, {covered} of the compute time. An arithmetic "
        "intensity below the chip's ridge means memory-bound. What would help: the most that the named change could "
        "take off the segment's latency."
    )
    blocks.append(Table(columns=[*columns, "Intensity / ridge [op/B]"], rows=rows, caption=caption, sortable=True))
    if info.by_kind:
        total = sum(time for _, time, _ in info.by_kind)
        items = [
            (kind_label(kind), time, f"{duration(time)} · {percent(time / total)} · {count(many, 'layer')}")
            for kind, time, many in info.by_kind
        ]
        bars = Bars(name="kinds", title="Latency by operator kind [ms]", items=items)
        caption = "Latency of the layers by operator kind, in milliseconds, summed over all chips."
        blocks.append(Figure(svg=draw_bars(bars), caption=caption))
    return blocks


def _interval(entry: SegmentShare) -> Cell:
    low, high = entry.segment.latency_low_ms, entry.segment.latency_high_ms
    ends = None if low is None or high is None else (low, high)
    return number_cell(metric_range("latency_ms", ends), high)


SECTION = Section(key="bottlenecks", title="Bottlenecks", order=70, info=bottleneck_info, draw=draw_bottlenecks)
