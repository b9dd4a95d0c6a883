"""The simulation of a mapped design, for `dse map` and `dse simulate`: its figures, its timeline, and its page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dse.cli.design import MappedDesign
    from dse.timeline import Timeline
    from solvers.placement.problem import Placement

INPUTS = 32
"""Inputs of a stream where nothing is said."""

HTML_OPTION = click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a page with the mapping and its timeline as well.",
)


def simulate_design(
    design: MappedDesign, placement: Placement, *, inputs: int | None = None, contention: bool = True
) -> Timeline:
    """Simulate a mapped design, its order and its teams included; 1 input where serial, INPUTS of a stream.

    Of a training step no more inputs are in flight than its micro-batches.
    """
    from dse.simulate import simulate
    from solvers.mapping.problem import UNLIMITED

    most = design.problem.most_in_flight
    return simulate(
        design.table.segments,
        design.mapping,
        design.table.system,
        placement,
        inputs=inputs or (1 if design.regime == "serial" else INPUTS),
        regime=design.regime,
        contention=contention,
        window=None if most == UNLIMITED else most,
        table=design.table,
        teams=design.teams,
    )


def simulation_of(timeline: Timeline) -> dict[str, Any]:
    """Return how long inputs took with and without contention for links, and what ran where when."""
    from dse.detail import spans

    return {
        "inputs": timeline.inputs,
        "latency_ms": timeline.latency_ms,
        "latency_without_contention_ms": timeline.latency_without_contention_ms,
        "period_ms": timeline.period_ms,
        "timeline": spans(timeline),
    }


def told_of(design: MappedDesign, timeline: Timeline) -> str:
    """Return what the simulation says beside the mapping's own figure, in a sentence."""
    if design.regime == "serial":
        wait = timeline.latency_ms - timeline.latency_without_contention_ms
        return f"simulated: latency {timeline.latency_ms:.5g} ms, of which {wait:.3g} ms are waiting for links."
    return (
        f"simulated: {timeline.inputs} inputs with contention for links, period {timeline.period_ms:.5g} ms, latency "
        f"{timeline.latency_ms:.5g} ms."
    )


def write_page(design: MappedDesign, timeline: Timeline, placement: Placement, path: Path) -> Path:
    """Write the page of a design: its figures, timeline and segments."""
    from dse.detail import detail
    from reports import write_design

    shown = detail(timeline, table=design.table, placement=placement, mapping=design.mapping)
    return write_design(shown | {"design": design.title, "point": 0}, design.segment_dicts(), path)
