"""Commands of the layer proxy say before long work that its result cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import dse.proxy.ensemble
import dse.proxy.evaluate.run
import dse.proxy.predict
from dse.cli.app import cli
from dse.proxy.dataset import write_rows
from tests.dse.proxy_rows import chips, operators

DEVICES = chips(3, count=3)


@pytest.fixture
def tables(tmp_path: Path) -> list[str]:
    """Options that name a table of rows and one of devices, and a plain file `file` where a folder is asked for."""
    write_rows(operators(40, 1, list(DEVICES.index)).assign(latency_ms=1.0), tmp_path / "rows.parquet")
    DEVICES.to_csv(tmp_path / "devices.csv")
    (tmp_path / "file").write_text("kept")
    return ["--rows", str(tmp_path / "rows.parquet"), "--devices", str(tmp_path / "devices.csv")]


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def worked(*args: object, **options: object) -> None:
        raise AssertionError("work has begun")

    monkeypatch.setattr(dse.proxy.ensemble, "fit_network", worked)
    monkeypatch.setattr(dse.proxy.predict.LayerProxy, "log_latency", worked)
    monkeypatch.setattr(dse.proxy.evaluate.run, "evaluate", worked)


def test_fit(tables: list[str], tmp_path: Path) -> None:
    refused(["fit", *tables, "--out", str(tmp_path / "file" / "a.safetensors")])
    (tmp_path / "b.md").mkdir()
    refused(["fit", *tables, "--out", str(tmp_path / "b.safetensors")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.md", "devices.csv", "file", "rows.parquet"]


def test_calibrate(tables: list[str], tmp_path: Path) -> None:
    out = ["--device", DEVICES.index[0], "--out", str(tmp_path / "file" / "a.json")]
    refused(["calibrate", *tables[1:], *out])


def test_evaluate(tables: list[str], tmp_path: Path) -> None:
    out = str(tmp_path / "file" / "folder")
    refused(["evaluate", *tables, "--predictor", "roofline", "--split", "random", "--out", out])


def test_work_begins_where_the_folder_can_be_made(tables: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["proxy", "fit", *tables, "--out", str(tmp_path / "new" / "a.safetensors")])
    assert str(done.exception) == "work has begun" and not list((tmp_path / "new").iterdir())


def refused(arguments: list[str]) -> None:
    done = CliRunner().invoke(cli, ["proxy", *arguments], prog_name="dse")
    assert done.exit_code == 1 and "cannot write" in done.stderr and "Traceback" not in done.stderr, done.output
