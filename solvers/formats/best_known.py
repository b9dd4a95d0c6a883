"""Best known objectives of published instances, from a CSV that a collection brings along."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path, PurePosixPath

from solvers.errors import SolverError

NAME = "best_known.csv"
FOLDERS_UP = 4  # from an instance to the folder that may hold it
INSTANCE_COLUMNS = ("instance", "path", "name")
VALUE_COLUMNS = ("best_known", "best known solution value", "best known", "optimum")


@cache
def read_best_known(path: Path) -> dict[str, float]:
    """Return instance -> objective of a CSV with a column `instance` (or path) and a column `best_known`.

    An instance is a path without suffix, relative to any folder; rows without a value are left out. Capitals do not
    matter in column names, and "Best known solution value" is understood as well.

    Raises SolverError where the file cannot be read, lacks one of the columns, or holds a value that is no number.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SolverError(f"{path}: cannot be read: {error}", "a CSV file") from None
    rows = csv.DictReader(text.splitlines())
    columns = {str(name).strip().lower(): name for name in rows.fieldnames or ()}
    key, value = (
        next((columns[name] for name in names if name in columns), None) for names in (INSTANCE_COLUMNS, VALUE_COLUMNS)
    )
    if key is None or value is None:
        raise SolverError(
            f"{path}: its columns are {', '.join(columns) or 'none'}", "columns instance and best_known are needed"
        )
    found: dict[str, float] = {}
    for row in rows:
        if not (row[value] or "").strip():
            continue
        try:
            found[PurePosixPath(row[key].strip()).as_posix()] = float(row[value])
        except ValueError:
            raise SolverError(f"{path}, line {rows.line_num}: {value} is {row[value]!r}", "a number") from None
    return found


def best_known_of(path: Path, table: Path | None = None) -> float | None:
    """Return the best known objective of the instance in a file, None where none is given.

    It is looked up in `table`, or in a best_known.csv of the file's folder or one of those above it. The row is that
    whose path is the longest end of the file's own, suffixes left aside.
    """
    if table is None:
        tables = [folder / NAME for folder in list(path.resolve().parents)[:FOLDERS_UP]]
        table = next((found for found in tables if found.is_file()), None)
        if table is None:
            return None
    known = read_best_known(table)
    parts = path.resolve().parts
    for names in (parts, (*parts[:-1], path.stem)):
        for first in range(len(names)):
            value = known.get("/".join(names[first:]).removeprefix("/"))
            if value is not None:
                return value
    return None
