"""Selection: which measured rows are fitted and judged, so many of a cell, and which have a power to be trusted."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

CELL = ("device", "op_type", "framework")
"""Rows that share these are one cell; fits and judgements cap the rows of a cell."""

POWER_LEAST_MS = 0.05
"""Shorter runs have no trustworthy power: the board's sensor averages over far more than them."""


def capped(rows: pd.DataFrame, *, cap: int, seed: int) -> NDArray[np.int64]:
    """Return places of at most `cap` rows of each cell, drawn at random, in order."""
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    cells = rows[[*CELL]].iloc[shuffled]
    number = cells.groupby([*CELL], observed=True).cumcount().to_numpy()
    return np.sort(shuffled[number < cap])


def has_power(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Find rows [N] with a power that can be fitted and judged: of a run of POWER_LEAST_MS or more."""
    long_enough: NDArray[np.bool_] = (rows["latency_ms"] >= np.float32(POWER_LEAST_MS)).to_numpy()
    return has_any_power(rows) & long_enough


def has_any_power(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Find rows [N] with a measured power, of however short a run."""
    if "power_w" not in rows:
        return np.zeros(len(rows), np.bool_)
    measured: NDArray[np.bool_] = rows["power_w"].notna().to_numpy()
    return measured
