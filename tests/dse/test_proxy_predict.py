"""A fitted layer proxy: it learns a known law, is the same from one seed, and predicts tables in order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dse.errors import DseError
from dse.proxy import LayerProxy, fit_proxy, predict_frame
from dse.proxy.features import features
from dse.proxy.fit import STANDARD
from dse.proxy.intervals import Novelty, Widths, novelty
from tests.dse.proxy_rows import chips, operators

SHORT = replace(STANDARD, steps=150, batch=256)


def law(rows: pd.DataFrame, devices: pd.DataFrame) -> np.ndarray:
    """Latency [ms] of a world where units reach 60 % of their peak, memory 80 %, and a launch takes 4 us."""
    of_row = devices.loc[rows["device"]]
    wide = rows["compute_dtype"].eq("fp32").to_numpy()
    peak = np.where(wide, of_row["peak_fp32_tflops"], of_row["peak_fp16_tensor_tflops"]) * 1e9
    memory_ms = rows["bytes"].to_numpy() / (0.8 * of_row["peak_bw_gbs"].to_numpy() * 1e6)
    return np.maximum(rows["flops"].to_numpy() / (0.6 * peak), memory_ms) + 0.004


@pytest.fixture(scope="module")
def world() -> tuple[pd.DataFrame, pd.DataFrame]:
    devices = chips(5, count=6)
    rows = operators(1500, 5, list(devices.index)[:5])  # the last device is never seen
    return rows.assign(latency_ms=law(rows, devices)), devices


@pytest.fixture(scope="module")
def fitted(world: tuple[pd.DataFrame, pd.DataFrame]) -> LayerProxy:
    return fit_proxy(*world, seed=3, recipe=replace(SHORT, steps=400), networks=1)


def test_the_law_is_learned_and_holds_on_a_chip_never_seen(
    world: tuple[pd.DataFrame, pd.DataFrame], fitted: LayerProxy
) -> None:
    _, devices = world
    rows = operators(600, 99, list(devices.index))
    found, truth = predict_frame(rows, devices, proxy=fitted), law(rows, devices)
    error = np.abs(found["latency_ms"] / truth - 1)
    unseen = (rows["device"] == devices.index[-1]).to_numpy()
    assert np.median(error[~unseen]) < 0.12
    assert np.median(error[unseen]) < 0.25
    inside = (found["latency_low_ms"] <= truth) & (truth <= found["latency_high_ms"])
    assert inside[~unseen].mean() > 0.8
    assert inside[unseen].mean() > 0.8


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(world: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    rows, devices = world
    x = features(rows, devices)
    first, again, other = (
        fit_proxy(rows, devices, seed=seed, recipe=replace(SHORT, steps=20), networks=1, intervals=False).log_latency(x)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_saved_proxy_predicts_the_same(
    world: tuple[pd.DataFrame, pd.DataFrame], fitted: LayerProxy, tmp_path: Path
) -> None:
    rows, devices = world
    fitted.save(tmp_path / "w.safetensors")
    loaded = LayerProxy.load(tmp_path / "w.safetensors")
    pd.testing.assert_frame_equal(
        predict_frame(rows, devices, proxy=fitted), predict_frame(rows, devices, proxy=loaded)
    )
    assert loaded.card == fitted.card


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_file_that_holds_no_weights_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(DseError, match=r"w\.safetensors") as caught:
        LayerProxy.load(tmp_path / "w.safetensors")
    assert "dse proxy fit" in caught.value.hint


def test_rows_come_back_in_their_order_and_with_their_index(
    world: tuple[pd.DataFrame, pd.DataFrame], fitted: LayerProxy
) -> None:
    rows, devices = world
    few = rows.drop(columns="latency_ms").iloc[:50].set_index(np.arange(50) * 3 + 7)
    whole = predict_frame(few, devices, proxy=fitted)
    assert list(whole.index) == list(few.index)
    turned = predict_frame(few.iloc[::-1], devices, proxy=fitted)
    pd.testing.assert_frame_equal(turned.iloc[::-1], whole, rtol=1e-5)


def test_bad_rows_are_refused_with_their_numbers(world: tuple[pd.DataFrame, pd.DataFrame], fitted: LayerProxy) -> None:
    rows, devices = world
    bad = rows.drop(columns="latency_ms").iloc[:9].reset_index(drop=True)
    bad.loc[4, "device"] = "nowhere"
    with pytest.raises(DseError, match="nowhere") as caught:
        predict_frame(bad, devices, proxy=fitted)
    assert "row 5" in str(caught.value)


def test_what_is_not_in_the_data_is_flagged(world: tuple[pd.DataFrame, pd.DataFrame], fitted: LayerProxy) -> None:
    rows, devices = world
    strange = devices.copy()
    strange.loc[["chip1"], ["vendor", "family", "chip"]] = ["stranger", "new", "new"]
    strange.loc[["chip2"], "kind"] = "cpu"  # of a known vendor, which made other kinds so far
    levels = novelty(features(rows, strange), fitted.vocabulary)
    expected = np.where(rows["device"].isin(["chip1", "chip2"]), Novelty.MAKER, Novelty.KNOWN)
    assert (levels == expected).all()
    found = predict_frame(rows, strange, proxy=fitted)
    assert (found["outside"].to_numpy() == (expected == Novelty.MAKER)).all()
    other_software = features(rows.assign(framework="lab-2.0"), devices)
    assert (novelty(other_software, fitted.vocabulary) == Novelty.SOFTWARE).all()


def test_widths_cover_their_share_of_devices_and_grow_with_novelty() -> None:
    draw = np.random.default_rng(0)
    count = 20000
    levels = draw.integers(0, len(Novelty), count).astype(np.int8)
    kinds = draw.choice(np.array(["a", "b"], object), count)
    devices = draw.choice(np.array(["x", "y", "z"], object), count)
    errors = draw.normal(0, 0.1 + 0.1 * levels + 0.3 * (kinds == "b"))
    widths = Widths.of(errors, kinds, levels, devices)
    inside = np.abs(errors) <= widths(kinds, levels)
    for level in Novelty:
        for kind in ("a", "b"):
            assert inside[(levels == level) & (kinds == kind)].mean() == pytest.approx(0.9, abs=0.02)
    assert (np.diff(widths.table, axis=1) >= 0).all()
    assert widths(np.array(["unheard of"], object), np.array([0], np.int8)) == widths.table[-1, 0]
