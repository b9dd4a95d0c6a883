"""The front: an interactive scatter (plotly) and its static twin (matplotlib) from one record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from reports.format import metric_label
from reports.plots.style import ACCENT, FAINT, VARIABLES, house_style, log_axis, new_figure, to_svg


@dataclass(frozen=True, kw_only=True, eq=False)
class FrontPlot:
    """Front points [P, 2] and dominated points [Q, 2] on two objectives, and what colours the front's points."""

    axes: tuple[str, str]  # metric names
    points: NDArray[np.float64]
    dominated: NDArray[np.float64]
    groups: Sequence[tuple[str, NDArray[np.bool_], str]]  # legend entries: name, mask [P] of its points, colour
    hover: Sequence[Sequence[str]]  # [P] lines of text, not escaped
    knee: int | None

    @property
    def log(self) -> tuple[bool, bool]:
        """Whether each axis spans more than a factor of 20, so that a logarithmic one reads better."""
        everything = np.vstack([self.points, self.dominated])
        low, high = everything.min(axis=0), everything.max(axis=0)
        return bool(low[0] > 0 and high[0] > 20 * low[0]), bool(low[1] > 0 and high[1] > 20 * low[1])


def plotly_front(info: FrontPlot) -> dict[str, Any]:
    """Return the figure as plotly JSON. Colours are CSS variable names that the page resolves for its scheme."""
    traces: list[dict[str, Any]] = []
    if len(info.dominated):
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "dominated",
                "x": _coordinates(info.dominated[:, 0]),
                "y": _coordinates(info.dominated[:, 1]),
                "hoverinfo": "skip",
                "marker": {"size": 4, "color": "--faint"},
            }
        )
    for name, mask, colour in info.groups:
        chosen = np.flatnonzero(mask).tolist()
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": escape(name),
                "x": _coordinates(info.points[chosen, 0]),
                "y": _coordinates(info.points[chosen, 1]),
                "hovertext": ["<br>".join(escape(line) for line in info.hover[i]) for i in chosen],
                "hoverinfo": "text",
                "marker": {"size": 8, "color": f"--{VARIABLES[colour]}"},
            }
        )
    if info.knee is not None:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "knee",
                "x": _coordinates(info.points[[info.knee], 0]),
                "y": _coordinates(info.points[[info.knee], 1]),
                "hovertext": ["<br>".join(escape(line) for line in info.hover[info.knee])],
                "hoverinfo": "text",
                "marker": {"size": 15, "symbol": "star-diamond", "color": "--accent"},
            }
        )
    layout = {
        "height": 460,
        "margin": {"l": 72, "r": 16, "t": 16, "b": 56},
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": _axis(info.axes[0], info.log[0]),
        "yaxis": _axis(info.axes[1], info.log[1]),
    }
    return {"data": traces, "layout": layout}


def _axis(name: str, log: bool) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": {"text": metric_label(name)}, "tickformat": ",~g"}
    return axis | ({"type": "log", "dtick": "D2"} if log else {"type": "linear"})


def _coordinates(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def draw_front(info: FrontPlot) -> Markup:
    """Draw the same figure for print and for readers without scripts."""
    with house_style():
        figure = new_figure(9.6, 4.6)
        axes = figure.add_subplot()
        if len(info.dominated):
            axes.scatter(info.dominated[:, 0], info.dominated[:, 1], s=5, color=FAINT, linewidths=0, label="dominated")
        for name, mask, colour in info.groups:
            axes.scatter(info.points[mask, 0], info.points[mask, 1], s=22, color=colour, linewidths=0, label=name)
        if info.knee is not None:
            x, y = info.points[info.knee]
            axes.scatter([x], [y], s=130, marker="*", color=ACCENT, linewidths=0, label="knee")
        everything = np.vstack([info.points, info.dominated])
        if info.log[0]:
            log_axis(axes, "x", *np.quantile(everything[:, 0], (0, 1)))
        if info.log[1]:
            log_axis(axes, "y", *np.quantile(everything[:, 1], (0, 1)))
        axes.set_xlabel(metric_label(info.axes[0]))
        axes.set_ylabel(metric_label(info.axes[1]))
        figure.legend(loc="outside upper left", ncols=4)
        return to_svg(figure, name="front", description=f"Front of {len(info.points)} points")
