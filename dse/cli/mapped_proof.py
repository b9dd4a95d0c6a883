"""`dse map --prove`: the mapped model in processes, against the original and the cost table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dse.cli.progress import show_steps

if TYPE_CHECKING:
    from dse.cli.design import MappedDesign
    from dse.mapped_model import MappedRun


def prove_design(design: MappedDesign, seed: int) -> MappedRun:
    """Run a mapped design's model, a process a slot, with weights and inputs drawn from `seed`.

    The model runs at its own precision, whatever the design's: what it sends is compared with what the same edges are
    charged there.
    """
    from dse.mapped_model.run import STEPS, run_mapped

    with show_steps("proof", len(STEPS)) as report:
        return run_mapped(
            design.workload,
            design.table.segments,
            design.mapping.assignment,
            teams=design.teams,
            seed=seed,
            on_progress=report,
        )


def end_with(proof: MappedRun | None) -> None:
    """Exit with code 1 where a proof failed."""
    if proof is not None and not proof.proven:
        click.get_current_context().exit(1)
