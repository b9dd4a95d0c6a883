"""What the knee costs in money, energy and memory."""

from __future__ import annotations

from dataclasses import dataclass

from reports.blocks import Block, Figure, Text
from reports.format import metric, percent
from reports.plots.bars import Bars, draw_bars
from reports.plots.memory import MemoryPanel, MemoryPlot, draw_memory
from reports.run import Run
from reports.section import NotApplicable, Section
from reports.sections import knee_detail


@dataclass(frozen=True, slots=True, kw_only=True)
class CostInfo:
    """The breakdowns, each None where the file has none, and sums that do not agree with the metrics."""

    cost: Bars | None
    energy: Bars | None
    memory: MemoryPlot | None
    disagreements: tuple[str, ...]


def cost_info(run: Run) -> CostInfo:
    """Gather the breakdowns, and check their sums."""
    detail = knee_detail(run)
    if not (detail.cost or detail.energy or detail.memory):
        raise NotApplicable("The timeline file of the knee holds no cost, no energy and no memory.")
    disagreements = []
    for items, name in ((detail.cost, "cost_usd"), (detail.energy, "energy_mj")):
        total, stated = sum(items.values()), detail.metrics.get(name)
        if items and stated is not None and abs(total - stated) > 1e-6 * max(abs(stated), 1e-12):
            disagreements.append(f"the items add up to {metric(name, total)}, the metric says {metric(name, stated)}")
    panels = []
    end = max((time for _, time, _ in detail.memory), default=0.0)
    end = max([end, *(span[4] for span in detail.compute)])
    for chip in detail.chips:
        events = [(time, size) for slot, time, size in detail.memory if slot == chip.slot]
        if events:
            title = f"slot {chip.slot}: {chip.name}"
            times, live = [time for time, _ in events], [size / 1e6 for _, size in events]
            panels.append(MemoryPanel(title=title, times_ms=times, live_mb=live, capacity_mb=chip.memory_mb))
    return CostInfo(
        cost=_bars("cost", "Cost [USD]", detail.cost, "cost_usd", 3),
        energy=_bars("energy", "Energy of one sample [mJ]", detail.energy, "energy_mj", 2),
        memory=MemoryPlot(panels=panels, end_ms=end) if panels else None,
        disagreements=tuple(disagreements),
    )


def _bars(name: str, title: str, items: dict[str, float], metric_name: str, colour: int) -> Bars | None:
    total = sum(items.values())
    if not items:
        return None
    rows = [
        (item.replace("_", " "), value, f"{metric(metric_name, value)} · {percent(value / total if total else 0.0)}")
        for item, value in sorted(items.items(), key=lambda entry: -entry[1])
    ]
    return Bars(name=name, title=f"{title}, in all {metric(metric_name, total, unit=False)}", items=rows, colour=colour)


def draw_costs(info: CostInfo) -> list[Block]:
    """Bars of cost and energy, and memory over time."""
    blocks: list[Block] = [Text(text=f"The sums disagree: {text}.", tone="warning") for text in info.disagreements]
    if info.cost is not None:
        blocks.append(Figure(svg=draw_bars(info.cost), caption="Cost of one system in US dollars, by item."))
    if info.energy is not None:
        blocks.append(
            Figure(svg=draw_bars(info.energy), caption="Energy of one sample in millijoules, by where it goes.")
        )
    if info.memory is not None:
        caption = (
            "Live memory (weights and activations) on each chip in megabytes, over one simulated run. A dashed line is "
            "the chip's capacity, where it is near enough to be seen."
        )
        blocks.append(Figure(svg=draw_memory(info.memory), caption=caption))
    return blocks


SECTION = Section(key="costs", title="Cost, energy and memory", order=80, info=cost_info, draw=draw_costs)
