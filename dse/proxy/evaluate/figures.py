"""Figures of a model card: what evaluations measured, a line for each split."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import NoneType
from typing import Any

import pandas as pd

from dse.errors import DseError
from dse.proxy.evaluate.learned import STEPS, Learned
from dse.proxy.evaluate.results import markdown_table

COLUMNS: dict[str, tuple[type, ...]] = {
    "split": (str,),
    "predictor": (str,),
    "rows": (int, float),
    "median_ape": (int, float),
    "coverage": (int, float, NoneType),
    "power_median_ape": (int, float, NoneType),
}
"""What of a record of `summary` is read, and what it may be."""


def read_summaries(paths: Iterable[Path]) -> pd.DataFrame:
    """Return the summaries of files that `dse proxy evaluate --out` wrote, one after another.

    Raises DseError where a file is none, or where two judge one predictor on one split.
    """
    records: list[dict[str, Any]] = []
    for path in paths:
        hint = "evaluation.json of `dse proxy evaluate --out`, without --end-to-end"
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            found = told["summary"]
            bad = [key for record in found for key, kind in COLUMNS.items() if not isinstance(record[key], kind)]
        except (KeyError, TypeError):
            raise DseError(f"{path}: no evaluation: its summary lacks a key", hint) from None
        except (OSError, ValueError, RecursionError) as error:
            raise DseError(f"{path}: no evaluation ({error})", hint) from None
        if bad or not found:
            raise DseError(f"{path}: no evaluation ({bad[0] if bad else 'nothing was judged'})", hint)
        if told.get("complete") is False:
            raise DseError(f"{path}: the evaluation was stopped before its end", "run it again")
        records += [{key: record[key] for key in COLUMNS} for record in found]
    frame = pd.DataFrame(records, columns=list(COLUMNS))
    if (twice := frame.duplicated(["split", "predictor"])).any():
        split, predictor = frame.loc[twice, ["split", "predictor"]].iloc[0]
        raise DseError(f"{predictor} is judged twice on split {split}", "give one evaluation of it")
    return frame


def figures(summaries: pd.DataFrame) -> str:
    """Return the figures of a card in Markdown: medians of errors by split and predictor, intervals, and power."""
    predictors = list(dict.fromkeys(summaries["predictor"]))
    parts = [
        "## Figures",
        "Median absolute error of latency, %, of predictors that were fitted without what they are judged by (the "
        f"learned one of networks of {STEPS:,} steps), and rows inside the 90 % interval, %. NAME+N: told N rows of "
        "each device, framework and operator kind.",
        markdown_table(["left out", "rows", *predictors, "in interval"], _lines(summaries, predictors)),
    ]
    power = summaries[(summaries["predictor"] == Learned.name) & summaries["power_median_ape"].notna()]
    if len(power):
        told = zip(power["split"], power["power_median_ape"].astype(float), strict=True)
        parts += ["Median absolute error of power, %:", markdown_table(["left out", Learned.name], told)]
    return "\n\n".join(parts)


def _lines(summaries: pd.DataFrame, predictors: list[str]) -> Iterable[list[object]]:
    for split, part in summaries.groupby("split", sort=False):
        by = part.set_index("predictor")
        inside = by["coverage"].astype(float).reindex([Learned.name]).iloc[0]
        yield [split, int(part["rows"].max()), *by["median_ape"].astype(float).reindex(predictors), inside]
