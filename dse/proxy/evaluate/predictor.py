"""Predictor: what is judged here, and how one is found by name."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chiplib.validation import did_you_mean
from dse.errors import DseError

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a fitted predictor says of N rows; NaN where it says nothing of an interval or of power."""

    latency_ms: Array  # [N]
    low_ms: Array  # [N] ends of the interval that 90 % of rows should lie in
    high_ms: Array  # [N]
    power_w: Array  # [N] mean power of the board

    @classmethod
    def of(cls, latency_ms: Array, power_w: Array | None = None) -> Prediction:
        """Return a prediction without intervals."""
        nothing = np.full(len(latency_ms), np.nan)
        return cls(
            latency_ms=latency_ms, low_ms=nothing, high_ms=nothing, power_w=nothing if power_w is None else power_w
        )


class Fitted(Protocol):
    """A predictor that has seen training rows."""

    def predict(self, rows: pd.DataFrame, devices: pd.DataFrame) -> Prediction:
        """Predict tidy `rows` [N] (dse.proxy.dataset) of any device of `devices`, without what was measured of them."""
        ...


@runtime_checkable
class Calibratable(Fitted, Protocol):
    """A fitted predictor that a few rows of a device, which it has not seen, can be told of."""

    def calibrated(self, rows: pd.DataFrame, devices: pd.DataFrame, *, seed: int) -> Fitted:
        """Return it calibrated by measured rows of one device or several."""
        ...


class Predictor(Protocol):
    """A way to predict latency and power of operators on devices, before it has seen any row."""

    @property
    def name(self) -> str:
        """How commands and tables call it."""
        ...

    def fit(self, rows: pd.DataFrame, devices: pd.DataFrame, *, seed: int) -> Fitted:
        """Fit measured rows; the same rows and seed give the same predictor."""
        ...


PREDICTORS: dict[str, str] = {
    "roofline": "dse.proxy.evaluate.rooflines:Roofline",
    "fitted-roofline": "dse.proxy.evaluate.rooflines:FittedRoofline",
    "mlp": "dse.proxy.evaluate.networks:PlainMlp",
    "utilisation-mlp": "dse.proxy.evaluate.networks:UtilisationMlp",
    "boosting": "dse.proxy.evaluate.boosting:Boosting",
    "learned": "dse.proxy.evaluate.learned:Learned",
}
"""Name -> file and class, imported when asked for: torch and scikit-learn load only where they are used."""

REFERENCE = "fitted-roofline"
"""What no predictor should be worse than on any device and operator."""


def predictor(name: str) -> Predictor:
    """Return the predictor of that name.

    Raises DseError where there is none, or where a library that it needs is not installed.
    """
    if name not in PREDICTORS:
        raise DseError(f"no predictor is called {name!r}", did_you_mean(name, PREDICTORS))
    module, _, attribute = PREDICTORS[name].partition(":")
    found: Predictor = getattr(import_module(module), attribute)()
    return found
