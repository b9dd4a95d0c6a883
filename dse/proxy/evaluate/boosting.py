"""Gradient boosting as a baseline: of the utilisation of a roofline, and of the share of the TDP."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dse.errors import DseError
from dse.proxy.evaluate.inputs import TextInputs, numeric_inputs
from dse.proxy.evaluate.predictor import Prediction
from dse.proxy.evaluate.rooflines import measured_power, of_device, roofline_terms
from dse.proxy.selection import has_power

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingRegressor

TREES, LEAVES, RATE = 200, 95, 0.15
POWER_TREES = 100


class Boosting:
    """Histogram gradient boosting of log(latency / roofline): accurate, but neither smooth nor monotone in a chip."""

    name = "boosting"

    def __init__(self) -> None:
        if find_spec("sklearn") is None:
            raise DseError("predictor 'boosting' needs scikit-learn", "pip install 'chipfront[evaluate]'")

    def fit(self, rows: pd.DataFrame, devices: pd.DataFrame, *, seed: int) -> FittedBoosting:
        """Fit the mean absolute log error, and the power where 100 rows or more have one."""
        texts = TextInputs.of(rows)
        inputs = _inputs(rows, devices, texts)
        latency = np.log(rows["latency_ms"].to_numpy(dtype=np.float64))
        target = latency - np.log(np.maximum(*roofline_terms(rows, devices)))
        share = measured_power(rows) / of_device(rows, devices, "tdp_w")
        measured = has_power(rows) & np.isfinite(share)
        power = None
        if measured.sum() >= 100:
            power = _trees(texts, inputs.shape[1], POWER_TREES, seed).fit(inputs[measured], share[measured])
        trees = _trees(texts, inputs.shape[1], TREES, seed).fit(inputs, target)
        return FittedBoosting(latency=trees, power=power, texts=texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedBoosting:
    """Fitted trees."""

    latency: HistGradientBoostingRegressor
    power: HistGradientBoostingRegressor | None
    texts: TextInputs

    def predict(self, rows: pd.DataFrame, devices: pd.DataFrame) -> Prediction:
        """Predict latency and power [N]; no interval."""
        inputs = _inputs(rows, devices, self.texts)
        roofline = np.maximum(*roofline_terms(rows, devices))
        power_w = None
        if self.power is not None:
            power_w = np.clip(self.power.predict(inputs), 0.0, 1.0) * of_device(rows, devices, "tdp_w")
        return Prediction.of(roofline * np.exp(self.latency.predict(inputs)), power_w)


def _inputs(rows: pd.DataFrame, devices: pd.DataFrame, texts: TextInputs) -> NDArray[np.float32]:
    """Return numbers, then codes of texts; a new text counts as missing."""
    codes = texts.codes(rows).astype(np.float32)
    codes[codes < 0] = np.nan
    return np.concatenate([numeric_inputs(rows, devices, roofline=True), codes], axis=1)


def _trees(texts: TextInputs, inputs: int, trees: int, seed: int) -> HistGradientBoostingRegressor:
    from sklearn.ensemble import HistGradientBoostingRegressor

    coded = range(inputs - len(texts.known), inputs)
    return HistGradientBoostingRegressor(
        loss="absolute_error", max_iter=trees, max_leaf_nodes=LEAVES, learning_rate=RATE, min_samples_leaf=20,
        categorical_features=list(coded), early_stopping=False, random_state=seed,
    )  # fmt: skip
