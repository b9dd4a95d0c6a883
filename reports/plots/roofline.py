"""Roofline: what each layer reaches, under the ceilings of the chips that it runs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from reports.format import kind_label, prefixed, shorten
from reports.plots.style import INK, MUTED, house_style, log_axis, new_figure, series, to_svg
from reports.records import Roofline


@dataclass(frozen=True, kw_only=True, eq=False)
class RooflinePlot:
    """Layers [N] with their intensity (op/B), rate (op/s) and share of latency, and the ceilings of each chip type."""

    rooflines: Mapping[str, Roofline]
    intensity: NDArray[np.float64]
    rate: NDArray[np.float64]
    share: NDArray[np.float64]
    kinds: Sequence[str]


def draw_roofline(info: RooflinePlot) -> Markup:
    """Draw on log axes: ceilings as lines, layers as discs whose area is their share of the latency."""
    with house_style():
        figure = new_figure(9.6, 5.0)
        axes = figure.add_subplot()
        ridges = [line.ridge for line in info.rooflines.values() if line.ridge > 0]
        low = 10 ** np.floor(np.log10(min([*info.intensity, *ridges]) / 2))
        high = 10 ** np.ceil(np.log10(max([*info.intensity, *ridges]) * 2))
        x = np.geomspace(low, high, 200)
        styles = ["-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2))]
        for index, (name, line) in enumerate(info.rooflines.items()):
            label = f"{shorten(name, 24)}: {prefixed(line.compute, 'op/s')}, {prefixed(line.bandwidth, 'B/s')}"
            style = styles[index % len(styles)]
            axes.plot(
                x, np.minimum(line.compute, line.bandwidth * x), color=INK, linestyle=style, linewidth=1.3, label=label
            )
            if 0 < line.vector_flops < line.compute:
                inside = x[line.bandwidth * x >= line.vector_flops]
                vector = np.full(len(inside), line.vector_flops)
                axes.plot(inside, vector, color=MUTED, linestyle=style, linewidth=0.7)
        kinds = sorted(set(info.kinds), key=lambda kind: -info.share[[k == kind for k in info.kinds]].sum())
        area = 12 + 900 * info.share / max(info.share.max(), 1e-30) * 0.35
        points = []
        for index, kind in enumerate(kinds):
            own = np.array([k == kind for k in info.kinds])
            style_of = {"s": area[own], "color": series(index), "alpha": 0.65, "linewidths": 0}
            points.append(axes.scatter(info.intensity[own], info.rate[own], label=kind_label(kind), **style_of))
        top = 3 * max([*info.rate, *(line.compute for line in info.rooflines.values())])
        bottom = info.rate.min() / 2
        log_axis(axes, "x", low, high)
        log_axis(axes, "y", bottom, top)
        axes.set_xlim(low, high)
        axes.set_ylim(bottom, top)
        axes.set_xlabel("arithmetic intensity [op/B]")
        axes.set_ylabel("rate [op/s]")
        lines = axes.get_lines()
        axes.legend(
            handles=[line for line in lines if not str(line.get_label()).startswith("_")],
            loc="lower right",
            handlelength=3,
            title="ceilings",
            title_fontsize=8,
        )
        kinds_legend = figure.legend(handles=points, loc="outside upper left", ncols=6)
        for handle in kinds_legend.legend_handles:
            if handle is not None and hasattr(handle, "set_sizes"):
                handle.set_sizes([36.0])
        description = f"Roofline of {len(info.intensity)} layers on {len(info.rooflines)} chip types"
        return to_svg(figure, name="roofline", description=description)
