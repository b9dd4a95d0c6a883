"""`dse workloads`: the models of the catalogue, and what one of them computes."""

from __future__ import annotations

import click

from dse.cli.output import emit_json, print_table
from dse.cli.workload_view import show_workload


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(name: str | None, as_json: bool) -> None:
    """List the models of the catalogue, or show model NAME.

    Shown are its layers, totals by module and by operator, the ledger of what was counted, estimated or refused, and
    published figures beside ours.

    \b
    Examples:
      dse workloads
      dse workloads htdemucs
      dse workloads resnet18 --json
    """
    from workloads import catalog
    from workloads.describe import describe

    if name is not None:
        workload = describe(catalog.load(name), catalog.entry(name).references)
        if as_json:
            emit_json(workload)
        else:
            show_workload(workload)
        return
    entries = [catalog.entry(each) for each in catalog.names()]
    if as_json:
        emit_json(
            {
                "workloads": [
                    {
                        "name": entry.name,
                        "description": entry.description,
                        "factory": entry.factory,
                        "input_shapes": [shape for shape, _ in entry.inputs],
                    }
                    for entry in entries
                ]
            }
        )
        return
    rows = [
        (entry.name, ", ".join("x".join(map(str, shape)) for shape, _ in entry.inputs), entry.description)
        for entry in entries
    ]
    print_table(("workload", "input", "description"), rows, left=3)
