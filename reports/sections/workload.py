"""The workload: what is computed, what bounds it, and how it was counted."""

from __future__ import annotations

from reports.blocks import Block, Fold
from reports.records import Workload
from reports.run import Run
from reports.section import NotApplicable, Section
from reports.workload_blocks import (
    advice_blocks,
    intensity_blocks,
    layer_blocks,
    memory_blocks,
    module_blocks,
    specification_blocks,
    summary_blocks,
)
from reports.workload_ledger import ledger_blocks, reference_blocks


def workload_info(run: Run) -> Workload:
    """The workload, if the run folder holds one."""
    if run.workload is None:
        raise NotApplicable("workload.json is missing or damaged: how operators were counted is unknown.")
    return run.workload


def draw_workload(workload: Workload) -> list[Block]:
    """What the workload's own page shows, the long tables under folds."""
    return [
        *summary_blocks(workload),
        *advice_blocks(workload),
        *module_blocks(workload),
        *intensity_blocks(workload),
        *memory_blocks(workload),
        *_fold("All layers", layer_blocks(workload)),
        *_fold("The specification part by part", specification_blocks(workload)),
        *reference_blocks(workload),
        *ledger_blocks(workload),
    ]


def _fold(title: str, blocks: list[Block]) -> list[Block]:
    return [Fold(title=title, blocks=blocks)] if blocks else []


SECTION = Section(key="workload", title="The workload", order=95, info=workload_info, draw=draw_workload)
