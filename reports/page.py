"""Write the page: every section drawn or accounted for, in one file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from reports.blocks import Block, Chart, Fold
from reports.export import write_file, write_perfetto, write_tables
from reports.plots.style import house_style
from reports.run import Problem, Run, read_run
from reports.section import Card, all_sections, draw_section


def write(run_folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run folder, and the tables and traces beside it.

    Parameters
    ----------
    run_folder
        A folder as docs/run_folder.md defines it. Parts may be missing or damaged: the page then says so.
    out
        Where to write the page; default `report.html` in the run folder.

    Returns
    -------
    Path
        The page. The same folder gives the same bytes.

    Raises
    ------
    DseError
        Where `run_folder` is no run folder, or cannot be written.

    """
    run = read_run(run_folder)
    write_tables(run)
    write_perfetto(run)
    path = Path(out) if out is not None else run.folder / "report.html"
    page = render(run)
    write_file(path, partial(Path.write_text, data=page, encoding="utf-8"))
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What one page shows: its heading, what is missing of its source, and its cards."""

    title: str  # of the window
    name: str
    subtitle: str
    cards: Sequence[Card]
    problems: Sequence[Problem] = ()


def render(run: Run) -> str:
    """Return the page of a run as HTML."""
    summary, started = run.summary, run.environment.started if run.environment else None
    parts = [
        "Design-space exploration report",
        f"workload {summary.workload}" if summary and summary.workload else "",
        f"{summary.regime} regime" if summary and summary.regime else "",
        f"run started {started[:16].replace('T', ' ')}" if started else "",
    ]
    with house_style():
        cards = [draw_section(section, run) for section in all_sections()]
    return render_page(
        Page(
            title=f"{run.name}: design-space exploration report",
            name=run.name,
            subtitle=" · ".join(part for part in parts if part),
            cards=cards,
            problems=run.problems,
        )
    )


def render_page(page: Page) -> str:
    """Return a page as HTML: style and scripts inline, nothing loaded."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [_template_source(environment, "page.js")]
    if any(isinstance(block, Chart) for block in _blocks(page.cards)):
        scripts.insert(0, _plotly())
    return environment.get_template("page.html.j2").render(
        page=page,
        cards=page.cards,
        style=_template_source(environment, "page.css"),
        scripts=scripts,
        policy=_content_security_policy(scripts),
        chart_json=_chart_json,
    )


def _blocks(cards: Iterable[Card]) -> Iterator[Block]:
    """Every block of the page, those inside folds included."""

    def walk(blocks: Iterable[Block]) -> Iterator[Block]:
        for block in blocks:
            yield block
            if isinstance(block, Fold):
                yield from walk(block.blocks)

    for card in cards:
        yield from walk(card.blocks)


def _template_source(environment: Any, name: str) -> Markup:
    """A file of templates/ as it stands: style and script are ours, and are not escaped."""
    return Markup(environment.loader.get_source(environment, name)[0])


def _plotly() -> Markup:
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())


def _content_security_policy(scripts: Iterable[str]) -> str:
    """Allow our scripts by their hash and nothing else: no request leaves the page, no text becomes a script."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "form-action 'none'; base-uri 'none'"
    )


def _chart_json(chart: Chart) -> Markup:
    """JSON that may stand inside a script element: nothing in it can end the element or open a comment."""
    text = json.dumps(chart.figure, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
