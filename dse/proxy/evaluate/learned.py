"""The learned layer proxy as a predictor to be judged: fitted anew on the training rows of each split."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from dse.proxy.ensemble import fit_proxy
from dse.proxy.evaluate.predictor import Prediction
from dse.proxy.features import features
from dse.proxy.fit import STANDARD
from dse.proxy.fit_calibration import calibrate
from dse.proxy.predict import LayerProxy

STEPS = 3000
"""Training steps a network, a third of those that the shipped ones have: a split is fitted anew for each part."""


class Learned:
    """The layer proxy, with its intervals and power."""

    name = "learned"

    def fit(self, rows: pd.DataFrame, devices: pd.DataFrame, *, seed: int) -> FittedProxy:
        """Fit networks and intervals."""
        recipe = replace(STANDARD, steps=STEPS)
        return FittedProxy(proxy=fit_proxy(rows, devices, seed=seed, recipe=recipe))


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedProxy:
    """A proxy that was fitted for one split."""

    proxy: LayerProxy

    def predict(self, rows: pd.DataFrame, devices: pd.DataFrame) -> Prediction:
        """Predict latency with its interval, and power."""
        found = self.proxy.predict(features(rows, devices))
        return Prediction(
            latency_ms=found.latency_ms, low_ms=found.low_ms, high_ms=found.high_ms, power_w=found.power_w
        )

    def calibrated(self, rows: pd.DataFrame, devices: pd.DataFrame, *, seed: int) -> FittedProxy:
        """Return the proxy calibrated to each device that the rows are of."""
        proxy = self.proxy
        for device in rows["device"].astype(str).unique():
            proxy = calibrate(self.proxy, rows, devices, device=device, seed=seed).apply(proxy)
        return FittedProxy(proxy=proxy)
