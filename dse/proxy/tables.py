"""Reading tables for people: what is wrong in which rows, files that cannot be read, numbers that are none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chiplib.validation import did_you_mean
from dse.errors import DseError
from dse.store import prepare_file, write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN_ROWS = 10
MISSING = ("", "NaN", "nan", "NA", "N/A", "null", "None")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong in a column of some rows, and what would be right."""

    reason: str  # short: the same for every row that it is wrong with
    column: str
    value: object  # of the first such row
    rows: NDArray[np.int64]  # positions, from 0
    hint: str

    def __str__(self) -> str:
        value = "" if self.value is None else f" = {self.value!r}"
        return f"{row_numbers(self.rows)}: {self.column}{value}: {self.reason}"


def problem_of(
    column: pd.Series[Any], rows: NDArray[np.int64], reason: str, hint: str, name: str | None = None
) -> list[Problem]:
    """Return the problem of a column in some rows, with the value of the first; nothing where there are no rows."""
    if not len(rows):
        return []
    value = column.iloc[int(rows[0])]
    if pd.isna(value):
        value = None
    elif isinstance(value, np.floating):
        value = float(str(value))  # 0.1 of a float32, not 0.10000000149
    elif isinstance(value, np.generic):
        value = value.item()
    return [Problem(reason=reason, column=name or str(column.name), value=value, rows=rows, hint=hint)]


def row_numbers(rows: NDArray[np.int64]) -> str:
    """Name rows as their reader counts them: the first below the header is 1; ten of them, and how many there are."""
    shown = ", ".join(str(row + 1) for row in rows[:SHOWN_ROWS])
    if len(rows) == 1:
        return f"row {shown}"
    return f"rows {shown}" + (f", ... ({len(rows):,} rows)" if len(rows) > SHOWN_ROWS else "")


def refuse(where: str, problems: Sequence[Problem]) -> None:
    """Raise DseError with every problem, if there is any."""
    if len(problems) == 1:
        raise DseError(f"{where}: {problems[0]}", problems[0].hint)
    if problems:
        lines = [f"  {problem} ({problem.hint})" for problem in problems]
        raise DseError("\n".join([f"{where}: {len(problems)} things are wrong", *lines]), "mend or remove these rows")


def check_columns(where: str, columns: Iterable[object], known: Iterable[str], required: Iterable[str]) -> None:
    """Raise DseError for a column that is unknown, missing or there twice."""
    given, known = [str(name) for name in columns], list(known)
    if twice := sorted({name for name in given if given.count(name) > 1}):
        raise DseError(f"{where}: column {twice[0]!r} is there twice", "keep one of them")
    missing = [name for name in required if name not in given]
    for name in given:
        if name not in known:
            hint = did_you_mean(name, missing) if missing else ""
            raise DseError(
                f"{where}: unknown column {name!r}", hint if hint.startswith("did") else did_you_mean(name, known)
            )
    if missing:
        raise DseError(
            f"{where}: missing column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            f"the file has {', '.join(given) or 'none'}",
        )


def as_numbers(column: pd.Series[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return a column as float64 [N], and the positions of values that are no number; missing values become NaN."""
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_complex_dtype(column.dtype):
        return np.array(column.to_numpy(dtype=np.float64, na_value=np.nan)), np.empty(0, np.int64)
    text = column.astype(object)
    numbers = np.array(pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan))
    return numbers, np.flatnonzero(np.isnan(numbers) & text.notna().to_numpy() & ~text.isin(MISSING).to_numpy())


def read_table(path: Path, *, texts: Sequence[str] = (), numbers: Sequence[str] = ()) -> pd.DataFrame:
    """Read a parquet or CSV file; `texts` become categories, `numbers` float64 where they all are numbers.

    Raises DseError where the file is missing, is neither, or cannot be read.
    """
    if not path.is_file():
        known = [other.name for other in path.parent.glob("*") if other.suffix in (".csv", ".parquet")]
        hint = did_you_mean(path.name, known) if path.parent.is_dir() else f"there is no folder {path.parent}"
        raise DseError(f"{path}: no such file", hint)
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix == ".csv":
            return _read_csv(path, texts, numbers)
    except (OSError, ValueError) as reason:  # ArrowInvalid is a ValueError
        raise DseError(f"{path}: cannot be read: {str(reason).strip()}", f"a whole {path.suffix[1:]} file") from None
    raise DseError(f"{path}: not a table that is read here", "a file that ends in .parquet or .csv")


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write compact parquet (zstd), whole or not at all. Raises DseError where it cannot be written."""
    prepare_file(path)
    write_atomically(path, frame.to_parquet(None, compression="zstd", index=False))


def _read_csv(path: Path, texts: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    import pyarrow as pa

    category = pa.dictionary(pa.int32(), pa.string())
    types = dict.fromkeys(texts, category)
    try:
        table = _parse_csv(path, types | {name: pa.float64() for name in numbers})
    except pa.ArrowInvalid:  # a number that is none: read as text, so that its row can be named
        table = _parse_csv(path, types | {name: pa.string() for name in numbers})
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _parse_csv(path: Path, types: dict[str, pa.DataType]) -> pa.Table:
    from pyarrow import csv

    options = csv.ConvertOptions(column_types=types, null_values=list(MISSING), strings_can_be_null=True)
    return csv.read_csv(path, convert_options=options, read_options=csv.ReadOptions(block_size=1 << 24))
