"""How the search went: hypervolume and epsilon against designs evaluated, and what cannot be mapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from reports.blocks import Block, Figure, Row, Table, Text, number_cell, text_cell
from reports.format import count, number, percent
from reports.plots.progress import Curve, draw_progress
from reports.records import Summary
from reports.run import Run
from reports.section import NotApplicable, Section


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchInfo:
    """The curves that have points, and why designs fell out."""

    curves: Sequence[Curve]
    summary: Summary
    reasons: Mapping[str, int]
    failures: Mapping[str, int]


def search_info(run: Run) -> SearchInfo:
    """Gather the history; reasons come from the summary, failures from the result rows."""
    summary = run.summary
    if summary is None:
        raise NotApplicable("summary.json is missing or damaged.")
    history = sorted(summary.history, key=lambda entry: entry.evaluated)
    curves = []
    for label, name in (
        ("hypervolume", "hypervolume"),
        ("proven epsilon", "epsilon"),
        ("open designs", "open_unmapped"),
    ):
        known = [(e.evaluated, float(getattr(e, name))) for e in history if getattr(e, name) is not None]
        known = [(evaluated, value) for evaluated, value in known if isfinite(value)]
        if known:
            x, y = [at for at, _ in known], [value for _, value in known]
            curves.append(Curve(label=label, evaluated=x, values=y, from_zero=name != "hypervolume"))
    failures: dict[str, int] = {}
    for row in run.rows:
        if row.status == "failed":
            failures[row.reason or "no reason given"] = failures.get(row.reason or "no reason given", 0) + 1
    if not curves and not summary.infeasible_reasons and not failures:
        raise NotApplicable("The summary holds no history, and no design fell out.")
    return SearchInfo(curves=curves, summary=summary, reasons=summary.infeasible_reasons, failures=failures)


def draw_search(info: SearchInfo) -> list[Block]:
    """The curves and the tables."""
    blocks: list[Block] = []
    summary = info.summary
    if info.curves:
        caption = "Against the number of designs mapped and simulated: " + ", ".join(
            {
                "hypervolume": "hypervolume of the front (larger is better)",
                "proven epsilon": "epsilon proven over all designs, as a share (smaller is better)",
                "open designs": "designs neither mapped nor ruled out",
            }[curve.label]
            for curve in info.curves
        )
        blocks.append(Figure(svg=draw_progress(info.curves), caption=caption + "."))
        if not any(curve.label == "proven epsilon" for curve in info.curves):
            blocks.append(Text(text="No epsilon was proven at any point of this search.", tone="note"))
    else:
        blocks.append(Text(text="The summary holds no history of the search.", tone="note"))
    last = f"{count(summary.evaluated, 'design')} mapped" if summary.evaluated is not None else ""
    if last and summary.wall_s:
        rate = (summary.evaluated or 0) / summary.wall_s
        blocks.append(Text(text=f"{last} in {number(summary.wall_s)} s, {number(rate)} a second."))
    for reasons, column, caption in (
        (info.reasons, "Cannot be mapped because", "Designs that cannot be mapped, by reason."),
        (
            info.failures,
            "Failed because",
            "Designs whose evaluation failed, by reason; the study tries them again on request.",
        ),
    ):
        if reasons:
            total = sum(reasons.values())
            rows = [
                Row(
                    cells=[text_cell(reason), number_cell(number(many), many), number_cell(percent(many / total), many)]
                )
                for reason, many in sorted(reasons.items(), key=lambda item: -item[1])
            ]
            blocks.append(Table(columns=[column, "Designs", "Share"], rows=rows, caption=caption, tall=len(rows) > 12))
    return blocks


SECTION = Section(key="search", title="Search", order=90, info=search_info, draw=draw_search)
