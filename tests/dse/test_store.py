"""The run folder survives what runs meet: kills, torn lines, damaged files, folders that cannot be written."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from dse.errors import DseError
from dse.store import RunFolder, prepare_file, write_atomically


def row(design: str) -> dict[str, object]:
    points = [{"metrics": {"latency_ms": 0.1}}]
    return {"design": design, "params": {}, "status": "ok", "reason": "", "points": points, "bounds": []}


def test_rows_come_back_as_written_from_every_writer(tmp_path: Path) -> None:
    for design in ("a", "b"):
        with RunFolder.create(tmp_path / "run") as folder:
            folder.append(row(design))
            folder.sync()
    assert len(list((tmp_path / "run" / "results").iterdir())) == 2  # one file a writer
    assert RunFolder.create(tmp_path / "run").rows == {"a": row("a"), "b": row("b")}


def test_good_rows_are_kept_and_damaged_ones_named(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path) as folder:
        folder.append(row("a"))
        folder.append(row("b"))
    file = next((tmp_path / "results").iterdir())
    lines = file.read_text().splitlines()
    file.write_bytes(
        b"\n".join([lines[0].encode(), b"\xff\xfe broken", b'{"design": "c"}', b"[1]", lines[1].encode(), b'{"des'])
    )
    again = RunFolder.create(tmp_path)
    assert set(again.rows) == {"a", "b"}
    assert [(item["file"], item["line"]) for item in again.damaged] == [
        (f"results/{file.name}", line) for line in (2, 3, 4, 6)
    ]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DseError, match=r"cannot write into the run folder .*file.*--out"):
        RunFolder.create(tmp_path / "file" / "run")


def test_a_file_that_cannot_be_written_is_told_before_and_leaves_nothing(tmp_path: Path) -> None:
    prepare_file(tmp_path / "new" / "a.json")
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "file").touch()
    (tmp_path / "folder.json").mkdir()
    for path in (tmp_path / "file" / "a.json", tmp_path / "folder.json"):
        for write in (prepare_file, partial(write_atomically, content="{}")):
            with pytest.raises(DseError, match=f"cannot write {path}"):
                write(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.json", "new"]


def test_an_object_is_replaced_whole_and_holds_no_nan(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    folder.write("summary.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        folder.write("summary.json", {"a": float("nan")})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"schema": 1, "a": 1}
    assert not list(tmp_path.glob(".*.tmp"))
