"""The cost model `systolic` from the command line: map, simulate, run, and the datasheet of a chip with an array."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from dse.cli.app import cli

DESIGN = ("resnet18", "--package", "interposer_2x2", "--segments", "5", "--model", "systolic", "--precision", "int8")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="dse")


@pytest.mark.parametrize("command", ["map", "simulate"])
def test_a_design_of_npus_is_mapped_and_simulated(command: str) -> None:
    ran = invoke(command, *DESIGN, "--chips", "npu_int8_7nm,npu_int8_7nm", "--json")
    assert ran.exit_code == 0, ran.output
    by_roofline = invoke(
        command, *(word.replace("systolic", "roofline") for word in DESIGN), "--chips", "npu_int8_7nm", "--json"
    )
    times = [
        answer.get("latency_ms") or answer["metrics"]["latency_ms"]
        for answer in (json.loads(ran.stdout), json.loads(by_roofline.stdout))
    ]
    assert times[0] > times[1] > 0


def test_a_chip_without_an_array_is_an_error_that_names_it() -> None:
    ran = invoke("map", *DESIGN, "--chips", "npu_int8_7nm,big_core")
    assert ran.exit_code == 1 and "Traceback" not in ran.output
    assert "'big_core'" in ran.stderr and "pe_array" in ran.stderr and "systolic" in ran.stderr


def test_a_study_of_npus_runs(tmp_path: Path) -> None:
    study = {
        **{"name": "npus", "workload": "resnet18", "segments": {"count": 5}, "library": "chiplets"},
        **{"model": "systolic", "objectives": ["latency_ms", "energy_mj"], "seed": 0},
        "space": {"chips": ["npu_int8_7nm"], "max_chips": 2, "packages": ["interposer_2x2"], "precisions": ["int8"]},
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    ran = invoke("run", str(path), "--out", str(tmp_path / "out"), "--json")
    assert ran.exit_code == 0, ran.output
    answer = json.loads(ran.stdout)
    assert answer["evaluated"] == 2 and answer["front"]
    assert "SCALE-Sim" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_the_datasheet_shows_the_array_with_its_sources() -> None:
    shown = invoke("chips", "tpu_v4").stdout
    for line in ("pe_array.rows", "pe_array.dataflow", "weight_stationary", "pe_array.input_sram_kb", "67,000"):
        assert line in shown
    record = json.loads(invoke("chips", "tpu_v4", "--json").stdout)
    assert record["pe_array"]["columns"] == 128 and record["source"]["pe_array"]
