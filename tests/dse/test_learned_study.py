"""Studies and commands on the learned layer proxy: software, intervals and what is outside are kept and told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from chiplib import System, load_library
from dse import DseError, Study
from dse.cli import cli
from dse.cli.commands.map import command as map_command
from dse.cost_table import cost_table
from dse.prediction import intervals, outside
from dse.proxy.model import DEFAULT
from dse.simulate import simulate
from dse.study_file import StudyFile
from tests.dse.real import hand_made, two_by_two
from workloads import build_segments
from workloads.catalog import load

STUDY = {
    "name": "small",
    "workload": "resnet18",
    "segments": {"count": 4},
    "library": "chiplets",
    "objectives": ["latency_ms", "cost_usd"],
    "space": {"chips": ["big_core", "xcd_5nm"], "max_chips": 1, "packages": ["interposer_2x2"], "precisions": ["fp16"]},
}
DESIGN = ("resnet18", "--package", "interposer_2x2", "--chips", "big_core,xcd_5nm", "--segments", "4")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def written(folder: Path, **more: object) -> str:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY | more))
    return str(path)


def test_it_is_the_default_of_studies_and_commands() -> None:
    assert StudyFile.model == DEFAULT
    assert {option.default for option in map_command.params if option.name == "model"} == {DEFAULT}


def test_a_run_keeps_what_its_latencies_rest_on(tmp_path: Path) -> None:
    result = Study.load(written(tmp_path)).run(tmp_path / "run")
    kept = yaml.safe_load((tmp_path / "run" / "study.yaml").read_text())
    assert (kept["model"], kept["framework"], kept["timer"]) == ("learned", "torch", None)
    prediction = json.loads((tmp_path / "run" / "summary.json").read_text())["prediction"]
    assert kept["model_fingerprint"] == prediction["fingerprint"]
    assert prediction["coverage"] == 0.9 and sum(prediction["data"].values()) > 1_000_000
    assert prediction["software"]["xcd_5nm"]["framework"] == "torch2.4.1-rocm"
    assert {row["chip"] for row in prediction["outside"] if "chip" in row["reasons"]} == {"big_core", "xcd_5nm"}
    for point in result.front:
        for name, (low, high) in point["intervals"].items():
            assert low < point["metrics"][name] < high
    for file in (tmp_path / "run" / "timelines").glob("*.json"):
        shown = json.loads(file.read_text())
        assert shown["prediction"]["outside"]["share"] == 1.0
        assert all(case["reasons"][0] == "chip" for case in shown["prediction"]["outside"]["cases"])
        low, high = shown["prediction"]["intervals"]["latency_ms"]
        assert low < shown["metrics"]["latency_ms"] < high
        assert all(row["latency_low_ms"] < row["latency_ms"] < row["latency_high_ms"] for row in shown["segments"])
        assert all("chip" in layer["outside"] for layer in shown["layers"])
    statements = json.loads((tmp_path / "run" / "library.json").read_text())["basis"]
    (latency,) = (row for row in statements if row["subject"].startswith("latency"))
    assert "torch2.4.1-rocm" in latency["source"] and prediction["fingerprint"] in latency["source"]


def test_a_run_does_not_go_on_with_other_weights_or_software(tmp_path: Path) -> None:
    Study.load(written(tmp_path)).run(tmp_path / "run")
    Study.load(written(tmp_path, framework="torch")).run(tmp_path / "run")  # which was the default
    with pytest.raises(DseError, match="another run: framework changed"):
        Study.load(written(tmp_path, framework="vllm-0.24.0")).run(tmp_path / "run")
    kept = tmp_path / "run" / "study.yaml"
    kept.write_text(re.sub(r"model_fingerprint: \S+", "model_fingerprint: other", kept.read_text()))
    with pytest.raises(DseError, match="another run: model_fingerprint changed"):
        Study.load(written(tmp_path)).run(tmp_path / "run")


def test_a_study_on_the_roofline_knows_no_software_and_no_interval(tmp_path: Path) -> None:
    result = Study.load(written(tmp_path, model="roofline")).run(tmp_path / "run")
    kept = yaml.safe_load((tmp_path / "run" / "study.yaml").read_text())
    assert kept["framework"] is None and "model_fingerprint" not in kept
    assert result.summary["prediction"] == {
        "model": "roofline", "framework": None, "timer": None, "software": {}, "data": {}, "coverage": None,
        "fingerprint": None, "calibrated": [], "outside": [],
    }  # fmt: skip
    assert all(point["intervals"] == {} for point in result.front)
    with pytest.raises(DseError, match="model: framework is 'torch'"):
        Study.load(written(tmp_path, model="roofline", framework="torch")).run(tmp_path / "other")


def test_a_study_refuses_software_that_the_data_do_not_know(tmp_path: Path) -> None:
    with pytest.raises(DseError, match=r"model: no framework is called 'pytorch'"):
        Study.load(written(tmp_path, framework="pytorch")).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["map", "simulate"])
def test_a_command_tells_interval_software_and_what_is_outside(command: str) -> None:
    answer = json.loads(invoke(command, *DESIGN, "--json").stdout)
    low, high = answer["latency_interval_ms"]
    assert low < answer["latency_ms"] < high
    assert answer["prediction"]["framework"] == "torch" and answer["prediction"]["outside"]["share"] == 1.0
    assert all(row["latency_low_ms"] < row["latency_ms"] < row["latency_high_ms"] for row in answer["segments"])
    shown = invoke(command, *DESIGN, "--framework", "vllm-0.24.0").stdout
    assert "vllm-0.24.0 timed by cudagraph_mean" in shown and "Outside of the data" in shown
    assert ("90 % interval" if command == "map" else "low") in shown


def test_a_command_refuses_software_that_the_data_do_not_know() -> None:
    refused = invoke("map", *DESIGN, "--framework", "torch2.1")
    assert refused.exit_code == 1 and "did you mean 'torch2.1.0'" in refused.output


def test_all_that_is_like_the_data_is_inside() -> None:
    library = load_library("reference")
    system = System.build(package="interposer_2x2", chips=["h100_sxm_80gb"], library=library)
    segments = build_segments(load("resnet18"), count=4)
    table = cost_table(segments, system, precision="fp32")
    told = outside(table, np.zeros(4, np.int64))
    assert {case["kind"] for case in told["cases"]} == {"pool"}  # no pooling was measured on a GPU
    assert 0 < told["share"] < 0.1


@pytest.mark.parametrize("regime", ["serial", "pipelined"])
def test_an_interval_is_that_of_all_layers_at_one_end(regime: str) -> None:
    segments = hand_made()
    table = cost_table(segments, two_by_two("big_core", "small_core"))
    timeline = simulate(segments, [0] * 8, table.system, inputs=4, regime=regime, table=table)  # one chip: a sum
    found = intervals(timeline, None)
    ends_of_layers = table.costs.low_ms[:, 0], table.costs.high_ms[:, 0]
    factors = [ends.sum() / table.costs.latency_ms[:, 0].sum() for ends in ends_of_layers]
    for end, factor in zip(found["latency_ms"], factors, strict=True):
        assert end == pytest.approx(timeline.latency_ms * factor)
    for end, factor in zip(found["throughput_per_s"], reversed(factors), strict=True):
        assert end == pytest.approx(timeline.metrics().throughput_per_s / factor)
