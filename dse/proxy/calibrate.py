"""Calibrating the layer proxy to one chip: what a few measured operators of it tell, and no more.

Every time under a network's soft maximum (LayerProxyModel.times) is shifted by a constant of the log: one part is the
device's, one the operator kind's, one that of framework and kind. So an operator that memory binds is corrected by what
memory-bound rows told. Shifts are constants of the class: a calibrated proxy grows with work, falls with chip rates and
stays above the floor of physics, as the network does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from chiplib.validation import did_you_mean
from dse.errors import DseError
from dse.proxy.calibration import Calibration, Cell, Key, Shifts, fingerprint
from dse.proxy.dataset import read_rows
from dse.proxy.devices import read_devices
from dse.proxy.features import NAMES, Features, features
from dse.proxy.fit import inputs_of, sampled
from dse.proxy.intervals import COVERAGE, novelty
from dse.proxy.network import SHARPNESS
from dse.proxy.predict import LayerProxy

Array = NDArray[np.float64]
Name = TypeVar("Name", str, Key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """Standard deviations that are expected before any row of the chip is seen, in log units.

    Of a grid, those with the least median error on rows of A100-SXM4, H200 and V100-PCIe that calibration had not seen
    (10 rows a framework and kind, each device left out of its network). The optimum is flat: half or twice any one of
    them costs at most 0.3 points of error.
    """

    device: float = 0.2  # of a shift of a term, for all rows of the device
    kind: float = 0.1  # beyond that, for an operator kind
    cell: float = 0.15  # beyond that, for a framework and kind
    noise: float = 0.12  # of a row
    noise_rows: float = 4.0  # rows of a cell that the noise is worth


PRIOR = Prior()

ROWS_A_CELL = 100
"""Most rows of a framework and kind that are used; others that are given add nothing but time."""

OUTLIER = 1.5
"""Residuals of more noise than this have a smaller weight (P. Huber, "Robust estimation of a location parameter", 1964,
where 1.5 keeps 96 % of the efficiency on normal residuals)."""

ROUNDS = 12
"""Linearisations of the soft maximum; the last changes shifts by less than 0.001."""

PRIOR_ROWS = 5.0
"""Rows that the width of the uncalibrated interval is worth, where it is blended with what the rows tell."""

MAD = 1.4826
"""Standard deviation of a normal variable over its median absolute deviation."""


def calibrate(
    proxy: LayerProxy, rows: pd.DataFrame, devices: pd.DataFrame, *, device: str, seed: int = 0, prior: Prior = PRIOR
) -> Calibration:
    """Calibrate `proxy` to `device` by the tidy `rows` [N] measured on it; rows of other devices are left aside.

    Of a framework and kind with more than ROWS_A_CELL rows, as many are drawn by `seed`.

    The shifts are the most probable ones: normal priors at three levels (Prior; empirical Bayes), a noise a cell, and
    Huber's weights against outliers. Errors and widths to expect are of rows left out one by one, in closed form (C.
    Rasmussen, C. Williams, "Gaussian Processes for Machine Learning", 2006, equation 5.12).

    Raises DseError for bad rows, with their numbers, and where none is of the device.
    """
    table = read_devices(devices)
    tidy = read_rows(rows, devices=table)
    own = tidy[(tidy["device"] == device).to_numpy()]
    if own.empty:
        hint = did_you_mean(device, tidy["device"].astype(str).unique())
        raise DseError(f"no row is of device {device!r}", f"rows are of other devices: {hint}")
    own = own.iloc[sampled(own, cap=ROWS_A_CELL, seed=seed)]
    found = features(own, table)
    latency = np.log(own["latency_ms"].to_numpy(np.float64))
    keys = keys_of(found)
    fits = [_fit(log_times, latency, keys, prior) for log_times in times_of_networks(proxy, found)]
    before = latency - proxy.log_latency(found)
    left_out = np.mean([fit.left_out for fit in fits], axis=0)
    moved = np.mean([fit.moved for fit in fits], axis=0)
    kinds, cells = sorted({kind for _, kind in keys}), sorted(set(keys))
    widths = _widths(proxy, found, keys, left_out, prior)
    return Calibration(
        device=device,
        weights=fingerprint(proxy),
        common=_stack([fit.device for fit in fits]),
        kinds={kind: _stack([fit.kinds[kind] for fit in fits]) for kind in kinds},
        cells=tuple(
            Cell(
                framework=cell[0],
                op_type=cell[1],
                rows=int((of_cell := _of(keys, cell)).sum()),
                offset=float(np.median(moved[of_cell])),
                error_before=_error(before[of_cell]),
                error_after=_error(left_out[of_cell]),
                half_width=widths[cell],
                shifts=_stack([fit.cells[cell] for fit in fits]),
            )
            for cell in cells
        ),
        error_before=_error(before),
        error_after=_error(left_out),
    )


def keys_of(rows: Features) -> list[Key]:
    """Return (framework, op_type) of each row."""
    columns = (rows.names[:, NAMES.index(name)].tolist() for name in ("framework", "op_type"))
    return list(zip(*columns, strict=True))


def times_of_networks(proxy: LayerProxy, rows: Features) -> list[Array]:
    """Return logs of the times [N, TERMS + 3] under the soft maximum, of each network."""
    inputs = inputs_of(rows, proxy.vocabulary)
    with torch.inference_mode():
        return [
            model.times(inputs, model.classes(inputs.shape_class, inputs.names, inputs.chip_names)).double().numpy()
            for model in proxy.models
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """The shifts of one network, and what they do to the calibrating rows."""

    device: Array  # [T]
    kinds: dict[str, Array]  # [T] each
    cells: dict[Key, Array]  # [T] each
    moved: Array  # [N] change of log latency
    left_out: Array  # [N] log of measured over predicted, each row left out of its own prediction


def _fit(log_times: Array, latency: Array, keys: list[Key], prior: Prior) -> _Fit:
    """Find the most probable shifts by Gauss-Newton: the shares of the soft maximum are its derivative by shifts.

    With shares w_i, shifts of normal priors make residuals a Gaussian process whose covariance is
    w_i . w_j (device^2 + kind^2 [same kind] + cell^2 [same cell]).
    """
    cells, cell = _codes(keys)
    kinds, kind = _codes([op_type for _, op_type in keys])
    covariance = prior.device**2 + prior.kind**2 * _same(kind) + prior.cell**2 * _same(cell)
    start, _ = soft_maximum(log_times)
    shift = np.zeros_like(log_times)  # [N, T] of each row
    for _ in range(ROUNDS):
        predicted, shares = soft_maximum(log_times + shift)
        error = latency - predicted
        noise = _noise(error, cell, prior)
        noise_variance = noise**2 * np.maximum(1.0, np.abs(error) / (OUTLIER * noise))
        inverse = np.linalg.inv(covariance * (shares @ shares.T) + np.diag(noise_variance))
        pull = inverse @ (error + (shares * shift).sum(1))  # [N]
        weighted = shares * pull[:, None]
        shift = covariance @ weighted
    return _Fit(
        device=prior.device**2 * weighted.sum(0),
        kinds={name: prior.kind**2 * weighted[kind == place].sum(0) for place, name in enumerate(kinds)},
        cells={name: prior.cell**2 * weighted[cell == place].sum(0) for place, name in enumerate(cells)},
        moved=soft_maximum(log_times + shift)[0] - start,
        left_out=pull / np.diag(inverse),
    )


def soft_maximum(log_times: Array) -> tuple[Array, Array]:
    """Return the soft maximum [N] of log times [N, T] and the share [N, T] of each."""
    highest = log_times.max(axis=1, keepdims=True)
    powers = np.exp(SHARPNESS * (log_times - highest))
    total = powers.sum(axis=1, keepdims=True)
    return (highest + np.log(total) / SHARPNESS)[:, 0], powers / total


def _noise(error: Array, cell: NDArray[np.int64], prior: Prior) -> Array:
    """Return the standard deviation [N] of each row's noise: that of its cell, robust, shrunk towards the prior's."""
    noise = np.empty(len(error))
    for place in np.unique(cell):
        rows = cell == place
        spread, count = MAD * np.median(np.abs(error[rows])), rows.sum()
        variance = (prior.noise_rows * prior.noise**2 + count * spread**2) / (prior.noise_rows + count)
        noise[rows] = np.sqrt(variance)
    return noise


def _widths(proxy: LayerProxy, rows: Features, keys: list[Key], left_out: Array, prior: Prior) -> dict[Key, float]:
    """Return the half width of 90 % intervals of log latency of each cell.

    Split conformal prediction on left-out errors, each over its cell's spread: few rows a cell, but together enough for
    a quantile. The uncalibrated width weighs in as PRIOR_ROWS rows.
    """
    cells, cell = _codes(keys)
    spread = _noise(left_out, cell, prior)
    scores = np.sort(np.abs(left_out) / spread)
    place = int(np.ceil(COVERAGE * (len(scores) + 1))) - 1
    quantile = scores[min(place, len(scores) - 1)]
    before = proxy.widths(rows.names[:, NAMES.index("op_type")], novelty(rows, proxy.vocabulary))
    widths = {}
    for number, name in enumerate(cells):
        of_cell = cell == number
        told, known = quantile * spread[of_cell][0], float(before[of_cell].max())
        share = of_cell.sum() / (of_cell.sum() + PRIOR_ROWS) if known > 0 else 1.0
        widths[name] = float(share * told + (1 - share) * known)
    return widths


def _codes(names: Sequence[Name]) -> tuple[list[Name], NDArray[np.int64]]:
    known = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return list(known), np.array([known[name] for name in names])


def _of(keys: list[Key], cell: Key) -> NDArray[np.bool_]:
    return np.array([key == cell for key in keys])


def _same(codes: NDArray[np.int64]) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = codes[:, None] == codes[None]
    return same


def _error(log_errors: Array) -> float:
    """Return the median absolute error in % of logs of measured over predicted."""
    return float(np.median(np.abs(np.expm1(-log_errors)))) * 100


def _stack(parts: list[Array]) -> Shifts:
    return tuple(tuple(float(value) for value in part) for part in parts)
