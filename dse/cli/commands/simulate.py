"""`dse simulate`: map one workload on one system, place the chips, and simulate it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dse.cli.app import InputError
from dse.cli.design import MappedDesign, design_options, map_design, team_options
from dse.cli.output import emit_json, print_table
from dse.cli.prediction import told
from dse.cli.simulated import HTML_OPTION, simulate_design, simulation_of, write_page

if TYPE_CHECKING:
    from dse.timeline import Timeline
    from solvers.placement.problem import Placement

UNITS = {
    "latency_ms": "ms",
    "throughput_per_s": "samples/s",
    "energy_mj": "mJ",
    "peak_memory_mb": "MB on the fullest chip",
    "area_mm2": "mm2 of silicon",
    "cost_usd": "USD",
    "power_w": "W, mean",
    "utilisation": "busy time of a chip, mean",
    "contention_ms": "ms of the latency is waiting for links",
}


@click.command()
@design_options
@team_options
@click.option("--inputs", type=click.IntRange(min=1), help="Inputs (batches).  [default: 1 serial, 32 pipelined]")
@click.option(
    "--regime",
    type=click.Choice(["serial", "pipelined"]),
    help="One input at a time, or a stream.  [default: that of the objective]",
)
@click.option("--no-contention", is_flag=True, help="Links carry any number of transfers at a time.")
@HTML_OPTION
def command(as_json: bool, inputs: int | None, no_contention: bool, html: Path | None, **words: Any) -> None:
    """Map WORKLOAD as `dse map` does, place its chips, and simulate it with link contention.

    \b
    Examples:
      dse simulate htdemucs --package interposer_2x2 --chips big_core,small_core
      dse simulate resnet18 --package interposer_2x2 --chips big_core,big_core --objective throughput --inputs 64
      dse simulate vit_b_16 --package interposer_2x2 --chips big_core,big_core --teams 2 --html vit.html
    """
    from dse.evaluate import place
    from dse.study_file import MOST_INPUTS

    if inputs is not None and inputs > MOST_INPUTS:
        raise InputError(f"--inputs is {inputs}", f"a whole number from 1 to {MOST_INPUTS:,}")
    design = map_design(**words)
    placement = place(design.table, design.mapping.assignment, teams=design.teams)
    timeline = simulate_design(design, placement, inputs=inputs, contention=not no_contention)
    inputs = timeline.inputs
    if html is not None:
        write_page(design, timeline, placement, html)
    answer = _answer(design, timeline, placement, inputs, not no_contention)
    if as_json:
        emit_json(answer)
        return
    found: dict[str, Any] = answer["intervals"]
    metrics = [(name, unit, answer["metrics"][name], *found.get(name, (None, None))) for name, unit in UNITS.items()]
    columns = ("metric", "unit", "value", "low", "high")
    count = "1 input" if inputs == 1 else f"{inputs} inputs"
    click.echo(f"{design.title}, {design.regime}, {count}")
    print_table(columns[: 5 if found else 3], [row[: 5 if found else 3] for row in metrics], left=2)
    print_table(
        ("chip", "slot", "x mm", "y mm", "busy ms", "utilisation", "peak memory MB"),
        [tuple(slot[key] for key in SLOT_KEYS) for slot in answer["slots"]],
        title="Chips",
    )
    click.echo(design.proof())
    for line in told(answer["prediction"]):
        click.echo(line)
    if html is not None:
        click.echo(f"The page is {html}.")


SLOT_KEYS = ("chip", "slot", "x_mm", "y_mm", "busy_ms", "utilisation", "peak_memory_mb")


def _answer(
    design: MappedDesign, timeline: Timeline, placement: Placement, inputs: int, contention: bool
) -> dict[str, Any]:
    from dse.prediction import intervals

    slots = []
    for position, (slot, chip) in enumerate(
        (slot, chip) for slot, chip in enumerate(design.table.system.chips) if chip is not None
    ):
        busy_ms = float(timeline.slot_busy_ms[slot])
        values = (
            chip.name,
            int(placement.site[position]),
            float(placement.x_mm[position]),
            float(placement.y_mm[position]),
            busy_ms,
            busy_ms / timeline.makespan_ms,
            float(timeline.peak_memory_bytes[slot]) / 1e6,
        )
        slots.append(dict(zip(SLOT_KEYS, values, strict=True)))
    return design.as_dict() | {
        "simulation": simulation_of(timeline),
        "inputs": inputs,
        "contention": contention,
        "makespan_ms": timeline.makespan_ms,
        "metrics": timeline.metrics().as_dict(),
        "intervals": intervals(timeline, placement, contention=contention),
        "slots": slots,
    }
