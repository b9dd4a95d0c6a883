"""What was measured for the product and ships with it: layers and whole models, and the machines they ran on."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml

from dse.proxy.dataset import read_rows
from dse.proxy.devices import read_devices

FOLDER = Path(__file__).with_name("measured")


def own_layers(folder: Path = FOLDER) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the measured rows [N] of all machines in the tidy schema, checked, and their device table.

    Each machine has a table NAME.parquet and its description NAME.yaml, as `dse proxy measure --table` writes them.
    """
    descriptions = sorted(folder.glob("*.yaml"))
    known = [yaml.safe_load(file.read_text("utf-8")) for file in descriptions]
    devices = read_devices(pd.DataFrame([each["device"] | {"kind": each["machine"]["kind"]} for each in known]))
    tables = [read_rows(file.with_suffix(".parquet"), devices=devices) for file in descriptions]
    return read_rows(pd.concat(tables, ignore_index=True), devices=devices), devices


def own_models(folder: Path = FOLDER) -> pd.DataFrame:
    """Return the measured forward passes of the catalogue's models: model, device, latency_ms, peak_memory_mb, ..."""
    return pd.concat([pd.read_csv(file) for file in sorted(folder.glob("*-models.csv"))], ignore_index=True)
