"""Two million rows of measured operators, read from parquet and checked."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from dse.proxy.dataset import read_rows, write_rows
from tests.benchmarks.figure import Figure

ROWS = 2_000_000


def measure() -> list[Figure]:
    """CPU seconds of reading and checking products and softmaxes of random sizes."""
    rng = np.random.default_rng(0)
    product = rng.random(ROWS) < 0.7
    frame = pd.DataFrame({name: rng.integers(1, 8192, ROWS).astype(float) for name in ("m", "n", "k", "rows", "cols")})
    frame.loc[~product, ["m", "n", "k"]] = np.nan
    frame.loc[product, ["rows", "cols"]] = np.nan
    frame = frame.assign(source="bench", framework="bench", timer="bench", device="bench", dtype="fp16")
    frame["op_type"] = np.where(product, "matmul", "softmax")
    frame["op_name"] = np.where(product, "linear", "softmax")
    frame["latency_ms"] = rng.random(ROWS) + 0.01
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        write_rows(read_rows(frame), path)
        started = time.process_time()
        read_rows(path)
        cpu_s = time.process_time() - started
    return [
        Figure(
            figure="operator rows, read and checked",
            goal=10.0,
            measured=cpu_s,
            unit="CPU s",
            higher_is_better=False,
            note=f"{ROWS:,} rows of parquet",
        )
    ]
