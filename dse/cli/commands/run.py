"""`dse run`: sweep a study and write its report."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from dse.cli.app import InputError, Interrupted
from dse.cli.output import console, emit_json, print_table
from dse.cli.prediction import told_of_chips
from dse.cli.progress import show_progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROWS = 20  # of the front on the screen; the whole front is in front.csv
TITLES = {
    "latency_ms": "latency ms",
    "throughput_per_s": "samples/s",
    "energy_mj": "energy mJ",
    "area_mm2": "area mm2",
    "cost_usd": "cost USD",
    "power_w": "power W",
    "peak_memory_mb": "peak memory MB",
}
SHOWN_IF_WIDE = ("latency_ms", "throughput_per_s", "energy_mj", "area_mm2", "cost_usd")
WIDE = 110  # columns of a screen that has room for more than the objectives
COUNTS = ("study", "designs", "evaluated", "open_unmapped", "infeasible", "failed")


@click.command()
@click.argument("study")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/NAME]")
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes.  [default: one a core]")
@click.option("--budget", type=click.IntRange(min=1), help="Designs to evaluate in all, earlier runs included.")
@click.option("--seed", type=click.IntRange(min=0), help="Replaces the study's seed.")
@click.option("--retry-failed", is_flag=True, help="Evaluate again the designs that failed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    study: str,
    out: Path | None,
    workers: int | None,
    budget: int | None,
    seed: int | None,
    retry_failed: bool,
    as_json: bool,
) -> None:
    """Sweep STUDY, keep every result, and write the report.

    STUDY is the name of a study that ships, or the path of a YAML file. A run on a folder that holds a part of it goes
    on where that one stopped; --budget counts all designs of the folder.

    \b
    Examples:
      dse run htdemucs
      dse run my_study.yaml --out runs/mine --workers 8 --budget 5000
    """
    import reports
    from dse.study import Study
    from dse.workers import available_cores

    loaded = Study.load(study)
    folder = out or Path("runs") / loaded.name
    click.echo(f"Study {loaded.name}: tracing {loaded.workload}, listing and bounding the designs", err=True)
    try:
        with show_progress() as report:
            result = loaded.run(
                out=folder,
                workers=workers or available_cores(),
                budget=budget,
                seed=seed,
                retry_failed=retry_failed,
                on_progress=report,
            )
    except KeyboardInterrupt:
        if not (folder / "study.yaml").exists():
            raise Interrupted("stopped before any design was mapped; nothing was written") from None
        raise Interrupted(
            f"every finished design is kept in {folder}; the same command goes on from there, "
            f"`dse report {folder}` shows what stands"
        ) from None
    click.echo("Writing the report", err=True)
    page = reports.write(folder)
    summary = result.summary
    if as_json:
        emit_json(
            {name: summary[name] for name in COUNTS}
            | {name: summary[name] for name in ("front", "hypervolume", "epsilon", "wall_s", "prediction")}
            | {"report": str(page)}
        )
    else:
        _print_front(summary)
        click.echo(_sentence(summary))
        for line in told_of_chips(summary["prediction"]):
            click.echo(line)
        click.echo(f"Report: {page}")
    for row in summary["damaged_rows"]:
        click.echo(f"warning: {row['file']}, line {row['line']} is damaged and left out: {row['reason']}", err=True)
    if not summary["front"]:
        _refuse_empty_front(summary)


def _print_front(summary: Mapping[str, Any]) -> None:
    """Print the front: what differs between its designs, the objectives, and further metrics where there is room."""
    front, knee = summary["front"], summary["knee"]
    if not front:
        return
    params = [_words(point["params"]) for point in front]
    varying = [name for name in params[0] if len({row[name] for row in params}) > 1 or name == "chips"]
    same = ", ".join(params[0][name] for name in params[0] if name not in varying)
    names = list(summary["objectives"])
    if console().width >= WIDE:
        names += [name for name in SHOWN_IF_WIDE if name not in names]
    timed = [name for name in names[: len(summary["objectives"])] if name in _with_interval(front)]
    rows: list[tuple[object, ...]] = []
    for point, words in zip(front, params, strict=True):
        is_knee = (point["design"], point["point"]) == (knee["design"], knee["point"])
        if len(rows) < ROWS or is_knee:
            cells = (*(words[name] for name in varying), *(point["metrics"][name] for name in names))
            ends = tuple(_ends(point["intervals"][name]) for name in timed)
            rows.append((*cells, *ends, "knee" if is_knee else ""))
    shown = f"{len(rows)} of {len(front)} points" if len(rows) < len(front) else f"{len(front)} points"
    title = f"Pareto front of {summary['study']}, {shown}" + (f" ({same})" if same else "")
    spread = [f"{TITLES[name]}, {summary['prediction']['coverage']:.0%} interval".replace("%", " %") for name in timed]
    columns = (*varying, *(TITLES.get(name, name) for name in names), *spread, "")
    print_table(columns, rows, title=title, left=len(varying), spare=spread)


def _with_interval(front: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the metrics of which every point of the front has an interval."""
    return set.intersection(*(set(point["intervals"]) for point in front))


def _ends(ends: Sequence[float]) -> str:
    return f"{ends[0]:.3g} to {ends[1]:.3g}"


def _words(params: Mapping[str, Any]) -> dict[str, str]:
    """Return what says which design it is, each in a few words."""
    chips = Counter(params["chips"])
    return {
        "chips": " + ".join(name if count == 1 else f"{count} x {name}" for name, count in chips.items()),
        "package": params["package"],
        "precision": params["precision"],
        "batch": f"batch {params['batch']}",
        "mapper": params["mapper"],
    }


def _refuse_empty_front(summary: Mapping[str, Any]) -> NoReturn:
    reasons = sorted((summary["infeasible_reasons"] | summary["failed_reasons"]).items(), key=lambda item: -item[1])
    raise InputError(
        f"study {summary['study']}: no design can be mapped ({summary['infeasible']:,} of {summary['designs']:,} "
        f"infeasible, {summary['failed']:,} failed)",
        "; ".join(f"{count:,} x {reason}" for reason, count in reasons[:3]),
    )


def _sentence(summary: Mapping[str, Any]) -> str:
    parts = [
        f"{summary['evaluated']:,} of {summary['designs']:,} designs evaluated in {summary['wall_s']:.1f} s",
        f"{summary['infeasible']:,} infeasible, {summary['failed']:,} failed, {summary['open_unmapped']:,} open",
    ]
    if summary["hypervolume"] is not None:
        parts.append(f"hypervolume {summary['hypervolume']:.6g}")
    epsilon = summary["epsilon"]
    parts.append("epsilon not proven" if epsilon is None else f"proven epsilon {100 * epsilon:.3g} %")
    return "; ".join(parts) + "."
