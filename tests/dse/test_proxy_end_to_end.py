"""`dse proxy evaluate --end-to-end`: whole models as sums of layers, layers left out of fits, published figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from dse.cli.app import cli
from dse.errors import DseError
from dse.proxy import LayerProxy, fit_proxy, predict_frame
from dse.proxy.columns import VECTOR_OPERATORS
from dse.proxy.evaluate.left_out import dealt, not_of
from dse.proxy.evaluate.published import EAGER, SPECIFIED, TABLE, published
from dse.proxy.evaluate.whole_models import Setting, predict_model
from dse.proxy.fit import STANDARD
from dse.proxy.intervals import Novelty, Widths
from dse.proxy.layer_rows import layer_rows
from dse.proxy.own_data import own_layers, own_models
from workloads import catalog

CHOSEN = ("conv-tasnet", "resnet18")


@pytest.fixture(scope="module")
def proxy() -> LayerProxy:
    """Fitted for a moment to what was measured for the product; 10 % wide for every kind."""
    recipe = replace(STANDARD, steps=30, batch=64)
    fitted = fit_proxy(*own_layers(), recipe=recipe, networks=1, intervals=False)
    return replace(fitted, widths=Widths(kinds=(), table=np.full((1, len(Novelty)), np.log(1.1))))


@pytest.fixture(scope="module")
def weights(proxy: LayerProxy, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    proxy.save(path)
    return str(path)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["proxy", "evaluate", "--end-to-end", *arguments], prog_name="dse")


def test_a_model_takes_as_long_as_its_layers_together(proxy: LayerProxy) -> None:
    rows, devices = own_layers()
    setting = Setting(device=devices.index[0], framework=rows["framework"].iloc[0], timer=rows["timer"].iloc[0])
    graph = catalog.load("conv-tasnet")
    names = {"source": "test", "device": setting.device, "framework": setting.framework, "timer": setting.timer}
    layers = layer_rows(graph).assign(**names)
    each = predict_frame(layers, devices, proxy=proxy)
    whole = predict_model(graph, devices, setting, proxy)
    latency = each["latency_ms"]
    assert whole.latency_ms == pytest.approx(latency.sum(), rel=1e-5)
    above = (each["latency_high_ms"] - latency).groupby(layers["op_type"]).sum()
    assert whole.high_ms == pytest.approx(latency.sum() + np.sqrt((above**2).sum()), rel=1e-5)
    assert whole.low_ms < whole.latency_ms
    for kind, share in whole.by_kind.items():
        assert share.share == pytest.approx(latency[layers["op_type"] == kind].sum() / latency.sum(), rel=1e-5)
    of_row = devices.loc[layers["device"]]
    peak = np.where(layers["op_type"].isin(VECTOR_OPERATORS), of_row["peak_fp32_tflops"], of_row["peak_fp32_tflops"])
    roofline = np.maximum(layers["flops"] / peak / 1e9, layers["bytes"] / of_row["peak_bw_gbs"].to_numpy() / 1e6)
    assert whole.roofline_ms == pytest.approx(roofline.sum(), rel=1e-5)


def test_models_are_dealt_family_by_family() -> None:
    names = ["videovit-tiny", "resnet18", "conv-tasnet", "videovit-small"]
    parts = dealt(names, folds=3)
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert len(parts) == 3
    assert ["videovit-tiny", "videovit-small"] in parts


def test_no_layer_of_a_model_is_left_in_the_fit() -> None:
    rows, _ = own_layers()
    kept = not_of(["conv-tasnet"], rows)
    layers = layer_rows(catalog.load("conv-tasnet"))
    columns = ["op_type", "dtype", "cin", "cout", "groups", "win", "kw"]

    def convolutions(table: pd.DataFrame) -> set[tuple[object, ...]]:
        of_kind = table[table["op_type"] == "conv1d"]
        return set(of_kind[columns].astype(object).itertuples(index=False, name=None))

    own = convolutions(layers)
    assert 20 < (~kept).sum() < 200
    assert own
    assert own <= convolutions(rows)
    assert not own & convolutions(rows[kept])


def public_table(folder: Path) -> None:
    row = {"n_chips": 1, "batch": "2", "precision": "fp32", "metric": "throughput", "unit": "images/s", "source": "s"}
    rows = [
        row | {"device": "T4", "model": "timm resnet18 @224", "value": 100.0, "note": ""},
        row | {"device": "T4", "model": "timm resnet18 @224", "value": 50.0, "note": ""},
        row | {"device": "T4", "model": "timm resnet18 @224", "value": 400.0, "note": "torch.compile"},
        row
        | {
            "device": "T4",
            "model": "MLPerf resnet50",
            "metric": "latency_mean",
            "value": 3.0,
            "note": "",
            "batch": "1",
        },
        row | {"device": "T4", "model": "MLPerf resnet50", "value": 3.0, "note": "", "batch": "offline (tuned)"},
        row | {"device": "T4", "model": "timm resnet18 @224", "value": 3.0, "note": "", "n_chips": 2},
        row | {"device": "A toaster", "model": "timm resnet18 @224", "value": 3.0, "note": ""},
    ]
    (folder / TABLE).parent.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / TABLE, index=False)


def test_published_figures_are_those_of_known_chips_and_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public_table(tmp_path)
    figures = published(tmp_path)
    assert figures[: len(SPECIFIED)] == SPECIFIED
    found = {(each.model, each.software): each for each in figures[len(SPECIFIED) :]}
    assert {key: each.value for key, each in found.items()} == {
        ("resnet18", EAGER): 30.0,  # the median of 20 and 40 ms a batch of two
        ("resnet18", "torch.compile"): 5.0,
        ("resnet50", "TensorRT"): 3.0,
    }
    assert all(each.chip == "t4" for each in found.values())
    monkeypatch.delenv("CHIPFRONT_DATA", raising=False)
    assert published() == SPECIFIED
    with pytest.raises(DseError, match=TABLE.name):
        published(tmp_path / "nowhere")


def test_the_public_table_is_read(measured: Callable[[str], Path]) -> None:
    figures = published(measured(str(TABLE)).parents[1])
    assert {"resnet18", "resnet50", "vit_b_16"} <= {each.model for each in figures}
    assert all(np.isfinite(each.value) and each.value > 0 for each in figures)


def test_one_object_for_machines(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public_table(tmp_path / "data")
    monkeypatch.setenv("CHIPFRONT_DATA", str(tmp_path / "data"))
    chosen = [option for name in CHOSEN for option in ("--model", name)]
    done = invoke(*chosen, "--weights", weights, "--out", str(tmp_path / "out"), "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    models = own_models().set_index("model")
    assert {row["model"] for row in answer["machines"]} == set(CHOSEN)
    for row in answer["machines"]:
        measured_ms = models["latency_ms"][row["model"]]
        assert row["error"] == pytest.approx(100 * (row["predicted_ms"] / measured_ms - 1))
        assert row["inside"] == (row["low_ms"] <= measured_ms <= row["high_ms"])
        assert abs(row["memory_error"]) < 15
        assert bool(row["reasons"]) == (abs(row["error"]) > 15)
    eager, compiled = answer["named"]
    assert (eager["published"], compiled["published"]) == (30.0, 5.0)
    assert "fuses" in compiled["reasons"]
    assert eager["outside"] == 100  # this proxy has seen no GPU
    assert answer["left_out"] == []
    written = json.loads((tmp_path / "out" / "end_to_end.json").read_text())
    assert written["machines"] == answer["machines"]
    table = pd.read_csv(tmp_path / "out" / "measuring_machines.csv")
    assert list(table["model"]) == [row["model"] for row in answer["machines"]]


def test_tables_for_people_with_layers_left_out(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dse.proxy.dataset import write_rows
    from tests.dse.proxy_tables import device_table, row_table

    monkeypatch.delenv("CHIPFRONT_DATA", raising=False)
    write_rows(row_table(20), tmp_path / "rows.parquet")
    device_table().to_csv(tmp_path / "devices.csv")
    tables = ["--rows", str(tmp_path / "rows.parquet"), "--devices", str(tmp_path / "devices.csv")]
    done = invoke("--model", "conv-tasnet", "--weights", weights, "--left-out", "--steps", "50", *tables)
    assert done.exit_code == 0, done.output
    for text in ("On the machine that measured them", "the same, left out", "conv-tasnet", "their layers left out"):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--split", "random"], "--split goes without --end-to-end"),
        (["--steps", "100"], "--steps goes with --left-out"),
        (["--model", "resnet19"], "resnet18"),
    ],
)
def test_what_does_not_go_together_is_refused(options: list[str], said: str) -> None:
    done = invoke(*options)
    assert done.exit_code in (1, 2)
    assert said in done.stderr


def test_options_of_whole_models_need_them() -> None:
    done = CliRunner().invoke(cli, ["proxy", "evaluate", "--left-out"], prog_name="dse")
    assert done.exit_code == 2
    assert "--left-out goes with --end-to-end" in done.stderr
