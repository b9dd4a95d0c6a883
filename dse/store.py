"""RunFolder: the product's file format (docs/run_folder.md), safe against being killed at any moment.

Rows are append-only JSON lines, one file a writer, so network file systems are safe; a torn or damaged line is named
and left out. Everything else is written to a temporary name and renamed.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from dse.errors import DseError

SCHEMA = 1
ROW_KEYS = {"design", "params", "status", "reason", "points", "bounds"}


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def prepare_file(path: Path) -> None:
    """Make a file's folder, and see that the file can be written there: to be told before long work, not after it.

    Raises DseError where it cannot.
    """
    try:
        _make_writable(path.parent)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise _not_written(path, error) from error


def _make_writable(folder: Path) -> None:
    """Make a folder where it is not there, and put a file into it for a moment. Raises OSError where that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{os.getpid()}"
    probe.touch()
    probe.unlink()


def _not_written(path: Path, error: OSError) -> DseError:
    return DseError(f"cannot write {path}: {error.strerror or error}", "choose another folder")


def to_json(value: Any) -> str:
    """JSON of plain data; numbers that JSON does not know (inf, nan) are an error, not a silent NaN."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


@dataclass(slots=True)
class RunFolder:
    """One run on disk. Open it with `RunFolder.create`, read `rows`, append with `append`."""

    path: Path
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)  # by design id, as read
    damaged: list[dict[str, Any]] = field(default_factory=list)  # file, line, reason
    _file: TextIO | None = None
    _made: bool = False  # by this run, which takes it away again where it comes to nothing

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make the folder where it is not there yet and read the rows it holds.

        Raises DseError where it cannot be made or written.
        """
        made = not path.exists()
        try:
            _make_writable(path)
            (path / "results").mkdir(exist_ok=True)
            (path / "timelines").mkdir(exist_ok=True)
        except OSError as error:
            raise DseError(
                f"cannot write into the run folder {path}: {error.strerror}", "choose another folder with --out"
            ) from error
        folder = cls(path=path, _made=made)
        for file in sorted((path / "results").glob("*.jsonl")):
            folder._read(file)
        return folder

    def _read(self, file: Path) -> None:
        for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict) or not row.keys() >= ROW_KEYS:
                    raise ValueError("not a result row")
            except ValueError as error:  # bad JSON and bad UTF-8 are ValueErrors as well
                self.damaged.append({"file": str(file.relative_to(self.path)), "line": number, "reason": str(error)})
            else:
                self.rows[row["design"]] = row

    def append(self, row: dict[str, Any]) -> None:
        """Append one result row to this writer's own file; a killed process loses no row that was appended."""
        if self._file is None:
            name = f"{time.strftime('%Y%m%d-%H%M%S')}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}.jsonl"
            self._file = (self.path / "results" / name).open("a", encoding="utf-8")
        self._file.write(to_json(row) + "\n")
        self._file.flush()
        self.rows[row["design"]] = row

    def sync(self) -> None:
        """Make sure that the appended rows survive a power cut as well."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Write one JSON object of the folder."""
        write_atomically(self.path / name, to_json({"schema": SCHEMA, **value}))

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._made and error is not None and not (self.path / "study.yaml").exists():
            for empty in (self.path / "results", self.path / "timelines", self.path):
                with suppress(OSError):  # not empty: it holds what another run has put there, and stays
                    empty.rmdir()
