"""`dse proxy fit`: measured rows -> weights of a layer proxy, with a model card."""

from __future__ import annotations

import time
from pathlib import Path

import click

from dse.cli.output import emit_json


@click.command()
@click.option("--rows", type=click.Path(path_type=Path), help="Tidy table; more than the product's own measurements.")
@click.option("--devices", type=click.Path(path_type=Path), help="Device table of those rows.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("layer_proxy.safetensors"), show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--networks", type=click.IntRange(min=1), default=2, show_default=True, help="Size of the ensemble.")
@click.option("--steps", type=click.IntRange(min=1), help="Training steps of each network.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    rows: Path | None,
    devices: Path | None,
    out: Path,
    seed: int,
    networks: int,
    steps: int | None,
    as_json: bool,
) -> None:
    """Fit a layer proxy to measured operators and write its weights and, beside them, its model card.

    Rows are the public sets in the folder that CHIPFRONT_DATA names (or --rows with --devices), and what was measured
    for the product. The same rows and seed give the same weights on one machine.

    \b
    Examples:
      dse proxy fit --rows operators.parquet --devices devices.csv
      CHIPFRONT_DATA=data dse proxy fit --out mine.safetensors --seed 1
    """
    from dataclasses import replace

    from dse.cli.progress import show_steps
    from dse.proxy.card import described, model_card
    from dse.proxy.ensemble import fit_proxy
    from dse.proxy.fit import STANDARD
    from dse.proxy.training_rows import training_rows
    from dse.store import prepare_file, write_atomically

    if (rows is None) != (devices is None):
        raise click.UsageError("--rows and --devices go together: rows name devices that the table describes")
    if out.suffix != ".safetensors":
        raise click.BadParameter(f"{out} does not end in .safetensors", param_hint="--out")
    started = time.perf_counter()
    data = training_rows(rows, devices)
    card = out.with_suffix(".md")
    for file in (out, card):
        prepare_file(file)
    recipe = replace(STANDARD, steps=steps) if steps is not None else STANDARD
    with show_steps("fitting", 1000) as report:
        proxy = fit_proxy(
            data.rows,
            data.devices,
            seed=seed,
            recipe=recipe,
            networks=networks,
            card=described(data.rows, data.licences),
            progress=lambda what, share: report(round(1000 * share), what),
        )
    proxy.save(out)
    write_atomically(card, model_card(proxy))
    answer = {"weights": out, "card": card, "rows": len(data.rows), "wall_s": round(time.perf_counter() - started, 1)}
    if as_json:
        emit_json(answer)
    else:
        click.echo(f"Weights: {out}\nCard:    {card}\n{len(data.rows):,} rows, {answer['wall_s']:.0f} s")
