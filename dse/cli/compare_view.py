"""How a comparison looks on a terminal: a row a problem and solver, and a row a solver over all problems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from dse.cli.output import number, print_table

if TYPE_CHECKING:
    from dse.compare import Comparison
    from dse.compared import Case

REASON_CHARACTERS = 110
SHOWN_NAMES = 3


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
        row = [names[s.instance] if s.instance != last else "", s.solver, "*" if s.is_best else "", s.best]
        row += [s.median, s.worst, _percent(s.spread)] if many else []
        row += [s.lower_bound, _percent(s.gap), _percent(s.to_best_met)]
        row += [_percent(s.to_best_known)] if known else []
        rows.append([*row, s.status, s.wall_s])
        last = s.instance
    print_table(columns, rows, left=3, spare=("median", "worst", "to best met %"), title="* the best objective")
    if len(cases) > 1:
        _show_standings(comparison, known)
    for (solver, status, reason), where in comparison.reasons().items():
        shown = ", ".join(names[instance] for instance in where[:SHOWN_NAMES])
        more = f" and {len(where) - SHOWN_NAMES} more" if len(where) > SHOWN_NAMES else ""
        click.echo(f"{solver} on {shown}{more}: {status}: {_clip(reason)}")


def _show_standings(comparison: Comparison, known: bool) -> None:
    rows: list[list[object]] = []
    for s in comparison.standings():
        row: list[object] = [s.solver, s.problems, s.solved, s.best, s.proven, _percent(s.mean_to_best_met)]
        row += [_percent(s.worst_to_best_known)] if known else []
        rows.append([*row, s.wall_s])
    columns = ["solver", "problems", "solved", "best", "proven", "mean to best met %"]
    columns += ["worst to best known %"] if known else []
    print_table([*columns, "s in all"], rows, title="Over all problems")


def _percent(share: float | None) -> str | None:
    return None if share is None else number(round(100 * share, 3))


def _clip(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= REASON_CHARACTERS else line[: REASON_CHARACTERS - 3] + "..."
