"""Gantt chart: lanes of spans against time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from reports.plots.style import FONT_PT, ON_COLOUR, fits, house_style, new_figure, to_svg


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One span in a lane."""

    lane: int
    start_ms: float
    end_ms: float
    colour: str
    label: str
    tip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gantt:
    """What the chart shows between `start_ms` and `end_ms`; lanes run from top to bottom."""

    lanes: Sequence[str]
    bars: Sequence[Bar]
    start_ms: float
    end_ms: float
    legend: Sequence[tuple[str, str]]  # colour, label


def draw_gantt(info: Gantt) -> Markup:
    """Draw the spans; a label is written where it fits into its span."""
    from matplotlib.patches import Patch, Rectangle

    height = 0.75 + 0.36 * len(info.lanes) + (0.3 if info.legend else 0.0)
    tips: dict[str, str] = {}
    with house_style():
        figure = new_figure(9.6, height)
        axes = figure.add_subplot()
        axes.set_xlim(info.start_ms, info.end_ms)
        axes.set_ylim(len(info.lanes) - 0.5, -0.5)
        axes.set_yticks(range(len(info.lanes)), [str(lane) for lane in info.lanes])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("time [ms]")
        per_ms = 7.4 / max(info.end_ms - info.start_ms, 1e-12)
        for index, bar in enumerate(info.bars):
            start, end = max(bar.start_ms, info.start_ms), min(bar.end_ms, info.end_ms)
            box = Rectangle((start, bar.lane - 0.36), end - start, 0.72, facecolor=bar.colour, linewidth=0)
            box.set_gid(f"span-{index}")
            tips[f"span-{index}"] = bar.tip
            axes.add_patch(box)
            if (end - start) * per_ms > 0.02:  # a hairline keeps neighbours apart
                axes.plot([end, end], [bar.lane - 0.36, bar.lane + 0.36], color=ON_COLOUR, linewidth=0.5)
            room = (end - start) * per_ms - 0.06
            if bar.label and fits(bar.label, room, FONT_PT - 1) == len(bar.label):
                place = ((start + end) / 2, bar.lane)
                axes.text(
                    *place, bar.label, ha="center", va="center", fontsize=FONT_PT - 1, color=ON_COLOUR, clip_on=True
                )
        if info.legend:
            handles = [Patch(facecolor=colour, label=label) for colour, label in info.legend]
            figure.legend(handles=handles, loc="outside upper left", ncols=6)
        return to_svg(figure, name="gantt", description=f"Timeline with {len(info.lanes)} lanes", tips=tips)
