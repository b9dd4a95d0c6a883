"""Search progress: hypervolume and epsilon against designs evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from reports.plots.style import house_style, new_figure, series, to_svg


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One panel: `values` against `evaluated`."""

    label: str
    evaluated: Sequence[int]
    values: Sequence[float]
    from_zero: bool = True  # whether the axis starts at zero


def draw_progress(curves: Sequence[Curve]) -> Markup:
    """Draw one panel a curve, over one axis of designs evaluated."""
    with house_style():
        figure = new_figure(9.6, 0.5 + 1.5 * len(curves))
        grid = figure.subplots(len(curves), 1, sharex=True, squeeze=False)
        for index, (axes, curve) in enumerate(zip(grid[:, 0], curves, strict=True)):
            marker = "o" if len(curve.values) < 3 else ""
            axes.step(curve.evaluated, curve.values, where="post", color=series(index), marker=marker)
            axes.set_ylabel(curve.label)
            if curve.from_zero:
                axes.set_ylim(0, None)
            axes.set_xlim(0, None)
            axes.locator_params(axis="y", nbins=4)
        grid[-1, 0].set_xlabel("designs evaluated")
        return to_svg(figure, name="progress", description="Search progress: " + ", ".join(c.label for c in curves))
