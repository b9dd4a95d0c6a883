"""The event simulation of HTDemucs on four chips, on one core."""

from __future__ import annotations

import numpy as np

import workloads
from chiplib import System
from dse.cost_table import cost_table
from dse.simulate import simulate
from tests.benchmarks.bench_cost_table import median_s
from tests.benchmarks.figure import Figure


def measure() -> list[Figure]:
    """Time of one simulation with what Python adds, alone and with all metrics."""
    segments = workloads.build_segments(workloads.load("htdemucs"), count=60)
    system = System.build(
        package="interposer_2x2", chips=["big_core", "small_core", "big_core", "small_core"], library="chiplets"
    )
    table = cost_table(segments, system)
    assignment = np.arange(len(segments)) * system.slots // len(segments)

    def serial() -> object:
        return simulate(segments, assignment, system, table=table)

    def stream() -> object:
        return simulate(segments, assignment, system, table=table, regime="pipelined", inputs=32)

    sizes = f"{len(segments)} segments, {len(segments.edges)} edges, {system.slots} slots"
    return [
        Figure(
            figure="simulate one input, serial",
            goal=0.5,
            measured=median_s(serial) * 1e3,
            unit="ms",
            higher_is_better=False,
            note=sizes,
        ),
        Figure(
            figure="simulate 32 inputs, pipelined",
            goal=5.0,
            measured=median_s(stream) * 1e3,
            unit="ms",
            higher_is_better=False,
            note=sizes,
        ),
        Figure(
            figure="simulate one input, with metrics and memory",
            goal=None,
            measured=median_s(lambda: simulate(segments, assignment, system, table=table).metrics()) * 1e3,
            unit="ms",
            higher_is_better=False,
            note=sizes,
        ),
    ]
