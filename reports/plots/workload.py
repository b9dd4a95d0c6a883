"""Figures of a workload: shares a module, intensity a layer, live memory over the schedule, growth with length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from reports.format import kind_label, percent, prefixed, shorten
from reports.plots.style import ACCENT, FAINT, INK, MUTED, house_style, log_axis, new_figure, series, to_svg

RIDGES = (10.0, 300.0)
"""Ridge points, op/B, of what is built today; between them it depends on the chip what binds (workloads.advice)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareBars:
    """Modules from top to bottom with their shares of FLOPs and of bytes."""

    names: Sequence[str]
    flops: Sequence[float]
    bytes: Sequence[float]


def draw_shares(info: ShareBars) -> Markup:
    """Draw two bars a module on one scale, with their shares beside them."""
    with house_style():
        figure = new_figure(9.6, 0.7 + 0.42 * len(info.names))
        axes = figure.add_subplot()
        rows = np.arange(len(info.names))
        largest = max([*info.flops, *info.bytes, 1e-9])
        for offset, values, colour, label in ((-0.2, info.flops, 0, "FLOPs"), (0.2, info.bytes, 1, "bytes moved")):
            axes.barh(rows + offset, values, height=0.36, color=series(colour), linewidth=0, label=label)
            for row, value in zip(rows, values, strict=True):
                axes.text(value + 0.01 * largest, row + offset, percent(value), va="center", fontsize=7.5, color=INK)
        axes.set_yticks(rows, [shorten(name, 44) for name in info.names], color=INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1.12 * largest)
        axes.set_xticks([])
        axes.grid(visible=False)
        axes.spines[["bottom"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper left", ncols=2)
        return to_svg(figure, name="modules", description=f"Shares of FLOPs and bytes of {len(rows)} modules")


@dataclass(frozen=True, kw_only=True, eq=False)
class IntensityPlot:
    """Layers [N] that compute: intensity (op/B), FLOPs and bytes, and their kinds."""

    intensity: NDArray[np.float64]
    flops: NDArray[np.float64]
    bytes: NDArray[np.float64]
    kinds: Sequence[str]


def draw_intensity(info: IntensityPlot) -> Markup:
    """Draw on log axes: each layer a disc whose area is its share of the bytes, by kind; the range of ridges shaded."""
    with house_style():
        figure = new_figure(9.6, 4.8)
        axes = figure.add_subplot()
        low, high = min(info.intensity.min() / 2, RIDGES[0] / 4), max(info.intensity.max() * 2, RIDGES[1] * 2)
        bottom, top = info.flops.min() / 2, info.flops.max() * 3
        axes.axvspan(*RIDGES, color=FAINT, alpha=0.22, linewidth=0)
        kinds = sorted(set(info.kinds), key=lambda kind: -info.flops[[k == kind for k in info.kinds]].sum())
        area = 10 + 300 * info.bytes / max(info.bytes.max(), 1e-30)
        points = []
        for index, kind in enumerate(kinds):
            own = np.array([k == kind for k in info.kinds])
            style = {"s": area[own], "color": series(index), "alpha": 0.6, "linewidths": 0}
            points.append(axes.scatter(info.intensity[own], info.flops[own], label=kind_label(kind), **style))
        log_axis(axes, "x", low, high)
        log_axis(axes, "y", bottom, top)
        axes.set_xlim(low, high)
        axes.set_ylim(bottom, top)
        axes.text(
            np.sqrt(RIDGES[0] * RIDGES[1]), top / 1.6, "ridge of today's chips", ha="center", va="top", color=MUTED
        )
        axes.set_xlabel("arithmetic intensity [op/B]")
        axes.set_ylabel("FLOPs of the layer")
        legend = figure.legend(handles=points, loc="outside upper left", ncols=6)
        for handle in legend.legend_handles:
            if handle is not None and hasattr(handle, "set_sizes"):
                handle.set_sizes([36.0])
        description = f"Arithmetic intensity and FLOPs of {len(info.kinds)} layers"
        return to_svg(figure, name="intensity", description=description)


@dataclass(frozen=True, kw_only=True, eq=False)
class LivePlot:
    """Live tensors [N] in MB while each layer runs, and the weights in MB."""

    live_mb: NDArray[np.float64]
    weights_mb: float


def draw_live(info: LivePlot) -> Markup:
    """Draw live tensors on top of the weights over the schedule, the peak marked."""
    with house_style():
        figure = new_figure(9.6, 3.2)
        axes = figure.add_subplot()
        at = np.arange(1, len(info.live_mb) + 1)
        total = info.weights_mb + info.live_mb
        axes.fill_between([1, at[-1]], info.weights_mb, color=series(1), alpha=0.35, linewidth=0, label="weights")
        axes.fill_between(at, info.weights_mb, total, step="mid", color=series(0), alpha=0.35, linewidth=0)
        axes.step(at, total, where="mid", color=series(0), linewidth=1.1, label="and what lives beside them")
        peak = int(total.argmax())
        axes.plot([at[peak]], [total[peak]], marker="o", color=ACCENT, markersize=6, linestyle="", label="peak")
        side = "left" if peak < 0.6 * len(at) else "right"
        note = f"{prefixed(total[peak] * 1e6, 'B')} at layer {at[peak]:,}"
        beside = (8 if side == "left" else -8, 2)
        axes.annotate(
            note, (at[peak], total[peak]), beside, textcoords="offset points", ha=side, va="bottom", color=INK
        )
        axes.set_xlim(1, max(at[-1], 2))
        axes.set_ylim(0, 1.15 * total.max() or 1.0)
        axes.set_xlabel("layer, in program order")
        axes.set_ylabel("MB")
        figure.legend(loc="outside upper left", ncols=3)
        return to_svg(figure, name="live", description=f"Memory over {len(at)} layers, peak at layer {at[peak]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthCurve:
    """One model over lengths of signal, ascending."""

    seconds: Sequence[float]
    flops: Sequence[float]
    peak_bytes: Sequence[float]
    peak_with_scores_bytes: Sequence[float]  # empty where not known


def draw_growth(curves: Mapping[str, GrowthCurve]) -> Markup:
    """Draw FLOPs and peak memory over the length, one line a model, all axes logarithmic."""
    with house_style():
        figure = new_figure(9.6, 4.0)
        left, right = figure.subplots(1, 2)
        for index, (name, curve) in enumerate(curves.items()):
            style = {"color": series(index), "marker": "o", "markersize": 3}
            left.plot(curve.seconds, curve.flops, label=name, **style)
            right.plot(curve.seconds, curve.peak_bytes, **style)
            if curve.peak_with_scores_bytes:
                right.plot(curve.seconds, curve.peak_with_scores_bytes, color=series(index), linestyle=(0, (4, 2)))
        seconds = [value for curve in curves.values() for value in curve.seconds]
        flops = [value for curve in curves.values() for value in curve.flops]
        peaks = [value for curve in curves.values() for value in (*curve.peak_bytes, *curve.peak_with_scores_bytes)]
        for axes, values, label in ((left, flops, "FLOPs"), (right, peaks, "peak memory [B]")):
            log_axis(axes, "x", min(seconds), max(seconds))
            log_axis(axes, "y", min(values), max(values))
            axes.set_xlabel("length of the input [s]")
            axes.set_ylabel(label)
        figure.legend(loc="outside upper left", ncols=4)
        return to_svg(figure, name="growth", description=f"Growth of {len(curves)} models with length")
