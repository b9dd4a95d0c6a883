"""Read a run folder into typed records: good parts are kept, missing and damaged ones are named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dse.errors import DseError
from reports.records import (
    Detail,
    Environment,
    FrontPoint,
    Library,
    ResultRow,
    Summary,
    Workload,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A part of the run folder that is missing or damaged."""

    file: str
    reason: str
    where: str = ""  # the key or the line


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A run folder as read. What could not be read is None or empty, and named in `problems`."""

    folder: Path
    summary: Summary | None
    environment: Environment | None
    workload: Workload | None
    library: Library | None
    study: Mapping[str, Any]
    rows: tuple[ResultRow, ...]
    details: Mapping[str, Detail]  # file stem -> point in detail
    problems: tuple[Problem, ...]

    @property
    def name(self) -> str:
        """What the run is called: the study, else the folder."""
        return (self.summary.study if self.summary else "") or self.folder.resolve().name

    @property
    def knee(self) -> FrontPoint | None:
        """The recommended point, or None where the summary names none that is on the front."""
        if self.summary is None or self.summary.knee is None:
            return None
        wanted = (self.summary.knee.design, str(self.summary.knee.point))
        return next((p for p in self.summary.front if (p.design, str(p.point)) == wanted), None)

    @property
    def knee_detail(self) -> Detail | None:
        """The recommended point in detail, or None where its file is missing."""
        knee = self.summary.knee if self.summary else None
        return None if knee is None else self.detail(knee.design, knee.point)

    def detail(self, design: str, point: int | str) -> Detail | None:
        """The point `point` of `design` in detail, or None where the run holds no file for it."""
        wanted = (design, str(point))
        return next((d for d in self.details.values() if (d.design, str(d.point)) == wanted), None)


def read_run(folder: str | Path) -> Run:
    """Read the run folder at `folder`.

    Raises
    ------
    DseError
        Where `folder` does not exist or holds neither a summary, nor a study, nor results. Anything less is a
        `Problem` of the returned run.

    """
    folder = Path(folder)
    results = sorted((folder / "results").glob("*.jsonl"))
    if not folder.is_dir():
        raise DseError(f"{folder}: there is no such folder", "give the folder that `dse run STUDY --out DIR` wrote")
    if not results and not any((folder / name).is_file() for name in ("summary.json", "study.yaml")):
        raise DseError(
            f"{folder}: not a run folder: it has no summary.json, no study.yaml and no results/*.jsonl",
            "write one with `dse run STUDY --out DIR`",
        )
    problems: list[Problem] = []
    summary = _read_json(folder, "summary.json", Summary, problems)
    run = Run(
        folder=folder,
        summary=summary,
        environment=_read_json(folder, "environment.json", Environment, problems),
        workload=_read_json(folder, "workload.json", Workload, problems),
        library=_read_json(folder, "library.json", Library, problems),
        study=_read_study(folder, problems),
        rows=tuple(_read_rows(folder, results, problems)),
        details={
            path.stem: detail
            for path in sorted((folder / "timelines").glob("*.json"))
            if not path.name.endswith(".perfetto.json")
            and (detail := _read_json(folder, f"timelines/{path.name}", Detail, problems)) is not None
        },
        problems=(),
    )
    if not results:
        problems.append(Problem(file="results/*.jsonl", reason="missing"))
    if summary is not None:
        problems += _noted_by_the_study(summary, problems)
        if summary.front and run.knee is None:
            problems.append(Problem(file="summary.json", where="knee", reason="missing, or not on the front"))
        elif summary.knee is not None and run.knee_detail is None:
            name = f"timelines/{summary.knee.design}-{summary.knee.point}.json"
            problems.append(Problem(file=name, reason="missing: the knee cannot be shown in detail"))
    return replace(run, problems=tuple(problems))


def _noted_by_the_study(summary: Summary, known: Iterable[Problem]) -> list[Problem]:
    """Damaged rows that the study met, less those that were met again here."""
    seen = {(problem.file, problem.where) for problem in known}
    noted = [
        Problem(file=row.file, where="" if row.line is None else f"line {row.line}", reason=row.reason)
        for row in summary.damaged_rows
    ]
    return [problem for problem in noted if (problem.file, problem.where) not in seen]


def _read_json(folder: Path, name: str, kind: type[Record], problems: list[Problem]) -> Record | None:
    """Read one JSON object, or return None and note the problem."""
    try:
        value = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(Problem(file=name, reason="missing"))
        return None
    except (OSError, ValueError) as error:
        problems.append(Problem(file=name, reason=f"cannot be read: {error}"))
        return None
    return parse_record(kind, value, name, problems)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    return adapter


def parse_record(kind: type[Record], value: Any, file: str, problems: list[Problem]) -> Record | None:
    """Make a `kind` of `value`; entries that do not fit are left out and named in `problems`.

    Returns None where what is left is not a `kind`.
    """
    from pydantic import ValidationError

    adapter: TypeAdapter[Record] = _adapter(cast(Any, kind))
    while True:
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            faults = error.errors(include_url=False, include_input=False, include_context=False)
        if not isinstance(value, dict):
            problems.append(Problem(file=file, reason=f"should hold one JSON object, holds a {type(value).__name__}"))
            return None
        drop: dict[tuple[Any, ...], Problem] = {}
        for fault in faults:
            place = _entry_of(fault, value)
            drop.setdefault(place, Problem(file=file, where=_dotted(fault["loc"]), reason=fault["msg"]))
        problems += drop.values()
        pruned = _without(value, drop)
        if pruned is None:
            return None
        value = pruned


def _entry_of(fault: Mapping[str, Any], value: Mapping[str, Any]) -> tuple[Any, ...]:
    """The part to leave out because of `fault`: an item of a list or a mapping, else a whole key."""
    location = fault["loc"]
    inner = isinstance(value.get(location[0]), dict | list) if location else False
    if inner and (len(location) > 2 or (len(location) == 2 and fault["type"] != "missing")):
        return tuple(location[:2])
    return tuple(location[:1])


def _without(value: dict[str, Any], places: Iterable[tuple[Any, ...]]) -> dict[str, Any] | None:
    """Return `value` without the entries at `places`; None where one of them is not there to be left out."""
    value = dict(value)
    inner: dict[str, set[Any]] = {}
    for place in places:
        if not place or place[0] not in value:
            return None
        inner.setdefault(place[0], set()).add(place[1] if len(place) == 2 else None)
    for key, entries in inner.items():
        held = value[key]
        if isinstance(held, list) and all(isinstance(entry, int) for entry in entries):
            value[key] = [item for index, item in enumerate(held) if index not in entries]
        elif isinstance(held, dict) and entries <= held.keys():
            value[key] = {name: item for name, item in held.items() if name not in entries}
        else:
            del value[key]
    return value


def _dotted(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def _read_study(folder: Path, problems: list[Problem]) -> Mapping[str, Any]:
    import yaml

    try:
        study = yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(Problem(file="study.yaml", reason="missing"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        problems.append(Problem(file="study.yaml", reason=f"cannot be read: {error}"))
    else:
        if isinstance(study, dict):
            return study
        problems.append(Problem(file="study.yaml", reason="should hold a mapping"))
    return {}


def _read_rows(folder: Path, files: Iterable[Path], problems: list[Problem]) -> Iterable[ResultRow]:
    """Return the last row of each design; rows that cannot be read are named by file and line."""
    from pydantic import ValidationError

    adapter = _adapter(ResultRow)
    rows: dict[str, ResultRow] = {}
    for path in files:
        name = path.relative_to(folder).as_posix()
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            problems.append(Problem(file=name, reason=f"cannot be read: {error}"))
            continue
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = adapter.validate_json(line)
            except ValidationError as error:
                fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
                reason = fault["msg"] + (f" ({_dotted(fault['loc'])})" if fault["loc"] else "")
                problems.append(Problem(file=name, where=f"line {number}", reason=reason))
                continue
            rows[row.design] = row
    return rows.values()
