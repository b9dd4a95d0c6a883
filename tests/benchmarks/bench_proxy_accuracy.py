"""Errors of the layer proxy on what its fit has not seen: the public sets, which no checkout holds.

Each split is one fit of a few minutes. Without CHIPFRONT_DATA nothing is measured.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from dse.proxy.evaluate.llmcompass import PUBLISHED, SPLIT
from dse.proxy.evaluate.predictor import predictor
from dse.proxy.evaluate.run import Outcome, evaluate
from dse.proxy.evaluate.scores import ALL
from dse.proxy.training_rows import training_rows
from tests.benchmarks.figure import Figure

SPLITS = {"random": 4.5, "shapes": 6.0}
"""Goal of the median error in %."""

DEVICES = {
    "H200-SXM-141GB": (10.5, 8.5),
    "B200-SXM-180GB": (15.0, 12.5),
    "A100-SXM4-80GB": (13.0, 11.0),
    "V100-PCIE-32GB": (11.5, 11.0),
}
"""Device that is left out -> goals without rows of it, and calibrated by CALIBRATED of each framework and operator."""

POWER = {"power:H200-SXM-141GB:B200-SXM-180GB": 9.0, "power:B200-SXM-180GB:H200-SXM-141GB": 10.0}

CALIBRATED = 10
"""Rows of a device, operator kind and framework that calibration is told; LLMCompass has some 20 of each."""

TEST_CAP = 4000


def measure() -> list[Figure]:
    """Median errors by split, coverage of intervals, power, and mean errors on LLMCompass's operators."""
    if "CHIPFRONT_DATA" not in os.environ:
        print("skipped: set CHIPFRONT_DATA to the folder of the public sets", file=sys.stderr)
        return []
    data = training_rows()
    left_out = [f"device:{device}" for device in DEVICES]
    runs: list[tuple[list[str], int | None]] = [([*SPLITS, *POWER], None), ([*left_out, SPLIT], CALIBRATED)]
    figures: list[Figure] = []
    for splits, calibrate in runs:
        for outcome in evaluate(
            data.rows,
            data.devices,
            [predictor("learned")],
            splits,
            test_cap=TEST_CAP,
            calibrate=calibrate,
            report=lambda done, what: print(f"  {what}", file=sys.stderr, flush=True),
        ):
            figures += _figures(outcome)
    return figures


def _figures(outcome: Outcome) -> Iterator[Figure]:
    scores, told = outcome.scores, "+" in outcome.predictor
    whole = scores[(scores["device"] == ALL) & (scores["op_type"] == ALL)].iloc[0]
    kind, _, what = outcome.split.partition(":")
    if kind == SPLIT:
        for row in scores[(scores["device"] == ALL) & scores["op_type"].isin(list(PUBLISHED))].to_dict("records"):
            name, goal = f"LLMCompass's {row['op_type']}, mean error, {_way(told)}", PUBLISHED[row["op_type"]]
            yield _figure(name, goal, row["mean_ape"])
    elif kind == "device":
        name = f"{what} left out, median error, {_way(told)}"
        yield _figure(name, DEVICES[what][told], whole["median_ape"])
        if not told:
            name = f"{what} left out, rows inside their interval"
            yield Figure(figure=name, goal=85.0, measured=float(whole["coverage"]), unit="%")
    elif kind == "power":
        yield _figure(f"{outcome.split}, median error", POWER[outcome.split], whole["power_median_ape"])
    else:
        yield _figure(f"{kind} rows left out, median error", SPLITS[kind], whole["median_ape"])
        if kind == "random":
            yield _figure("random rows left out, power, median error", 5.0, whole["power_median_ape"])


def _way(told: bool) -> str:
    return f"calibrated by {CALIBRATED} rows a cell" if told else "no row of it"


def _figure(figure: str, goal: float, measured: float) -> Figure:
    return Figure(figure=figure, goal=goal, measured=float(measured), unit="%", higher_is_better=False)
