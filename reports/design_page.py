"""Write the page of one mapped and simulated design: one file that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dse.errors import DseError
from reports.blocks import Block, Cell, Fact, Facts, Row, Table, number_cell, text_cell
from reports.export import write_file
from reports.format import number, percent
from reports.page import Page, render_page
from reports.plots.style import house_style
from reports.records import Detail
from reports.run import Problem, parse_record
from reports.section import Card
from reports.sections.timeline import draw_timeline, timeline_of

FACTS = (
    ("latency_ms", "Latency", "ms"),
    ("throughput_per_s", "Throughput", "samples/s"),
    ("energy_mj", "Energy", "mJ a sample"),
    ("contention_ms", "Waiting for links", "ms of the latency"),
    ("peak_memory_mb", "Memory", "MB on the fullest chip"),
    ("utilisation", "Utilisation", "busy time of a chip, mean"),
)


def write_design(detail: Mapping[str, Any], segments: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Write the page of a design.

    Parameters
    ----------
    detail
        What `dse.detail.detail` returns, with `design`: its title.
    segments
        Rows of `dse map --json`: who runs each segment, and how teams share it.
    path
        Where to write the page. The same design gives the same bytes.

    Raises
    ------
    DseError
        Where `detail` is none of a design, or the file cannot be written.
    """
    problems: list[Problem] = []
    design = parse_record(Detail, dict(detail), "design", problems)
    if design is None or not design.compute:
        raise DseError("this is no design in detail: it lists no spans", "give what dse.detail.detail returns")
    with house_style():
        cards = [
            _card("summary", "Summary", _summary(design)),
            _card("timeline", "Timeline", draw_timeline(timeline_of(design))),
            _card("segments", "Segments", _segments(segments)),
        ]
    page = Page(title=f"{design.design}: design", name=design.design, subtitle="Design", cards=cards, problems=problems)
    path = Path(path)
    write_file(path, partial(Path.write_text, data=render_page(page), encoding="utf-8"))
    return path


def _card(key: str, title: str, blocks: Sequence[Block]) -> Card:
    return Card(key=key, title=title, state="drawn", blocks=blocks)


def _summary(design: Detail) -> list[Block]:
    facts = [
        Fact(label=label, value=number(design.metrics[key]), note=note)
        for key, label, note in FACTS
        if key in design.metrics
    ]
    found = design.mapping
    if found is not None and found.objective is not None:
        proof = "proven optimal" if found.status == "optimal" else f"gap {percent(found.gap)}"
        note = f"of {found.solver}, without contention for links; {proof}"
        facts.append(Fact(label="Objective", value=number(found.objective), note=note))
    return [Facts(facts=facts)]


def _segments(segments: Sequence[Mapping[str, Any]]) -> list[Block]:
    columns = ["Segment", "Layers of", "Layers", "Slots", "Chip", "Way", "Latency ms", "Energy mJ", "Team MB"]
    rows = [
        Row(
            cells=[
                number_cell(str(row["id"]), row["id"]),
                text_cell(row["name"]),
                number_cell(str(row["layers"]), row["layers"]),
                text_cell(" + ".join(map(str, row["slots"]))),
                text_cell(row["chip"]),
                text_cell(row["way"]),
                _figure(row["latency_ms"]),
                _figure(row["energy_mj"]),
                _figure(row["team_bytes"] / 1e6),
            ]
        )
        for row in segments
    ]
    caption = (
        "Who runs each segment: whole on one slot, split over a team, or whole inputs in turn (replicate); and what "
        "its team sends within itself."
    )
    return [Table(columns=columns, rows=rows, caption=caption, sortable=True, tall=len(rows) > 24)]


def _figure(value: float) -> Cell:
    return number_cell(number(value), value)
