"""Memory of the layer proxy: never below what an operator reads and writes, growing with it, learned from a law."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dse.proxy import LayerProxy, fit_proxy, predict_frame
from dse.proxy.card import described, model_card
from dse.proxy.features import features
from dse.proxy.fit import STANDARD
from dse.proxy.memory import MemoryHead, MemoryModel, fit_memory, least_mb
from dse.proxy.vocabulary import Vocabulary
from tests.dse.proxy_rows import chips, completed, operators

SHORT = replace(STANDARD, steps=40, batch=64)


@pytest.fixture(scope="module")
def devices() -> pd.DataFrame:
    return chips(4, count=2)


def law(rows: pd.DataFrame) -> np.ndarray:
    """Peak memory [MB] of a library that unfolds images for convolutions and copies what softmax gives."""
    size = np.where(rows["dtype"] == "fp32", 4, 2)
    pixels = rows["batch"] * rows["hout"] * rows["wout"]
    unfolded = pixels * rows["cin"] * rows["kh"] * rows["kw"] * size
    copied = rows["rows"] * rows["cols"] * size
    extra = np.select([rows["op_type"] == "conv2d", rows["op_type"] == "softmax"], [unfolded, copied], 0.0)
    return ((rows["bytes"] + extra) / 1e6).to_numpy()


def wild_head(rows: pd.DataFrame, devices: pd.DataFrame, seed: int) -> MemoryHead:
    """A network whose weights nothing has trained."""
    vocabulary = Vocabulary.of(features(rows, devices))
    torch.manual_seed(seed)
    model = MemoryModel(vocabulary, width=16)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight))
    return MemoryHead(model=model.eval(), vocabulary=vocabulary)


@pytest.mark.parametrize("seed", range(5))
def test_memory_is_never_below_the_bytes_and_grows_with_the_work_for_any_weights(
    seed: int, devices: pd.DataFrame
) -> None:
    rows = operators(300, seed, list(devices.index))
    rows["batch"] = rows["batch"].mask(rows["batch"] < 2, 2.0)  # one image alone is another class than several
    rows = completed(rows)
    head = wild_head(rows, devices, seed)
    memory = head(features(rows, devices))
    assert (memory >= rows["bytes"] / 1e6 * (1 - 1e-5)).all()
    assert (memory > rows["bytes"] / 1e6 * 1.01).any()
    for name in ("batch", "m", "rows", "hout", "wout"):  # they leave the class as it is
        bigger = completed(rows.assign(**{name: rows[name] * 3}))
        assert (head(features(bigger, devices)) >= memory * (1 - 1e-5)).all(), name


def test_a_law_is_learned(devices: pd.DataFrame) -> None:
    rows, others = (operators(count, seed, list(devices.index)) for count, seed in ((1200, 1), (400, 2)))
    head = fit_memory(features(rows, devices), law(rows), seed=0, steps=400)
    error = np.abs(head(features(others, devices)) / law(others) - 1)
    assert np.median(error) < 0.02
    for kind in ("conv2d", "softmax", "matmul"):
        assert np.median(error[others["op_type"] == kind]) < 0.05, kind
    conv = (others["op_type"] == "conv2d").to_numpy()
    assert (
        np.median(np.abs(least_mb(features(others, devices)) / law(others) - 1)[conv]) > 0.5
    )  # there is much to learn


def test_a_maker_that_was_not_measured_is_answered_with_the_bytes_alone(devices: pd.DataFrame) -> None:
    rows = operators(200, 3, list(devices.index))
    head = wild_head(rows, devices, 1)
    strange = devices.assign(kind="npu")
    assert head(features(rows, strange)) == pytest.approx(rows["bytes"].to_numpy() / 1e6, rel=1e-5)


def test_a_proxy_keeps_memory_in_its_file_and_says_what_it_was_fitted_on(devices: pd.DataFrame, tmp_path: Path) -> None:
    rows = operators(400, 6, list(devices.index))
    rows = rows.assign(latency_ms=1.0, mem_mb=law(rows))
    proxy = fit_proxy(rows, devices, recipe=SHORT, networks=1, intervals=False)
    assert sum(proxy.card["memory"]["rows"].values()) == 400
    proxy.save(tmp_path / "w.safetensors")
    loaded = predict_frame(rows, devices, proxy=LayerProxy.load(tmp_path / "w.safetensors"))
    pd.testing.assert_frame_equal(loaded, predict_frame(rows, devices, proxy=proxy))
    assert (loaded["memory_mb"] >= rows["bytes"] / 1e6 * (1 - 1e-5)).all()
    without = fit_proxy(rows.drop(columns="mem_mb"), devices, recipe=SHORT, networks=1, intervals=False)
    assert "0 rows" in without.card["memory"]["reason"]
    least = predict_frame(rows, devices, proxy=without)["memory_mb"]
    assert least.to_numpy() == pytest.approx(rows["bytes"].to_numpy() / 1e6, rel=1e-5)


def test_the_model_card_tells_what_power_and_memory_rest_on(devices: pd.DataFrame) -> None:
    rows = operators(300, 8, list(devices.index))
    rows = rows.assign(latency_ms=1.0, mem_mb=law(rows))
    told = described(rows, {})
    card = model_card(fit_proxy(rows, devices, recipe=SHORT, networks=1, intervals=False, card=told))
    assert "Power of the board, between idle and TDP: not fitted (0 rows have a power" in card
    counts = rows["device"].value_counts()
    assert ", ".join(f"{count} rows of {name}" for name, count in counts.items()) in card
