"""`dse trace`: trace a model of the user's own."""

from __future__ import annotations

from typing import Any

import click

from dse.cli.workload_options import answer, run_mode_of, workload_options


@click.command()
@click.argument("target", metavar="MODULE:FACTORY|FILE")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="SHAPE",
    help="Shape of an example input, such as 1x3x224x224 or 1x128:int64; once for each input of forward.",
)
@workload_options
def command(
    target: str,
    inputs: tuple[str, ...],
    mode: str,
    optimizer: str | None,
    recompute: str | None,
    batch: int | None,
    precision: str | None,
    **shown: Any,
) -> None:
    """Trace a model of yours and show what it computes, as `dse workloads NAME` does.

    MODULE is looked for in the current folder and among the installed packages. FACTORY is a callable that returns
    (module, example_inputs), the inputs as a tensor, a tuple or a mapping of their names; with --input also one that
    returns the module alone, or the module itself. FILE is an ONNX model (.onnx) or a program saved by torch.export
    (.pt2). --batch takes the first dimension of every --input.

    \b
    Examples:
      dse trace my_package.models:tiny
      dse trace my_package.models:TinyNet --input 1x3x224x224 --json
      dse trace my_package.models:TinyNet --input 8x3x224x224 --mode train
      dse trace my_package.models:TinyNet --input 1x3x224x224 --batch 8 --precision fp16 --html tiny.html
    """
    from workloads import at_precision, describe, family, trace_factory

    run = run_mode_of(mode, optimizer, recompute)
    if batch is None:
        graph = trace_factory(target, inputs, mode=run)
    else:
        graph = family(target, inputs=inputs, mode=run).at(batch=batch)
    if precision is not None:
        graph = at_precision(graph, precision)
    answer(graph, describe(graph), **shown)
