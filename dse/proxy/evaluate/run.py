"""Evaluate predictors: fit each on each split's training side, predict its test side, and score it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dse.errors import DseError
from dse.proxy.evaluate.designs import Bag, Ranks, draw_bags, rank_designs
from dse.proxy.evaluate.predictor import Array, Calibratable, Fitted, Prediction, Predictor
from dse.proxy.evaluate.scores import Errors, errors_of, joined, score
from dse.proxy.evaluate.splits import Sample, make_split, sample

TRAIN_CAP = 6000
DRAWS = 5
"""How often calibrating rows are drawn."""

BLOCK = 200_000  # rows predicted at a time
MEASURES = ["latency_ms", "power_w", "energy_mj", "mem_mb"]
"""What a predictor does not get to see of the rows that it predicts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one predictor reached on one split."""

    split: str
    predictor: str
    fitted_rows: int
    judged_rows: int  # that were predicted; the scores' rows are those they stand for
    scores: pd.DataFrame  # see dse.proxy.evaluate.scores.score
    errors: Errors
    ranks: Ranks
    fit_s: float
    predict_s: float


def evaluate(
    rows: pd.DataFrame,
    devices: pd.DataFrame,
    predictors: Sequence[Predictor],
    splits: Sequence[str],
    *,
    seed: int = 0,
    train_cap: int | None = TRAIN_CAP,
    test_cap: int | None = None,
    calibrate: int | None = None,
    report: Callable[[int, str], None] = lambda done, doing: None,
) -> Iterator[Outcome]:
    """Yield the outcome of every predictor on every split (see `split_names`), each as soon as it stands.

    `rows` [N] are tidy (dse.proxy.dataset.read_rows). The fit sees at most `train_cap` rows of each (device, op_type,
    framework), drawn by `seed`. Scores are over all rows of the test side; with a `test_cap`, over a sample of as many
    rows a cell, each weighted by the rows that it stands for. With `calibrate`, predictors that can be calibrated are
    judged again (as NAME+N), by the other rows, once they were told as many judged rows a cell: DRAWS times, by other
    rows. `report` is told how many predictors were judged and what runs.

    Raises DseError where a split is wrong, or a predictor answers with a latency that is not positive and finite.
    """
    for number, name in enumerate(splits):
        split = make_split(name, rows, devices, seed=seed)
        train = rows.iloc[sample(rows, split.train, cap=train_cap, seed=seed).rows]
        test = sample(rows, split.test, cap=test_cap, seed=seed)
        bags = draw_bags(rows, split.test, seed=seed)
        for place, predictor in enumerate(predictors):
            report(number * len(predictors) + place, f"{predictor.name} on {name}: fitting {len(train):,} rows")
            outcome, fitted = _outcome(rows, devices, predictor, name, train, test, bags, seed)
            yield outcome
            if calibrate and isinstance(fitted, Calibratable):
                yield _calibrated(rows, devices, fitted, outcome, test, calibrate, seed)


def predict_in_blocks(
    fitted: Fitted, rows: pd.DataFrame, devices: pd.DataFrame, at: np.ndarray[tuple[int], np.dtype[np.int64]], name: str
) -> Prediction:
    """Predict rows at positions `at` [T] without showing what was measured, a block at a time.

    Raises DseError where a latency is not positive and finite, or there are not as many as rows.
    """
    shown = rows.drop(columns=MEASURES, errors="ignore")
    blocks = [fitted.predict(shown.iloc[part], devices) for part in np.split(at, range(BLOCK, len(at), BLOCK))]
    joined = {
        field: np.concatenate([getattr(block, field) for block in blocks]).astype(np.float64)
        for field in ("latency_ms", "low_ms", "high_ms", "power_w")
    }
    latency = joined["latency_ms"]
    wrong = int((~np.isfinite(latency) | (latency <= 0)).sum())
    if wrong or len(latency) != len(at):
        raise DseError(
            f"predictor {name!r}: {wrong:,} of {len(latency):,} latencies of {len(at):,} rows are not positive, finite",
            "a latency in ms for every row, in order",
        )
    return Prediction(**joined)


def _outcome(
    rows: pd.DataFrame,
    devices: pd.DataFrame,
    predictor: Predictor,
    split: str,
    train: pd.DataFrame,
    test: Sample,
    bags: list[Bag],
    seed: int,
) -> tuple[Outcome, Fitted]:
    start = time.perf_counter()
    fitted = predictor.fit(train, devices, seed=seed)
    fit_s, start = time.perf_counter() - start, time.perf_counter()
    prediction = predict_in_blocks(fitted, rows, devices, test.rows, predictor.name)
    predict_s = time.perf_counter() - start
    judged = rows.iloc[test.rows]
    errors = errors_of(judged, prediction, test.weight)
    outcome = Outcome(
        split=split,
        predictor=predictor.name,
        fitted_rows=len(train),
        judged_rows=len(judged),
        scores=score(judged, errors, split=split, predictor=predictor.name),
        errors=errors,
        ranks=_ranks(fitted, rows, devices, bags, predictor.name),
        fit_s=fit_s,
        predict_s=predict_s,
    )
    return outcome, fitted


def _calibrated(
    rows: pd.DataFrame,
    devices: pd.DataFrame,
    fitted: Calibratable,
    plain: Outcome,
    test: Sample,
    per_cell: int,
    seed: int,
) -> Outcome:
    """Judge a fitted predictor that was told `per_cell` rows of each cell by all the others.

    Raises DseError where no row is left to judge.
    """
    judged, errors, name = [], [], f"{plain.predictor}+{per_cell}"
    fit_s = predict_s = 0.0
    for draw in range(DRAWS):
        told = np.isin(test.rows, sample(rows, test.rows, cap=per_cell, seed=seed + draw).rows)
        if told.all():
            hint = "fewer rows to calibrate with"
            raise DseError(f"no cell of split {plain.split!r} has more than {per_cell} rows to judge", hint)
        start = time.perf_counter()
        calibrated = fitted.calibrated(rows.iloc[test.rows[told]], devices, seed=seed + draw)
        fit_s, start = fit_s + time.perf_counter() - start, time.perf_counter()
        others = test.rows[~told]
        prediction = predict_in_blocks(calibrated, rows, devices, others, name)
        predict_s += time.perf_counter() - start
        judged.append(rows.iloc[others])
        errors.append(errors_of(rows.iloc[others], prediction, test.weight[~told] / DRAWS))
    every, together = pd.concat(judged), joined(errors)
    return Outcome(
        split=plain.split,
        predictor=name,
        fitted_rows=plain.fitted_rows,
        judged_rows=len(every),
        scores=score(every, together, split=plain.split, predictor=name),
        errors=together,
        ranks=rank_designs([], [], []),
        fit_s=fit_s,
        predict_s=predict_s,
    )


def _ranks(fitted: Fitted, rows: pd.DataFrame, devices: pd.DataFrame, bags: list[Bag], name: str) -> Ranks:
    if not bags:
        return rank_designs([], [], [])
    every = np.concatenate([bag.rows for bag in bags])
    ends = np.cumsum([len(bag.rows) for bag in bags])[:-1]
    at, place = np.unique(every, return_inverse=True)
    predicted: Array = predict_in_blocks(fitted, rows, devices, at, name).latency_ms[place]
    measured = rows["latency_ms"].to_numpy(dtype=np.float64)[every]
    return rank_designs(bags, np.split(measured, ends), np.split(predicted, ends))
