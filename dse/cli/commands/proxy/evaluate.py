"""`dse proxy evaluate`: how far layer predictors are off, by device and operator, on what their fit has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dse.cli.app import Interrupted
from dse.cli.output import emit_json, print_table
from dse.cli.progress import show_steps

if TYPE_CHECKING:
    import pandas as pd

    from dse.proxy.evaluate.results import Evaluation


@click.command()
@click.option("--rows", "row_table", type=click.Path(path_type=Path), help="Table of measured rows (parquet, CSV).")
@click.option("--devices", "device_table", type=click.Path(path_type=Path), help="Table of their devices.")
@click.option(
    "--split",
    "splits",
    multiple=True,
    default=("random", "shapes"),
    show_default=True,
    metavar="SPLIT",
    help="What the fit does not see: random, shapes, device:NAME, device:development (each device of 500 rows or "
    "more), family:NAME, family:development, power, llmcompass. Repeatable.",
)
@click.option(
    "--predictor", "names", multiple=True, metavar="NAME", help="What to judge; all unless given. Repeatable."
)
@click.option(
    "--train-cap",
    type=click.IntRange(min=1),
    default=6000,
    show_default=True,
    metavar="N",
    help="Rows of a device, operator kind and framework that a fit sees at most.",
)
@click.option(
    "--test-cap",
    type=click.IntRange(min=1),
    metavar="N",
    help="The same of judged rows, weighted back; all unless given.",
)
@click.option(
    "--calibrate",
    type=click.IntRange(min=1),
    metavar="N",
    help="Judge the learned predictor again, told N judged rows of each device, operator kind and framework.",
)
@click.option(
    "--end-to-end", "whole", is_flag=True, help="Judge whole models instead, on measuring machines and named devices."
)
@click.option("--model", "models", multiple=True, metavar="NAME", help="With --end-to-end: these models alone.")
@click.option("--left-out", is_flag=True, help="With --end-to-end: also by fits without the layers of these models.")
@click.option("--steps", "fit_steps", type=click.IntRange(min=50), help="With --left-out: training steps of each fit.")
@click.option("--weights", type=click.Path(path_type=Path), help="With --end-to-end: these, not those that ship.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of splits, samples and fits.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for evaluation.json, .md and scores.csv."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    row_table: Path | None,
    device_table: Path | None,
    splits: tuple[str, ...],
    names: tuple[str, ...],
    train_cap: int,
    test_cap: int | None,
    calibrate: int | None,
    whole: bool,
    models: tuple[str, ...],
    left_out: bool,
    fit_steps: int | None,
    weights: Path | None,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Fit predictors without some rows, and compare what they say of these rows with what was measured.

    Rows are --rows on the devices of --devices, or the public sets in the folder that CHIPFRONT_DATA names. Ctrl-C
    keeps what is done.

    With --end-to-end the layer proxy that ships predicts whole models of the catalogue as the sum of their layers,
    beside what was measured: here (shipped with the product), and on named devices by others (the specifications'
    figures, and the public ones in the folder that CHIPFRONT_DATA names).

    \b
    Examples:
      dse proxy evaluate --predictor roofline --predictor fitted-roofline
      dse proxy evaluate --split device:H200-SXM-141GB --out evaluation
      dse proxy evaluate --split llmcompass --predictor learned --calibrate 5
      dse proxy evaluate --rows rows.parquet --devices devices.csv --split device:development --json
      dse proxy evaluate --end-to-end --model resnet18 --model htdemucs
    """
    from dse.proxy.evaluate.predictor import PREDICTORS, predictor
    from dse.proxy.evaluate.results import JSON_FILE, gather, write
    from dse.proxy.evaluate.run import evaluate
    from dse.proxy.evaluate.splits import split_names
    from dse.store import prepare_file

    if (row_table is None) != (device_table is None):
        raise click.UsageError("--rows and --devices belong together: a row names a device of the table")
    _check_options(whole=whole, left_out=left_out)
    if whole:
        from dse.cli.end_to_end_view import end_to_end

        end_to_end(
            models,
            weights,
            row_table,
            device_table,
            left_out=left_out,
            steps=fit_steps,
            seed=seed,
            out=out,
            as_json=as_json,
        )
        return
    predictors = [predictor(name) for name in dict.fromkeys(names or PREDICTORS)]
    rows, devices = _tables(row_table, device_table)
    chosen = split_names(splits, rows, devices)
    if out is not None:
        prepare_file(out / JSON_FILE)
    outcomes, stopped = [], False
    try:
        with show_steps("evaluating", len(chosen) * len(predictors)) as steps:
            for outcome in evaluate(
                rows,
                devices,
                predictors,
                chosen,
                seed=seed,
                train_cap=train_cap,
                test_cap=test_cap,
                calibrate=calibrate,
                report=steps,
            ):
                outcomes.append(outcome)
    except KeyboardInterrupt:
        if not outcomes:
            raise
        stopped = True
    evaluation = gather(outcomes)
    about = {
        "rows": len(rows),
        "splits": chosen,
        "seed": seed,
        "train_cap": train_cap,
        "test_cap": test_cap,
        "calibrate": calibrate,
    }
    files = write(evaluation, out, about | {"complete": not stopped}) if out is not None else []
    if as_json:
        emit_json(about | {"complete": not stopped} | evaluation.to_dict() | {"files": files})
    else:
        _show(evaluation)
        for path in files:
            click.echo(f"Written: {path}")
    if stopped:
        raise Interrupted(f"{len(outcomes)} of {len(chosen) * len(predictors)} fits are done, and shown")


OF_SPLITS = {
    "splits": "--split",
    "names": "--predictor",
    "train_cap": "--train-cap",
    "test_cap": "--test-cap",
    "calibrate": "--calibrate",
}
OF_LEFT_OUT = {"fit_steps": "--steps", "row_table": "--rows", "device_table": "--devices"}
OF_WHOLE = {"models": "--model", "left_out": "--left-out", "weights": "--weights", "fit_steps": "--steps"}


def _check_options(*, whole: bool, left_out: bool) -> None:
    """Refuse options that mean nothing in what was asked for."""
    context = click.get_current_context()
    pointless = OF_WHOLE if not whole else OF_SPLITS if left_out else OF_SPLITS | OF_LEFT_OUT
    for name, option in pointless.items():
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            where = "--left-out" if whole and name in OF_LEFT_OUT else "--end-to-end"
            raise click.UsageError(f"{option} goes {'without' if name in OF_SPLITS else 'with'} {where}")


def _tables(row_table: Path | None, device_table: Path | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    from dse.proxy.dataset import read_devices, read_rows
    from dse.proxy.ingest import ingest

    if row_table is None or device_table is None:
        found = ingest()
        return found.rows, found.devices
    devices = read_devices(device_table)
    return read_rows(row_table, devices=devices), devices


def _show(evaluation: Evaluation) -> None:
    from dse.proxy.evaluate.predictor import REFERENCE
    from dse.proxy.evaluate.scores import ALL

    spare = ("pairs right %", "bias %", "fit s", "power rows", "within factor")
    columns = ["split", "predictor", "rows", "median %", "mean %", "bias %", "covered %", "within factor"]
    columns += ["power rows", "power %", "rank corr.", "pairs right %", "fit s"]
    keys = ["split", "predictor", "rows", "median_ape", "mean_ape", "bias", "coverage", "interval_factor"]
    keys += ["power_rows", "power_median_ape", "rank_correlation", "pairs_right", "fit_s"]
    summary = evaluation.summary
    print_table(columns, _table(summary[keys])[1], title="Latency errors by split", left=2, spare=spare)
    if len(evaluation.pooled):
        pooled = evaluation.pooled
        print_table(*_table(pooled), title="Each left out in turn", left=2)
    scores = evaluation.scores
    for split in summary["split"].unique():
        for by, other in (("op_type", "device"), ("device", "op_type")):
            cells = scores[(scores["split"] == split) & (scores[other] == ALL) & (scores[by] != ALL)]
            if cells[by].nunique() > 1:
                wide = cells.pivot(index=by, columns="predictor", values="median_ape")
                wide = wide[[name for name in summary["predictor"].unique() if name in wide]].reset_index()
                wide.insert(1, "rows", cells.groupby(by)["rows"].max().reindex(wide[by]).to_numpy())
                print_table(*_table(wide), title=f"{split}: median error by {by}, %")
    if len(evaluation.llmcompass):
        table = evaluation.llmcompass
        print_table(*_table(table), title="LLMCompass's A100 operators: mean error, %", left=2)
    if len(evaluation.worse):
        worse = evaluation.worse
        print_table(*_table(worse), title=f"Worse than {REFERENCE}", left=4)


def _table(frame: pd.DataFrame) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the names of the columns, and rows of plain values."""
    names = [str(name) for name in frame.columns]
    return names, list(zip(*(frame[name].tolist() for name in names), strict=True))
