"""`dse workloads`: the models of the catalogue, and what one of them computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from dse.cli.output import emit_json, print_table
from dse.cli.workload_options import Seconds, answer, run_mode_of, workload_options

if TYPE_CHECKING:
    from workloads import Entry


@click.command()
@click.argument("name", required=False)
@click.option(
    "--length", type=click.IntRange(min=1), metavar="N", help="Sequence length, in samples, frames or tokens."
)
@click.option("--seconds", type=Seconds(), help="Length in seconds of signal; of a range the growth is shown.")
@click.option(
    "--against", multiple=True, metavar="NAME", help="A model to show the growth of as well; repeat for more."
)
@workload_options
def command(
    name: str | None,
    length: int | None,
    seconds: tuple[float, ...] | None,
    against: tuple[str, ...],
    mode: str,
    optimizer: str | None,
    recompute: str | None,
    batch: int | None,
    precision: str | None,
    as_json: bool,
    **shown: Any,
) -> None:
    """List the models of the catalogue, or show model NAME.

    Shown are its layers, totals by module and by operator, the ledger of what was counted, estimated or refused,
    published figures beside ours, its specification part by part, its bottlenecks and what to build against them.

    \b
    Examples:
      dse workloads
      dse workloads htdemucs --html htdemucs.html
      dse workloads htdemucs --seconds 30 --precision fp16 --segments 8
      dse workloads htdemucs_n --against htdemucs --seconds 1:600 --html growth.html
      dse workloads resnet18 --mode train --optimizer sgd --recompute 1
      dse workloads resnet18 --json
    """
    from workloads import catalog

    if name is None:
        _refuse_options()
        _list([catalog.entry(each) for each in catalog.names()], as_json)
        return
    from workloads import at_precision, family
    from workloads.describe import describe_entry

    if length is not None and seconds is not None:
        raise click.UsageError("--length and --seconds are one size in two units: give one of them")
    growing = bool(against) or (seconds is not None and len(seconds) == 2)
    if growing and (mode != "inference" or batch is not None):
        raise click.UsageError("growth with length is that of an inference of one example: give no --mode, no --batch")
    run = run_mode_of(mode, optimizer, recompute)
    entry = catalog.entry(name)
    one_length = seconds[0] if seconds is not None and len(seconds) == 1 else None
    if (batch, length, one_length) == (None, None, None):
        graph = catalog.load(name, mode=run)
    else:
        graph = family(name, mode=run).at(batch=batch, length=length, seconds=one_length, exact=True)
    if precision is not None:
        graph = at_precision(graph, precision)
    points = []
    if growing:
        points = _growth((name, *against), seconds, precision)
    answer(graph, describe_entry(graph, entry), growth=points, as_json=as_json, **shown)


def _refuse_options() -> None:
    """Raise UsageError where an option of one model is given, and no model."""
    context = click.get_current_context()
    for key in context.params:
        given = context.get_parameter_source(key) is click.core.ParameterSource.COMMANDLINE
        if given and key not in ("name", "as_json"):
            option = next(each.opts[0] for each in context.command.params if each.name == key)
            raise click.UsageError(f"{option} is of one model: dse workloads NAME {option} ...")


def _growth(names: Sequence[str], seconds: tuple[float, ...] | None, precision: str | None) -> list[dict[str, Any]]:
    """Figures of these models over lengths: those of `workloads.growth` within the range, and its ends."""
    from workloads.growth import SECONDS, growth

    low, high = (SECONDS[0], SECONDS[-1]) if seconds is None or len(seconds) == 1 else seconds
    lengths = sorted({low, *(length for length in SECONDS if low < length < high), high})
    return [asdict(point) for point in growth(names, lengths, precision=precision or "fp32")]


def _list(entries: Sequence[Entry], as_json: bool) -> None:
    """Print the catalogue; variants stand under the model that they are a variant of."""
    if as_json:
        emit_json(
            {
                "workloads": [
                    {
                        "name": entry.name,
                        "description": entry.description,
                        "factory": entry.factory,
                        "input_shapes": [shape for shape, _ in entry.inputs],
                        "parameters": _parameters(entry),
                    }
                    for entry in entries
                ]
            }
        )
        return
    rows = []
    for entry in entries:
        variant = any(entry.name.startswith(f"{other.name}-") for other in entries)
        shapes = ", ".join("x".join(map(str, shape)) for shape, _ in entry.inputs)
        parameters = _parameters(entry)
        known = "-" if parameters is None else f"{parameters:,}"
        rows.append((f"  {entry.name}" if variant else entry.name, shapes, known, entry.description))
    print_table(("workload", "input", "parameters", "description"), rows, left=4, spare=("input",))
    click.echo("Parameters as published; of the others (-) `dse workloads NAME` counts them.")


def _parameters(entry: Entry) -> int | None:
    """The published number of parameters that the model has, where one is known without building it."""
    return next((round(f.value) for f in entry.references if f.quantity == "parameters" and not f.note), None)
