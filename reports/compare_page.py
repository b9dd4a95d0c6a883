"""Write what `dse.compare` found: its rows as CSV and Parquet, and a page with the plots."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import isfinite
from pathlib import Path

from dse.compare import Answer, Comparison, Summary
from dse.compared import Case, row_of, short_names
from reports.blocks import Block, Cell, Fact, Facts, Figure, Fold, Row, Table, Text, number_cell, text_cell
from reports.export import write_file
from reports.format import MISSING, count, listed, percent
from reports.page import Page, render_page
from reports.plots.comparison import Anytime, AnytimeCurve, Strips, draw_anytime, draw_strips
from reports.plots.style import house_style
from reports.section import Card

NO_ANSWER = ("error", "missing", "refused")
SHOWN_NAMES = 4
SHOWN_CURVES = 6  # problems; the curves of the next ones are folded
MOST_CURVES = 36  # problems; a page of more is slow to draw and to read


def write_comparison(comparison: Comparison, cases: Sequence[Case], folder: str | Path) -> Path:
    """Write `rows.csv`, `rows.parquet` (one row an answer) and `compare.html` into a folder, made where it is missing.

    Returns the page; the same comparison gives the same bytes. Raises DseError where the folder cannot be written.
    """
    import pandas as pd

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    by_name = {case.name: case for case in cases}
    known = comparison.best_known
    rows = [row_of(a, by_name[a.instance], known.get(a.instance)) for a in comparison.answers]
    frame = pd.DataFrame(rows)
    numeric = ["objective", "lower_bound", "gap", "cpu_s", "latency_ms", "energy_mj", "best_known", "to_best"]
    frame[numeric] = frame[numeric].astype(float)  # a column without any number is still one of numbers
    write_file(folder / "rows.csv", lambda path: frame.to_csv(path, index=False))
    write_file(folder / "rows.parquet", lambda path: frame.to_parquet(path, index=False))
    page = folder / "compare.html"
    write_file(page, partial(Path.write_text, data=render_comparison(comparison, cases), encoding="utf-8"))
    return page


def render_comparison(comparison: Comparison, cases: Sequence[Case]) -> str:
    """Return the page as HTML."""
    names = short_names([case.name for case in cases])
    colours = {solver: index for index, solver in enumerate(comparison.solvers)}
    with house_style():
        cards = [
            _card("summary", "Summary", _summary(comparison, cases, names)),
            _card("solvers", "Solvers", _strips(comparison)),
            _card("instances", "Problems", _table(comparison, cases, names)),
            _card("anytime", "Anytime curves", _anytime(comparison, cases, names, colours)),
            _card("answers", "All answers", _answers(comparison, cases, names)),
        ]
    title = names[cases[0].name] if len(cases) == 1 else count(len(cases), "problem")
    subtitle = f"Mapping solvers side by side · {count(len(comparison.solvers), 'solver')}"
    return render_page(Page(title=f"{title}: solvers compared", name=title, subtitle=subtitle, cards=cards))


def _card(key: str, title: str, blocks: Sequence[Block]) -> Card:
    if not blocks:
        return Card(key=key, title=title, state="not_applicable", reason="No solver found a mapping.")
    return Card(key=key, title=title, state="drawn", blocks=blocks)


def _summary(comparison: Comparison, cases: Sequence[Case], names: dict[str, str]) -> list[Block]:
    summaries = comparison.summaries()
    blocks: list[Block] = []
    solved = [s for s in summaries if s.best is not None]
    if solved:
        standings = comparison.standings()
        most = max(standing.best for standing in standings)
        winners = [standing.solver for standing in standings if standing.best == most]
        verb = "has" if len(winners) == 1 else "have each"
        told = (
            f"{listed(winners)} {verb} the best objective that any solver reached on {most} of {len(cases)} problems."
        )
        blocks.append(Text(text=told, tone="lead"))
    proven = sum(any(s.status == "optimal" for s in summaries if s.instance == case.name) for case in cases)
    facts = [
        Fact(label="Problems", value=str(len(cases))),
        Fact(label="Solvers", value=str(len(comparison.solvers))),
        Fact(label="Proven optimal", value=f"{proven} of {len(cases)}", note="by any solver"),
        Fact(label="Deadline", value=f"{comparison.deadline_s:g} s", note="a solver and problem"),
        Fact(label="Seeds", value=str(len(comparison.seeds))),
    ]
    blocks.append(Facts(facts=facts))
    if comparison.interrupted:
        blocks.append(Text(text="The comparison was interrupted: the rest was not run.", tone="warning"))
    blocks += [Text(text=f"{said}: one of the two is wrong.", tone="warning") for said in comparison.contradictions()]
    failed = {words: where for words, where in comparison.reasons().items() if words[1] in NO_ANSWER}
    if failed:
        rows = [
            Row(
                cells=[
                    *map(text_cell, words),
                    number_cell(str(len(where)), len(where)),
                    text_cell(_some([names[instance] for instance in where])),
                ]
            )
            for words, where in failed.items()
        ]
        caption = "Solvers that gave no answer, and why; the others' answers stand."
        columns = ["Solver", "Status", "Reason", "Problems", "Which"]
        blocks.append(Table(columns=columns, rows=rows, caption=caption))
    return blocks


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN_NAMES]) + (", …" if len(names) > SHOWN_NAMES else "")


def _strips(comparison: Comparison) -> list[Block]:
    """Three strip charts: objective to the best met, gap to the bound of all solvers, time."""
    summaries = [s for s in comparison.summaries() if s.best is not None]
    if not summaries:
        return []
    solvers = [name for name in comparison.solvers if any(s.solver == name for s in summaries)]

    def rows(values: dict[int, float]) -> list[tuple[str, list[float]]]:
        return [
            (name, [values[n] for n, s in enumerate(summaries) if s.solver == name and n in values]) for name in solvers
        ]

    to_best = {n: 100 * s.to_best_met for n, s in enumerate(summaries) if s.to_best_met is not None}
    gaps = {n: 100 * gap for n, s in enumerate(summaries) if (gap := _gap_to_all(comparison, s)) is not None}
    times = {n: max(s.wall_s, 1e-6) for n, s in enumerate(summaries)}
    charts = (
        ("to-best", "above the best objective of any solver [%]", to_best, True,
         "How far the best objective of each solver lies above the best of all, a point a problem; the bar is the "
         "median."),
        ("gap", "gap to the best bound of any solver [%]", gaps, True,
         "Gap between a solver's objective and the largest lower bound that any solver proved, a share of the "
         "objective."),
        ("time", "wall time [s]", times, False,
         "Wall time until the answer, the median over seeds, a point a problem."),
    )  # fmt: skip
    return [
        _standings(comparison),
        *(
            Figure(svg=draw_strips(Strips(name=name, label=label, rows=rows(values), percent=share)), caption=caption)
            for name, label, values, share, caption in charts
        ),
    ]


def _standings(comparison: Comparison) -> Table:
    known = bool(comparison.best_known)
    columns = ["Solver", "Problems", "Solved", "Best", "Proven", "Mean to best met"]
    columns += ["Worst to best known"] if known else []
    rows = []
    for s in comparison.standings():
        cells = [text_cell(s.solver), *(number_cell(str(n), n) for n in (s.problems, s.solved, s.best, s.proven))]
        cells += [_share(s.mean_to_best_met)] + ([_share(s.worst_to_best_known)] if known else [])
        rows.append(Row(cells=[*cells, _number(s.wall_s, 3)]))
    caption = "Over all problems; distances are those of the problems that the solver has a mapping of."
    return Table(columns=[*columns, "Wall s in all"], rows=rows, caption=caption, sortable=True)


def _gap_to_all(comparison: Comparison, summary: Summary) -> float | None:
    bound = comparison.bound(summary.instance)
    if bound is None or summary.best is None:
        return None
    return max(0.0, (summary.best - bound) / summary.best) if summary.best > 0 else 0.0


def _table(comparison: Comparison, cases: Sequence[Case], names: dict[str, str]) -> list[Block]:
    many, known = len(comparison.seeds) > 1, bool(comparison.best_known)
    columns = ["Problem", "Solver", "Objective", "Bound", "Gap", "To best met"]
    columns += [*(["To best known"] if known else []), "Status", "Wall s"]
    if many:
        columns[3:3] = ["Median", "Worst", "Spread"]
    rows = []
    for s in comparison.summaries():
        cells = [text_cell(names[s.instance], title=s.instance), text_cell(s.solver), _number(s.best)]
        cells += [_number(s.median), _number(s.worst), _share(s.spread)] if many else []
        cells += [_number(s.lower_bound), _share(s.gap), _share(s.to_best_met)]
        cells += [_share(s.to_best_known)] if known else []
        cells += [text_cell(s.status), _number(s.wall_s, 3)]
        rows.append(Row(cells=cells, mark="best" if s.is_best else ""))
    units = sorted({case.unit for case in cases if case.unit})
    told = f" Objectives in {listed(units)}." if units else ""
    caption = f"Best objective of each solver over its seeds; “best” marks the least of all.{told}"
    return [Table(columns=columns, rows=rows, caption=caption, sortable=True, tall=len(rows) > 24)] if rows else []


def _anytime(
    comparison: Comparison, cases: Sequence[Case], names: dict[str, str], colours: dict[str, int]
) -> list[Block]:
    figures: list[Block] = []
    for place, case in enumerate(cases):
        if len(figures) == MOST_CURVES:
            break
        own = [a for a in comparison.answers if a.instance == case.name and a.seed == comparison.seeds[0]]
        curves = [curve for a in own if (curve := _curve(a, colours[a.solver])) is not None]
        if not curves:
            continue
        label = f"objective [{case.unit}]" if case.unit else "objective"
        title = names[case.name]
        info = Anytime(name=f"anytime-{place}", title=title, label=label, curves=curves, end_s=comparison.deadline_s)
        caption = (
            f"{title}: objective (solid) and proven bound (dashed) over time, seed {comparison.seeds[0]}. What is over "
            "1.6 times the best objective, or under 0.4 times, is off the axis."
        )
        figures.append(Figure(svg=draw_anytime(info), caption=caption))
    rest = figures[SHOWN_CURVES:]
    fold: list[Block] = [Fold(title=f"{count(len(rest), 'problem')} more", blocks=rest)] if rest else []
    told = f"Curves of the first {MOST_CURVES} problems that have any; dse compare --json gives those of all."
    note: list[Block] = [Text(text=told, tone="note")] if len(figures) == MOST_CURVES else []
    return [*figures[:SHOWN_CURVES], *fold, *note]


def _curve(answer: Answer, colour: int) -> AnytimeCurve | None:
    lines = [line for line in answer.history if isfinite(line.objective)]
    if answer.objective is None or not lines:
        return None
    return AnytimeCurve(
        solver=answer.solver,
        colour=colour,
        seconds=[line.wall_s for line in lines],
        objectives=[line.objective for line in lines],
        bounds=[line.lower_bound for line in lines],
    )


def _answers(comparison: Comparison, cases: Sequence[Case], names: dict[str, str]) -> list[Block]:
    regimes = {case.name: f"{case.problem.regime}{', contiguous' if case.problem.contiguous else ''}" for case in cases}
    rows = [
        Row(
            cells=[
                text_cell(names[a.instance], title=a.instance),
                text_cell(a.solver),
                number_cell(str(a.seed), a.seed),
                text_cell(regimes[a.instance]),
                _number(a.objective),
                _number(a.lower_bound),
                _share(a.gap),
                text_cell(a.status),
                _number(a.wall_s, 3),
                _number(a.cpu_s, 3),
            ]
        )
        for a in comparison.answers
    ]
    columns = ["Problem", "Solver", "Seed", "Regime", "Objective", "Bound", "Gap", "Status", "Wall s", "CPU s"]
    caption = "Every answer; each mapping was recomputed by the independent checker. The same rows are in rows.csv."
    table = Table(columns=columns, rows=rows, caption=caption, sortable=True, tall=len(rows) > 24)
    return [Fold(title=count(len(rows), "answer"), blocks=[table])] if rows else []


def _number(value: float | None, digits: int = 6) -> Cell:
    if value is None:
        return number_cell(MISSING, None)
    whole = value == round(value) and abs(value) < 1e15
    return number_cell(f"{value:,.0f}" if whole else f"{value:,.{digits}g}", value)


def _share(value: float | None) -> Cell:
    return number_cell(percent(value) if value is not None else MISSING, value)
