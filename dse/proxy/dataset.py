"""Rows of measured operators in the tidy schema: read, checked, completed, written. Units are converted here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chiplib.validation import did_you_mean
from dse.errors import DseError
from dse.proxy.columns import (
    COLUMNS,
    COMPUTE_DTYPES,
    DEFAULTS,
    DTYPES,
    NAMES,
    NUMBERS,
    OPERATORS,
    REQUIRED,
    SHAPES,
    TEXTS,
    UNITS,
    VECTOR_OPERATORS,
    WORK,
)
from dse.proxy.devices import MATRIX_PEAKS, check_devices, matrix_peaks, read_devices
from dse.proxy.tables import Problem, as_numbers, check_columns, problem_of, read_table, refuse, write_table
from dse.proxy.work import compute_dtypes, work_of_rows

__all__ = [
    "beats_physics",
    "check_devices",
    "check_rows",
    "load_public",
    "read_devices",
    "read_rows",
    "row_problems",
    "tidy",
    "without",
    "work_of_rows",
    "write_rows",
]

DEVICE_TABLE = "devices.csv"
ROW_TABLE = "tidy.parquet"
WINOGRAD = 0.45
"""Least time of a product over FLOPs / peak: Winograd's F(4x4, 3x3) saves 2.25x in practice (arXiv:1509.09308)."""


def read_rows(
    source: str | Path | pd.DataFrame, *, devices: pd.DataFrame | None = None, measured: bool = True
) -> pd.DataFrame:
    """Read rows from a parquet or CSV file, a folder of them, or a frame; check and complete them.

    Texts are categories, numbers float32, in the order of COLUMNS; columns that are not given are not there, apart
    from shapes (NaN), compute_dtype, flops, bytes and weight_bytes, which follow from the rest where they are missing.
    Latency, power and memory may come in the units of UNITS. `measured=False` reads rows to predict: they need no
    latency, and may repeat. With a device table, every device must be in it.

    Raises DseError that names file, rows, column and value for what is wrong; see `row_problems`.
    """
    if isinstance(source, pd.DataFrame):
        rows = tidy(source, "operators", measured=measured)
        check_rows(rows, "operators", devices=devices, measured=measured)
        return rows
    path = Path(source)
    if not path.is_dir():
        rows = tidy(read_table(path, texts=TEXTS, numbers=NUMBERS), str(path), measured=measured)
        check_rows(rows, str(path), devices=devices, measured=measured)
        return rows
    files = [file for file in sorted(path.iterdir()) if file.suffix in (".csv", ".parquet")]
    files = [file for file in files if file.name != DEVICE_TABLE]
    if not files:
        raise DseError(f"{path}: no tables in this folder", "put files that end in .parquet or .csv there")
    parts = [read_rows(file, devices=devices, measured=measured) for file in files]
    rows = stacked(parts)
    if measured and len(again := repeated(rows)):
        starts = np.cumsum([0, *(len(part) for part in parts)])
        part = int(np.searchsorted(starts, again[0], side="right")) - 1
        inside = again[again < starts[part + 1]] - starts[part]
        problem = Problem(
            reason="the same measurement is in another file of the folder",
            column="latency_ms",
            value=float(rows["latency_ms"].iloc[int(again[0])]),
            rows=inside,
            hint="keep one of the two",
        )
        refuse(str(files[part]), [problem])
    return rows


def tidy(frame: pd.DataFrame, where: str, *, measured: bool = True) -> pd.DataFrame:
    """Bring a table into the form that `read_rows` returns, unchecked but for its columns, units and numbers.

    Raises DseError for an unknown, missing or doubled column, an unknown unit, and text where a number belongs.
    """
    frame, problems = _in_base_units(frame.reset_index(drop=True), where, measured=measured)
    required = (*REQUIRED, "latency_ms") if measured else REQUIRED
    check_columns(where, frame.columns, COLUMNS, required)
    if frame.empty:
        raise DseError(f"{where}: no rows", "a header and at least one row")
    columns: dict[str, Any] = {}
    for name, column in COLUMNS.items():
        if name not in frame:
            continue
        if column.kind in ("name", "label"):
            columns[name] = _categories(frame[name])
        elif column.kind == "flag":
            if frame[name].dtype == np.bool_:
                columns[name] = frame[name]
            else:
                columns[name], bad = _flags(frame[name])
                problems += problem_of(frame[name], bad, "neither true nor false", "true or false")
        elif column.kind != "id" and frame[name].dtype == np.float32:
            columns[name] = frame[name]
        else:
            numbers, bad = as_numbers(frame[name])
            hint = f"a number in {column.unit}" if column.unit else "a number"
            problems += problem_of(frame[name], bad, "not a number", hint)
            with np.errstate(over="ignore"):
                columns[name] = numbers if column.kind == "id" else numbers.astype(np.float32)
    refuse(where, problems)
    return _completed(columns)


def _in_base_units(frame: pd.DataFrame, where: str, *, measured: bool) -> tuple[pd.DataFrame, list[Problem]]:
    """Convert columns such as latency_us, and `latency` with a column `unit`.

    Returns the frame in base units, and what is wrong with the values of these columns, which later checks would name
    by the base unit's column.
    """
    problems: list[Problem] = []
    if "unit" in frame:
        frame = _unit_in_name(frame, where)
    for quantity, (target, factors) in UNITS.items():
        names = ", ".join(f"{quantity}_{known}" for known in factors)
        for given in [str(name) for name in frame.columns]:
            stem, _, unit = given.partition("_")
            if stem != quantity or given in COLUMNS:
                continue
            if unit not in factors:
                what = f"unknown unit {unit!r} of column {given!r}" if unit else f"column {given!r} has no unit"
                raise DseError(f"{where}: {what}", f"one of {names}")
            if target in frame:
                raise DseError(f"{where}: both {target} and {given} are given", "keep one of them")
            numbers, bad = as_numbers(frame[given])
            problems += problem_of(frame[given], bad, "not a number", f"a number in {unit}")
            numbers[bad] = 1.0
            values = pd.Series(numbers, name=given)
            problems += _wrong_measures(values, unit, required=measured and quantity == "latency")
            frame = frame.drop(columns=given).assign(**{target: numbers * factors[unit]})
    return frame, problems


def _unit_in_name(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """Turn `latency` with a column `unit` into latency_ms, latency_us, ...: the rows of a table share one unit."""
    factors = UNITS["latency"][1]
    units = frame["unit"].astype(object)
    known = f"one of {', '.join(factors)}"
    refuse(where, problem_of(units, np.flatnonzero(~units.isin(list(factors)).to_numpy()), "unknown unit", known))
    first = str(units.iloc[0]) if len(units) else "ms"
    other = np.flatnonzero((units != first).to_numpy())
    refuse(where, problem_of(units, other, f"another unit than row 1 has ({first})", "one unit a table"))
    frame = frame.drop(columns="unit")
    if "latency" in frame:
        return frame.rename(columns={"latency": f"latency_{first}"})
    given = [str(name) for name in frame.columns if str(name).startswith("latency_")]
    if given and given != [f"latency_{first}"]:
        raise DseError(f"{where}: column 'unit' says {first!r}, column {given[0]!r} another", "leave out column 'unit'")
    return frame


def _categories(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return text as categories, those in use only."""
    if not isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype("category")
    used = np.bincount(column.cat.codes.to_numpy() + 1, minlength=len(column.cat.categories) + 1)[1:] > 0
    if not used.all():  # remove_unused_categories sorts all codes to find this
        column = column.cat.set_categories(column.cat.categories[used])
    return column.cat.rename_categories([str(name) for name in column.cat.categories])


def _flags(column: pd.Series[Any]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return true or false [N], and the positions of values that are neither."""
    values = column.astype(object).map(lambda value: str(value).strip().lower())
    true = values.isin(["true", "1", "1.0"]).to_numpy()
    return true, np.flatnonzero(~true & ~values.isin(["false", "0", "0.0"]).to_numpy())


def _completed(columns: dict[str, Any]) -> pd.DataFrame:
    """Fill what follows from the rest: shapes that an operator may leave out, what it computes in, and its work."""
    frame = pd.DataFrame(columns)
    length = len(frame)
    missing = {name: np.full(length, np.nan, np.float32) for name in (*SHAPES, *WORK) if name not in frame}
    frame = pd.concat([frame, pd.DataFrame(missing)], axis=1) if missing else frame
    for op_type, defaults in DEFAULTS.items():
        of_type = (frame["op_type"] == op_type).to_numpy()
        for name, value in defaults.items():
            absent = of_type & frame[name].isna().to_numpy()
            if absent.any():
                frame[name] = np.where(absent, np.float32(value), frame[name])
    if "compute_dtype" not in frame:
        frame["compute_dtype"] = pd.Categorical(compute_dtypes(frame["op_type"], frame["dtype"]))
    unknown = frame[list(WORK)].isna().to_numpy().any(axis=1)
    if unknown.any():
        work = work_of_rows(frame.iloc[np.flatnonzero(unknown)])
        for name in WORK:
            values = frame[name].to_numpy(copy=True)
            values[unknown] = np.where(np.isnan(values[unknown]), work[name].astype(np.float32), values[unknown])
            frame[name] = values
    return frame[[name for name in COLUMNS if name in frame]]


def check_rows(
    frame: pd.DataFrame, where: str = "operators", *, devices: pd.DataFrame | None = None, measured: bool = True
) -> None:
    """Raise DseError that names `where`, rows, column, value and remedy of everything `row_problems` finds."""
    refuse(where, row_problems(frame, devices=devices, measured=measured))


def row_problems(frame: pd.DataFrame, *, devices: pd.DataFrame | None = None, measured: bool = True) -> list[Problem]:
    """Find all that is wrong with rows in the form of `tidy`.

    That is: a missing or unknown name, type or device; a shape that is missing, not whole or out of range; latency,
    power, energy or memory that is zero, negative or infinite, latency that is missing; work that is missing and that
    no rule gives; and a measurement that is there twice. The same operator measured again, with another latency or
    power, is a repeat and welcome.
    """
    problems: list[Problem] = []
    for name in NAMES:
        problems += problem_of(frame[name], np.flatnonzero(frame[name].isna()), "missing", COLUMNS[name].meaning)
    problems += _unknown_names(frame, "op_type", OPERATORS)
    problems += _unknown_names(frame, "dtype", DTYPES) or _unknown_names(frame, "compute_dtype", COMPUTE_DTYPES)
    if devices is not None:
        problems += _unknown_names(frame, "device", devices.index, "is not in the device table")
        if measured:
            problems += _without_peak(frame, devices)
    problems += _wrong_shapes(frame)
    for name in ("latency_ms", "power_w", "energy_mj", "mem_mb", "footprint_mb"):
        if name in frame and (measured or name != "latency_ms"):
            problems += _wrong_measures(frame[name], COLUMNS[name].unit, required=name == "latency_ms")
    bad = _mask(len(frame), problems)
    problems += _wrong_work(frame, bad)
    if measured:
        again = repeated(frame)
        again = again[~bad[again]]
        problems += problem_of(
            frame["latency_ms"], again, "the same measurement is there already", "remove the copies", "latency_ms"
        )
    return problems


def _unknown_names(
    frame: pd.DataFrame, column: str, known: Sequence[str] | dict[str, Any] | pd.Index[Any], reason: str = "unknown"
) -> list[Problem]:
    """A problem for each unknown name, with the nearest known one."""
    categories = list(frame[column].cat.categories)
    codes = frame[column].cat.codes.to_numpy()
    problems: list[Problem] = []
    for code, name in enumerate(categories):
        if name not in known:
            problems += problem_of(
                frame[column], np.flatnonzero(codes == code), reason, did_you_mean(name, list(known))
            )
    return problems


def _without_peak(frame: pd.DataFrame, devices: pd.DataFrame) -> list[Problem]:
    """Products of a type for which the device table has no peak, so that nothing says how fast they could be."""
    compute = frame["compute_dtype"].cat
    peak = matrix_peaks(devices, list(compute.categories))
    known = np.vstack([~np.isnan(peak), np.ones(peak.shape[1], np.bool_)])  # a device that is not there is told already
    device = devices.index.get_indexer(frame["device"].cat.categories)[frame["device"].cat.codes]
    lacking = ~known[device, compute.codes] & ~frame["op_type"].isin(VECTOR_OPERATORS).to_numpy()
    problems: list[Problem] = []
    for code in np.unique(compute.codes[lacking]):
        name = compute.categories[code]
        rows = np.flatnonzero(lacking & (compute.codes == code))
        columns = ", ".join(MATRIX_PEAKS.get(name, ())) or "none holds it"
        on = frame["device"].iloc[int(rows[0])]
        hint = f"give it in the device table: {columns}"
        problems += problem_of(frame["compute_dtype"], rows, f"the device table has no peak of {on} for it", hint)
    return problems


def _wrong_shapes(frame: pd.DataFrame) -> list[Problem]:
    problems: list[Problem] = []
    for name in SHAPES:
        values, column = frame[name].to_numpy(), COLUMNS[name]
        if np.isnan(values).all():
            continue
        whole = "whole" if column.step == 1 else f"a multiple of {column.step:g}"
        hint = f"{whole}, at least {column.least:g}: {column.meaning}"
        with np.errstate(invalid="ignore"):
            outside = (values < column.least) | np.isinf(values)
            broken = ~outside & (values % column.step != 0) & ~np.isnan(values)
        problems += problem_of(frame[name], np.flatnonzero(outside), f"not a finite number from {column.least:g}", hint)
        problems += problem_of(frame[name], np.flatnonzero(broken), f"not {whole}", hint)
    types = frame["op_type"].cat.codes.to_numpy()
    for code, op_type in enumerate(frame["op_type"].cat.categories):
        of_type = types == code
        for name in OPERATORS.get(op_type, ()):
            rows = np.flatnonzero(of_type & np.isnan(frame[name].to_numpy()))
            needs = ", ".join(OPERATORS[op_type])
            problems += problem_of(frame[name], rows, f"missing, which {op_type} needs", f"{op_type} needs {needs}")
    return problems


def _wrong_measures(column: pd.Series[Any], unit: str, *, required: bool) -> list[Problem]:
    values, hint = column.to_numpy(), f"a positive, finite number of {unit}"
    problems: list[Problem] = []
    if required:
        problems += problem_of(column, np.flatnonzero(np.isnan(values)), "missing", hint)
    problems += problem_of(column, np.flatnonzero(values == 0), "zero", hint)
    problems += problem_of(column, np.flatnonzero(values < 0), "negative", hint)
    return problems + problem_of(column, np.flatnonzero(values == np.inf), "infinite", hint)


def _wrong_work(frame: pd.DataFrame, bad: NDArray[np.bool_]) -> list[Problem]:
    """Work that is missing, of rows that are otherwise right, or out of range."""
    problems: list[Problem] = []
    for name in WORK:
        values, least = frame[name].to_numpy(), COLUMNS[name].least
        hint = f"give a column {name} in {COLUMNS[name].unit}: {COLUMNS[name].meaning}"
        rows = np.flatnonzero(np.isnan(values) & ~bad)
        problems += problem_of(frame[name], rows, "missing, and no rule gives it for this op_type and op_name", hint)
        outside = np.flatnonzero(((values < 0) | ((values == 0) & (least > 0)) | np.isinf(values)) & ~bad)
        problems += problem_of(frame[name], outside, "not positive and finite", hint)
    return problems


def _mask(length: int, problems: Sequence[Problem]) -> NDArray[np.bool_]:
    bad = np.zeros(length, np.bool_)
    for problem in problems:
        bad[problem.rows] = True
    return bad


def repeated(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Return positions of rows that say what an earlier row says: all but row_id is the same.

    Rows are compared by a 64-bit hash first, then those that share one as they are.
    """
    names = [name for name in frame.columns if COLUMNS[name].kind != "id"]
    mixed = np.zeros(len(frame), np.uint64)
    with np.errstate(over="ignore"):
        for name in names:
            values = frame[name]
            if isinstance(values.dtype, pd.CategoricalDtype):
                bits = values.cat.codes.to_numpy().astype(np.int64).view(np.uint64)
            elif values.dtype == np.float32:
                bits = values.to_numpy().view(np.uint32).astype(np.uint64)
            else:
                bits = values.to_numpy().astype(np.uint64)
            mixed = (mixed ^ bits) * np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: 2^64 / golden ratio
            mixed ^= mixed >> np.uint64(29)
    alike = np.flatnonzero(pd.Series(mixed).duplicated(keep=False))
    again: NDArray[np.int64] = alike[frame.iloc[alike][names].duplicated().to_numpy()]
    return again


def without(frame: pd.DataFrame, problems: Sequence[Problem]) -> pd.DataFrame:
    """Return the rows that no problem names."""
    return frame[~_mask(len(frame), problems)].reset_index(drop=True)


def stacked(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return tables in the form of `tidy` below one another.

    A text or number that only some have is empty in the others; a flag or row_id that only some have is left out.
    """
    columns: dict[str, Any] = {}
    for name, column in COLUMNS.items():
        given = [name in frame for frame in frames]
        if column.kind in ("name", "label") and any(given):
            texts = [frame[name] if name in frame else _categories(pd.Series([None] * len(frame))) for frame in frames]
            together = sorted({text for part in texts for text in part.cat.categories})
            codes = [part.cat.set_categories(together).cat.codes.to_numpy() for part in texts]
            columns[name] = pd.Categorical.from_codes(np.concatenate(codes), pd.Index(together, dtype="str"))
        elif name in NUMBERS and any(given):
            empty = np.float32(np.nan)
            numbers = [frame[name].to_numpy() if name in frame else np.full(len(frame), empty) for frame in frames]
            columns[name] = np.concatenate(numbers)
        elif all(given):
            columns[name] = np.concatenate([frame[name].to_numpy() for frame in frames])
    return pd.DataFrame(columns)


def beats_physics(rows: pd.DataFrame, devices: pd.DataFrame) -> NDArray[np.bool_]:
    """Find rows [N] faster than their device can be: less than 0.45 FLOPs / peak, or bytes / bandwidth beyond its L2.

    Such rows are kept: the clock may have been boosted, or data shared between repeats may have stayed in a cache.
    A peak or cache size that the device table lacks is not judged by.
    """
    time_s = rows["latency_ms"].to_numpy(dtype=np.float64) * 1e-3
    device = devices.index.get_indexer(rows["device"].cat.categories)[rows["device"].cat.codes]
    compute = rows["compute_dtype"].cat
    peak = matrix_peaks(devices, list(compute.categories))[device, compute.codes]
    bandwidth = devices["peak_bw_gbs"].to_numpy(dtype=np.float64)[device] * 1e9
    cache = devices["l2_mb"].to_numpy(dtype=np.float64)[device] * 1e6
    moved = rows["bytes"].to_numpy(dtype=np.float64)
    with np.errstate(invalid="ignore"):
        too_fast: NDArray[np.bool_] = (time_s < WINOGRAD * rows["flops"].to_numpy(dtype=np.float64) / peak) | (
            (moved > cache) & (time_s < moved / bandwidth)
        )
    return too_fast


def write_rows(frame: pd.DataFrame, path: str | Path) -> None:
    """Write checked rows as compact parquet, whole or not at all. Raises DseError where it cannot be written."""
    write_table(frame, Path(path))


def load_public(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read tidy.parquet and devices.csv of a folder; measurements that are there twice are kept once.

    Returns the rows [N], completed and checked as `read_rows` does, and the devices.
    """
    path = Path(folder) / ROW_TABLE
    devices = read_devices(Path(folder) / DEVICE_TABLE)
    rows = tidy(read_table(path, texts=TEXTS, numbers=NUMBERS), str(path))
    again = repeated(rows)
    rows = rows.drop(index=rows.index[again]).reset_index(drop=True)
    check_rows(rows, str(path), devices=devices)
    return rows, devices
