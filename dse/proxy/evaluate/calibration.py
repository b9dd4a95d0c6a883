"""How a layer proxy's errors on a chip that it has not seen fall with the operators that are measured there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dse.proxy.features import features
from dse.proxy.fit_calibration import calibrate
from dse.proxy.predict import LayerProxy
from dse.proxy.selection import capped

PER_CELL = (0, 5, 10, 20)
"""Measured rows of each framework and operator kind."""


def calibration_curve(
    proxy: LayerProxy,
    rows: pd.DataFrame,
    devices: pd.DataFrame,
    *,
    device: str,
    per_cell: Sequence[int] = PER_CELL,
    draws: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Calibrate a proxy that was fitted without `device` to few of its tidy rows, and judge it by all the others.

    Returns one line for each of `per_cell`: per_cell, rows_used, judged_rows, median_ape, mean_ape, bias (median of
    predicted over measured, less one), expected_ape (what calibration promised) and coverage (of the 90 % interval), in
    % and as means over draws of the calibrating rows.
    """
    own = rows[(rows["device"] == device).to_numpy()].reset_index(drop=True)
    found, measured = features(own, devices), own["latency_ms"].to_numpy(np.float64)
    lines = []
    for count in per_cell:
        for draw in range(draws if count else 1):
            used = capped(own, cap=count, seed=seed + draw)
            expected, fitted = np.nan, proxy
            if count:
                calibration = calibrate(proxy, own.iloc[used], devices, device=device)
                expected, fitted = calibration.error_after, calibration.apply(proxy)
            others = np.setdiff1d(np.arange(len(own)), used)
            said = fitted.predict(found[others])
            ratio = said.latency_ms / measured[others]
            inside = (said.low_ms <= measured[others]) & (measured[others] <= said.high_ms)
            lines.append(
                {
                    "per_cell": count,
                    "rows_used": len(used),
                    "judged_rows": len(others),
                    "median_ape": 100 * np.median(np.abs(ratio - 1)),
                    "mean_ape": 100 * np.mean(np.abs(ratio - 1)),
                    "bias": 100 * (np.median(ratio) - 1),
                    "expected_ape": expected,
                    "coverage": 100 * np.mean(inside),
                }
            )
    return pd.DataFrame(lines).groupby("per_cell", as_index=False, sort=False).mean()
