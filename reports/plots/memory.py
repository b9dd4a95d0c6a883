"""Memory over time, one panel a chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from reports.format import metric, percent, shorten
from reports.plots.style import ACCENT, MUTED, house_style, new_figure, series, to_svg


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPanel:
    """One chip: live megabytes after each change, and its capacity."""

    title: str
    times_ms: Sequence[float]
    live_mb: Sequence[float]
    capacity_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlot:
    """Panels from top to bottom, all from 0 to `end_ms`."""

    panels: Sequence[MemoryPanel]
    end_ms: float


def draw_memory(info: MemoryPlot) -> Markup:
    """Draw live memory as a filled step; the capacity is a line where it is near, and words where it is far above."""
    with house_style():
        figure = new_figure(9.6, 0.6 + 1.05 * len(info.panels))
        grid = figure.subplots(len(info.panels), 1, sharex=True, squeeze=False)
        for index, (axes, panel) in enumerate(zip(grid[:, 0], info.panels, strict=True)):
            times, live = [*panel.times_ms, info.end_ms], [*panel.live_mb, panel.live_mb[-1]]
            axes.fill_between(times, live, step="post", color=series(0), alpha=0.3, linewidth=0)
            axes.step(times, live, where="post", color=series(0), linewidth=1.1)
            peak = max(live)
            near = 0 < panel.capacity_mb < 4 * peak
            if near:
                axes.axhline(panel.capacity_mb, color=ACCENT, linewidth=1.2, linestyle=(0, (5, 3)))
            share = percent(peak / panel.capacity_mb) if panel.capacity_mb > 0 else "?"
            note = f"peak {metric('peak_memory_mb', peak)}, {share} of {metric('peak_memory_mb', panel.capacity_mb)}"
            axes.set_title(f"{shorten(panel.title, 48)} · {note}", fontsize=8.5, fontweight="normal", color=MUTED)
            axes.set_ylim(0, 1.12 * (panel.capacity_mb if near else peak) or 1.0)
            axes.set_xlim(0, info.end_ms or 1.0)
            axes.locator_params(axis="y", nbins=3)
            axes.set_ylabel("MB" if index == 0 else "")
        grid[-1, 0].set_xlabel("time [ms]")
        return to_svg(figure, name="memory", description=f"Live memory over time on {len(info.panels)} chips")
