"""What a layer proxy is fitted on: the public sets or a table of one's own, and what was measured for the product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dse.errors import DseError
from dse.proxy.dataset import read_rows, stacked
from dse.proxy.devices import read_devices
from dse.proxy.ingest import ingest
from dse.proxy.own_data import own_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRows:
    """Measured rows, the devices that they name, and where each source is from."""

    rows: pd.DataFrame  # tidy
    devices: pd.DataFrame
    licences: Mapping[str, Mapping[str, str]]  # source -> repository, licence


def training_rows(rows: Path | None = None, devices: Path | None = None) -> TrainingRows:
    """Return the rows of a table (the public sets of CHIPFRONT_DATA without one) and the product's own.

    Raises DseError where a table cannot be read, or where both describe one device otherwise.
    """
    licences: dict[str, dict[str, str]] = {}
    if rows is not None and devices is not None:
        table = read_devices(devices)
        measured = read_rows(rows, devices=table)
    else:
        public = ingest()
        measured, table = public.rows, public.devices
        licences = {
            name: {"repository": origin.repository, "licence": origin.licence}
            for name, origin in public.licences.items()
        }
    own, own_devices = own_layers()
    if again := sorted(set(table.index) & set(own_devices.index)):
        raise DseError(f"device {again[0]!r} is one of the product's own", "give the device of your rows another name")
    return TrainingRows(rows=stacked([measured, own]), devices=pd.concat([table, own_devices]), licences=licences)
