"""The device table: a row of datasheet numbers for each device that operators were measured on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dse.proxy.tables import Problem, as_numbers, check_columns, problem_of, read_table, refuse

PEAKS = {
    "peak_fp32_tflops": "TFLOP/s",
    "peak_fp32_matrix_tflops": "TFLOP/s",
    "peak_fp16_vector_tflops": "TFLOP/s",
    "peak_fp16_tensor_tflops": "TFLOP/s",
    "peak_fp8_tflops": "TFLOP/s",
    "peak_int8_tops": "TOP/s",
    "peak_fp4_tflops": "TFLOP/s",
}
"""Dense peaks and their units; of them a device has one at least."""

DEVICE_NUMBERS = PEAKS | {
    "peak_bw_gbs": "GB/s",
    "mem_gb": "GB",
    "tdp_w": "W",
    "idle_w": "W",
    "die_mm2": "mm2",
    "process_nm": "nm",
    "sm": "SMs or CUs",
    "l2_mb": "MB",
    "boost_mhz": "MHz",
    "transistors_m": "millions",
}
"""Columns of numbers and their units; empty where not known, apart from the bandwidth."""

DEVICE_TEXTS = ("device", "vendor", "kind", "family", "chip", "release", "src_base", "src_tensor", "note")
DEVICE_REQUIRED = ("device", "vendor", "family", "peak_bw_gbs")

MATRIX_PEAKS: dict[str, tuple[str, ...]] = {
    "fp32": ("peak_fp32_matrix_tflops", "peak_fp32_tflops"),
    "tf32": ("peak_fp16_tensor_tflops",),  # at most: no column holds the tf32 peak, which is half of it
    "fp16": ("peak_fp16_tensor_tflops", "peak_fp16_vector_tflops", "peak_fp32_tflops"),
    "bf16": ("peak_fp16_tensor_tflops", "peak_fp16_vector_tflops", "peak_fp32_tflops"),
    "fp8": ("peak_fp8_tflops",),
    "int8": ("peak_int8_tops",),
    "nvfp4": ("peak_fp4_tflops",),
}
"""What an operator computes in -> peaks that bound it; the largest that is known holds."""


def read_devices(source: str | Path | pd.DataFrame) -> pd.DataFrame:
    """Read and check a device table (parquet, CSV or a frame); returns it indexed by device, numbers as float64.

    Raises DseError as `check_devices` does, and where a file cannot be read.
    """
    if isinstance(source, pd.DataFrame):
        frame = source.reset_index() if source.index.name == "device" else source.reset_index(drop=True)
        where = "device table"
    else:
        frame, where = read_table(Path(source)), str(source)
    check_columns(where, frame.columns, [*DEVICE_TEXTS, *DEVICE_NUMBERS], DEVICE_REQUIRED)
    columns: dict[str, object] = {name: pd.Series([None] * len(frame), dtype=object) for name in DEVICE_TEXTS}
    problems = []
    for name in frame.columns:
        if name in DEVICE_NUMBERS:
            columns[name], bad = as_numbers(frame[name])
            problems += problem_of(frame[name], bad, "not a number", f"a number in {DEVICE_NUMBERS[name]}, or nothing")
        else:
            text = frame[name].astype(object)
            columns[name] = text.map(str, na_action="ignore").astype(object).where(text.notna(), None)
    refuse(where, problems)
    tidy = pd.DataFrame({name: columns.get(name, np.nan) for name in [*DEVICE_TEXTS, *DEVICE_NUMBERS]})
    check_devices(tidy.set_index("device"), where)
    return tidy.set_index("device")


def check_devices(devices: pd.DataFrame, where: str = "device table") -> None:
    """Raise DseError, naming rows, where a device is unnamed or there twice, its bandwidth or all peaks are missing.

    So it does for a number that is not positive and finite.
    """
    frame = devices.reset_index()
    problems = []
    for name in ("device", "vendor", "family"):
        problems += problem_of(frame[name], np.flatnonzero(frame[name].isna()), "missing", "a name")
    again = np.flatnonzero(frame["device"].duplicated() & frame["device"].notna())
    problems += problem_of(frame["device"], again, "this device is there already", "one row a device")
    for name, unit in DEVICE_NUMBERS.items():
        values = frame[name].to_numpy(dtype=np.float64)
        wrong = np.flatnonzero((values <= 0) | np.isinf(values))
        problems += problem_of(
            frame[name], wrong, "not positive and finite", f"a positive number in {unit}, or nothing"
        )
    no_bandwidth = np.flatnonzero(frame["peak_bw_gbs"].isna())
    problems += problem_of(frame["peak_bw_gbs"], no_bandwidth, "missing", "the DRAM bandwidth in GB/s")
    no_peak = np.flatnonzero(frame[list(PEAKS)].isna().all(axis=1))
    problems += problem_of(frame["device"], no_peak, "has no peak at all", f"at least one of {', '.join(PEAKS)}")
    if frame.empty:
        problems.append(
            Problem(reason="no rows", column="device", value=None, rows=np.empty(0, np.int64), hint="one row a device")
        )
    refuse(where, problems)


def matrix_peaks(devices: pd.DataFrame, compute: Sequence[str]) -> NDArray[np.float64]:
    """Return the highest peak [devices, types] in FLOP/s of what operators compute in; NaN where unknown."""
    peaks = np.full((len(devices), len(compute)), np.nan)
    for column, name in enumerate(compute):
        for source in MATRIX_PEAKS.get(name, ()):
            peaks[:, column] = np.fmax(peaks[:, column], devices[source].to_numpy(dtype=np.float64) * 1e12)
    return peaks
