"""The roofline of the knee's chips, with the layers on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reports.blocks import Block, Figure
from reports.format import count, percent
from reports.plots.roofline import RooflinePlot, draw_roofline
from reports.run import Run
from reports.section import NotApplicable, Section
from reports.sections import knee_detail


@dataclass(frozen=True, kw_only=True, eq=False)
class RooflineInfo:
    """The plot, and what cannot stand on log axes."""

    plot: RooflinePlot
    moved: int  # layers that compute nothing
    moved_share: float  # of latency


def roofline_info(run: Run) -> RooflineInfo:
    """Intensity and rate of each layer, from the flops, bytes and latency at the design's precision."""
    detail = knee_detail(run)
    if not detail.layers:
        raise NotApplicable("The timeline file of the knee lists no layers.")
    if not detail.rooflines:
        raise NotApplicable("The timeline file of the knee gives no ceilings of its chips.")
    flops = np.array([layer.flops for layer in detail.layers])
    size = np.array([layer.bytes for layer in detail.layers])
    latency = np.array([layer.latency_ms for layer in detail.layers])
    shown = (flops > 0) & (size > 0) & (latency > 0)
    if not shown.any():
        raise NotApplicable("No layer of the knee computes anything.")
    layers = run.workload.layers if run.workload else []
    kinds = [layers[layer.index].kind if 0 <= layer.index < len(layers) else "other" for layer in detail.layers]
    total = float(latency.sum())
    plot = RooflinePlot(
        rooflines=detail.rooflines,
        intensity=flops[shown] / size[shown],
        rate=flops[shown] / (latency[shown] * 1e-3),
        share=latency[shown] / total,
        kinds=[kind for kind, there in zip(kinds, shown, strict=True) if there],
    )
    moved_share = float(latency[~shown].sum()) / total
    return RooflineInfo(plot=plot, moved=int((~shown).sum()), moved_share=moved_share)


def draw_roofline_section(info: RooflineInfo) -> list[Block]:
    """The plot."""
    caption = (
        f"{count(len(info.plot.kinds), 'layer')} at the design's precision: arithmetic intensity in operations a byte "
        "against the rate reached in operations a second, both logarithmic. The area of a disc is the layer's share of "
        "latency. Lines are what the best kernels reach on each chip type: memory bandwidth rising, matrix peak flat, "
        "vector peak thin."
    )
    if info.moved:
        moved = count(info.moved, "layer")
        caption += f" Not on the plot: {moved} that only move data, {percent(info.moved_share)} of the latency."
    loss = np.array([line.achievable for line in info.plot.rooflines.values()])
    if (loss < 1).any():
        shares = ", ".join(f"{name} {percent(line.achievable)}" for name, line in info.plot.rooflines.items())
        caption += f" Share of the datasheet's peak that kernels reach: {shares}."
    return [Figure(svg=draw_roofline(info.plot), caption=caption)]


SECTION = Section(key="roofline", title="Roofline", order=60, info=roofline_info, draw=draw_roofline_section)
