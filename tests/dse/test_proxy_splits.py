"""Splits of measured rows: what is left out of a fit is left out wholly, and samples stand for what they are of."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.errors import DseError
from dse.proxy.columns import SHAPES
from dse.proxy.evaluate.splits import hashed, make_split, sample, split_names
from tests.dse.proxy_tables import device_table, row_table

ROWS = row_table()
DEVICES = device_table()
SPLITS = ["random", "shapes", "device:fast", "family:old", "power:slow:fast"]


@pytest.mark.parametrize("name", SPLITS)
def test_no_row_is_fitted_and_judged(name: str) -> None:
    split = make_split(name, ROWS, DEVICES, seed=3)
    assert not np.intersect1d(split.train, split.test).size
    assert split.name == name
    again = make_split(name, ROWS, DEVICES, seed=3)
    assert np.array_equal(split.test, again.test)
    if name != "power:slow:fast":
        assert len(split.train) + len(split.test) == len(ROWS)


def test_random_rows_are_a_twentieth_and_follow_the_seed() -> None:
    many = ROWS.sample(20_000, replace=True, random_state=0).reset_index(drop=True)
    share = len(make_split("random", many, DEVICES).test) / len(many)
    assert share == pytest.approx(0.05, abs=0.006)  # four standard deviations
    other = make_split("random", many, DEVICES, seed=1).test
    assert not np.array_equal(make_split("random", many, DEVICES).test, other)


def test_unseen_shapes_are_unseen_on_every_device() -> None:
    split = make_split("shapes", ROWS, DEVICES)
    keys = (
        ROWS[["op_type", *SHAPES]].astype(object).where(ROWS[["op_type", *SHAPES]].notna(), None).apply(tuple, axis=1)
    )
    fitted, judged = set(keys.iloc[split.train]), set(keys.iloc[split.test])
    assert not fitted & judged
    assert 0.01 < len(judged) / len(fitted | judged) < 0.12
    assert (keys.iloc[split.test].value_counts() == len(DEVICES)).all()  # a shape goes with all its rows


def test_a_device_and_a_family_are_left_out_wholly() -> None:
    device = make_split("device:fast", ROWS, DEVICES)
    assert set(ROWS["device"].iloc[device.test]) == {"fast"}
    assert set(ROWS["device"].iloc[device.train]) == {"slow", "middle"}
    family = make_split("family:old", ROWS, DEVICES)
    assert set(ROWS["device"].iloc[family.train]) == {"fast"}


def test_power_is_learned_on_one_device_alone() -> None:
    rows = ROWS.copy()
    rows.loc[rows["device"] == "middle", "power_w"] = np.float32(np.nan)
    rows.loc[rows.index % 2 == 0, "latency_ms"] = np.float32(0.01)  # too short for a power
    split = make_split("power:slow:fast", rows, DEVICES)
    judged, fitted = rows.iloc[split.test], rows.iloc[split.train]
    assert set(judged["device"]) == {"fast"} and (judged["latency_ms"] >= 0.05).all()
    assert set(fitted["device"][fitted["power_w"].notna()]) == {"slow"}
    assert "middle" in set(fitted["device"])
    assert sorted(split_names(["power"], rows, DEVICES)) == ["power:fast:slow", "power:slow:fast"]


def test_llmcompass_leaves_out_every_device_with_that_die() -> None:
    rows = ROWS.copy()
    source = rows["source"].cat.add_categories("llmcompass")
    rows["source"] = source.where(~((rows["device"] == "slow") & (rows.index % 7 == 0)), "llmcompass")
    split = make_split("llmcompass", rows, DEVICES)
    assert set(rows["source"].iloc[split.test]) == {"llmcompass"}
    assert set(rows["device"].iloc[split.train]) == {"fast"}  # slow and middle are die A


def test_development_names_every_device_of_500_rows() -> None:
    rows = pd.concat([ROWS] * 2, ignore_index=True)
    counts = rows["device"].value_counts()
    assert (counts >= 500).all()
    assert split_names(["device:development"], rows, DEVICES) == ["device:fast", "device:middle", "device:slow"]
    assert split_names(["random", "family:development"], rows, DEVICES) == ["random", "family:new", "family:old"]
    few = rows[(rows["device"] != "slow") | (np.arange(len(rows)) < 300)]
    assert "device:slow" not in split_names(["device:development"], few, DEVICES)


@pytest.mark.parametrize(
    ("name", "message"),
    [("shape", "unknown split"), ("device:fst", "fst"), ("family:", "family"), ("power:slow:fst", "fst")],
)
def test_a_wrong_split_is_refused(name: str, message: str) -> None:
    with pytest.raises(DseError, match=message) as caught:
        make_split(split_names([name], ROWS, DEVICES)[0], ROWS, DEVICES)
    assert caught.value.hint


def test_a_split_without_rows_is_refused() -> None:
    with pytest.raises(DseError, match="no rows to judge"):
        make_split("llmcompass", ROWS, DEVICES)
    with pytest.raises(DseError, match="no rows to fit"):
        make_split("device:fast", ROWS[ROWS["device"] == "fast"].reset_index(drop=True), DEVICES)


@settings(max_examples=30, deadline=None)
@given(cap=st.integers(1, 200), seed=st.integers(0, 5), stop=st.integers(1, len(ROWS)))
def test_a_sample_stands_for_all_rows(cap: int, seed: int, stop: int) -> None:
    index = np.arange(0, stop)
    drawn = sample(ROWS, index, cap=cap, seed=seed)
    assert np.isin(drawn.rows, index).all() and (np.diff(drawn.rows) > 0).all()
    cell = ["device", "op_type", "framework"]
    there = ROWS.iloc[index].groupby(cell, observed=True).size()
    kept = ROWS.iloc[drawn.rows].groupby(cell, observed=True).size()
    assert kept.equals(there.clip(upper=cap))
    weight = pd.Series(drawn.weight).groupby([ROWS[name].iloc[drawn.rows].to_numpy() for name in cell]).sum()
    assert np.allclose(weight[weight > 0].to_numpy(), there.to_numpy())


def test_hashes_tell_rows_apart_whatever_their_order_and_categories() -> None:
    columns = ("device", "op_type", *SHAPES)
    codes = hashed(ROWS, columns)
    distinct = ROWS[list(columns)].drop_duplicates()
    assert len(np.unique(codes)) == len(distinct)
    shuffled = ROWS.sample(frac=1.0, random_state=1)
    shuffled["device"] = shuffled["device"].cat.set_categories(["unused", "slow", "fast", "middle"])
    assert np.array_equal(hashed(shuffled, columns), codes[shuffled.index])
