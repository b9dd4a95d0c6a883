"""Scores of a prediction: errors, bias, intervals and power, by device and operator; and how predictors compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dse.proxy.evaluate.predictor import REFERENCE, Array, Prediction
from dse.proxy.evaluate.rooflines import measured_power
from dse.proxy.selection import has_power

ALL = "all"
CELL_ROWS = 100
"""Rows from which on a (device, operator) is judged against the fitted roofline."""

CELL_COLUMNS = ("split", "predictor", "device", "op_type")
SCORES = {
    "rows": "rows of the table that the score speaks for",
    "median_ape": "median absolute error of latency, % of what was measured",
    "mean_ape": "mean absolute error of latency, %",
    "bias": "median of predicted / measured, % above 1",
    "coverage": "rows inside their interval, % of those that have one",
    "interval_factor": "median of sqrt(high / low): within a factor of this",
    "power_rows": "rows with a power, of runs of 0.05 ms or more",
    "power_median_ape": "median absolute error of power, %",
}
"""Columns of the scores and what they say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """What a prediction missed by, row by row [T]; NaN where there is nothing to compare."""

    log_ratio: Array  # ln(predicted / measured)
    inside: Array  # 1: the interval holds the measurement, 0: it does not
    log_width: Array  # ln(high / low) / 2
    power_ape: Array  # %
    weight: Array  # rows of the table that each row stands for

    @property
    def ape(self) -> Array:
        """Absolute error of latency [T], in % of what was measured."""
        error: Array = 100 * np.abs(np.expm1(self.log_ratio))
        return error


def joined(parts: Sequence[Errors]) -> Errors:
    """Return errors one after another."""
    return Errors(
        **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Errors)}
    )


def errors_of(rows: pd.DataFrame, prediction: Prediction, weight: Array) -> Errors:
    """Compare a prediction with measured rows [T]."""
    latency = rows["latency_ms"].to_numpy(dtype=np.float64)
    low, high = prediction.low_ms, prediction.high_ms
    given = np.isfinite(low) & np.isfinite(high)
    with np.errstate(divide="ignore", invalid="ignore"):
        power_ape = 100 * np.abs(prediction.power_w / measured_power(rows) - 1)
        log_width = np.log(high / low) / 2
    return Errors(
        log_ratio=np.log(prediction.latency_ms / latency),
        inside=np.where(given, (low <= latency) & (latency <= high), np.nan),
        log_width=np.where(given, log_width, np.nan),
        power_ape=np.where(has_power(rows), power_ape, np.nan),
        weight=weight,
    )


def score(rows: pd.DataFrame, errors: Errors, *, split: str, predictor: str) -> pd.DataFrame:
    """Return the scores of each (device, op_type), each device, each op_type and all: CELL_COLUMNS, then SCORES."""
    device, op_type = (rows[name].astype(object).to_numpy() for name in ("device", "op_type"))
    nothing = np.full(len(rows), ALL, dtype=object)
    found = []
    for devices, kinds in product((nothing, device), (nothing, op_type)):
        for (name, kind), index in pd.Series(np.arange(len(rows))).groupby([devices, kinds]):
            at = index.to_numpy()
            found.append(
                {"split": split, "predictor": predictor, "device": name, "op_type": kind, **_scores(errors, at)}
            )
    return pd.DataFrame(found, columns=[*CELL_COLUMNS, *SCORES])


def weighted_median(values: Array, weight: Array) -> float:
    """Return the least value that half of the weight does not exceed, of the values that are known; NaN of none."""
    known = ~np.isnan(values)
    values, weight = values[known], weight[known]
    if not len(values):
        return float("nan")
    order = np.argsort(values, kind="stable")
    summed = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(summed, summed[-1] / 2)])


def coverage(inside: Array, weight: Array) -> float:
    """Return the share in % of the weight of rows with an interval that lies inside it; NaN where none has one."""
    given = ~np.isnan(inside)
    return 100 * float(np.average(inside[given], weights=weight[given])) if given.any() else float("nan")


def worse_cells(scores: pd.DataFrame, reference: str = REFERENCE) -> pd.DataFrame:
    """Return cells (device, op_type) of 100 rows or more on which a predictor's median error is above the reference's.

    Columns: CELL_COLUMNS, rows, median_ape and reference_median_ape; the roofline itself is not judged. Empty where the
    reference was not evaluated.
    """
    cells = scores[(scores["device"] != ALL) & (scores["op_type"] != ALL) & (scores["rows"] >= CELL_ROWS)]
    of_reference = cells[cells["predictor"] == reference].rename(columns={"median_ape": "reference_median_ape"})
    keys = ["split", "device", "op_type"]
    both = cells[~cells["predictor"].isin([reference, "roofline"])].merge(
        of_reference[[*keys, "reference_median_ape"]], on=keys
    )
    worse = both[both["median_ape"] > both["reference_median_ape"]]
    return worse[[*CELL_COLUMNS, "rows", "median_ape", "reference_median_ape"]].reset_index(drop=True)


def pooled(outcomes: Sequence[tuple[str, str, Errors]]) -> pd.DataFrame:
    """Sum up splits of one kind, such as all devices left out one by one, from (split, predictor, errors).

    Columns: split (device:*, family:*), predictor, splits, rows, median_ape (over the rows of all of them),
    mean_of_medians (over the splits), worst and worst_median_ape (the split with the highest median), coverage (over
    the rows) and least_coverage (of a split).
    """
    together: dict[tuple[str, str], list[tuple[str, Errors]]] = {}
    for split, predictor, errors in outcomes:
        kind, _, what = split.partition(":")
        if kind in ("device", "family"):
            together.setdefault((f"{kind}:*", predictor), []).append((what, errors))
    found = []
    for (split, predictor), parts in together.items():
        medians = {what: weighted_median(errors.ape, errors.weight) for what, errors in parts}
        weight = np.concatenate([errors.weight for _, errors in parts])
        worst = max(medians, key=lambda what: medians[what])
        found.append(
            {
                "split": split,
                "predictor": predictor,
                "splits": len(parts),
                "rows": round(weight.sum()),
                "median_ape": weighted_median(np.concatenate([errors.ape for _, errors in parts]), weight),
                "mean_of_medians": float(np.mean(list(medians.values()))),
                "worst": worst,
                "worst_median_ape": medians[worst],
                "coverage": coverage(np.concatenate([errors.inside for _, errors in parts]), weight),
                "least_coverage": min(coverage(errors.inside, errors.weight) for _, errors in parts),
            }
        )
    return pd.DataFrame(found)


def _scores(errors: Errors, at: NDArray[np.int64]) -> dict[str, float | int]:
    weight, ape, power = errors.weight[at], errors.ape[at], errors.power_ape[at]
    with_power = ~np.isnan(power)
    return {
        "rows": round(weight.sum()),
        "median_ape": weighted_median(ape, weight),
        "mean_ape": float(np.average(ape, weights=weight)),
        "bias": 100 * float(np.expm1(weighted_median(errors.log_ratio[at], weight))),
        "coverage": coverage(errors.inside[at], weight),
        "interval_factor": float(np.exp(weighted_median(errors.log_width[at], weight))),
        "power_rows": round(weight[with_power].sum()),
        "power_median_ape": weighted_median(power, weight),
    }
