"""Write the page of a workload: one file that loads nothing, from what `workloads.describe` returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dse.errors import DseError
from reports.blocks import Block
from reports.export import write_file
from reports.format import prefixed
from reports.page import Page, render_page
from reports.plots.style import house_style
from reports.records import Workload
from reports.run import Problem, parse_record
from reports.section import Card
from reports.workload_blocks import (
    advice_blocks,
    growth_blocks,
    intensity_blocks,
    layer_blocks,
    memory_blocks,
    module_blocks,
    specification_blocks,
    summary_blocks,
)
from reports.workload_ledger import ledger_blocks, reference_blocks

CARDS: Sequence[tuple[str, str, Callable[[Workload], Sequence[Block]], str]] = (
    ("summary", "Summary", summary_blocks, ""),
    ("advice", "Bottlenecks", advice_blocks, "Nothing crosses a threshold."),
    ("modules", "Modules", module_blocks, "The workload has no layers."),
    ("intensity", "Arithmetic intensity", intensity_blocks, "No layer computes anything."),
    ("memory", "Memory", memory_blocks, "No layer writes a tensor."),
    ("growth", "Growth with length", growth_blocks, ""),
    ("specification", "The specification", specification_blocks, ""),
    ("references", "Published figures", reference_blocks, ""),
    ("layers", "Layers", layer_blocks, "The workload has no layers."),
    ("ledger", "Coverage", ledger_blocks, ""),
)
"""Anchor, title, blocks, and what is said where there are none; without that the card is left out."""


def write_workload(description: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page of a workload.

    Parameters
    ----------
    description
        What `workloads.describe` returns; with `growth`, a list of the fields of `workloads.growth.GrowthPoint`, also
        a plot over lengths.
    path
        Where to write the page. The same description gives the same bytes.

    Raises
    ------
    DseError
        Where `description` is none of a workload, or the file cannot be written.
    """
    path = Path(path)
    page = render_workload(description)
    write_file(path, partial(Path.write_text, data=page, encoding="utf-8"))
    return path


def render_workload(description: Mapping[str, Any]) -> str:
    """Return the page as HTML. Raises DseError as `write_workload` does."""
    problems: list[Problem] = []
    workload = parse_record(Workload, dict(description), "workload", problems)
    if workload is None or not workload.layers:
        raise DseError(
            "this is no description of a workload: it lists no layers", "give what workloads.describe returns"
        )
    with house_style():
        drawn = [(key, title, draw(workload), empty) for key, title, draw, empty in CARDS]
    cards = [
        Card(key=key, title=title, state="drawn" if blocks else "not_applicable", blocks=blocks, reason=empty)
        for key, title, blocks, empty in drawn
        if blocks or empty
    ]
    parts = [workload.mode, f"batch {workload.batch}" if workload.batch else "", prefixed(workload.flops, "FLOPs")]
    subtitle = " · ".join(["Workload", *(part for part in parts if part)])
    return render_page(
        Page(title=f"{workload.name}: workload", name=workload.name, subtitle=subtitle, cards=cards, problems=problems)
    )
