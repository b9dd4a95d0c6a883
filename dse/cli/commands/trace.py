"""`dse trace`: trace a model of the user's own."""

from __future__ import annotations

import click

from dse.cli.output import emit_json
from dse.cli.workload_view import show_workload


@click.command()
@click.argument("factory", metavar="MODULE:FACTORY")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="SHAPE",
    help="Shape of an example input, such as 1x3x224x224 or 1x128:int64; once for each input of forward.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(factory: str, inputs: tuple[str, ...], as_json: bool) -> None:
    """Trace a model of yours and show what it computes, as `dse workloads NAME` does.

    MODULE is looked for in the current folder and among the installed packages. FACTORY is a callable that returns
    (module, example_inputs); with --input also one that returns the module alone, or the module itself.

    \b
    Examples:
      dse trace my_package.models:tiny
      dse trace my_package.models:TinyNet --input 1x3x224x224 --json
    """
    from workloads.describe import describe
    from workloads.factory import trace_factory

    workload = describe(trace_factory(factory, inputs))
    if as_json:
        emit_json(workload)
    else:
        show_workload(workload)
