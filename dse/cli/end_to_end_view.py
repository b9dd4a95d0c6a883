"""What `dse proxy evaluate --end-to-end` does and shows: whole models, predicted and measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dse.cli.output import emit_json, print_table
from dse.cli.progress import show_steps

if TYPE_CHECKING:
    import pandas as pd

    from dse.proxy.evaluate.end_to_end import EndToEnd

COLUMNS = {
    "machines": ("model", "measured_ms", "predicted_ms", "low_ms", "high_ms", "error", "measured_mb", "predicted_mb"),
    "named": ("chip", "model", "batch", "precision", "published", "predicted", "low", "high", "error", "outside"),
}
HEADS = {"error": "error %", "memory_error": "memory %", "outside": "outside %", "left_out": "left out"}
HEADS |= {"measured_ms": "measured ms", "predicted_ms": "predicted ms", "low_ms": "low", "high_ms": "high"}
HEADS |= {"measured_mb": "measured MB", "predicted_mb": "predicted MB", "within_goal": "within 15 %"}


def end_to_end(
    models: Sequence[str],
    weights: Path | None,
    row_table: Path | None,
    device_table: Path | None,
    *,
    left_out: bool,
    steps: int | None,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Predict whole models, on the machines that measured them and on named devices; print and write the tables."""
    from dse.proxy.evaluate import end_to_end as evaluation
    from dse.proxy.evaluate.left_out import STEPS, dealt
    from dse.proxy.evaluate.published import published
    from dse.proxy.predict import LayerProxy, shipped
    from dse.proxy.training_rows import training_rows
    from workloads import catalog

    chosen = [catalog.entry(name).name for name in models]
    proxy = shipped() if weights is None else LayerProxy.load(weights)
    measured = evaluation.measured_here(chosen)
    figures = [figure for figure in published() if not chosen or figure.model in chosen]
    with show_steps("predicting", len(measured) + len(figures)) as report:
        machines = evaluation.on_measuring_machines(proxy, measured, report=report)
        named = evaluation.on_named_devices(
            proxy, figures, report=lambda done, what: report(len(measured) + done, what)
        )
    unseen = evaluation.nothing(evaluation.MACHINE)
    if left_out:
        data = training_rows(row_table, device_table)
        with show_steps("without its layers", len(dealt(list(measured["model"])))) as report:
            unseen = evaluation.on_measuring_machines_left_out(
                proxy, measured, data.rows, data.devices, seed=seed, steps=steps or STEPS, report=report
            )
    found = evaluation.EndToEnd(machines=machines, left_out=unseen, named=named)
    about = {"weights": str(weights or "those that ship"), "goal": evaluation.GOAL, "seed": seed}
    files = found.write(out, about) if out is not None else []
    if as_json:
        emit_json(about | found.to_dict() | {"files": files})
        return
    _show(found)
    for path in files:
        click.echo(f"Written: {path}")


def _show(found: EndToEnd) -> None:
    print_table(*_cells(found.summary, list(map(str, found.summary))), title="Whole models, predicted layer by layer")
    for title, table in (("On the machine that measured them", found.machines), ("the same, left out", found.left_out)):
        if len(table):
            columns = [*COLUMNS["machines"], "memory_error", *(["left_out"] if table["left_out"].any() else [])]
            print_table(*_cells(table, columns), title=title, spare=("low", "high"))
            _misses(table, "model")
    if len(found.named):
        named = found.named
        print_table(
            *_cells(named, COLUMNS["named"]), title="On named devices (eager PyTorch)", left=2, spare=("batch",)
        )
        _misses(named.assign(place=named["chip"] + ", " + named["model"]), "place")


def _misses(table: pd.DataFrame, name: str) -> None:
    for place, reasons in zip(table[name], table["reasons"], strict=True):
        if reasons:
            click.echo(f"  {place}: {reasons}")


def _cells(table: pd.DataFrame, columns: Sequence[str]) -> tuple[list[str], list[tuple[object, ...]]]:
    heads = [HEADS.get(name, name.replace("_", " ")) for name in columns]
    return heads, list(zip(*(table[name].tolist() for name in columns), strict=True))
