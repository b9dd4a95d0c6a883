"""How a comparison looks on a terminal: a row a problem and solver, and a row a solver over all problems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from dse.cli.output import number, print_table

if TYPE_CHECKING:
    from dse.compare import Comparison, Summary
    from dse.compared import Case

REASON_CHARACTERS = 110
TIE = 1e-9  # relative


def show_comparison(comparison: Comparison, cases: Sequence[Case]) -> None:
    """Print the tables, and the reasons of answers that are none."""
    from dse.compared import short_names

    names = short_names([case.name for case in cases])
    summaries = comparison.summaries()
    many = len(comparison.seeds) > 1
    known = bool(comparison.best_known)
    columns = ["instance", "solver", "", "objective"]
    columns += ["median", "worst", "spread %"] if many else []
    columns += ["bound", "gap %", "to best met %", *(["to best known %"] if known else []), "status", "s"]
    rows = []
    last = ""
    for s in summaries:
        best = s.to_best_met is not None and s.to_best_met <= TIE
        row = [names[s.instance] if s.instance != last else "", s.solver, "*" if best else "", s.best]
        row += [s.median, s.worst, _percent(s.spread)] if many else []
        row += [s.lower_bound, _percent(s.gap), _percent(s.to_best_met)]
        row += [_percent(s.to_best_known)] if known else []
        rows.append([*row, s.status, s.wall_s])
        last = s.instance
    print_table(columns, rows, left=3, spare=("median", "worst", "to best met %"), title="* the best objective")
    if len(cases) > 1:
        _show_solvers(summaries, comparison.solvers, known)
    for s in summaries:
        if s.reason:
            click.echo(f"{s.solver} on {names[s.instance]}: {s.status}: {_clip(s.reason)}")


def _show_solvers(summaries: Sequence[Summary], solvers: Sequence[str], known: bool) -> None:
    rows: list[list[object]] = []
    for solver in solvers:
        own = [s for s in summaries if s.solver == solver]
        met = [s.to_best_met for s in own if s.to_best_met is not None]
        published = [s.to_best_known for s in own if s.to_best_known is not None]
        row: list[object] = [
            solver,
            len(own),
            sum(s.best is not None for s in own),
            sum(m <= TIE for m in met),
            sum(s.status == "optimal" for s in own),
            _percent(sum(met) / len(met)) if met else None,
        ]
        row += [_percent(max(published)) if published else None] if known else []
        rows.append([*row, sum(s.wall_s * s.runs for s in own)])
    columns = ["solver", "instances", "solved", "best", "proven", "mean to best met %"]
    columns += ["worst to best known %"] if known else []
    print_table([*columns, "s in all"], rows, title="Over all instances")


def _percent(share: float | None) -> str | None:
    return None if share is None else number(round(100 * share, 4))


def _clip(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= REASON_CHARACTERS else line[: REASON_CHARACTERS - 3] + "..."
