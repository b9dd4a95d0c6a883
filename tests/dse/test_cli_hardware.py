"""`dse chips` and `dse systems`: what they list, what a datasheet shows, and what a wrong library file is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from dse.cli.app import cli

GOOD: dict[str, Any] = {
    "name": "my_die",
    "peak_flops": 2.0e13,
    "peak_bw": 5.0e11,
    "mem_gb": 8,
    "area_mm2": 120,
    "width_mm": 12,
    "height_mm": 10,
    "tdp_w": 25,
    "source": "a datasheet, page 3",
}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="dse")


def library(folder: Path, *chips: dict[str, Any]) -> str:
    path = folder / "my_chips.yaml"
    path.write_text(yaml.safe_dump({"chip_types": list(chips)}))
    return str(path)


def test_every_shipped_chip_is_listed_and_has_a_datasheet() -> None:
    libraries = json.loads(invoke("chips", "--json").stdout)["libraries"]
    assert {"reference", "chiplets"} <= libraries.keys()
    names = [chip["name"] for chips in libraries.values() for chip in chips]
    table = invoke("chips").stdout
    assert all(name in table for name in names)
    for name in names[::5]:
        answer = invoke("chips", name, "--json")
        assert json.loads(answer.stdout)["name"] == name
        assert invoke("chips", name).exit_code == 0


def test_a_datasheet_shows_values_units_and_sources(tmp_path: Path) -> None:
    sheet = invoke("chips", "my_die", "--library", library(tmp_path, GOOD)).stdout
    for text in ("peak fp16", "2.000e+13", "op/s", "B/s", "a datasheet, page 3"):
        assert text in sheet


def test_packages_are_listed_with_their_links() -> None:
    answer = json.loads(invoke("systems", "--json").stdout)
    table = invoke("systems").stdout
    assert answer["packages"]
    for package in answer["packages"]:
        assert package["name"] in table
        assert package["slots"] >= 2
        assert package["link"]["bandwidth_gb_s"] > 0
    one = invoke("systems", "interposer_2x2", "--json")
    assert json.loads(one.stdout)["slots"] == 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"peak_bw": -5.0e11}, ("peak_bw", "-500000000000", "my_die")),
        ({"peak_bw": None}, ("peak_bw", "my_die")),
        ({"tdp_w": ...}, ("tdp_w", "my_die")),
        ({"mem_gb": ..., "mem_bg": 8}, ("mem_bg", "did you mean 'mem_gb'", "my_die")),
        ({"peak_flops": {"fp61": 1e13}}, ("fp61", "fp16")),
    ],
    ids=["negative bandwidth", "no value", "missing key", "misspelt key", "unknown precision"],
)
def test_a_wrong_chip_is_named_with_file_key_and_remedy(
    tmp_path: Path, change: dict[str, Any], named: tuple[str, ...]
) -> None:
    chip = {key: value for key, value in {**GOOD, **change}.items() if value is not ...}
    result = invoke("chips", "--library", library(tmp_path, chip))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "my_chips.yaml" in result.stderr
    for text in named:
        assert text in result.stderr.replace("_000", "000"), result.stderr
    assert "Traceback" not in result.output


def test_a_duplicate_name_is_refused(tmp_path: Path) -> None:
    result = invoke("chips", "--library", library(tmp_path, GOOD, GOOD))
    assert result.exit_code == 1
    assert "my_die" in result.stderr
    assert "unique" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("chips", "big_cor"), ("'big_cor'", "did you mean 'big_core'?")),
        (("chips", "--library", "refrence"), ("'refrence'", "reference")),
        (("chips", "--library", "nowhere/chips.yaml"), ("nowhere/chips.yaml",)),
        (("systems", "interpser_2x2"), ("'interpser_2x2'", "interposer_2x2")),
        (
            ("map", "resnet18", "--package", "interposer_2x2", "--chips", "big_core,smal_core"),
            ("'smal_core'", "did you mean 'small_core'?"),
        ),
        (
            ("map", "resnet18", "--package", "interpser_2x2", "--chips", "big_core"),
            ("'interpser_2x2'", "interposer_2x2"),
        ),
    ],
    ids=["chip", "library", "file", "package", "chip of a design", "package of a design"],
)
def test_an_unknown_name_is_answered_with_the_nearest(arguments: tuple[str, ...], named: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    for text in named:
        assert text in result.stderr
    assert "Traceback" not in result.output
