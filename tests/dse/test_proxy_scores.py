"""Scores of predictors: against figures worked out by hand, and against predictions whose errors are known."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from dse.errors import DseError
from dse.proxy.evaluate.designs import Bag, draw_bags, rank_designs, spearman
from dse.proxy.evaluate.llmcompass import PUBLISHED, beside_llmcompass
from dse.proxy.evaluate.predictor import Prediction
from dse.proxy.evaluate.results import JSON_FILE, gather, write
from dse.proxy.evaluate.run import evaluate
from dse.proxy.evaluate.scores import ALL, errors_of, pooled, score, weighted_median, worse_cells
from dse.proxy.evaluate.splits import make_split
from tests.dse.proxy_tables import device_table, law, row_table

ROWS = row_table()
DEVICES = device_table()


class Oracle:
    """Knows the law; its answers are `factor` off on device `on`, and its intervals half as wide again."""

    def __init__(self, factor: float = 1.0, on: str = "fast", name: str = "oracle") -> None:
        self.factor, self.on, self.name = factor, on, name
        self.seen: pd.DataFrame | None = None

    def fit(self, rows: pd.DataFrame, devices: pd.DataFrame, *, seed: int) -> Oracle:
        self.seen = rows
        return self

    def predict(self, rows: pd.DataFrame, devices: pd.DataFrame) -> Prediction:
        assert not {"latency_ms", "power_w"} & set(rows.columns), "measurements must not be shown"
        latency = law(rows) * np.where(rows["device"] == self.on, self.factor, 1.0)
        power = 0.33 * rows["device"].astype(object).map(DEVICES["tdp_w"]).to_numpy(dtype=np.float64)
        return Prediction(latency_ms=latency, low_ms=latency / 1.5, high_ms=latency * 1.5, power_w=power)


def only(scores: pd.DataFrame, device: str = ALL, op_type: str = ALL) -> pd.Series:
    (found,) = scores[(scores["device"] == device) & (scores["op_type"] == op_type)].itertuples(index=False)
    return pd.Series(found._asdict())


def test_scores_of_a_prediction_that_is_a_known_factor_off() -> None:
    (outcome,) = evaluate(ROWS, DEVICES, [Oracle(2.0)], ["random"], seed=1)
    fast, slow = only(outcome.scores, "fast"), only(outcome.scores, "slow", "matmul")
    assert fast["median_ape"] == pytest.approx(100, rel=1e-5) and fast["mean_ape"] == pytest.approx(100, rel=1e-5)
    assert fast["bias"] == pytest.approx(100, rel=1e-5) and fast["coverage"] == 0
    assert slow["median_ape"] == pytest.approx(0, abs=1e-4) and slow["coverage"] == 100
    assert slow["interval_factor"] == pytest.approx(1.5)
    judged = ROWS.iloc[make_split("random", ROWS, DEVICES, seed=1).test]
    assert fast["rows"] == (judged["device"] == "fast").sum()
    assert only(outcome.scores)["rows"] == len(judged) == outcome.judged_rows
    long_runs = judged["latency_ms"] >= 0.05
    assert only(outcome.scores)["power_rows"] == long_runs.sum() > 0
    assert only(outcome.scores)["power_median_ape"] == pytest.approx(10, rel=1e-4)  # 0.33 of the TDP, not 0.30


def test_the_fit_sees_the_training_side_only_and_no_more_than_the_cap() -> None:
    oracle = Oracle()
    list(evaluate(ROWS, DEVICES, [oracle], ["device:fast"], train_cap=40))
    assert oracle.seen is not None
    assert set(oracle.seen["device"]) == {"slow", "middle"}
    assert (oracle.seen.groupby(["device", "op_type"], observed=True).size() == 40).all()


def test_a_sampled_test_side_is_weighted_back() -> None:
    """A tenth of the fast device's rows is judged by the sample, but its median speaks for all of them."""
    noisy = row_table(400, noise=0.3)
    (whole,) = evaluate(noisy, DEVICES, [Oracle()], ["device:fast"])
    (drawn,) = evaluate(noisy, DEVICES, [Oracle()], ["device:fast"], test_cap=200)
    assert drawn.judged_rows == 400
    assert only(drawn.scores)["rows"] == only(whole.scores)["rows"]
    assert only(drawn.scores)["median_ape"] == pytest.approx(only(whole.scores)["median_ape"], rel=0.2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 4)), min_size=1, max_size=30))
def test_a_weighted_median_is_the_median_of_repeated_values(pairs: list[tuple[int, int]]) -> None:
    values, weight = np.array(pairs, np.float64).T
    repeated = np.sort(np.repeat(values, weight.astype(int)))
    assert weighted_median(values, weight) == repeated[(len(repeated) - 1) // 2]
    with_unknown = weighted_median(np.append(values, np.nan), np.append(weight, 100.0))
    assert with_unknown == weighted_median(values, weight)


def test_nothing_known_has_no_median() -> None:
    assert np.isnan(weighted_median(np.array([np.nan]), np.ones(1)))


@pytest.mark.parametrize("bad", [np.nan, 0.0, -1.0, np.inf])
def test_a_predictor_that_answers_nonsense_is_refused(bad: float) -> None:
    with pytest.raises(DseError, match=r"'oracle'.*not positive"):
        list(evaluate(ROWS, DEVICES, [Oracle(bad)], ["random"]))


def test_cells_worse_than_the_reference_are_named() -> None:
    noisy = row_table(noise=0.1)
    predictors = [Oracle(1.2, name="fitted-roofline"), Oracle(1.5, name="worse"), Oracle(1.0, name="better")]
    scores = gather(list(evaluate(noisy, DEVICES, predictors, ["device:fast", "device:slow"]))).scores
    worse = worse_cells(scores)
    assert set(worse["predictor"]) == {"worse"} and set(worse["device"]) == {"fast"}
    assert set(worse["op_type"]) == {"matmul", "softmax"}
    assert (worse["median_ape"] > worse["reference_median_ape"]).all()
    few = scores.assign(rows=np.minimum(scores["rows"], 99))
    assert worse_cells(few).empty and worse_cells(scores, "nobody").empty


def test_devices_left_out_in_turn_are_summed_up() -> None:
    outcomes = list(evaluate(ROWS, DEVICES, [Oracle(1.3)], ["random", "device:fast", "device:slow", "device:middle"]))
    table = pooled([(outcome.split, outcome.predictor, outcome.errors) for outcome in outcomes])
    assert len(table) == 1
    row = table.iloc[0]
    assert row["split"] == "device:*" and row["splits"] == 3 and row["rows"] == len(ROWS)
    assert row["worst"] == "fast" and row["worst_median_ape"] == pytest.approx(30, rel=1e-4)
    assert row["mean_of_medians"] == pytest.approx(10, rel=1e-3)
    assert row["coverage"] == 100 and row["least_coverage"] == 100  # 1.3 lies within a factor of 1.5
    assert row["median_ape"] == pytest.approx(0, abs=1e-4)  # two thirds of the rows are right


def test_spearman_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.integers(0, 5, (2, 6)).astype(float)
        if np.ptp(first) and np.ptp(second):
            assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert spearman(np.arange(3.0), np.ones(3)) == 0


def test_bags_are_work_that_every_device_of_the_bag_has_measured() -> None:
    test = make_split("device:fast", ROWS, DEVICES).test
    bags = draw_bags(ROWS, test, seed=0)
    assert len(bags) == 200
    for bag in bags[:20]:
        table = ROWS.iloc[bag.rows]
        names = table["device"].astype(object).to_numpy().reshape(bag.devices, -1)
        assert bag.devices == 3 and (names == names[:, :1]).all() and len(set(names[:, 0])) == 3
        assert [bool(judged) for judged in bag.judged] == [name == "fast" for name in names[:, 0]]
        assert table["framework"].nunique() == 1
        for column in ("op_type", "m", "n", "k", "rows", "cols"):
            of_device = table[column].astype(object).to_numpy().reshape(bag.devices, -1)
            assert all(pd.Series(row).equals(pd.Series(of_device[0])) for row in of_device)
    assert draw_bags(ROWS[ROWS["device"] != "slow"].reset_index(drop=True), np.arange(5), seed=0) == []


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_ranks_of_designs_by_hand(order: tuple[int, ...]) -> None:
    """Three devices, the second judged: two pairs, of which the second and third are too far apart to be asked."""
    bag = Bag(rows=np.arange(6), devices=3, judged=np.array([False, True, False]))
    measured = np.array([1.0, 1.0, 1.5, 1.5, 10.0, 10.0])
    predicted = np.repeat(np.array(order, np.float64) + 1, 2)
    ranks = rank_designs([bag], [measured], [predicted])
    assert ranks.pairs == 1 and ranks.pairs_right == (100.0 if order[0] < order[1] else 0.0)
    assert ranks.spearman == pytest.approx(spearmanr([1, 2, 3], order).statistic)


def test_an_oracle_ranks_every_design_right() -> None:
    right, wrong = evaluate(ROWS, DEVICES, [Oracle(), Oracle(1e3)], ["device:fast"])
    assert right.ranks.spearman == pytest.approx(1)
    assert wrong.ranks.spearman < 0


def test_results_are_written_whole_and_without_nan(tmp_path: Path) -> None:
    evaluation = gather(list(evaluate(ROWS, DEVICES, [Oracle(name="a|b")], ["random", "device:fast"])))
    paths = write(evaluation, tmp_path / "out", {"rows": len(ROWS)})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths)
    answer = json.loads((tmp_path / "out" / JSON_FILE).read_text())
    assert answer["rows"] == len(ROWS) and {"summary", "scores", "pooled", "llmcompass"} <= set(answer)
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert len(table) == len(answer["scores"]) == len(evaluation.scores)
    page = (tmp_path / "out" / "evaluation.md").read_text()
    assert "a\\|b" in page and "| device:fast |" in page
    assert "nan" not in page.lower()


def test_llmcompass_stands_beside_our_mean_errors() -> None:
    judged = ROWS.iloc[:50]
    errors = errors_of(judged, Prediction.of(1.1 * law(judged)), np.ones(50))
    table = beside_llmcompass(score(judged, errors, split="llmcompass", predictor="p"))
    assert table["mean_ape"].to_numpy() == pytest.approx(10, rel=1e-4)
    assert table["llmcompass"].tolist() == [PUBLISHED[name] for name in table["op_type"]]
    assert beside_llmcompass(score(judged, errors, split="random", predictor="p")).empty


class Told:
    """Right by a factor that it is told: twice too slow before, right of the rows that it was not told after."""

    name = "told"
    factor = 2.0

    def fit(self, rows: pd.DataFrame, devices: pd.DataFrame, *, seed: int) -> Told:
        return self

    def predict(self, rows: pd.DataFrame, devices: pd.DataFrame) -> Prediction:
        assert "latency_ms" not in rows
        return Prediction.of(self.factor * law(rows))

    def calibrated(self, rows: pd.DataFrame, devices: pd.DataFrame, *, seed: int) -> Told:
        """From measured rows, few a cell."""
        assert rows.groupby(["device", "op_type", "framework"], observed=True).size().eq(3).all()
        found = Told()
        found.factor = float(np.median(rows["latency_ms"] / law(rows)))
        return found


def test_a_predictor_is_judged_again_once_it_was_told_rows() -> None:
    rows, devices = row_table(20), device_table()
    plain, told = evaluate(rows, devices, [Told()], ["device:fast"], calibrate=3)
    whole = {
        each.predictor: each.scores[(each.scores["device"] == ALL) & (each.scores["op_type"] == ALL)].iloc[0]
        for each in (plain, told)
    }
    assert whole["told"]["median_ape"] == pytest.approx(100)
    assert whole["told+3"]["median_ape"] == pytest.approx(0, abs=1e-3)
    assert whole["told+3"]["rows"] == whole["told"]["rows"] - 2 * 3  # of its two cells
    with pytest.raises(DseError, match="no cell"):
        list(evaluate(rows, devices, [Told()], ["device:fast"], calibrate=1000))
