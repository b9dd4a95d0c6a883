"""`dse map`: map one workload on one system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from dse.cli.design import design_options, map_design, team_options
from dse.cli.mapped_proof import end_with, prove_design
from dse.cli.output import emit_json, print_table
from dse.cli.prediction import interval_of, told
from dse.cli.simulated import HTML_OPTION, simulate_design, simulation_of, told_of, write_page

FINE = ("fine_attention", "fine_traffic", "fine_groups", "fine_margin")


@click.command()
@design_options
@team_options
@click.option("--fine-split", is_flag=True, help="Map whole segments, then split those with attention where it gains.")
@click.option(
    "--fine-attention",
    type=click.FloatRange(0, 1),
    default=0.3,
    show_default=True,
    help="Split only segments of a larger share of attention operations.",
)
@click.option(
    "--fine-traffic",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="MB",
    help="Split only segments that write more for others.",
)
@click.option("--fine-groups", type=click.IntRange(min=2), default=2, show_default=True, help="Slots that share one.")
@click.option(
    "--fine-margin",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="What a split has to gain, in ms (mJ where energy is the objective).",
)
@click.option("--prove", is_flag=True, help="Run the mapped model in processes and compare it with the original.")
@HTML_OPTION
def command(as_json: bool, prove: bool, fine_split: bool, html: Path | None, **words: Any) -> None:
    """Map the segments of WORKLOAD on the chips of one package.

    WORKLOAD is a name of the catalogue (see `dse workloads`) or MODULE:FACTORY (see `dse trace`).

    \b
    Examples:
      dse map htdemucs --package interposer_2x2 --chips big_core,big_core,small_core
      dse map resnet18 --package interposer_2x2 --chips big_core,small_core --solver cp_sat --segments 12 --json
      dse map resnet18 --package interposer_2x2 --chips big_core,small_core --prove
      dse map htdemucs --package interposer_2x2 --chips big_core,big_core,big_core,big_core --teams 2,4 --prove
    """
    from dse.evaluate import in_place

    if not fine_split:
        given = click.get_current_context().get_parameter_source
        for name in FINE:
            if given(name) is not ParameterSource.DEFAULT:
                raise click.UsageError(f"--{name.replace('_', '-')} goes with --fine-split")
    fine = {
        "attention_ratio": words.pop("fine_attention"),
        "traffic_bytes": 1e6 * words.pop("fine_traffic"),
        "groups": words.pop("fine_groups"),
        "margin": words.pop("fine_margin"),
    }
    if fine_split and words["teams"]:
        raise click.UsageError("--fine-split splits what was mapped without --teams")
    design = map_design(**words, fine=fine if fine_split else None)
    placement = in_place(design.table)
    timeline = simulate_design(design, placement)
    if html is not None:
        write_page(design, timeline, placement, html)
    proof = prove_design(design, seed=words["seed"]) if prove else None
    if as_json:
        emit_json(
            design.as_dict() | {"simulation": simulation_of(timeline)} | ({"proof": proof.as_dict()} if proof else {})
        )
        end_with(proof)
        return
    columns: tuple[str, ...] = (
        "segment",
        "layers of",
        "layers",
        "slot",
        "chip",
        "latency ms",
        "low ms",
        "high ms",
        "energy mJ",
    )
    spare = ("low ms", "high ms")
    rows, shown = design.segment_rows(), list(range(len(columns)))
    if design.teams is not None:
        columns, rows = (*columns, "way", "team MB", "share"), [_of_team(row) for row in rows]
        shown = list(range(len(columns)))
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
    click.echo(told_of(design, timeline))
    click.echo(design.proof())
    for line in told(prediction):
        click.echo(line)
    if design.fine is not None:
        used = sum(split.use_fine for split in design.fine.tried)
        click.echo(
            f"fine split: {len(design.fine.tried)} segments marked, {used} split; "
            f"{time} {design.fine.baseline.latency_ms:.5g} ms before."
        )
    if html is not None:
        click.echo(f"The page is {html}.")
    if proof:
        click.echo(f"proof: {proof}.")
        end_with(proof)


def _of_team(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A segment's row with all its slots, how they share it, what they send each other and a member's share of work."""
    *named, slots, way, team_bytes, share = row
    named[3] = "+".join(map(str, slots))
    return (*named, way, team_bytes / 1e6, share)
