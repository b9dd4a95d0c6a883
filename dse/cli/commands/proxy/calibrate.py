"""`dse proxy calibrate`: a few measured operators of one chip -> what they change, stored beside the chip."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dse.cli.output import emit_json, print_table

if TYPE_CHECKING:
    from dse.proxy.calibration import Calibration

SHOWN = 3
"""Cells with the widest intervals that are named as worth measuring."""


@click.command()
@click.argument("rows", type=click.Path(path_type=Path))
@click.option("--devices", required=True, type=click.Path(path_type=Path), help="Device table that describes the chip.")
@click.option("--device", required=True, metavar="NAME", help="The chip: rows of other devices are left aside.")
@click.option("--weights", type=click.Path(path_type=Path), help="A fitted proxy; the one that ships unless given.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="NAME.calibration.json beside the device table unless given."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of drawing among many rows.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    rows: Path, devices: Path, device: str, weights: Path | None, out: Path | None, seed: int, as_json: bool
) -> None:
    """Calibrate the layer proxy to a chip by the few operators of ROWS (5 to 20 a framework and kind).

    Prints how far predictions were off before, and are now on rows left out in turn; and stores what was learned
    beside the table that describes the chip.

    \b
    Examples:
      dse proxy calibrate measured.csv --devices devices.csv --device NPU-2
      dse proxy calibrate measured.parquet --devices devices.csv --device NPU-2 --out NPU-2.calibration.json --json
    """
    from dse.proxy.calibration import calibration_file
    from dse.proxy.dataset import read_rows
    from dse.proxy.devices import read_devices
    from dse.proxy.fit_calibration import calibrate
    from dse.proxy.predict import LayerProxy, shipped
    from dse.store import prepare_file

    path = out or calibration_file(devices.parent, device)
    if path.suffix != ".json":
        raise click.BadParameter(f"{path} does not end in .json", param_hint="--out")
    table = read_devices(devices)
    measured = read_rows(rows, devices=table)
    proxy = LayerProxy.load(weights) if weights is not None else shipped()
    prepare_file(path)
    calibration = calibrate(proxy, measured, table, device=device, seed=seed)
    calibration.save(path)
    if as_json:
        emit_json(_answer(calibration) | {"file": path})
    else:
        _show(calibration)
        click.echo(f"Calibration: {path}")


def _answer(calibration: Calibration) -> dict[str, object]:
    return {
        "device": calibration.device,
        "weights": calibration.weights,
        "rows": calibration.rows,
        "error_before": calibration.error_before,
        "error_after": calibration.error_after,
        "cells": [
            {
                "framework": cell.framework,
                "op_type": cell.op_type,
                "rows": cell.rows,
                "offset": cell.offset,
                "error_before": cell.error_before,
                "error_after": cell.error_after,
                "interval_factor": math.exp(cell.half_width),
            }
            for cell in calibration.cells
        ],
        "measure_more": [[cell.framework, cell.op_type] for cell in calibration.widest[:SHOWN]],
    }


def _show(calibration: Calibration) -> None:
    columns = ("framework", "op_type", "rows", "time x", "error before %", "error now %", "90 % within x")
    print_table(
        columns,
        [
            (
                cell.framework,
                cell.op_type,
                cell.rows,
                f"{math.exp(cell.offset):.2f}",
                f"{cell.error_before:.1f}",
                f"{cell.error_after:.1f}",
                f"{math.exp(cell.half_width):.2f}",
            )
            for cell in calibration.cells
        ],
        title=f"{calibration.device}: {calibration.rows} rows, median error {calibration.error_before:.1f} % before, "
        f"{calibration.error_after:.1f} % now (rows left out in turn)",
        left=2,
    )
    names = ", ".join(f"{cell.op_type} of {cell.framework} ({cell.rows} rows)" for cell in calibration.widest[:SHOWN])
    click.echo(f"Measure more where the interval is widest: {names}")
