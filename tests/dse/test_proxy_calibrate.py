"""Calibration: what a few rows of a chip tell is found, and no more; physics holds after it; files are not trusted."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.cli.app import cli
from dse.errors import DseError
from dse.proxy import LayerProxy, predict_frame
from dse.proxy.calibration import Calibration, calibration_file, fingerprint, shifted, with_stored
from dse.proxy.dataset import write_rows
from dse.proxy.evaluate.calibration import calibration_curve
from dse.proxy.features import features
from dse.proxy.fit import inputs_of
from dse.proxy.fit_calibration import PRIOR, calibrate
from dse.proxy.intervals import Widths
from dse.proxy.network import LAUNCH, TIMES, LayerProxyModel, Scales
from dse.proxy.vocabulary import Vocabulary
from tests.dse.proxy_rows import SHAPES_OF, chips, completed, operators

DEVICES = chips(5, count=4)
NEW = DEVICES.index[-1]
"""A device that the proxy has not seen."""


def untrained(seed: int, networks: int = 2) -> LayerProxy:
    """A proxy of random weights; it plays the world, too, so that what calibration should find is known."""
    seen = features(operators(300, seed, list(DEVICES.index[:-1])), DEVICES)
    vocabulary = Vocabulary.of(seen)
    x = inputs_of(seen, vocabulary)
    scales = Scales(work_mean=x.work.mean(0), work_spread=x.work.std(0) + 0.01, rates_mean=x.rates.mean(0))
    torch.manual_seed(seed)
    models = [LayerProxyModel(vocabulary.sizes, scales).eval()]
    for _ in range(1, networks):  # those of a fitted ensemble say nearly the same
        models.append(deepcopy(models[0]))
        with torch.no_grad():
            for weights in models[-1].parameters():
                weights *= 1 + 0.02 * torch.randn_like(weights)
    return LayerProxy(**_parts(models, vocabulary))


def _parts(models: list[LayerProxyModel], vocabulary: Vocabulary) -> dict[str, object]:
    return {"models": tuple(models), "vocabulary": vocabulary, "widths": Widths.none(), "card": {}}


PROXY = untrained(1)


def measured(count: int, seed: int, factor: float = 1.0, noise: float = 0.0, proxy: LayerProxy = PROXY) -> pd.DataFrame:
    """Rows of the new device that take `factor` times as long as the proxy says."""
    rows = operators(count, seed, [NEW])
    said = np.exp(proxy.log_latency(features(rows, DEVICES)))
    return rows.assign(latency_ms=said * factor * np.exp(noise * np.random.default_rng(seed).standard_normal(count)))


def log_errors(proxy: LayerProxy, rows: pd.DataFrame) -> np.ndarray:
    return proxy.log_latency(features(rows, DEVICES)) - np.log(rows["latency_ms"].to_numpy())


@pytest.mark.parametrize("factor", [0.8, 1.3])
def test_a_common_factor_is_found(factor: float) -> None:
    calibration = calibrate(PROXY, measured(100, 2, factor, 0.03), DEVICES, device=NEW)
    others = measured(300, 3, factor)
    others = others[log_errors(PROXY, others) != 0]
    above_floor = np.exp(features(others, DEVICES).floor) < 0.7 * others["latency_ms"].to_numpy()
    errors = np.abs(log_errors(calibration.apply(PROXY), others[above_floor]))
    assert np.median(errors) < 0.03 < abs(np.log(factor)) / 4
    assert calibration.error_after < 6 < 15 < calibration.error_before
    assert np.median([cell.offset for cell in calibration.cells]) == pytest.approx(np.log(factor), abs=0.05)


def test_what_one_bound_costs_is_told_from_what_another_costs() -> None:
    """Where only some times are longer, shifts of terms find what no factor a kind could."""
    proxy = untrained(4, networks=1)
    truth = np.random.default_rng(8).normal(0, 0.25, TIMES)
    few, many = (_shifted_world(proxy, truth, count, seed) for count, seed in ((120, 2), (500, 3)))
    kind_of_few, kind_of_many = few["op_type"].to_numpy(), many["op_type"].to_numpy()
    calibrated = calibrate(proxy, few, DEVICES, device=NEW).apply(proxy)
    before = log_errors(proxy, few)
    factors = {kind: np.median(before[kind_of_few == kind]) for kind in SHAPES_OF}
    by_factors = log_errors(proxy, many) - np.array([factors[kind] for kind in kind_of_many])
    assert np.abs(log_errors(calibrated, many)).mean() < 0.6 * np.abs(by_factors).mean()


def test_a_host_that_launches_slowly_is_told_by_few_rows() -> None:
    """What a launch takes is found though it is seven times what it is elsewhere, and nothing else moves."""
    proxy = untrained(4, networks=1)
    with torch.no_grad():
        proxy.models[0].settings.bias[-1] += 6.0  # launches are what binds small layers
    truth = np.zeros(TIMES)
    truth[LAUNCH] = 2.0
    few, many = (_shifted_world(proxy, truth, count, seed) for count, seed in ((40, 2), (400, 3)))
    before = np.abs(log_errors(proxy, many))
    after = np.abs(log_errors(calibrate(proxy, few, DEVICES, device=NEW).apply(proxy), many))
    assert np.median(before[before > 1.0]) > 1.5
    assert np.median(after[before > 1.0]) < 0.05
    assert np.median(after[before < 0.1]) < 0.05


def test_times_beyond_belief_still_make_a_calibration_that_can_be_read(tmp_path: Path) -> None:
    calibrate(PROXY, measured(30, 2, 1e9), DEVICES, device=NEW).save(tmp_path / "new.json")
    assert Calibration.load(tmp_path / "new.json").apply(PROXY)


def _shifted_world(proxy: LayerProxy, truth: np.ndarray, count: int, seed: int) -> pd.DataFrame:
    """Rows that take what a network of the proxy says with the times under its soft maximum shifted by `truth`."""
    rows = operators(count, seed, [NEW])
    inputs = inputs_of(features(rows, DEVICES), proxy.vocabulary)
    log_ms = shifted(proxy.models[0], inputs, np.tile(truth, (count, 1)), np.zeros(128))
    return rows.assign(latency_ms=np.exp(log_ms))


def test_few_rows_are_believed_less_than_many() -> None:
    moves = []
    for count in (1, 5, 40):
        rows = operators(600, 4, [NEW])
        rows = rows[rows["op_type"] == "elementwise"].head(count)
        rows["latency_ms"] = 1.5 * np.exp(PROXY.log_latency(features(rows, DEVICES)))
        calibration = calibrate(PROXY, rows, DEVICES, device=NEW)
        moves.append(calibration.cells[0].offset / np.log(1.5))
        assert calibration.rows == count
    assert 0.3 < moves[0] < moves[1] < moves[2] <= 1.02


def test_outliers_do_not_move_what_most_rows_say() -> None:
    rows = measured(120, 6, 1.2, 0.02)
    wrong = rows.copy()
    wrong.loc[wrong.index[::12], "latency_ms"] *= 20.0
    others = measured(200, 7, 1.2)
    error = np.median(np.abs(log_errors(calibrate(PROXY, wrong, DEVICES, device=NEW).apply(PROXY), others)))
    assert error < 0.06


def test_the_error_to_expect_is_that_of_rows_not_used() -> None:
    promised, found = [], []
    for seed in range(3):
        calibration = calibrate(PROXY, measured(70, 40 + seed, 1.15, 0.1), DEVICES, device=NEW)
        promised.append(calibration.error_after)
        others = measured(300, 50 + seed, 1.15, 0.1)
        found.append(100 * np.median(np.abs(np.expm1(log_errors(calibration.apply(PROXY), others)))))
    assert np.mean(promised) == pytest.approx(np.mean(found), rel=0.3)


def test_intervals_hold_on_rows_that_were_not_used() -> None:
    covered = []
    for seed in range(4):
        calibrated = calibrate(PROXY, measured(70, 20 + seed, 1.2, 0.15), DEVICES, device=NEW).apply(PROXY)
        others = measured(400, 30 + seed, 1.2, 0.15)
        found = predict_frame(others.drop(columns="latency_ms"), DEVICES, proxy=calibrated)
        truth = others["latency_ms"].to_numpy()
        covered.append(((found["latency_low_ms"] <= truth) & (truth <= found["latency_high_ms"])).mean())
    assert 0.85 < np.mean(covered) < 0.98


def test_other_devices_are_predicted_as_before() -> None:
    calibrated = calibrate(PROXY, measured(50, 9, 1.4), DEVICES, device=NEW).apply(PROXY)
    rows = operators(200, 10, list(DEVICES.index))
    other = (rows["device"] != NEW).to_numpy()
    before, after = (proxy.log_latency(features(rows, DEVICES)) for proxy in (PROXY, calibrated))
    np.testing.assert_allclose(after[other], before[other], atol=1e-5)
    assert (after[~other] >= before[~other]).all()
    assert (after[~other] > before[~other] + 0.1).mean() > 0.9


@cache
def _plain_calibration() -> Calibration:
    return calibrate(PROXY, measured(30, 11), DEVICES, device=NEW)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), size=st.floats(0.1, 3), factor=st.floats(1.01, 30))
def test_physics_holds_for_any_shifts(seed: int, size: float, factor: float) -> None:
    draw = np.random.default_rng(seed)
    calibration = _plain_calibration()

    def wild() -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(row) for row in draw.normal(0, size, (2, TIMES)).tolist())

    cells = tuple(replace(cell, shifts=wild()) for cell in calibration.cells)
    chip = tuple(tuple(row) for row in draw.normal(0, size, (2, 128)).tolist())
    kinds = {kind: wild() for kind in calibration.kinds}
    calibrated = replace(calibration, embedding=chip, common=wild(), kinds=kinds, cells=cells).apply(PROXY)
    rows = operators(60, seed, [NEW])
    found = features(rows, DEVICES)
    log_ms = calibrated.log_latency(found)
    assert (log_ms >= found.floor - 1e-5).all()
    assert (calibrated.predict(found).low_ms >= np.exp(found.floor) * (1 - 1e-5)).all()
    better = DEVICES.copy()
    for column in ("peak_bw_gbs", "peak_fp32_tflops", "peak_fp16_tensor_tflops", "tdp_w"):
        better[column] *= factor
    assert (calibrated.log_latency(features(rows, better)) <= log_ms + 1e-5).all()
    more = rows.copy()
    for column in ("batch", "m", "rows"):
        more[column] = np.ceil(more[column] * factor)
    assert (calibrated.log_latency(features(completed(more), DEVICES)) >= log_ms - 1e-4).all()


def test_bad_rows_are_refused_by_number() -> None:
    rows = measured(20, 12)
    rows.loc[rows.index[2], "latency_ms"] = -1.0
    rows.loc[rows.index[6], "latency_ms"] = np.nan
    with pytest.raises(DseError, match=r"row 3: latency_ms = -1.0: negative") as error:
        calibrate(PROXY, rows, DEVICES, device=NEW)
    assert "row 7" in str(error.value)
    with pytest.raises(DseError, match="already"):
        calibrate(PROXY, pd.concat([measured(5, 1), measured(5, 1)]), DEVICES, device=NEW)
    with pytest.raises(DseError, match="did you mean 'chip3'"):
        calibrate(PROXY, measured(5, 1), DEVICES, device="chp3")


def test_a_stored_calibration_is_found_by_the_chips_name(tmp_path: Path) -> None:
    calibration = calibrate(PROXY, measured(40, 13, 1.3), DEVICES, device=NEW)
    calibration.save(calibration_file(tmp_path, NEW))
    assert Calibration.load(calibration_file(tmp_path, NEW)) == calibration
    rows = measured(50, 14)
    direct, found = calibration.apply(PROXY), with_stored(PROXY, tmp_path, DEVICES.index)
    assert np.array_equal(log_errors(direct, rows), log_errors(found, rows))
    assert with_stored(PROXY, tmp_path / "elsewhere", DEVICES.index) is PROXY
    calibration.save(calibration_file(tmp_path, "a/b c"))
    with pytest.raises(DseError, match="device = 'chip3', not 'a/b c'"):
        with_stored(PROXY, tmp_path, ["a/b c"])


def test_a_calibration_for_other_weights_is_refused(tmp_path: Path) -> None:
    calibrate(PROXY, measured(20, 15), DEVICES, device=NEW).save(calibration_file(tmp_path, NEW))
    other = untrained(77)
    assert fingerprint(other) != fingerprint(PROXY) == fingerprint(untrained(1))
    with pytest.raises(DseError, match=r"chip3.calibration.json: .* is for other weights"):
        with_stored(other, tmp_path, [NEW])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": 2}, "format = 2"),
        ({"device": 7}, "device"),
        ({"common": [[float("nan")] * TIMES] * 2}, "common"),
        ({"common": [[9.0] * TIMES] * 2}, "common"),
        ({"cells": []}, "cells"),
        ({"surprise": 1}, "surprise"),
        ({"error_after": -1}, "error_after"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change: dict[str, object], text: str) -> None:
    path = calibration_file(tmp_path, NEW)
    calibrate(PROXY, measured(20, 15), DEVICES, device=NEW).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DseError, match=text):
        Calibration.load(path)


def test_files_that_are_no_calibration_are_refused(tmp_path: Path) -> None:
    path = calibration_file(tmp_path, NEW)
    for content in ("", "[1, 2]", '{"device": "chip3"}', "{"):
        path.write_text(content)
        with pytest.raises(DseError, match="calibration"):
            Calibration.load(path)
    calibration = calibrate(PROXY, measured(20, 15), DEVICES, device=NEW)
    with pytest.raises(DseError, match="another size"):
        replace(calibration, common=((0.0,) * 3,)).apply(PROXY)


def test_errors_fall_with_the_rows_that_are_measured() -> None:
    rows = measured(600, 16, 1.4, 0.05)
    curve = calibration_curve(PROXY, rows, DEVICES, device=NEW, per_cell=(0, 5, 20), draws=2).set_index("per_cell")
    assert curve["median_ape"].is_monotonic_decreasing
    assert curve.loc[0, "median_ape"] > 20 > 7 > curve.loc[20, "median_ape"]
    assert curve.loc[0, "judged_rows"] == 600 == curve.loc[5, "judged_rows"] + curve.loc[5, "rows_used"]
    assert curve.loc[20, "expected_ape"] == pytest.approx(curve.loc[20, "median_ape"], rel=0.3)


def test_the_command_tells_and_stores(tmp_path: Path) -> None:
    PROXY.save(tmp_path / "w.safetensors")
    DEVICES.to_csv(tmp_path / "devices.csv")
    write_rows(measured(60, 17, 1.3), tmp_path / "rows.parquet")
    arguments = ["proxy", "calibrate", str(tmp_path / "rows.parquet"), "--devices", str(tmp_path / "devices.csv")]
    arguments += ["--weights", str(tmp_path / "w.safetensors"), "--device"]
    done = CliRunner().invoke(cli, [*arguments, NEW, "--json"], prog_name="dse")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["rows"] == 60 == sum(cell["rows"] for cell in answer["cells"])
    assert answer["error_after"] < 5 < answer["error_before"]
    assert Calibration.load(Path(answer["file"])).device == NEW and len(answer["measure_more"]) == 3
    done = CliRunner().invoke(cli, [*arguments, NEW, "--out", str(tmp_path / "own.json")], prog_name="dse")
    assert done.exit_code == 0 and "Measure more" in done.stdout and (tmp_path / "own.json").exists()
    done = CliRunner().invoke(cli, [*arguments, "chip9"], prog_name="dse")
    assert done.exit_code == 1 and "no row is of device 'chip9'" in done.stderr


def test_the_prior_is_what_limits_shifts() -> None:
    rows = measured(40, 18, 2.0)
    prior = replace(PRIOR, device=0.01, kind=0.01, cell=0.01, embedding=0.01)
    tight = calibrate(PROXY, rows, DEVICES, device=NEW, prior=prior)
    assert (
        max(abs(cell.offset) for cell in tight.cells)
        < 0.2
        < min(cell.offset for cell in calibrate(PROXY, rows, DEVICES, device=NEW).cells)
    )
