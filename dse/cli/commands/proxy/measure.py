"""`dse proxy measure`: time real layers, and whole models, on the machine at hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dse.cli.app import Interrupted
from dse.cli.output import emit_json, print_table
from dse.cli.progress import show_steps

if TYPE_CHECKING:
    from dse.proxy.measure.machine import Machine

SPREAD = 10_000
"""Rows of the designed spread, of which a budget measures as many as it has time for."""


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL...]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option(
    "--name", default="", metavar="NAME", help="What tables call the machine; made up of its model unless given."
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of an operator (CPU)."
)
@click.option("--shapes", type=click.Choice(["catalogue", "spread", "all"]), default="all", show_default=True)
@click.option(
    "--ops", metavar="KIND,...", help="Kinds of operators to measure, such as conv2d,matmul; all unless given."
)
@click.option(
    "--budget-minutes", type=click.FloatRange(min=0, min_open=True), metavar="M", help="Begin no row after that."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the spread and of the random data.")
@click.option("--models", "whole", is_flag=True, help="Measure whole models: those named, or the whole catalogue.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="JSON lines (with --models CSV) to append to."
)
@click.option(
    "--table", type=click.Path(path_type=Path, dir_okay=False), help="Parquet table of all rows of --out, too."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    models: tuple[str, ...],
    device: str,
    name: str,
    threads: int,
    shapes: str,
    ops: str | None,
    budget_minutes: float | None,
    seed: int,
    whole: bool,
    out: Path | None,
    table: Path | None,
    as_json: bool,
) -> None:
    """Time layers as they run in torch: the shapes of the catalogue's models, and a designed spread round them.

    Each row is the median of repeats after a warm-up, on random data that no cache holds, with its peak memory, and
    power where the machine tells it. Rows that stand in --out are not measured again: the same command resumes.
    Names of MODELs restrict the catalogue's shapes to theirs. For steady times keep other work off the machine, or
    bind the command to a core (taskset -c 1).

    \b
    Examples:
      dse proxy measure --budget-minutes 10
      dse proxy measure resnet18 --shapes catalogue --ops conv2d --out resnet18.jsonl --json
      dse proxy measure --models resnet18 htdemucs
    """
    import os

    if models and not whole and shapes == "spread":
        raise click.UsageError(
            "names of models choose the catalogue's shapes: leave out --shapes spread, or give --models"
        )
    if table is not None and (whole or table.suffix != ".parquet"):
        raise click.BadParameter(f"{table}: a table is of layers, and ends in .parquet", param_hint="--table")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's, read as torch loads
    kinds = _kinds(ops)
    machine = _machine(device, threads, name)
    if whole:
        _measure_models(models, machine, out or Path(f"measured/{machine.device}-models.csv"), as_json)
        return
    out = out or Path(f"measured/{machine.device}.jsonl")
    _measure_layers(models, machine, out, table, shapes, kinds, budget_minutes, seed, as_json)


def _kinds(ops: str | None) -> frozenset[str]:
    from dse.proxy.columns import OPERATORS

    chosen = frozenset(ops.replace(" ", "").split(",")) if ops else frozenset(OPERATORS)
    if unknown := sorted(chosen - set(OPERATORS)):
        raise click.BadParameter(
            f"no kind of operator is called {unknown[0]!r}: one of {', '.join(OPERATORS)}", param_hint="--ops"
        )
    return chosen


def _machine(device: str, threads: int, name: str) -> Machine:
    import torch

    from dse.errors import DseError
    from dse.proxy.measure import machine

    if device == "cuda" and not torch.cuda.is_available():
        raise DseError("torch finds no GPU here", "--device cpu, or a build of torch for this machine's GPU")
    torch.set_num_threads(threads)
    return machine.describe_machine(device, name)


def _measure_layers(
    models: tuple[str, ...],
    machine: Machine,
    out: Path,
    table: Path | None,
    shapes: str,
    kinds: frozenset[str],
    budget_minutes: float | None,
    seed: int,
    as_json: bool,
) -> None:
    from dse.proxy.measure.session import State, measure, publish, read_lines
    from dse.proxy.measure.shapes import catalogue_rows, spread_rows, template_rows

    catalogue = [row for row in catalogue_rows(models) if row["op_type"] in kinds]
    rows: Iterator[Any] = iter(())
    if shapes != "spread":
        rows = iter(catalogue)
    if shapes != "catalogue" and not models:
        templates = [*catalogue, *(row for row in template_rows() if row["op_type"] in kinds)]
        rows = chain(rows, spread_rows(templates, SPREAD, seed, machine.kind))
    total = (len(catalogue) if shapes != "spread" else 0) + (SPREAD if shapes != "catalogue" and not models else 0)
    try:
        with show_steps("measuring", total) as steps:

            def report(state: State) -> None:
                steps(state.done, f"{state.doing}, {state.refused} refused")

            budget_s = 60 * budget_minutes if budget_minutes else math.inf
            state = measure(rows, out, machine, budget_s=budget_s, seed=seed, report=report)
    except KeyboardInterrupt:
        raise Interrupted(f"what was measured is kept in {out}; the same command goes on") from None
    lines = read_lines(out)
    if table is not None:
        publish(lines, machine, table)
    counts: dict[tuple[str, str], int] = {}
    for line in lines:
        if "refused" not in line:
            pair = (line["op_type"], line["dtype"])
            counts[pair] = counts.get(pair, 0) + 1
    refused = [line for line in lines if "refused" in line]
    if as_json:
        emit_json(
            {
                "machine": machine.describe(),
                "measured": state.measured,
                "known": state.known,
                "refused": [
                    {"op_type": r["op_type"], "op_name": r["op_name"], "reason": r["refused"]} for r in refused
                ],
                "rows": [{"op_type": kind, "dtype": dtype, "rows": n} for (kind, dtype), n in sorted(counts.items())],
                "wall_s": state.wall_s,
                "out": out,
                "table": table,
            }
        )
        return
    print_table(("operator", "dtype", "rows"), [(*pair, n) for pair, n in sorted(counts.items())], left=2)
    click.echo(f"{state.measured:,} rows measured, {state.known:,} were there, {state.refused:,} refused: {out}")
    if table is not None:
        click.echo(f"Table: {table}")


def _measure_models(models: tuple[str, ...], machine: Machine, out: Path, as_json: bool) -> None:
    from dse.proxy.measure.models import measure_models
    from workloads import catalog

    names = [catalog.entry(name).name for name in models] or catalog.names()
    try:
        with show_steps("measuring", len(names)) as steps:
            rows = measure_models(names, machine, out, report=steps)
    except KeyboardInterrupt:
        raise Interrupted(f"the models that were measured are kept in {out}") from None
    if as_json:
        emit_json({"machine": machine.describe(), "models": rows, "out": out})
        return
    cells = [(row["model"], row["latency_ms"], row["min_ms"], row["max_ms"], row["peak_memory_mb"]) for row in rows]
    print_table(("model", "latency ms", "least", "most", "peak MB"), cells)
    click.echo(f"Table: {out}")
