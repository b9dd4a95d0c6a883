"""The layer cost model and the cost table of HTDemucs, on one core."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import workloads
from chiplib import System, load_library
from chiplib.chip import Precision
from dse.cost_table import CostTable, segment_costs
from dse.proxy.model import LayerQuestion, cost_model
from tests.benchmarks.figure import Figure


def median_s(call: Callable[[], object], *, budget_s: float = 1.0) -> float:
    """Median wall time of one call, over as many as the budget allows."""
    call()
    times: list[float] = []
    while sum(times) < budget_s:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def measure() -> list[Figure]:
    """Evaluations a second of the roofline, and the time of a table."""
    library = load_library("chiplets")
    chips = [chip for name in ("chiplets", "reference") for chip in load_library(name).chips.values()]
    segments = workloads.build_segments(workloads.load("htdemucs"), count=40)
    question, model = LayerQuestion.of(segments.at(2), chips, Precision.FP16), cost_model("roofline")
    layers, parts = question.layers, question.chips
    pairs = len(layers) * len(parts)
    predict_s = median_s(lambda: model.predict(question))
    costs_s = median_s(lambda: segment_costs(segments, chips, model="roofline"))
    learned_s = median_s(lambda: segment_costs(segments, chips), budget_s=5.0)
    costs = segment_costs(segments, chips)
    system = System.build(package="interposer_2x2", chips=["big_core", "small_core"] * 2, library=library)
    gather_s = median_s(lambda: CostTable.of(costs, system))
    sizes = f"{len(layers)} layers x {len(parts)} chips"
    return [
        Figure(
            figure="roofline, (layer, chip) evaluations",
            goal=1.0,
            measured=pairs / predict_s / 1e6,
            unit="million/s",
            note=f"one core, {sizes}",
        ),
        Figure(
            figure="segment costs of a library, roofline",
            goal=None,
            measured=costs_s * 1e3,
            unit="ms",
            higher_is_better=False,
            note=f"{sizes}, {len(segments)} segments",
        ),
        Figure(
            figure="segment costs of a library, learned",
            goal=2.0,
            measured=learned_s,
            unit="s",
            higher_is_better=False,
            note=f"{sizes}, layers of equal shape once",
        ),
        Figure(
            figure="cost table of one system, gathered",
            goal=0.2,
            measured=gather_s * 1e3,
            unit="ms",
            higher_is_better=False,
            note=f"{len(segments)} segments x {system.slots} slots",
        ),
    ]
