"""The weights that ship: they load, know the library's chips, and keep to physics."""

from __future__ import annotations

import numpy as np
import pytest

import chiplib
from dse.proxy import predict_frame
from dse.proxy.chips import device_table
from dse.proxy.own_data import own_layers
from dse.proxy.predict import WEIGHTS, shipped
from tests.dse.proxy_rows import operators


def test_the_weights_are_small_and_say_what_they_rest_on() -> None:
    assert WEIGHTS.stat().st_size < 5e6
    card = shipped().card
    assert sum(card["data"]["device"].values()) == card["rows"]
    assert set(card["data"]["source"]) >= set(card["licences"])
    assert WEIGHTS.with_suffix(".md").read_text("utf-8").startswith("# Layer proxy: model card")


def test_every_chip_of_the_library_is_predicted_from_its_datasheet() -> None:
    chips = list(chiplib.load_library("reference").chips.values())
    devices = device_table(chips)
    rows = operators(400, 1, list(devices.index))
    found = predict_frame(rows, devices)
    times = found[["latency_low_ms", "latency_ms", "latency_high_ms"]].to_numpy()
    assert np.isfinite(times).all()
    assert (np.diff(times, axis=1) > 0).all()
    power = found["power_w"].to_numpy()
    assert (power <= devices["tdp_w"].loc[rows["device"]].to_numpy() * (1 + 1e-6)).all()
    makers = devices["vendor"].loc[rows["device"]].to_numpy()
    assert found["outside"][makers == "cerebras"].all()  # nothing like it is in the data
    kinds = devices["kind"].loc[rows["device"]].to_numpy()
    assert not found["outside"][(makers == "nvidia") & (kinds == "gpu")].any()


def test_what_was_measured_for_the_product_is_predicted_about_right() -> None:
    rows, devices = own_layers()
    found = predict_frame(rows, devices)
    error = np.abs(found["latency_ms"].to_numpy() / rows["latency_ms"].to_numpy() - 1)
    assert np.median(error) < 0.25
    inside = found["latency_low_ms"].to_numpy() <= rows["latency_ms"].to_numpy()
    inside &= rows["latency_ms"].to_numpy() <= found["latency_high_ms"].to_numpy()
    assert inside.mean() == pytest.approx(0.9, abs=0.1)


def test_an_operator_outside_of_the_data_gets_no_absurd_time() -> None:
    devices = device_table([chiplib.load_library("reference").chip("cerebras_wse_2")])
    rows = operators(200, 2, list(devices.index))
    found = predict_frame(rows, devices)
    of_row = devices.loc[rows["device"]]
    compute_ms = rows["flops"].to_numpy() / (of_row["peak_fp32_tflops"].to_numpy() * 1e9)
    memory_ms = rows["bytes"].to_numpy() / (of_row["peak_bw_gbs"].to_numpy() * 1e6)
    assert found["outside"].all()
    assert (found["latency_ms"].to_numpy() <= 1.01 * (1e4 * (compute_ms + memory_ms) + 10)).all()
