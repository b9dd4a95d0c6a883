"""Solvers side by side: a strip of points a solver, and anytime curves of objective and bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from markupsafe import Markup

from reports.format import number, shorten
from reports.plots.style import INK, house_style, log_axis, new_figure, series, to_svg

HIGHEST, LOWEST = 1.6, 0.4  # ends of an anytime axis, in units of the best objective
LINEAR_PERCENT = 0.1  # a percent axis is linear up to here, then logarithmic


@dataclass(frozen=True, slots=True, kw_only=True)
class Strips:
    """A row of points a solver; `percent` axes begin at zero, others are logarithmic."""

    name: str  # of the figure, unique on the page
    label: str  # of the axis
    rows: Sequence[tuple[str, Sequence[float]]]
    percent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AnytimeCurve:
    """What one solver had, and had proven, over time."""

    solver: str
    colour: int
    seconds: Sequence[float]
    objectives: Sequence[float]
    bounds: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Anytime:
    """The curves of one problem."""

    name: str  # of the figure, unique on the page
    title: str
    label: str  # of the objective
    curves: Sequence[AnytimeCurve]
    end_s: float

    @property
    def best(self) -> float:
        """Least objective of any curve."""
        return min((value for curve in self.curves for value in curve.objectives if isfinite(value)), default=0.0)


def draw_strips(info: Strips) -> Markup:
    """Draw one row a solver, its points half transparent and their median as a bar."""
    from statistics import median

    from matplotlib.ticker import FuncFormatter

    with house_style():
        figure = new_figure(9.6, 0.75 + 0.34 * len(info.rows))
        axes = figure.add_subplot()
        for row, (_, values) in enumerate(info.rows):
            axes.scatter(values, [row] * len(values), s=26, color=series(row), alpha=0.55, linewidths=0, clip_on=False)
            if len(values) > 1:
                axes.plot([median(values)] * 2, [row - 0.3, row + 0.3], color=INK, linewidth=1.6)
        axes.set_yticks(range(len(info.rows)), [shorten(solver, 32) for solver, _ in info.rows], color=INK)
        axes.set_ylim(len(info.rows) - 0.5, -0.5)
        everything = [value for _, values in info.rows for value in values]
        if info.percent:
            axes.set_xscale("symlog", linthresh=LINEAR_PERCENT)
            axes.set_xlim(0, 1.3 * max([1.0, *everything]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        elif everything:
            low, high = max(min(everything), 1e-6), max(*everything, 1e-6)
            axes.set_xlim(low / 1.5, high * 1.5)
            log_axis(axes, "x", low / 1.5, high * 1.5)
        axes.set_xlabel(info.label)
        axes.tick_params(axis="y", length=0)
        return to_svg(figure, name=info.name, description=f"Strip chart: {info.label}, a row a solver")


def draw_anytime(info: Anytime) -> Markup:
    """Draw objective (solid) and bound (dashed) of each solver over time; a time before the first answer is empty."""
    with house_style():
        figure = new_figure(9.6, 3.2)
        axes = figure.add_subplot()
        first = min((s for curve in info.curves for s in curve.seconds if s > 0), default=1e-3)
        end_s = max(info.end_s, *(s for curve in info.curves for s in curve.seconds), 2 * first)
        for curve in info.curves:
            times = [max(second, first) for second in curve.seconds] + [end_s]
            style: Any = {"where": "post", "color": series(curve.colour)}
            axes.step(times, [*curve.objectives, curve.objectives[-1]], label=curve.solver, **style)
            axes.step(times, [*curve.bounds, curve.bounds[-1]], linestyle=(0, (4, 2)), linewidth=1.1, **style)
        axes.set_xlim(first / 1.2, end_s)
        log_axis(axes, "x", first / 1.2, end_s)
        if info.best > 0:
            values = [v for c in info.curves for v in (*c.objectives, *c.bounds) if isfinite(v)]
            low = max(min(values), LOWEST * info.best)
            high = min(max(values), HIGHEST * info.best)
            room = 0.05 * (high - low) or 0.05 * info.best
            axes.set_ylim(low - room, high + room)
        axes.set_xlabel("wall time [s]")
        axes.set_ylabel(info.label)
        figure.legend(loc="outside upper left", ncols=5)
        description = f"Objective and bound over time on {info.title}; best {number(info.best)}"
        return to_svg(figure, name=info.name, description=description)
