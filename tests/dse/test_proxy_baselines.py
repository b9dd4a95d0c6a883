"""Baselines of the layer proxy: they find a law that is known, repeat themselves, and never read what they predict."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from dse.errors import DseError
from dse.proxy.columns import OPERATORS
from dse.proxy.evaluate import boosting
from dse.proxy.evaluate.inputs import TextInputs, specified_features
from dse.proxy.evaluate.predictor import PREDICTORS, Predictor, predictor
from dse.proxy.evaluate.rooflines import FittedRoofline, peak_flops_s, roofline_terms
from tests.dse.proxy_tables import (
    BANDWIDTH_EFFICIENCY,
    BANDWIDTH_GBS,
    COMPUTE_EFFICIENCY,
    LAUNCH_MS,
    PEAK_TFLOPS,
    device_table,
    law,
    row_table,
)

ROWS = row_table(300)
DEVICES = device_table()


@pytest.fixture(params=sorted(PREDICTORS))
def baseline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    if request.param == "boosting":
        if importlib.util.find_spec("sklearn") is None:
            pytest.skip("scikit-learn is not installed: pip install -e '.[test]'")
        monkeypatch.setattr(boosting, "TREES", 60)
        monkeypatch.setattr(boosting, "POWER_TREES", 20)
    if request.param.endswith("mlp"):
        monkeypatch.setattr("dse.proxy.evaluate.networks.STEPS", 250)
        monkeypatch.setattr("dse.proxy.evaluate.networks.BATCH", 128)
        monkeypatch.setattr("dse.proxy.evaluate.networks.WIDTH", 48)
    if request.param == "learned":
        monkeypatch.setattr("dse.proxy.evaluate.learned.STEPS", 150)
    return predictor(request.param)


def test_the_roofline_is_the_longer_term() -> None:
    row = ROWS[(ROWS["op_type"] == "matmul") & (ROWS["device"] == "slow")].iloc[[0]]
    m, n, k = (float(row[name].iloc[0]) for name in "mnk")
    compute, memory = roofline_terms(row, DEVICES)
    assert compute[0] == pytest.approx(2 * m * n * k / (PEAK_TFLOPS["slow"] * 1e9), rel=1e-6)
    assert memory[0] == pytest.approx(2 * (m * k + k * n + m * n) / (BANDWIDTH_GBS["slow"] * 1e6), rel=1e-6)
    predicted = predictor("roofline").fit(row, DEVICES, seed=0).predict(row, DEVICES)
    assert predicted.latency_ms[0] == max(compute[0], memory[0])
    assert np.isnan(predicted.low_ms).all() and np.isnan(predicted.power_w).all()


def test_fitted_terms_are_those_of_the_law() -> None:
    fitted = FittedRoofline().fit(ROWS, DEVICES, seed=0)
    for op_type, compute in (("matmul", "fp16"), ("softmax", "fp32")):
        slow_compute, slow_memory, launch_ms = fitted.terms[op_type, compute]
        assert 1 / slow_memory == pytest.approx(BANDWIDTH_EFFICIENCY[op_type], rel=0.02)
        assert launch_ms == pytest.approx(LAUNCH_MS[op_type], rel=0.05)
        if op_type == "matmul":  # no softmax here is bound by arithmetic
            assert 1 / slow_compute == pytest.approx(COMPUTE_EFFICIENCY[op_type], rel=0.02)
    predicted = fitted.predict(ROWS, DEVICES)
    assert np.median(np.abs(predicted.latency_ms / law(ROWS) - 1)) < 0.01
    assert predicted.power_w == pytest.approx(
        0.3 * ROWS["device"].astype(object).map(DEVICES["tdp_w"]).to_numpy(), rel=1e-5
    )


def test_fitted_terms_bear_outliers() -> None:
    rows = ROWS.copy()
    rows.loc[rows.index % 10 == 0, "latency_ms"] *= np.float32(20)
    fitted = FittedRoofline().fit(rows, DEVICES, seed=0)
    assert np.median(np.abs(fitted.predict(ROWS, DEVICES).latency_ms / law(ROWS) - 1)) < 0.03


def test_a_kind_that_was_not_fitted_takes_what_its_neighbours_give() -> None:
    fitted = FittedRoofline().fit(ROWS[ROWS["op_type"] == "matmul"], DEVICES, seed=0)
    softmax = ROWS[ROWS["op_type"] == "softmax"]
    predicted = fitted.predict(softmax, DEVICES)
    assert np.isfinite(predicted.latency_ms).all() and (predicted.latency_ms > 0).all()
    assert np.isnan(predicted.power_w).all()


def test_every_baseline_finds_the_law_on_a_device_that_it_knows(baseline: Predictor) -> None:
    held_out = np.arange(len(ROWS)) % 5 == 0
    fitted = baseline.fit(ROWS[~held_out], DEVICES, seed=0)
    shown = ROWS[held_out].drop(columns=["latency_ms", "power_w"])
    predicted = fitted.predict(shown, DEVICES)
    assert predicted.latency_ms.shape == (len(shown),) and predicted.latency_ms.dtype == np.float64
    if baseline.name == "roofline":  # the law's efficiencies are below 1: a bound, nowhere beaten
        assert (predicted.latency_ms < law(shown)).all()
        return
    error = np.median(np.abs(predicted.latency_ms / law(shown) - 1))
    assert error < (0.01 if baseline.name == "fitted-roofline" else 0.15)


def test_every_baseline_repeats_itself_and_knows_no_order(baseline: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dse.proxy.evaluate.networks.STEPS", 20)
    monkeypatch.setattr("dse.proxy.evaluate.learned.STEPS", 20)
    few = ROWS.iloc[::3]
    first = baseline.fit(few, DEVICES, seed=5).predict(few, DEVICES).latency_ms
    second = baseline.fit(few, DEVICES, seed=5).predict(few.iloc[::-1], DEVICES).latency_ms[::-1]
    assert second == pytest.approx(first, rel=1e-5)


def test_the_specified_features_stand_first_in_their_order() -> None:
    row = ROWS[(ROWS["op_type"] == "matmul") & (ROWS["device"] == "fast")].iloc[[0]]
    features = specified_features(row, DEVICES)[0]
    flops, moved = float(row["flops"].iloc[0]), float(row["bytes"].iloc[0])
    scales = [flops + 1, moved + 1, PEAK_TFLOPS["fast"] * 1e12 + 1, BANDWIDTH_GBS["fast"] * 1e9 + 1]
    assert features[:4] == pytest.approx(np.log10(scales), rel=1e-6)
    one_hot = features[4 : 4 + len(OPERATORS)]
    assert one_hot.sum() == 1 and one_hot[list(OPERATORS).index("matmul")] == 1
    m, n, k = (float(row[name].iloc[0]) for name in "mnk")
    assert features[4 + len(OPERATORS) :] == pytest.approx([k / 1024, 0, n / k / 4, m / 1024, 1], rel=1e-6)


def test_a_new_text_is_no_known_one() -> None:
    texts = TextInputs.of(ROWS)
    assert texts.one_hot(ROWS).sum(axis=1).tolist() == [5.0] * len(ROWS)
    new = ROWS.iloc[:3].copy()
    new["framework"] = new["framework"].cat.rename_categories(lambda name: f"{name}-2")
    assert texts.one_hot(new).sum(axis=1).tolist() == [4.0] * 3


def test_a_peak_that_is_not_known_is_the_highest_known() -> None:
    devices = DEVICES.assign(peak_fp32_tflops=np.nan)
    softmax = ROWS[ROWS["op_type"] == "softmax"]
    expected = softmax["device"].astype(object).map(PEAK_TFLOPS).to_numpy(dtype=np.float64) * 1e12
    assert peak_flops_s(softmax, devices) == pytest.approx(expected)


def test_boosting_without_its_library_says_which_extra_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosting, "find_spec", lambda name: None)
    with pytest.raises(DseError, match="scikit-learn") as caught:
        predictor("boosting")
    assert "chipfront[evaluate]" in caught.value.hint


def test_an_unknown_predictor_is_refused() -> None:
    with pytest.raises(DseError, match="boostng") as caught:
        predictor("boostng")
    assert "boosting" in caught.value.hint
