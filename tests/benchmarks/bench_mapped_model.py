"""Every model of the catalogue at full size, mapped at random on three slots: its answer, and the bytes that it sends.

Segments of four layers, each on one of three slots drawn from a seed, so that most edges cross; one process a slot.
"""

from __future__ import annotations

import sys

import numpy as np

import workloads
from dse.mapped_model import MappedRun, run_mapped
from tests.benchmarks.figure import Figure

SLOTS = 3
DEADLINE_S = 3600.0


def mapped(name: str, seed: int = 0) -> MappedRun:
    """Run a model of the catalogue under a random mapping."""
    segments = workloads.build_segments(workloads.load(name), segment_size=4)
    slots = np.random.default_rng(seed).integers(0, SLOTS, len(segments))
    return run_mapped(name, segments, slots, seed=seed, deadline_s=DEADLINE_S)


def measure() -> list[Figure]:
    """Model by model the largest relative error, and how many edges send other bytes than they are charged."""
    figures = []
    for name in workloads.names():
        run = mapped(name)
        print(f"{name}: {run}", file=sys.stderr, flush=True)
        wrong = int(((run.sent_bytes != run.charged_bytes) | (run.received_bytes != run.charged_bytes)).sum())
        note = f"{run.processes} processes, {run.messages} messages, {run.sent_bytes.sum() / 1e6:,.1f} MB; "
        note += f"{run.wall_s:.2f} s, the original {run.original_s:.2f} s"
        figures += [
            Figure(
                figure=f"mapped against original, {name}: largest relative error",
                goal=run.tolerance,
                measured=run.max_rel_error,
                unit="",
                higher_is_better=False,
                note=note,
            ),
            Figure(
                figure=f"edges whose bytes sent differ from those charged, {name}",
                goal=0,
                measured=wrong,
                unit="edges",
                higher_is_better=False,
                note=f"of {int((run.charged_bytes > 0).sum())} edges between slots",
            ),
        ]
    return figures
