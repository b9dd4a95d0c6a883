"""read_instances: paths in, problems out; the format is told from the content."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

from solvers.errors import SolverError
from solvers.formats.best_known import best_known_of
from solvers.formats.instance import Instance, InstanceFormat, Reading, Source
from solvers.registry import discover

ANYWHERE = ("contiguous",)  # what every format heeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What some paths hold."""

    instances: tuple[Instance, ...]
    others: tuple[Path, ...]  # files in folders that are no instances of any format


@cache
def instance_formats() -> Mapping[str, type[InstanceFormat]]:
    """Every format by name: those in this folder, then those of the entry points `chipfront.solvers`."""
    return discover(InstanceFormat, "solvers.formats")  # type: ignore[type-abstract]


def read_instance(
    path: str | Path, reading: Reading | None = None, *, format: str | None = None, best_known: Path | None = None
) -> Instance:
    """Return the instance in a file.

    `reading` says what the file leaves open; `format` names the format where the content does not tell, and
    `best_known` a CSV of published objectives (without it, a best_known.csv beside or above the file is taken).

    Raises SolverError for a file of no known format, for what is wrong in it, and for fields of `reading` that its
    format does not heed.
    """
    found = read_instances([path], reading, format=format, best_known=best_known)
    if len(found.instances) != 1:
        raise SolverError(f"{path} is a folder of {len(found.instances)} instances", "read_instances reads folders")
    return found.instances[0]


def read_instances(
    paths: Iterable[str | Path],
    reading: Reading | None = None,
    *,
    format: str | None = None,
    best_known: Path | None = None,
) -> Found:
    """Return the instances in files and folders, in order; a folder gives all of its files that some format recognises.

    Raises SolverError as `read_instance` does; a field of `reading` has to be heeded by one of the formats met. A
    folder without any instance is an error.
    """
    reading = reading or Reading()
    chosen = None if format is None else _named(format)
    instances: list[Instance] = []
    others: list[Path] = []
    heeded = set(ANYWHERE)
    for given in map(Path, paths):
        files = sorted(path for path in given.rglob("*") if path.is_file()) if given.is_dir() else [given]
        count = len(instances)
        for path in files:
            kind, source = chosen, None
            if kind is None:
                try:
                    source = Source.of(path)
                    kind = _recognised(source)
                except SolverError:
                    if path == given:
                        raise
                if kind is None:
                    others.append(path)
                    continue
            read = kind().read(source or Source.of(path), reading)
            heeded |= set(kind.takes)
            instances.append(replace(read, path=path, best_known=best_known_of(path, best_known)))
        if len(instances) == count:
            raise SolverError(f"{given}: none of its {len(files)} files is an instance", _layouts())
    _check_heeded(reading, heeded, instances)
    return Found(instances=tuple(instances), others=tuple(others))


def _named(name: str) -> type[InstanceFormat]:
    formats = instance_formats()
    if name not in formats:
        near = difflib.get_close_matches(name, formats, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(formats)}"
        raise SolverError(f"no instance format is called {name!r}", hint)
    return formats[name]


def _recognised(source: Source) -> type[InstanceFormat]:
    """Return the format that recognises a file. Raises SolverError where none does."""
    for kind in instance_formats().values():
        if kind().recognises(source):
            return kind
    if where := source.json_error():
        raise SolverError(f"{source.path}: is no JSON: {where}", "a whole JSON document")
    told = f": it holds {len(source.numbers)} numbers" if source.numbers else ""
    raise SolverError(f"{source.path}: is of no known instance format{told}", _layouts())


def _layouts() -> str:
    return "; ".join(f"{name}: {kind.layout}" for name, kind in instance_formats().items())


def _check_heeded(reading: Reading, heeded: set[str], instances: Iterable[Instance]) -> None:
    for field in fields(reading):
        value = getattr(reading, field.name)
        if value is not None and field.name not in heeded:
            takers = [name for name, kind in instance_formats().items() if field.name in kind.takes]
            read = ", ".join(sorted({instance.format for instance in instances}))
            raise SolverError(
                f"{field.name} {value!r} means nothing to instances of format {read}",
                f"it is for {', '.join(takers)}",
            )
