"""`dse map`: map one workload on one system."""

from __future__ import annotations

from typing import Any

import click

from dse.cli.design import design_options, map_design
from dse.cli.mapped_proof import end_with, prove_design
from dse.cli.output import emit_json, print_table
from dse.cli.prediction import interval_of, told


@click.command()
@design_options
@click.option("--prove", is_flag=True, help="Run the mapped model in processes and compare it with the original.")
def command(as_json: bool, prove: bool, **words: Any) -> None:
    """Map the segments of WORKLOAD on the chips of one package.

    WORKLOAD is a name of the catalogue (see `dse workloads`) or MODULE:FACTORY (see `dse trace`).

    \b
    Examples:
      dse map htdemucs --package interposer_2x2 --chips big_core,big_core,small_core
      dse map resnet18 --package interposer_2x2 --chips big_core,small_core --solver cp_sat --segments 12 --json
      dse map resnet18 --package interposer_2x2 --chips big_core,small_core --prove
    """
    design = map_design(**words)
    proof = prove_design(design, seed=words["seed"]) if prove else None
    if as_json:
        emit_json(design.as_dict() | ({"proof": proof.as_dict()} if proof else {}))
        end_with(proof)
        return
    columns = ("segment", "layers of", "layers", "slot", "chip", "latency ms", "low ms", "high ms", "energy mJ")
    spare = ("low ms", "high ms")
    rows, shown = design.segment_rows(), list(range(len(columns)))
    if design.interval is None:
        shown = [place for place, name in enumerate(columns) if name not in spare]
    print_table(
        [columns[place] for place in shown],
        [[row[place] for place in shown] for row in rows],
        title=design.title,
        left=2,
        spare=spare,
    )
    mapping = design.mapping
    time = "latency" if design.regime == "serial" else "period"
    prediction = design.prediction()
    within = interval_of(design.interval, "ms", prediction)
    click.echo(
        f"{time} {mapping.latency_ms:.5g} ms{within}, energy {mapping.energy_mj:.5g} mJ (without link contention)."
    )
    click.echo(design.proof())
    for line in told(prediction):
        click.echo(line)
    if proof:
        click.echo(f"proof: {proof}.")
        end_with(proof)
