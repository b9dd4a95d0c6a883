"""Horizontal bars with their numbers written beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from reports.format import shorten
from reports.plots.style import INK, MUTED, house_style, new_figure, series, to_svg


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Items from top to bottom: label, value, the text beside the bar."""

    name: str  # of the figure, unique on the page
    title: str
    items: Sequence[tuple[str, float, str]]
    colour: int = 0


def draw_bars(info: Bars) -> Markup:
    """Draw one bar an item, on one scale from zero."""
    with house_style():
        figure = new_figure(6.4, 0.45 + 0.32 * len(info.items))
        axes = figure.add_subplot()
        largest = max((value for _, value, _ in info.items), default=0.0) or 1.0
        rows = range(len(info.items))
        axes.barh(rows, [value for _, value, _ in info.items], height=0.62, color=series(info.colour), linewidth=0)
        for row, (_, value, text) in enumerate(info.items):
            axes.text(max(value, 0.0) + 0.012 * largest, row, text, va="center", fontsize=8.5, color=INK)
        axes.set_yticks(rows, [shorten(label, 44) for label, _, _ in info.items], color=INK)
        axes.set_ylim(len(info.items) - 0.5, -0.5)
        axes.set_xlim(0, 1.45 * largest)
        axes.set_title(info.title, color=MUTED, fontweight="normal", fontsize=9)
        axes.set_xticks([])
        axes.grid(visible=False)
        axes.spines[["bottom"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        return to_svg(figure, name=info.name, description=f"Bar chart: {info.title}")
