"""Whole models that others measured on named devices: figures of specifications, and of public benchmarks."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from dse.errors import DseError
from dse.proxy.tables import read_table

Quantity = Literal["latency_ms", "memory_mb"]

TABLE = Path("end_to_end") / "e2e_measured.csv"
"""Public figures, in the folder that CHIPFRONT_DATA names: device, n_chips, model, batch, metric, value, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One figure of a model of the catalogue on a chip of the reference library."""

    chip: str
    model: str
    quantity: Quantity
    value: float  # of all `passes` together
    source: str
    software: str  # that ran it
    precision: str = "fp32"
    batch: int = 1
    passes: int = 1  # forward passes, one after another

    @property
    def compiled(self) -> bool:
        """Whether the software fuses layers, which the proxy predicts one by one."""
        return self.software != EAGER


EAGER = "PyTorch, eager"
SONG_S, OVERLAP = 180.0, 0.25


def _song(segment_s: float) -> int:
    """Number of passes in which demucs separates SONG_S of audio: segments that overlap by a quarter."""
    return math.ceil(SONG_S / (segment_s * (1 - OVERLAP)))


_DEMUCS = "owner's HTDemucs_n document: 180 s of audio, RTX 4090, i9-13900K"
_MOSSFORMER = "owner's MossFormer2 overview: RTX A6000, batch 1, fp32, 4 s of audio"

SPECIFIED = (
    Published(
        chip="rtx_4090",
        model="htdemucs",
        quantity="latency_ms",
        value=7050.0,
        passes=_song(10.0),
        source=_DEMUCS,
        software=EAGER,
    ),
    Published(
        chip="rtx_4090",
        model="htdemucs_n",
        quantity="latency_ms",
        value=4840.0,
        passes=_song(7.8),
        source=_DEMUCS,
        software=EAGER,
    ),
    Published(chip="rtx_4090", model="htdemucs", quantity="memory_mb", value=2100.0, source=_DEMUCS, software=EAGER),
    Published(chip="rtx_4090", model="htdemucs_n", quantity="memory_mb", value=1800.0, source=_DEMUCS, software=EAGER),
    Published(
        chip="rtx_a6000", model="mossformer2", quantity="latency_ms", value=1365.0, source=_MOSSFORMER, software=EAGER
    ),
    Published(
        chip="rtx_a6000",
        model="mossformer2-s",
        quantity="latency_ms",
        value=1120.0,
        source=f"{_MOSSFORMER}: real-time factor 0.28",
        software=EAGER,
    ),
)
"""The specifications' own figures."""

CHIPS = {
    "T4": "t4",
    "V100": "v100_sxm2_16gb",
    "A100 PCIe 40GB": "a100_pcie_40gb",
    "A100 PCIe 80GB": "a100_pcie_80gb",
    "A100 SXM 80GB": "a100_sxm4_80gb",
    "A10": "a10",
    "A30": "a30",
    "L4": "l4",
    "H100 PCIe 80GB": "h100_pcie_80gb",
    "H100 SXM 80GB": "h100_sxm_80gb",
    "RTX 3090": "rtx_3090",
    "RTX 4090": "rtx_4090",
    "Jetson AGX Orin 64GB": "jetson_agx_orin_64gb",
}
"""Device of the table -> chip of the reference library."""

MODELS = {
    "timm resnet18 @224": "resnet18",
    "timm resnet50 @224": "resnet50",
    "timm vit_base_patch16_224 @224": "vit_b_16",
    "MLPerf resnet50": "resnet50",
}
"""Model of the table -> model of the catalogue."""

PRECISIONS = {"amp fp16": "fp16", "bf16": "bf16", "fp16": "fp16", "fp32": "fp32", "int8": "int8"}


def published(folder: Path | None = None) -> tuple[Published, ...]:
    """Return the specifications' figures, and those of the table in `folder` (that which CHIPFRONT_DATA names).

    Of the table are taken single chips of the reference library, models of the catalogue, a batch that is told, and
    rates or mean latencies; the median where several measured the same. Without a folder, the specifications' alone.

    Raises DseError where the folder has no such table.
    """
    if folder is None and "CHIPFRONT_DATA" not in os.environ:
        return SPECIFIED
    path = (folder or Path(os.environ["CHIPFRONT_DATA"])) / TABLE
    table = read_table(path)
    needed = ("device", "n_chips", "model", "batch", "precision", "metric", "value", "source", "note")
    if missing := [name for name in needed if name not in table]:
        raise DseError(f"{path}: no column {missing[0]!r}", f"the columns {', '.join(needed)}")
    return SPECIFIED + tuple(_of_table(table))


def _of_table(table: pd.DataFrame) -> Sequence[Published]:
    told = table["device"].isin(CHIPS) & table["model"].isin(MODELS) & table["precision"].isin(PRECISIONS)
    told &= (table["n_chips"].astype(str) == "1") & table["batch"].astype(str).str.fullmatch(r"\d+")
    rate, latency = table["metric"] == "throughput", table["metric"] == "latency_mean"
    found = table[told & (rate | latency)].copy()
    value, batch = found["value"].astype(float), found["batch"].astype(int)
    found["latency_ms"] = (1e3 * batch / value).where(found["metric"] == "throughput", value)
    notes = found["note"].fillna("").astype(str)
    found["software"] = [_software(str(model), note) for model, note in zip(found["model"], notes, strict=True)]
    keys = ["device", "model", "batch", "precision", "software"]
    figures = []
    for _, same in found.groupby(keys, sort=False):
        first = same.iloc[0]
        figures.append(
            Published(
                chip=CHIPS[str(first["device"])],
                model=MODELS[str(first["model"])],
                quantity="latency_ms",
                value=float(same["latency_ms"].median()),
                precision=PRECISIONS[str(first["precision"])],
                batch=int(str(first["batch"])),
                source=str(first["source"]),
                software=str(first["software"]),
            )
        )
    return figures


def _software(model: str, note: str) -> str:
    if model.startswith("MLPerf"):
        return "TensorRT"
    return "torch.compile" if "compile" in note else EAGER
