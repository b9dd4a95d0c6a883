"""The knee's timeline: a lane a chip, and a lane a pair of slots that exchange data."""

from __future__ import annotations

from dataclasses import dataclass

from reports.blocks import Block, Figure, Text
from reports.format import count, duration, number, percent, prefixed
from reports.plots.gantt import Bar, Gantt, draw_gantt
from reports.plots.style import BOUND_COLOURS, SERIES, series
from reports.records import Detail
from reports.run import Run
from reports.section import NotApplicable, Section
from reports.sections import knee_detail

MOST_BARS = 1200  # beyond it a window is drawn
MOST_PAIRS = 16  # pairs of slots with a lane of their own, the busiest ones
PERIODS = 4  # how many inputs' worth of the steady state a window shows
BOUND_LABELS = {
    "compute": "bound by matrix units",
    "memory": "bound by memory",
    "vector": "bound by vector units",
    "launch": "bound by starting layers",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineInfo:
    """The chart, and the point it is of."""

    gantt: Gantt
    detail: Detail
    inputs: int
    whole_ms: float
    hidden_pairs: int


def timeline_info(run: Run) -> TimelineInfo:
    """Gather the spans of the knee, as `timeline_of`."""
    return timeline_of(knee_detail(run))


def timeline_of(detail: Detail) -> TimelineInfo:
    """Gather the spans of a point; of a stream of inputs, those of a window in its middle."""
    if not detail.compute:
        raise NotApplicable("The timeline file of the point holds no spans.")
    inputs = len({span[2] for span in detail.compute})
    ends = [span[4] for span in detail.compute] + [span[6] for span in detail.transfers]
    whole = max(ends)
    start, end = _window(detail, inputs, whole)
    slots = sorted({span[1] for span in detail.compute})
    busy: dict[tuple[int, int], float] = {}
    for _, _, _, source, target, begin, finish, _ in detail.transfers:
        busy[source, target] = busy.get((source, target), 0.0) + finish - begin
    pairs = sorted(sorted(busy, key=lambda pair: (-busy[pair], pair))[:MOST_PAIRS])
    lanes = [f"slot {slot}  {detail.chip_name(slot)}" for slot in slots]
    lanes += [f"transfers {source} → {target}" for source, target in pairs]
    lane_of = {slot: index for index, slot in enumerate(slots)}
    lane_of_pair = {pair: len(slots) + index for index, pair in enumerate(pairs)}
    segments = {segment.id: segment for segment in detail.segments}
    bars = []
    for segment, slot, item, begin, finish in detail.compute:
        if finish < start or begin > end:
            continue
        known = segments.get(segment)
        bound = known.bound if known else ""
        tip = f"segment {segment} {known.name if known else ''}, input {item}: {_span(begin, finish)}"
        colour = BOUND_COLOURS.get(bound, SERIES[8]) if inputs == 1 else series(item)
        label = str(segment)
        bars.append(Bar(lane=lane_of[slot], start_ms=begin, end_ms=finish, colour=colour, label=label, tip=tip))
    for producer, consumer, item, source, target, begin, finish, size in detail.transfers:
        if finish < start or begin > end or (source, target) not in lane_of_pair:
            continue
        tip = f"segment {producer} to {consumer}, input {item}, {prefixed(size, 'B')}: {_span(begin, finish)}"
        colour = SERIES[8] if inputs == 1 else series(item)
        lane = lane_of_pair[source, target]
        bars.append(Bar(lane=lane, start_ms=begin, end_ms=finish, colour=colour, label="", tip=tip))
    legend = []
    if inputs == 1:
        bounds = {segment.bound for segment in detail.segments}
        legend = [(colour, BOUND_LABELS[bound]) for bound, colour in BOUND_COLOURS.items() if bound in bounds]
        legend += [(SERIES[8], "transfer")] if detail.transfers else []
    gantt = Gantt(lanes=lanes, bars=bars, start_ms=start, end_ms=end, legend=legend)
    hidden = len(busy) - len(pairs)
    return TimelineInfo(gantt=gantt, detail=detail, inputs=inputs, whole_ms=whole, hidden_pairs=hidden)


def _span(start_ms: float, end_ms: float) -> str:
    return f"{start_ms:.4g} to {end_ms:.4g} ms ({duration(end_ms - start_ms)})"


def _window(detail: Detail, inputs: int, whole_ms: float) -> tuple[float, float]:
    """All of a short run; else from one input's end to a later one's in the middle, where the pipeline is full."""
    if inputs == 1 or len(detail.compute) + len(detail.transfers) <= MOST_BARS // 8:
        return 0.0, whole_ms
    done: dict[int, float] = {}
    for _, _, item, _, end in detail.compute:
        done[item] = max(done.get(item, end), end)
    order = sorted(done.values())
    low = max(0, (len(order) - PERIODS) // 2)
    high = min(len(order) - 1, low + PERIODS)
    return (order[low], order[high]) if order[high] > order[low] else (0.0, whole_ms)


def draw_knee(info: TimelineInfo) -> list[Block]:
    """The chart of the knee, what contention costs, and where all of it is."""
    detail = info.detail
    trace = f"timelines/{detail.design}-{detail.point}.perfetto.json"
    return [*draw_timeline(info), Text(text=f"In full: {trace}, for ui.perfetto.dev.", tone="note")]


def draw_timeline(info: TimelineInfo) -> list[Block]:
    """The chart, and what contention costs."""
    detail = info.detail
    numbers = "Numbers are segments, written where they fit; rest the pointer on a span for its name and times."
    if info.inputs == 1:
        caption = f"One input through the system, {number(info.whole_ms)} ms. {numbers}"
    elif info.gantt.end_ms - info.gantt.start_ms < info.whole_ms:
        caption = (
            f"A window of the steady state: {number(info.gantt.start_ms)} to {number(info.gantt.end_ms)} ms of "
            f"{number(info.whole_ms)} ms for {count(info.inputs, 'input')}. Colour tells inputs apart. {numbers}"
        )
    else:
        caption = f"{count(info.inputs, 'input')} in {number(info.whole_ms)} ms. Colour tells them apart. {numbers}"
    if info.hidden_pairs:
        caption += f" Left out: {count(info.hidden_pairs, 'less busy pair')} of slots."
    blocks: list[Block] = [Figure(svg=draw_gantt(info.gantt), caption=caption)]
    if detail.contention is not None:
        with_ms, without_ms = detail.contention.with_ms, detail.contention.without_ms
        if abs(with_ms - without_ms) <= 1e-9 * max(with_ms, without_ms):
            text = f"Links are never contended for: {number(with_ms)} ms with and without contention."
        else:
            share = percent(abs(with_ms / without_ms - 1)) if without_ms > 0 else "?"
            change = duration(abs(with_ms - without_ms))
            text = (
                f"Contention for links costs {change} ({share}): "
                if with_ms > without_ms
                else f"Contention for links costs no time; waiting for them reorders the work, to a gain of {change} "
                f"({share}): "
            )
            alone = number(without_ms, 4)
            text += f"{number(with_ms, 4)} ms with it, {alone} ms if every transfer had its links to itself."
        blocks.append(Text(text=text))
    return blocks


SECTION = Section(key="timeline", title="Timeline", order=50, info=timeline_info, draw=draw_knee)
