"""Calibration: what measured operators of one chip changed, as a file beside the chip, and a proxy that applies it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from annotated_types import Ge, Gt, Interval, MinLen
from numpy.typing import NDArray

from chiplib.validation import validate
from dse.errors import DseError
from dse.proxy.features import CHIP_NAMES, NAMES, Features
from dse.proxy.fit import inputs_of
from dse.proxy.intervals import Novelty
from dse.proxy.model import Outside
from dse.proxy.network import TIMES, Inputs, LayerProxyModel, soft_maximum
from dse.proxy.predict import LayerPrediction, LayerProxy
from dse.store import write_atomically

Array = NDArray[np.float64]

FORMAT = 1
"""Version of a calibration's file."""

MOST = 5.0
"""Largest shift that is believed: a factor of 148 in time."""

Key = tuple[str, str]
"""Framework and op_type."""

Shift = Annotated[float, Interval(ge=-MOST, le=MOST)]
Shifts = tuple[tuple[Shift, ...], ...]
"""Shifts of log times [networks][TIMES]."""

Percent = Annotated[float, Ge(0)]

CHUNK = 16384
"""Rows of a calibrated chip that go through the networks at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A framework and operator kind that was measured. Errors are median APEs; `after` of rows left out in turn."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}

    framework: str
    op_type: str
    rows: Annotated[int, Gt(0)]
    offset: float  # median change of log latency over these rows, by all shifts together
    error_before: Percent
    error_after: Percent
    half_width: Annotated[float, Gt(0)]  # of the 90 % interval of log latency
    shifts: Shifts  # beyond those of the device and the kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the measured operators of one device tell a layer proxy; see dse.proxy.fit_calibration.

    A term of a network is shifted by `common`, by that of the row's kind, and by that of its framework and kind, as far
    as they were measured. `embedding` is added to what the network knows of the chip by its names.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}

    device: Annotated[str, MinLen(1)]
    weights: str  # fingerprint of the proxy that it was made for
    embedding: Shifts  # [networks][width]
    common: Shifts
    kinds: Mapping[str, Shifts]
    cells: Annotated[tuple[Cell, ...], MinLen(1)]
    error_before: Percent  # median APE of all rows
    error_after: Percent

    @property
    def rows(self) -> int:
        """Rows that it was made from."""
        return sum(cell.rows for cell in self.cells)

    @property
    def widest(self) -> tuple[Cell, ...]:
        """Cells from the widest interval to the narrowest: what to measure next."""
        return tuple(sorted(self.cells, key=lambda cell: -cell.half_width))

    def apply(self, proxy: LayerProxy) -> CalibratedProxy:
        """Return the proxy with this calibration, beside those that it has of other devices.

        Raises DseError where it was made for other weights.
        """
        made_for = fingerprint(proxy)
        if self.weights != made_for:
            raise DseError(
                f"the calibration of {self.device!r} is for other weights ({self.weights}, here {made_for})",
                "calibrate again: dse proxy calibrate",
            )
        widths = [model.hidden.in_features for model in proxy.models]
        parts = (self.common, *self.kinds.values(), *(cell.shifts for cell in self.cells))
        fits = all([len(shift) for shift in part] == [TIMES] * len(widths) for part in parts)
        if not fits or [len(vector) for vector in self.embedding] != widths:
            raise DseError(
                f"the calibration of {self.device!r} has vectors of another size than the networks",
                "calibrate again: dse proxy calibrate",
            )
        others = proxy.calibrations if isinstance(proxy, CalibratedProxy) else {}
        own = {field.name: getattr(proxy, field.name) for field in fields(proxy)}
        return CalibratedProxy(**own | {"calibrations": {**others, self.device: self}})

    def shifts(self, key: Key) -> Array:
        """Return the shifts [networks, TIMES] of rows of a framework and kind."""
        op_type = key[1]
        total = np.array(self.common)
        if op_type in self.kinds:
            total = total + np.array(self.kinds[op_type])
        for cell in self.cells:
            if (cell.framework, cell.op_type) == key:
                total = total + np.array(cell.shifts)
        return total

    def save(self, path: Path) -> None:
        """Write it as JSON, by a temporary name."""
        write_atomically(path, json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read a file that `save` wrote. Raises DseError that names what is wrong in it."""
        again = "calibrate again: dse proxy calibrate"
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DseError(f"{path}: no such file", again) from None
        except (OSError, ValueError, RecursionError) as error:
            raise DseError(f"{path}: no calibration: {error}", again) from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else None
            raise DseError(f"{path}: format = {found!r}: not a calibration of version {FORMAT}", again)
        del data["format"]
        calibration = validate(data, cls, str(path), error=DseError)
        names = [(cell.framework, cell.op_type) for cell in calibration.cells]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DseError(f"{path}: {' and '.join(twice[0])} are there twice", again)
        return calibration


def fingerprint(proxy: LayerProxy) -> str:
    """Return what tells a proxy's networks and vocabulary from others: 16 hexadecimal digits of SHA-256."""
    names = proxy.vocabulary
    digest = hashlib.sha256(json.dumps([names.known, names.reach.limits], sort_keys=True).encode())
    for model in proxy.models:
        for name, value in sorted(model.state_dict().items()):
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def calibration_file(folder: Path, device: str) -> Path:
    """Return where the calibration of a device is stored, in the folder of the library or table that describes it."""
    return folder / f"{re.sub(r'[^A-Za-z0-9._+-]', '_', device)}.calibration.json"


def with_stored(proxy: LayerProxy, folder: Path, devices: Iterable[str]) -> LayerProxy:
    """Return the proxy with the calibrations that are stored in `folder` for these devices, if any.

    Raises DseError where one is damaged, of another device, or for other weights.
    """
    for device in devices:
        path = calibration_file(folder, device)
        if not path.exists():
            continue
        calibration = Calibration.load(path)
        if calibration.device != device:
            raise DseError(f"{path}: device = {calibration.device!r}, not {device!r}", "name the file by its device")
        try:
            proxy = calibration.apply(proxy)
        except DseError as error:
            raise DseError(f"{path}: {error.message}", error.hint) from None
    return proxy


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibratedProxy(LayerProxy):
    """A layer proxy that knows measured chips; other devices are predicted as before."""

    calibrations: Mapping[str, Calibration]

    def log_latency(self, rows: Features) -> Array:
        """Return the ensemble's log latency [N] in log ms, rows of calibrated devices shifted."""
        device = rows.chip_names[:, CHIP_NAMES.index("device")]
        log_ms = np.empty(len(rows))
        other = ~np.isin(device.astype(str), [*self.calibrations])
        log_ms[other] = super().log_latency(rows[other])
        for name, calibration in self.calibrations.items():
            own = np.flatnonzero(device == name)
            for start in range(0, len(own), CHUNK):
                chunk = own[start : start + CHUNK]
                log_ms[chunk] = self._shifted(rows[chunk], calibration)
        return log_ms

    def _shifted(self, rows: Features, calibration: Calibration) -> Array:
        inputs = inputs_of(rows, self.vocabulary)
        keys, place = keys_of(rows)
        shifts = np.stack([calibration.shifts(key) for key in keys])[place]
        logs = [
            shifted(model, inputs, shifts[:, number], np.array(calibration.embedding[number]))
            for number, model in enumerate(self.models)
        ]
        mean: Array = np.mean(logs, axis=0)
        return mean

    def predict(self, rows: Features) -> LayerPrediction:
        """Predict rows; those of a measured device, framework and kind have the interval that was measured."""
        plain = super().predict(rows)
        keys, place = keys_of(rows)
        device = rows.chip_names[:, CHIP_NAMES.index("device")]
        half = np.full(len(rows), np.nan)
        for name, calibration in self.calibrations.items():
            width = {(cell.framework, cell.op_type): cell.half_width for cell in calibration.cells}
            of_keys = np.array([width.get(key, np.nan) for key in keys])
            half = np.where(device == name, of_keys[place], half)
        measured = np.isfinite(half) & ((plain.outside & Outside.SIZE) == 0)
        low = np.maximum(plain.latency_ms * np.exp(-half), np.exp(rows.floor))
        return replace(
            plain,
            low_ms=np.where(measured, low, plain.low_ms),
            high_ms=np.where(measured, plain.latency_ms * np.exp(half), plain.high_ms),
            novelty=np.where(measured, Novelty.KNOWN, plain.novelty).astype(np.int8),
            outside=np.where(measured, 0, plain.outside).astype(np.int8),
        )


def keys_of(rows: Features) -> tuple[list[Key], NDArray[np.int64]]:
    """Return the frameworks and kinds of rows, and the place [N] of each row's among them."""
    framework, frameworks = pd.factorize(rows.names[:, NAMES.index("framework")])
    kind, kinds = pd.factorize(rows.names[:, NAMES.index("op_type")])
    place, both = pd.factorize(framework * len(kinds) + kind)
    return [(str(frameworks[pair // len(kinds)]), str(kinds[pair % len(kinds)])) for pair in both], place


def shifted(model: LayerProxyModel, inputs: Inputs, shifts: Array, embedding: Array) -> Array:
    """Return a network's log latency [N], its log times shifted [N, TIMES] and an embedding [width] added."""
    with torch.inference_mode():
        chip = torch.from_numpy(embedding.astype(np.float32))[None]
        settings = model.classes(inputs.shape_class, inputs.names, inputs.chip_names, chip)
        times = model.times(inputs, settings) + torch.from_numpy(shifts.astype(np.float32))
        log_ms = torch.maximum(soft_maximum(times), inputs.floor)
    found: Array = log_ms.double().numpy()
    return found
