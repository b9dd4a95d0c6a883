"""`dse proxy card`: the model card of weights, with the figures of evaluations."""

from __future__ import annotations

from pathlib import Path

import click

from dse.cli.output import emit_json


@click.command()
@click.argument("evaluations", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="EVALUATION...")
@click.option("--weights", required=True, type=click.Path(path_type=Path), help="Whose card: FILE.md beside FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(evaluations: tuple[Path, ...], weights: Path, as_json: bool) -> None:
    """Write the model card of a layer proxy anew, with the figures of each evaluation.json that is given.

    \b
    Examples:
      dse proxy evaluate --predictor learned --split random --out random
      dse proxy card random/evaluation.json --weights mine.safetensors
    """
    from dse.proxy.card import model_card
    from dse.proxy.evaluate.figures import figures, read_summaries
    from dse.proxy.predict import LayerProxy
    from dse.store import write_atomically

    summaries = read_summaries(evaluations)
    card = weights.with_suffix(".md")
    write_atomically(card, model_card(LayerProxy.load(weights), figures(summaries)))
    answer = {"card": card, "splits": summaries["split"].unique().tolist()}
    if as_json:
        emit_json(answer)
    else:
        click.echo(f"Card: {card}")
