"""Public sets of measured operators, brought into one checked tidy table; what is refused is counted by its reason."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dse.errors import DseError
from dse.proxy.columns import NUMBERS, TEXTS
from dse.proxy.dataset import beats_physics, row_problems, stacked, tidy, without
from dse.proxy.devices import read_devices
from dse.proxy.tables import Problem, read_table


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicSet:
    """Where measurements are from, and the licence under which they were published."""

    repository: str
    commit: str
    licence: str
    measured: str  # what, and how


PUBLIC_SETS: dict[str, PublicSet] = {
    "aiconfigurator": PublicSet(
        repository="github.com/ai-dynamo/aiconfigurator",
        commit="095f58a51c4ca8e61b66ec108d86f223f8d559ce",
        licence="Apache-2.0",
        measured="serving kernels of vLLM and TensorRT-LLM, mean over replays of a CUDA graph; board power on some",
    ),
    "neusight": PublicSet(
        repository="github.com/sitar-lab/NeuSight",
        commit="6945927d9afcca2b9daf021f8395e53edc5b4eef",
        licence="MIT",
        measured="fp32 PyTorch 2.1 operators, CUDA events, mean of the 5 fastest of 25 runs",
    ),
    "vidur": PublicSet(
        repository="github.com/microsoft/vidur",
        commit="7d47513363ec447a741ac5e47241580b47724fbf",
        licence="MIT",
        measured="fp16 layers of language models in vLLM, median of CUDA events",
    ),
    "llmservingsim": PublicSet(
        repository="github.com/casys-kaist/LLMServingSim",
        commit="5daddb21a545658d5150b535712d0494584b5278",
        licence="MIT",
        measured="layers of Llama 3.1 and Qwen3, kernel time",
    ),
    "cdecatapult": PublicSet(
        repository="github.com/CDECatapult/ml-performance-prediction",
        commit="e649f32d354d8246411b6adafdc65b46811dd111",
        licence="Apache-2.0",
        measured="random fp32 dense and convolution layers in TensorFlow 1, wall clock of session.run",
    ),
    "deepbench": PublicSet(
        repository="github.com/baidu-research/DeepBench",
        commit="da81ba7820739e2e506dc27f382d15be5479f98f",
        licence="Apache-2.0",
        measured="GEMM and convolutions of vendor libraries of 2016 to 2019, mean of events",
    ),
    "llmcompass": PublicSet(
        repository="github.com/PrincetonUniversity/LLMCompass",
        commit="2e015fd2ee750e6cad8d7152df52551e5b41ef20",
        licence="BSD-3-Clause",
        measured="fp16 matmul, softmax, layernorm and GELU on an A100-80GB, wall clock",
    ),
    "rocblas_tensile": PublicSet(
        repository="github.com/ROCm/rocBLAS",
        commit="b520bc83fa67045bed4544f33ba83ce3a7c39c44",
        licence="MIT",
        measured="GEMM rates that the tuner noted; the board is not named and some units are assumed: low quality",
    ),
}
"""Name in the column `source` -> its origin, as its repository states it, for the card of a model fitted on it."""

FOLLOWS = ["energy_mj", "footprint_mb", "l2_resident", "power_ok", "chip_family", "vendor", "row_id"]
"""Columns of the public table that follow from the others and the device table: the one table leaves them out."""

LOW_QUALITY = ("rocblas_tensile",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """One checked table of all sets, and what was left out."""

    rows: pd.DataFrame  # [N] as dse.proxy.dataset.read_rows returns them
    devices: pd.DataFrame
    refused: dict[tuple[str, str], int]  # (source or file, reason) -> rows
    beyond_physics: np.ndarray[tuple[int], np.dtype[np.bool_]]  # [N] rows faster than their device can be, kept

    @property
    def licences(self) -> dict[str, PublicSet]:
        """Return the origin of each source that rows are from; a source of the user's own has none here."""
        return {name: PUBLIC_SETS[name] for name in self.rows["source"].cat.categories if name in PUBLIC_SETS}

    def counts(self, column: str) -> dict[str, int]:
        """Return rows by the values of a column, the most first."""
        return {str(name): int(count) for name, count in self.rows[column].value_counts().items() if count}


def ingest(folder: str | Path | None = None, *, include_low_quality: bool = False) -> Ingested:
    """Read the public sets of a folder, refuse what is wrong row by row, and return the rest as one table.

    The folder holds devices.csv and tidy.parquet; operators that lie beside them in raw form (folders llmcompass,
    and rocblas_tensile where low quality is included) are added, those that the table has already are not. Without
    a folder it is `proxy` in the folder that the environment variable CHIPFRONT_DATA names.

    Raises DseError where the folder or one of its tables is missing or cannot be read.
    """
    folder = _folder(folder)
    devices = read_devices(folder / "devices.csv")
    path = folder / "tidy.parquet"
    rows = tidy(read_table(path, texts=TEXTS, numbers=NUMBERS), str(path)).drop(columns=FOLLOWS, errors="ignore")
    parts, refused = [rows], Counter[tuple[str, str]]()
    for source, read in _RAW.items():
        if (folder / source).is_dir() and (include_low_quality or source not in LOW_QUALITY):
            raw, left_out = read(folder / source)
            fresh = tidy(raw, str(folder / source))
            known = _already(fresh, rows[rows["source"] == source])
            left_out["is in tidy.parquet already"] = int(known.sum())
            refused.update({(source, reason): count for reason, count in left_out.items() if count})
            parts.append(fresh[~known].reset_index(drop=True))
    rows = stacked(parts)
    problems = row_problems(rows, devices=devices)
    refused.update(_by_reason(rows, problems))
    rows = without(rows, problems)
    return Ingested(
        rows=rows, devices=devices, refused=dict(refused.most_common()), beyond_physics=beats_physics(rows, devices)
    )


def _folder(folder: str | Path | None) -> Path:
    if folder is None:
        data = os.environ.get("CHIPFRONT_DATA")
        if not data:
            raise DseError("no folder of public sets is named", "give FOLDER, or set CHIPFRONT_DATA to the data folder")
        folder = Path(data) / "proxy"
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DseError(f"{folder}: no such folder", "name the folder that holds tidy.parquet and devices.csv")
    return folder


def _by_reason(rows: pd.DataFrame, problems: Sequence[Problem]) -> Counter[tuple[str, str]]:
    """Count refused rows by source and reason; a row with several problems counts for its first."""
    counted: Counter[tuple[str, str]] = Counter()
    seen = np.zeros(len(rows), np.bool_)
    sources = rows["source"].astype(object).to_numpy()
    for problem in problems:
        fresh = problem.rows[~seen[problem.rows]]
        seen[fresh] = True
        for source, count in Counter(sources[fresh]).items():
            counted[(str(source), f"{problem.column}: {problem.reason}")] += count
    return counted


SAME = ("device", "op_type", "dtype", "batch", "m", "n", "k", "rows", "cols")


def _already(fresh: pd.DataFrame, known: pd.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which of the fresh rows [N] the known ones hold: same operator and shape, and the same latency to 0.1 %."""
    left = fresh[[*SAME, "latency_ms"]].astype(dict.fromkeys(SAME[:3], object)).reset_index(names="position")
    right = known[[*SAME, "latency_ms"]].astype(dict.fromkeys(SAME[:3], object))
    both = left.merge(right, on=list(SAME), suffixes=("", "_known"))
    close = both[np.isclose(both["latency_ms"], both["latency_ms_known"], rtol=1e-3)]
    return np.isin(np.arange(len(fresh)), close["position"].to_numpy())


def _llmcompass(folder: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """Read matmul, softmax, layernorm and GELU of an A100-80GB in fp16; each is a CSV file without a header.

    The unit of the throughput files is 1e9 elements/s. It is not stated in them, but physics leaves nothing else. With
    it, GELU of 2^29 elements moves 4 B x 390e9 /s = 1.56 TB/s, 77 % of the chip's 2.04 TB/s, as a streaming operator
    does; read as GB/s it would be at 19 % of the bandwidth, read as elements of 4 B each above it. And with it every
    time is a whole (or, as the median of an even count, half) number of 2^-22 s = 238 ns, the step of a Unix time in
    double precision, without a common factor; for bytes all would be even. The plots beside the files say
    "G Elements/s" on that axis. About 45 us of every time are launch and synchronisation.
    """
    parts = [_llmcompass_matmul(folder / "matmul_A100.csv")]
    for name, (op_type, op_name) in {
        "softmax": ("softmax", "softmax"),
        "layernorm": ("layernorm", "ln"),
        "gelu": ("elementwise", "gelu"),
    }.items():
        path = folder / f"{name}_A100.csv"
        if path.is_file():
            table = _headerless(path, 2 if name == "gelu" else 3).astype(np.float64)
            sizes = table.iloc[:, :-1]
            shape = {"rows": 1.0, "cols": sizes[0]} if name == "gelu" else {"rows": sizes[0], "cols": sizes[1]}
            seconds = sizes.prod(axis=1) / (table.iloc[:, -1] * 1e9)
            part = pd.DataFrame(shape | {"latency_ms": seconds * 1e3})
            parts.append(part.assign(op_type=op_type, op_name=op_name))
    rows = pd.concat([part for part in parts if len(part)], ignore_index=True)
    rows = rows.assign(source="llmcompass", framework="llmcompass-ae", timer="unknown", device="A100-SXM4-80GB")
    return rows.assign(dtype="fp16"), {}


def _llmcompass_matmul(path: Path) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame()
    table = _headerless(path, 5)  # m, n, k (the last two are equal in all), "0.1900ms", "101.7124Tflops"
    latency = table[3].str.removesuffix("ms").astype(np.float64)
    sizes = table[[0, 1, 2]].astype(np.float64)
    shape = {"m": sizes[0], "n": sizes[1], "k": sizes[2]}
    return pd.DataFrame(shape | {"latency_ms": latency}).assign(batch=1.0, op_type="matmul", op_name="gemm")


def _headerless(path: Path, columns: int) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, header=None, skipinitialspace=True, dtype=str)
    except (OSError, ValueError) as reason:
        raise DseError(f"{path}: cannot be read: {reason}", "the file as it was published") from None
    if table.shape[1] != columns:
        raise DseError(f"{path}: {table.shape[1]} columns, not {columns}", "the file as it was published")
    return table


TENSILE_DEVICES = {"vega10": "MI25"}
"""Architecture -> the board of the device table that is taken for it; rocBLAS names none. MI25 is the server board."""

TENSILE_DTYPES = {"SB": "fp32", "HB": "fp16", "HHS_BH": "fp16", "HSS_BH": "fp16"}
"""Tensile's type code -> number type of the operands."""


def _rocblas_tensile(folder: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """Read GEMM rates in GFLOP/s; a shape that several solutions or transpositions were tuned for has several rows."""
    table = read_table(folder / "gflops_only.parquet")
    device, dtype = table["dev"].map(TENSILE_DEVICES), table["prec"].map(TENSILE_DTYPES)
    no_device = device.isna()
    no_type = ~no_device & dtype.isna()
    left_out = {
        "architecture without a board in the device table": int(no_device.sum()),
        "number type that is not taken": int(no_type.sum()),
    }
    kept = table[~no_device & ~no_type]
    work = 2.0 * kept["m"] * kept["n"] * kept["k"] * kept["batch"]
    names = {"Ailk": "N", "Alik": "T", "Bljk": "N", "Bjlk": "T"}  # which index runs fastest: BLAS's transpositions
    layout = kept["tA"].map(names) + kept["tB"].map(names)
    rows = kept[["m", "n", "k", "batch"]].assign(
        source="rocblas_tensile", framework="rocblas-tensile", timer="unknown", op_type="matmul",
        op_name="gemm_" + layout, device=device, dtype=dtype, latency_ms=work / (kept["gflops"] * 1e9) * 1e3,
    )  # fmt: skip
    return rows.reset_index(drop=True), left_out


_RAW: dict[str, Callable[[Path], tuple[pd.DataFrame, dict[str, int]]]] = {
    "llmcompass": _llmcompass,
    "rocblas_tensile": _rocblas_tensile,
}
