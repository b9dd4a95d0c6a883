"""Rank correlation of designs: does a predictor order devices by the time of a bag of operators as measurements do?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from dse.proxy.columns import SHAPES
from dse.proxy.evaluate.predictor import Array
from dse.proxy.evaluate.splits import Index, hashed

BAGS, BAG_SIZE, LEAST_DEVICES = 200, 16, 3
CLOSE = 2.0
"""Totals within this factor are a choice that has to be thought about: any roofline orders those further apart."""

OPERATOR = ("framework", "timer", "op_type", "op_name", "dtype", *SHAPES)
"""Rows that share these measured the same operator in the same way; versions of a framework are not comparable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bag:
    """Operators that each of several devices has measured under one framework: the same work on several designs."""

    rows: Index  # [D * O] positions in the table, the operators of the first device, of the second, ...
    devices: int
    judged: NDArray[np.bool_]  # [D] whether the device has rows of the split's test side among the bag's


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """How well predicted totals of bags order devices."""

    bags: int
    spearman: float  # mean over bags; NaN without any
    pairs: int  # of a judged device and another one, measured within a factor of CLOSE of one another
    pairs_right: float  # % of these pairs that are ordered as measured; equal predictions count half


def draw_bags(rows: pd.DataFrame, test: Index, *, seed: int) -> list[Bag]:
    """Draw up to 200 bags of 16 operators from those that rows of `test` measured.

    Operators are grouped by framework, timer and the set of devices that measured them; a group of three devices or
    more and 16 operators or more is drawn from as often as it has operators in proportion. A device's own repeats of
    an operator count once (the first row, of the test side if there is one). With one device left out, the others of
    a bag have been fitted: the bag asks where the new one stands among those that are known.
    """
    operator, device = hashed(rows, OPERATOR), rows["device"].cat.codes.to_numpy().astype(np.int64)
    judged = np.zeros(len(rows), np.bool_)
    judged[test] = True
    at = np.flatnonzero(np.isin(operator, np.unique(operator[test])))
    at = at[np.lexsort((at, ~judged[at], device[at], operator[at]))]
    first = np.append(True, (operator[at][1:] != operator[at][:-1]) | (device[at][1:] != device[at][:-1]))
    at = at[first]  # one row an operator and device, in that order
    starts = np.flatnonzero(np.append(True, operator[at][1:] != operator[at][:-1]))
    counts = np.diff(np.append(starts, len(at)))
    many = np.flatnonzero(counts >= LEAST_DEVICES)
    groups: dict[tuple[object, ...], list[int]] = {}
    way = rows[["framework", "timer"]].iloc[at[starts[many]]].astype(object).to_numpy()
    for place, names in zip(many.tolist(), way, strict=True):
        key = (*names, device[at[starts[place] : starts[place] + counts[place]]].tobytes())
        groups.setdefault(key, []).append(place)
    pools = [np.array(places) for places in groups.values() if len(places) >= BAG_SIZE]
    if not pools:
        return []
    rng = np.random.default_rng(seed)
    sizes = np.array([len(pool) for pool in pools], np.float64)
    bags = []
    for pool in rng.choice(len(pools), size=BAGS, p=sizes / sizes.sum()):
        chosen = rng.choice(pools[pool], size=BAG_SIZE, replace=False)
        devices = int(counts[chosen[0]])
        table = at[starts[chosen][None, :] + np.arange(devices)[:, None]]  # [D, O]
        bags.append(Bag(rows=table.ravel(), devices=devices, judged=judged[table].any(axis=1)))
    return bags


def rank_designs(bags: list[Bag], measured_ms: list[Array], predicted_ms: list[Array]) -> Ranks:
    """Compare the devices' totals of each bag, measured and predicted (both as Bag.rows)."""
    correlations, right, pairs = [], 0.0, 0
    for bag, measured, predicted in zip(bags, measured_ms, predicted_ms, strict=True):
        truth, guess = (values.reshape(bag.devices, -1).sum(axis=1) for values in (measured, predicted))
        correlations.append(spearman(truth, guess))
        first, second = np.triu_indices(bag.devices, 1)
        apart = np.maximum(truth[first], truth[second]) / np.minimum(truth[first], truth[second])
        asked = (bag.judged[first] | bag.judged[second]) & (apart > 1) & (apart <= CLOSE)
        agree = np.sign(truth[first] - truth[second]) * np.sign(guess[first] - guess[second])
        right += float(((agree[asked] + 1) / 2).sum())
        pairs += int(asked.sum())
    known = [value for value in correlations if np.isfinite(value)]
    return Ranks(
        bags=len(bags),
        spearman=float(np.mean(known)) if known else float("nan"),
        pairs=pairs,
        pairs_right=100 * right / pairs if pairs else float("nan"),
    )


def spearman(first: Array, second: Array) -> float:
    """Return Spearman's rank correlation, ties at their mean rank; 0 where one of the two orders nothing."""
    ranks = np.stack([rankdata(first), rankdata(second)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    spread = np.sqrt((ranks**2).sum(axis=1).prod())
    return float((ranks[0] * ranks[1]).sum() / spread) if spread else 0.0
