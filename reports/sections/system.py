"""The knee as a system: chips in slots, what runs on which, traffic on the links."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from reports.analysis import chip_colours, runs_of
from reports.blocks import Block, Figure, Fold, Row, Table, Text, number_cell, text_cell
from reports.format import count, design_text, duration, metric, number, percent, prefixed
from reports.plots.block_diagram import BlockChip, BlockDiagram, BlockLink, BlockSlot, draw_block_diagram
from reports.plots.floorplan import Site
from reports.records import Detail, DetailChip
from reports.run import Run
from reports.section import NotApplicable, Section
from reports.sections import knee_detail
from reports.sections.floorplan import package_sites


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemInfo:
    """The diagram and what its tables list."""

    detail: Detail
    diagram: BlockDiagram
    hosted: dict[int, list[int]]  # slot -> segments


def system_info(run: Run) -> SystemInfo:
    """Lay the chips out by the rank of their position on the package."""
    detail = knee_detail(run)
    if not detail.chips:
        raise NotApplicable("The timeline file of the knee lists no chips.")
    hosted: dict[int, list[int]] = {chip.slot: [] for chip in detail.chips}
    for segment in detail.segments:
        hosted.setdefault(segment.slot, []).append(segment.id)
    passed = _passed(run, detail)
    places: list[DetailChip | Site] = [*detail.chips, *passed]
    columns = _ranks([place.x_mm + place.width_mm / 2 for place in places])
    rows = _ranks([place.y_mm + place.height_mm / 2 for place in places])
    colours = chip_colours(detail)
    chips = []
    for chip, column, row in zip(detail.chips, columns, rows, strict=False):  # after the chips come the empty slots
        own = [segment for segment in detail.segments if segment.slot == chip.slot]
        lines = [
            f"{count(len(own), 'segment')}: {runs_of([segment.id for segment in own])}" if own else "no segments",
            f"{percent(chip.utilisation)} busy, {metric('power_w', chip.power_w)}",
            f"{metric('peak_memory_mb', chip.peak_memory_mb)} of {metric('peak_memory_mb', chip.memory_mb)}",
        ]
        modules = list(dict.fromkeys((segment.name or "").split(".")[0] for segment in own if segment.name))
        if modules:
            lines.append(", ".join(modules))
        chips.append(
            BlockChip(
                slot=chip.slot,
                name=chip.name,
                column=column,
                row=row,
                lines=lines,
                utilisation=chip.utilisation,
                colour=colours[chip.name],
            )
        )
    links = [
        BlockLink(source=link.source, target=link.target, bytes=link.bytes, utilisation=link.utilisation)
        for link in detail.links
    ]
    grid = zip(passed, columns[len(chips) :], rows[len(chips) :], strict=True)
    empty = [BlockSlot(slot=site.number, column=column, row=row) for site, column, row in grid]
    diagram = BlockDiagram(chips=chips, links=links, empty=empty, columns=max(columns) + 1, rows=max(rows) + 1)
    return SystemInfo(detail=detail, diagram=diagram, hosted=hosted)


def _passed(run: Run, detail: Detail) -> list[Site]:
    """The slots without a chip that traffic passes through."""
    if detail.package is None:
        return []
    ends = {slot for link in detail.links for slot in (link.source, link.target)}
    wanted = ends - {chip.slot for chip in detail.chips}
    return [site for site in package_sites(run, detail.package) if site.number in wanted]


def _ranks(positions: Sequence[float]) -> list[int]:
    """Rank of each position; positions closer than a quarter of the largest step share one."""
    ordered = sorted(positions)
    steps = [b - a for a, b in itertools.pairwise(ordered)]
    threshold = max(steps, default=0.0) / 4
    ranks, rank = {ordered[0]: 0}, 0
    for value, step in zip(ordered[1:], steps, strict=True):
        rank += step > threshold and step > 0
        ranks[value] = rank
    return [ranks[position] for position in positions]


def draw_system(info: SystemInfo) -> list[Block]:
    """The diagram, the links as a table, and the mapping in full under a fold."""
    detail = info.detail
    package = detail.package
    intro = f"Design {detail.design}, point {detail.point}: {design_text(detail.params)}."
    if package is not None:
        link = package.link
        intro += f" Package {package.name}, {package.topology or 'unnamed'} topology"
        if link.bandwidth_gb_s is not None:
            intro += (
                f", links of type {link.name}: {number(link.bandwidth_gb_s)} GB/s a direction, "
                f"{number(link.latency_ns)} ns a hop, {number(link.pj_per_bit)} pJ/bit"
            )
        intro += "."
    mapping = detail.mapping
    if mapping is not None:
        intro += f" Mapped by {mapping.solver} ({mapping.status})"
        intro += (
            f", within {percent(mapping.gap)} of its lower bound." if mapping.gap is not None else ", no gap known."
        )
    caption = (
        "Chips in their slots (schematic, not to scale). The filling is the share of time that a chip is busy; numbers "
        "are segments. Arrows are directed links that carry traffic in one run, their width by bytes; those busy for "
        "more than half of the time are set off."
    )
    if info.diagram.empty:
        caption += " Dashed: slots without a chip that traffic passes through on its way."
    blocks: list[Block] = [Text(text=intro), Figure(svg=draw_block_diagram(info.diagram), caption=caption)]
    if detail.links:
        rows = [
            Row(
                cells=[
                    text_cell(f"slot {link.source} → slot {link.target}"),
                    number_cell(prefixed(link.bytes, "B"), link.bytes),
                    number_cell(duration(link.busy_ms), link.busy_ms),
                    number_cell(percent(link.utilisation), link.utilisation),
                ]
            )
            for link in sorted(detail.links, key=lambda link: -link.bytes)
        ]
        columns = ["Link", "Traffic", "Busy", "Share of time"]
        caption = "Directed links with traffic, all inputs of the simulated run."
        blocks.append(Table(columns=columns, rows=rows, caption=caption, tall=len(rows) > 12))
    else:
        blocks.append(Text(text="No link carries traffic: everything runs on one chip.", tone="note"))
    if detail.segments:
        rows = [
            Row(
                cells=[
                    number_cell(str(segment.id), segment.id),
                    text_cell(segment.name),
                    text_cell(f"slot {segment.slot}: {detail.chip_name(segment.slot)}"),
                    number_cell(metric("latency_ms", segment.latency_ms, unit=False), segment.latency_ms),
                    number_cell(metric("energy_mj", segment.energy_mj, unit=False), segment.energy_mj),
                ]
            )
            for segment in detail.segments
        ]
        columns = ["Segment", "Modules", "Chip", "Latency [ms]", "Energy [mJ]"]
        table = Table(columns=columns, rows=rows, caption="Every segment and its chip.", sortable=True, tall=True)
        blocks.append(Fold(title=f"The mapping in full ({count(len(rows), 'segment')})", blocks=(table,)))
    return blocks


SECTION = Section(key="system", title="The recommended system", order=30, info=system_info, draw=draw_system)
