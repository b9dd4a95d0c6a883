"""Power of the layer proxy: always between idle and TDP, smooth, learned from a known law, and NaN where unknown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from chiplib.energy import STATIC_SHARE
from dse.proxy import LayerProxy, fit_proxy, predict_frame
from dse.proxy.features import CLASS, WORK, Features, features
from dse.proxy.fit import STANDARD
from dse.proxy.power import PARALLEL, UTILISATIONS, WORDS, PowerHead, PowerInputs, PowerModel, fit_power, power_inputs
from dse.proxy.vocabulary import Vocabulary
from tests.dse.proxy_rows import chips, operators

SHORT = replace(STANDARD, steps=40, batch=64)


def measured(count: int, seed: int, devices: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Rows at random shares of the roofline, and the power of a board that draws by how busy its units are."""
    rows = operators(count, seed, names)
    found = features(rows, devices)
    draw = np.random.default_rng(seed)
    latency = np.exp(found.terms.max(1).astype(np.float64)) * np.exp(draw.uniform(0, 3, count)) + 0.05
    return rows.assign(latency_ms=latency, power_w=power_law(found, latency))


def power_law(rows: Features, latency_ms: np.ndarray) -> np.ndarray:
    """Power [W]: a tenth of what is above idle, 60 % at the peak, 50 % at full bandwidth, cut off at the TDP."""
    compute, memory = (np.exp(rows.terms[:, i].astype(np.float64)) / latency_ms for i in range(2))
    tdp_w = np.exp(rows.rates[:, 2].astype(np.float64))
    return rows.idle_w + (tdp_w - rows.idle_w) * np.minimum(0.1 + 0.6 * compute + 0.5 * memory, 1.0)


@pytest.fixture(scope="module")
def devices() -> pd.DataFrame:
    return chips(11, count=5)


@pytest.fixture(scope="module")
def rows(devices: pd.DataFrame) -> pd.DataFrame:
    return measured(1500, 1, devices, list(devices.index[:4]))  # the last device is never seen


def wild_model(vocabulary: Vocabulary, seed: int) -> PowerModel:
    """A network whose weights nothing has trained."""
    torch.manual_seed(seed)
    count = UTILISATIONS + len(WORK)
    model = PowerModel(vocabulary, torch.randn(count), torch.rand(count) + 0.5, width=16)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.2)
    return model.eval()


@pytest.mark.parametrize("seed", range(8))
def test_power_lies_between_idle_and_tdp_for_any_weights(seed: int, rows: pd.DataFrame, devices: pd.DataFrame) -> None:
    found = features(rows.sample(200, random_state=seed), devices)
    vocabulary = Vocabulary.of(found)
    log_ms = np.random.default_rng(seed).normal(0, 8, len(found))
    power = PowerHead(models=(wild_model(vocabulary, seed),), vocabulary=vocabulary)(found, log_ms)
    tdp_w = np.exp(found.rates[:, 2].astype(np.float64))
    assert (power >= found.idle_w * (1 - 1e-6)).all()
    assert (power <= tdp_w * (1 + 1e-6)).all()


def test_idle_power_is_as_measured_else_a_share_of_the_tdp(rows: pd.DataFrame, devices: pd.DataFrame) -> None:
    table = devices.copy()
    table.loc["chip1", "idle_w"] = 33.0
    table.loc["chip2", "tdp_w"] = np.nan
    idle = pd.Series(features(rows, table).idle_w, rows["device"].to_numpy())
    assert (idle["chip1"] == 33.0).all()
    assert idle["chip0"].to_numpy() == pytest.approx(STATIC_SHARE * table.loc["chip0", "tdp_w"])
    assert idle["chip2"].isna().all()


def test_gradients_are_those_of_finite_differences(rows: pd.DataFrame, devices: pd.DataFrame) -> None:
    found = features(rows.iloc[:6], devices)
    vocabulary = Vocabulary.of(found)
    torch.manual_seed(0)
    count = UTILISATIONS + len(WORK)
    model = PowerModel(vocabulary, torch.zeros(count), torch.full((count,), 5.0), width=16).double()
    x = power_inputs(found, np.zeros(len(found)), vocabulary)

    def power(utilisation: torch.Tensor, work: torch.Tensor, tdp_w: torch.Tensor) -> torch.Tensor:
        return model(
            PowerInputs(
                utilisation=utilisation,
                shape_class=x.shape_class.double(),
                work=work,
                names=x.names,
                known=x.known.double(),
                idle_w=x.idle_w.double(),
                tdp_w=tdp_w,
            )
        )

    inputs = tuple(value.double().requires_grad_() for value in (x.utilisation, x.work, x.tdp_w))
    assert torch.autograd.gradcheck(power, inputs)


def test_a_law_is_learned_and_holds_on_a_board_never_measured(rows: pd.DataFrame, devices: pd.DataFrame) -> None:
    found = features(rows, devices)
    log_ms = np.log(rows["latency_ms"].to_numpy())
    head = fit_power(found, log_ms, rows["power_w"].to_numpy(), seed=0, steps=250)
    for names, allowed in ((list(devices.index[:4]), 0.06), ([devices.index[4]], 0.1)):
        others = measured(500, 7, devices, names)
        power = head(features(others, devices), np.log(others["latency_ms"].to_numpy()))
        assert np.median(np.abs(power / others["power_w"] - 1)) < allowed


def test_only_a_measured_board_is_told_by_its_shapes(rows: pd.DataFrame, devices: pd.DataFrame) -> None:
    seen = features(rows[rows["device"] == "chip0"], devices)
    both = features(rows[rows["device"].isin(["chip0", "chip1"])], devices)
    vocabulary = Vocabulary.of(seen)
    head = PowerHead(models=(wild_model(vocabulary, 4),), vocabulary=vocabulary)
    bigger = features(rows[rows["device"].isin(["chip0", "chip1"])], devices)
    bigger.work[:, [name not in PARALLEL for name in WORK]] += 0.7
    same = head(both, np.zeros(len(both))) == head(bigger, np.zeros(len(both)))
    known = (both.chip_names[:, -1] == "chip0").astype(bool)
    assert same[~known].all()
    assert not same[known].all()


def test_a_proxy_predicts_power_between_the_bounds_and_keeps_it_in_its_file(
    rows: pd.DataFrame, devices: pd.DataFrame, tmp_path: Path
) -> None:
    table = devices.copy()
    table.loc["chip3", "tdp_w"] = np.nan
    proxy = fit_proxy(rows, table, recipe=SHORT, networks=1, intervals=False)
    assert set(proxy.card["power"]["rows"]) == {"chip0", "chip1", "chip2"}
    proxy.save(tmp_path / "w.safetensors")
    loaded = LayerProxy.load(tmp_path / "w.safetensors")
    answer = predict_frame(rows, table, proxy=loaded)
    pd.testing.assert_frame_equal(answer, predict_frame(rows, table, proxy=proxy))
    tdp_w = rows["device"].map(table["tdp_w"])
    assert (answer["power_w"].isna() == tdp_w.isna()).all()
    assert answer["power_w"].dropna().between(STATIC_SHARE * tdp_w.dropna(), tdp_w.dropna()).all()


def test_without_measured_power_there_is_none_and_the_card_says_why(rows: pd.DataFrame, devices: pd.DataFrame) -> None:
    few = rows.iloc[:300].assign(power_w=np.nan)
    proxy = fit_proxy(few, devices, recipe=SHORT, networks=1, intervals=False)
    assert "0 rows" in proxy.card["power"]["reason"]
    assert predict_frame(few, devices, proxy=proxy)["power_w"].isna().all()


def test_words_and_class_are_read_as_they_are_written(rows: pd.DataFrame, devices: pd.DataFrame) -> None:
    found = features(rows.iloc[:10], devices)
    x = power_inputs(found, np.full(10, 2.0), Vocabulary.of(found))
    assert x.names.shape == (10, len(WORDS))
    assert x.shape_class.shape == (10, len(CLASS))
    assert x.utilisation[:, 2].tolist() == [2.0] * 10
    assert x.utilisation[:, :2].numpy() == pytest.approx(found.terms - 2.0)
