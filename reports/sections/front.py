"""The front: an interactive plot and a table to sort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from reports.analysis import interval_label, same, timed_metric
from reports.blocks import Block, Cell, Chart, Row, Table, Text, number_cell, text_cell
from reports.format import chips_text, count, metric, metric_label, metric_range, number
from reports.plots.front import FrontPlot, draw_front, plotly_front
from reports.plots.style import SCALE, series
from reports.records import FrontPoint
from reports.run import Run
from reports.section import NotApplicable, Section

MOST_DOMINATED = 2500  # more points than this add bytes to the page and nothing to the picture


@dataclass(frozen=True, kw_only=True, eq=False)
class FrontInfo:
    """The points by the first objective, and how to draw them."""

    plot: FrontPlot | None
    front: Sequence[FrontPoint]
    objectives: Sequence[str]
    knee: FrontPoint | None
    dominated: int  # points simulated beside the front
    timed: str  # the metric whose intervals are shown; empty where there is none


def front_info(run: Run) -> FrontInfo:
    """Gather the front and the dominated points."""
    if run.summary is None:
        raise NotApplicable("summary.json is missing or damaged.")
    objectives = run.summary.objectives
    if not run.summary.front:
        raise NotApplicable("The front is empty: no design of the study could be mapped.")
    front = run.summary.front
    plot = None
    dominated = np.zeros((0, 2))
    if len(objectives) >= 2:
        axes = (objectives[0], objectives[1])
        front = [p for p in front if all(isfinite(p.metrics.get(name, np.nan)) for name in objectives)]
        if not front:
            raise NotApplicable(f"No point of the front has all of its objectives: {', '.join(objectives)}.")
        front = sorted(front, key=lambda point: point.metrics[axes[0]])
        dominated = _dominated(run, axes, front)
        every = dominated[:: -(-len(dominated) // MOST_DOMINATED)] if len(dominated) else dominated
        plot = FrontPlot(
            axes=axes,
            points=np.array([[point.metrics[name] for name in axes] for point in front]),
            dominated=every,
            groups=_groups(front, objectives),
            hover=[_hover(point) for point in front],
            knee=next((index for index, point in enumerate(front) if same(point, run.knee)), None),
        )
    return FrontInfo(
        plot=plot,
        front=front,
        objectives=objectives,
        knee=run.knee,
        dominated=len(dominated),
        timed=timed_metric(run.summary),
    )


def _dominated(run: Run, axes: tuple[str, str], front: Sequence[FrontPoint]) -> NDArray[np.float64]:
    """Points [Q, 2] of the result rows that are not on the front."""
    on_front = {(point.design, tuple(sorted(point.metrics.items()))) for point in front}
    points = [
        [point.metrics[name] for name in axes]
        for row in run.rows
        for point in row.points
        if all(isfinite(point.metrics.get(name, np.nan)) for name in axes)
        and (row.design, tuple(sorted(point.metrics.items()))) not in on_front
    ]
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def _groups(front: Sequence[FrontPoint], objectives: Sequence[str]) -> list[tuple[str, NDArray[np.bool_], str]]:
    """Colour by fifths of the third objective, else by the number of chips."""
    if len(objectives) >= 3:
        values = np.array([point.metrics[objectives[2]] for point in front])
        edges = np.unique(np.quantile(values, np.linspace(0, 1, len(SCALE) + 1)[1:-1]))
        bins = np.searchsorted(edges, values, side="left")
        groups = []
        for index in np.unique(bins):
            mask = bins == index
            low, high = (metric(objectives[2], bound, unit=False) for bound in (values[mask].min(), values[mask].max()))
            label = f"{metric_label(objectives[2])} {low if low == high else f'{low} to {high}'}"
            groups.append((label, mask, SCALE[round(index * (len(SCALE) - 1) / max(len(edges), 1))]))
        return groups
    chips = np.array([len(point.params.chips) for point in front])
    return [(count(int(many), "chip"), chips == many, series(index)) for index, many in enumerate(np.unique(chips))]


def _hover(point: FrontPoint) -> list[str]:
    lines = [f"design {point.design}, point {point.point}", chips_text(point.params.chips)]
    lines.append(" · ".join(part for part in (point.params.package, point.params.precision) if part))
    return [
        *lines,
        *(f"{metric_label(name, unit=False)}: {metric(name, value)}" for name, value in point.metrics.items()),
    ]


def draw_front_section(info: FrontInfo) -> list[Block]:
    """The plot, where there are two objectives, and the table."""
    blocks: list[Block] = []
    if info.plot is None:
        blocks.append(Text(text="The study has one objective, so the front is one point and there is nothing to plot."))
    else:
        x, y = (metric_label(name) for name in info.plot.axes)
        caption = f"{count(len(info.front), 'point')} of the front by {x} and {y}"
        if len(info.objectives) >= 3:
            third = metric_label(info.objectives[2])
            caption += f"; colour is {third} in fifths, so points that look beaten here are better in it"
        else:
            caption += "; colour is the number of chips"
        shown = len(info.plot.dominated)
        if info.dominated:
            some = (
                f"{number(shown)} of the {number(info.dominated)}" if shown < info.dominated else number(info.dominated)
            )
            caption += f". Grey: {some} simulated points that are dominated"
        caption += ". The star is the knee." if info.plot.knee is not None else "."
        blocks.append(Chart(figure=plotly_front(info.plot), svg=draw_front(info.plot), caption=caption))
    names = list(dict.fromkeys([*info.objectives, *(name for point in info.front for name in point.metrics)]))
    ours, others = names[: len(info.objectives)], names[len(info.objectives) :]
    columns = ["Design", "Chips", *map(metric_label, ours), *([interval_label(info.timed)] if info.timed else [])]
    columns += ["Package", "Precision", "Batch", *map(metric_label, others)]
    rows = []
    for point in info.front:
        params = point.params
        cells = [text_cell(f"{point.design}-{point.point}"), text_cell(chips_text(params.chips))]
        cells += [_metric_cell(point, name) for name in ours]
        if info.timed:
            ends = point.intervals.get(info.timed)
            cells.append(number_cell(metric_range(info.timed, ends), ends[1] if ends else None))
        cells += [
            text_cell(params.package),
            text_cell(params.precision),
            number_cell(number(params.batch), params.batch),
        ]
        cells += [_metric_cell(point, name) for name in others]
        rows.append(Row(cells=cells, mark="knee" if same(point, info.knee) else ""))
    caption = (
        "Every point of the front. A heading sorts by its column; the same data is in front.csv and front.parquet."
    )
    blocks.append(Table(columns=columns, rows=rows, caption=caption, sortable=True, tall=len(rows) > 12))
    return blocks


def _metric_cell(point: FrontPoint, name: str) -> Cell:
    value = point.metrics.get(name)
    return number_cell(metric(name, value, unit=False), value)


SECTION = Section(key="front", title="The front", order=20, info=front_info, draw=draw_front_section)
