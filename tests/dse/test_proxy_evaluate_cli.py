"""`dse proxy evaluate`: what it prints, writes and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dse.cli.app import cli
from dse.proxy.dataset import write_rows
from dse.proxy.predict import WEIGHTS
from tests.dse.proxy_tables import device_table, row_table

ROOFLINES = ("--predictor", "roofline", "--predictor", "fitted-roofline")


@pytest.fixture
def tables(tmp_path: Path) -> list[str]:
    write_rows(row_table(60), tmp_path / "rows.parquet")
    device_table().to_csv(tmp_path / "devices.csv")
    return ["--rows", str(tmp_path / "rows.parquet"), "--devices", str(tmp_path / "devices.csv")]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["proxy", "evaluate", *arguments], prog_name="dse")


def test_one_object_for_machines(tables: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = invoke(*tables, *ROOFLINES, "--split", "random", "--split", "device:fast", "--out", str(out), "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["complete"] is True and answer["splits"] == ["random", "device:fast"]
    summary = {(row["split"], row["predictor"]): row for row in answer["summary"]}
    assert len(summary) == 4
    assert summary["device:fast", "fitted-roofline"]["median_ape"] < 2 < summary["random", "roofline"]["median_ape"]
    assert summary["random", "roofline"]["coverage"] is None  # it gives no interval
    assert answer["worse_than_reference"] == []
    written = json.loads((out / "evaluation.json").read_text())
    assert written["scores"] == answer["scores"] and written["seed"] == 0
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.json", "evaluation.md", "scores.csv"]


def test_tables_for_people(tables: list[str]) -> None:
    done = invoke(*tables, *ROOFLINES, "--split", "device:development", "--split", "shapes", "--test-cap", "20")
    assert done.exit_code == 1 and "device:development" in done.stderr  # no device has 500 rows
    done = invoke(*tables, *ROOFLINES, "--split", "shapes", "--split", "family:old")
    assert done.exit_code == 0, done.output
    for text in ("fitted-roofline", "family:*", "softmax", "median %"):
        assert text in done.stdout


def test_wrong_input_is_refused_in_words(tables: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHIPFRONT_DATA", raising=False)
    for arguments, code, text in [
        (tables[:2], 2, "belong together"),
        ([*tables, "--split", "device:fst"], 1, "did you mean 'fast'"),
        ([*tables, "--split", "nothing"], 1, "unknown split"),
        ([*tables, "--predictor", "roofine"], 1, "did you mean 'roofline'"),
        ([], 1, "CHIPFRONT_DATA"),
    ]:
        done = invoke(*arguments)
        assert done.exit_code == code, done.output
        assert text in done.stderr and "Traceback" not in done.output


def test_what_is_done_is_kept_when_stopped(tables: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dse.proxy.evaluate.rooflines import FittedRoofline

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FittedRoofline, "fit", stopped)
    out = tmp_path / "out"
    done = invoke(*tables, *ROOFLINES, "--split", "random", "--out", str(out))
    assert done.exit_code == 130 and "1 of 2" in done.stderr
    written = json.loads((out / "evaluation.json").read_text())
    assert written["complete"] is False and [row["predictor"] for row in written["summary"]] == ["roofline"]


def test_a_card_tells_the_figures_of_evaluations(tables: list[str], tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    shutil.copy(WEIGHTS, weights)

    def card(*evaluations: Path) -> Result:
        arguments = ["proxy", "card", *map(str, evaluations), "--weights", str(weights)]
        return CliRunner().invoke(cli, arguments, prog_name="dse")

    for split in ("random", "device:fast"):
        done = invoke(*tables, *ROOFLINES, "--split", split, "--out", str(tmp_path / split))
        assert done.exit_code == 0, done.output
    files = [tmp_path / split / "evaluation.json" for split in ("random", "device:fast")]
    summary = json.loads(files[1].read_text())["summary"]
    assert card(*files).exit_code == 0
    line = next(
        line for line in weights.with_suffix(".md").read_text().splitlines() if line.startswith("| device:fast")
    )
    told = [cell.strip() for cell in line.strip("|").split("|")]
    assert told[1] == str(summary[0]["rows"]) and told[-1] == ""  # a roofline has no interval
    for cell, record in zip(told[2:4], summary, strict=True):
        assert float(cell) == pytest.approx(record["median_ape"], abs=0.06)
    before = weights.with_suffix(".md").read_text()
    (tmp_path / "other.json").write_text('{"summary": [{"split": 3}]}')
    stopped = json.loads(files[0].read_text()) | {"complete": False}
    (tmp_path / "stopped.json").write_text(json.dumps(stopped))
    for bad, text in [
        ((files[0], files[0]), "twice"),
        ((tmp_path / "other.json",), "no evaluation"),
        ((tmp_path / "stopped.json",), "stopped"),
    ]:
        done = card(*bad)
        assert done.exit_code == 1 and text in done.stderr and "Traceback" not in done.stderr
    assert weights.with_suffix(".md").read_text() == before
