"""Calibrating the layer proxy to one chip: what a few measured operators of it tell, and no more.

Every time under a network's soft maximum (LayerProxyModel.times) is shifted by a constant of the log: one part is the
device's, one the operator kind's, one that of framework and kind. So an operator that memory binds is corrected by what
memory-bound rows told. And an embedding of the chip is added to what the network knows of it by name. All are constants
of the class: a calibrated proxy grows with work, falls with chip rates and stays above the floor of physics, as the
network does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from chiplib.validation import did_you_mean
from dse.errors import DseError
from dse.proxy.calibration import MOST, Calibration, Cell, Key, Shifts, fingerprint, keys_of, shifted
from dse.proxy.dataset import read_rows
from dse.proxy.devices import read_devices
from dse.proxy.features import NAMES, features
from dse.proxy.fit import inputs_of
from dse.proxy.intervals import COVERAGE, standing
from dse.proxy.network import LAUNCH, TIMES, Inputs, LayerProxyModel, soft_maximum
from dse.proxy.predict import LayerProxy
from dse.proxy.selection import capped

Array = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """Standard deviations that are expected before any row of the chip is seen, in log units.

    Of a grid, those with the least median error on rows of H200, B200, A100-SXM4 and V100-PCIe that calibration had not
    seen (10 rows a framework and kind, each device left out of its network). The optimum is flat: half or twice any one
    of them costs at most 0.3 points of error. The launch's factor is worth up to 0.3 points there, and 2 to 12 on
    LLMCompass's A100 operators, whose launches take 20 to 50 us.
    """

    device: float = 0.2  # of a shift of a term, for all rows of the device
    kind: float = 0.1  # beyond that, for an operator kind
    cell: float = 0.15  # beyond that, for a framework and kind
    launch: float = 5.0  # times these three, of the launch: it is the host's and the timer's as much as the chip's
    embedding: float = 0.3  # of each number of the chip's embedding
    noise: float = 0.1  # of a row


PRIOR = Prior()

ROWS_A_CELL = 100
"""Most rows of a framework and kind that are used; others that are given add nothing but time."""

OUTLIER = 1.0
"""Residuals of more noise than this weigh less (P. Huber, "Robust estimation of a location parameter", 1964)."""

ROUNDS, STEP = 10, 0.7
"""Linearisations of a network, and the part of the way to the optimum of each that is gone."""

FOLDS = 10
"""Parts that the rows of each cell are dealt into, and which are left out in turn: one row of cells of 10 and less."""

SPREAD_ROWS = 4.0
"""Rows that the spread of all cells together is worth in the spread of one."""

PRIOR_ROWS = 5.0
"""Rows that the width of the uncalibrated interval is worth, where it is blended with what the rows tell."""

LEAST_SPREAD = 0.01
"""Of a cell: repeats of one measurement differ as much."""

MAD = 1.4826
"""Standard deviation of a normal variable over its median absolute deviation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """N rows of the device."""

    inputs: Inputs
    latency: Array  # [N] log ms
    cells: list[Key]
    cell: Places  # [N] into cells
    kinds: list[str]
    kind: Places  # [N] into kinds

    def some(self, rows: NDArray[np.bool_]) -> _Measured:
        return _Measured(
            inputs=self.inputs[torch.from_numpy(rows)],
            latency=self.latency[rows],
            cells=self.cells,
            cell=self.cell[rows],
            kinds=self.kinds,
            kind=self.kind[rows],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """What is found for one network: shifts of T terms and an embedding."""

    common: Array  # [T]
    kinds: Array  # [kinds, T]
    cells: Array  # [cells, T]
    embedding: Array  # [width]

    def log_ms(self, model: LayerProxyModel, rows: _Measured) -> Array:
        return shifted(model, rows.inputs, self.common + self.kinds[rows.kind] + self.cells[rows.cell], self.embedding)


def calibrate(
    proxy: LayerProxy, rows: pd.DataFrame, devices: pd.DataFrame, *, device: str, seed: int = 0, prior: Prior = PRIOR
) -> Calibration:
    """Calibrate `proxy` to `device` by the tidy `rows` [N] measured on it; rows of other devices are left aside.

    Of a framework and kind with more than ROWS_A_CELL rows, as many are drawn by `seed`. Shifts and embedding are the
    most probable ones: normal priors (Prior; empirical Bayes), normal noise, Huber's weights against outliers. Errors
    and intervals to expect are of rows left out in turn (FOLDS).

    Raises DseError for bad rows, with their numbers, and where none is of the device.
    """
    table = read_devices(devices)
    tidy = read_rows(rows, devices=table)
    own = tidy[(tidy["device"] == device).to_numpy()]
    if own.empty:
        hint = did_you_mean(device, tidy["device"].astype(str).unique())
        raise DseError(f"no row is of device {device!r}", f"rows are of other devices: {hint}")
    own = own.iloc[capped(own, cap=ROWS_A_CELL, seed=seed)]
    found = features(own, table)
    cells, cell = keys_of(found)
    kinds = sorted({kind for _, kind in cells})
    measured = _Measured(
        inputs=inputs_of(found, proxy.vocabulary),
        latency=np.log(own["latency_ms"].to_numpy(np.float64)),
        cells=cells,
        cell=cell,
        kinds=kinds,
        kind=np.array([kinds.index(kind) for _, kind in cells])[cell],
    )
    said = proxy.log_latency(found)
    fits = [_fit(model, measured, prior) for model in proxy.models]
    moved = _mean(proxy, fits, measured) - said
    left_out = _left_out(proxy, measured, said, prior, seed)
    known = proxy.widths(found.names[:, NAMES.index("op_type")], standing(found, proxy.vocabulary)[0])
    widths = _widths(left_out, cell, known)
    return Calibration(
        device=device,
        weights=fingerprint(proxy),
        embedding=_plain([fit.embedding for fit in fits]),
        common=_plain([fit.common for fit in fits]),
        kinds={kind: _plain([fit.kinds[place] for fit in fits]) for place, kind in enumerate(kinds)},
        cells=tuple(
            Cell(
                framework=framework,
                op_type=op_type,
                rows=int((cell == place).sum()),
                offset=float(np.median(moved[cell == place])),
                error_before=_error((said - measured.latency)[cell == place]),
                error_after=_error(left_out[cell == place]),
                half_width=float(widths[place]),
                shifts=_plain([fit.cells[place] for fit in fits]),
            )
            for place, (framework, op_type) in enumerate(cells)
        ),
        error_before=_error(said - measured.latency),
        error_after=_error(left_out),
    )


def _fit(model: LayerProxyModel, rows: _Measured, prior: Prior) -> _Fit:
    """Find the most probable shifts and embedding by Gauss-Newton.

    Of parameters with normal priors, the residuals of a linear model are a Gaussian process (C. Rasmussen, C. Williams,
    "Gaussian Processes for Machine Learning", 2006, section 2.1). Here, with shares w_i of the soft maximum and slopes
    j_i by the embedding, its covariance is w_i . w_j (device^2 + kind^2 [same kind] + cell^2 [same cell]) +
    j_i . j_j embedding^2, the launch's share times its own factor: one system of as many equations as rows. A shift of
    more than MOST is cut.
    """
    reach = np.ones(TIMES)
    reach[LAUNCH] = prior.launch
    of_kind, of_cell = (
        (places[None] == np.arange(count)[:, None]).astype(np.float64)
        for places, count in ((rows.kind, len(rows.kinds)), (rows.cell, len(rows.cells)))
    )
    kinds, cells = np.zeros((len(rows.kinds), TIMES)), np.zeros((len(rows.cells), TIMES))
    common, embedding = np.zeros(TIMES), np.zeros(model.hidden.in_features)
    alike = prior.device**2 + prior.kind**2 * of_kind.T @ of_kind + prior.cell**2 * of_cell.T @ of_cell
    for _ in range(ROUNDS):
        shift = common + kinds[rows.kind] + cells[rows.cell]
        log_ms, shares, slopes = _linear(model, rows.inputs, shift, embedding)
        error = rows.latency - log_ms
        noise = prior.noise**2 * np.maximum(1.0, np.abs(error) / (OUTLIER * prior.noise))
        far = shares * reach
        covariance = alike * (far @ far.T) + prior.embedding**2 * slopes @ slopes.T
        pull = np.linalg.solve(covariance + np.diag(noise), error + (shares * shift).sum(1) + slopes @ embedding)
        weighted = far * reach * pull[:, None]
        common = common + STEP * (prior.device**2 * weighted.sum(0) - common)
        kinds = kinds + STEP * (prior.kind**2 * of_kind @ weighted - kinds)
        cells = cells + STEP * (prior.cell**2 * of_cell @ weighted - cells)
        embedding = embedding + STEP * (prior.embedding**2 * pull @ slopes - embedding)
    common, kinds, cells, embedding = (np.clip(part, -MOST, MOST) for part in (common, kinds, cells, embedding))
    return _Fit(common=common, kinds=kinds, cells=cells, embedding=embedding)


def _linear(model: LayerProxyModel, x: Inputs, shift: Array, embedding: Array) -> tuple[Array, Array, Array]:
    """Return log latency [N] before the floor, and its slopes by shifts [N, T] and by the embedding [N, width]."""
    chip = torch.from_numpy(np.tile(embedding.astype(np.float32), (len(shift), 1))).requires_grad_()
    terms = torch.from_numpy(shift.astype(np.float32)).requires_grad_()
    times = model.times(x, model.classes(x.shape_class, x.names, x.chip_names, chip)) + terms
    log_ms = soft_maximum(times)
    slopes = torch.autograd.grad(log_ms.sum(), (terms, chip))
    shares, by_chip = (slope.double().numpy() for slope in slopes)
    return log_ms.detach().double().numpy(), shares, by_chip


def _mean(proxy: LayerProxy, fits: list[_Fit], rows: _Measured) -> Array:
    mean: Array = np.mean([fit.log_ms(model, rows) for fit, model in zip(fits, proxy.models, strict=True)], axis=0)
    return mean


def _left_out(proxy: LayerProxy, rows: _Measured, said: Array, prior: Prior, seed: int) -> Array:
    """Return log errors [N] of rows, each predicted by a calibration without its part of the rows."""
    shuffled = np.random.default_rng(seed).permutation(len(rows.cell))
    fold = np.empty(len(shuffled), np.int64)
    fold[shuffled] = pd.Series(rows.cell[shuffled]).groupby(rows.cell[shuffled]).cumcount().to_numpy() % FOLDS
    log_ms = said.copy()  # as long as there is nothing to calibrate by
    for part in np.unique(fold):
        out = fold == part
        if not out.all():
            fits = [_fit(model, rows.some(~out), prior) for model in proxy.models]
            log_ms[out] = _mean(proxy, fits, rows.some(out))
    return log_ms - rows.latency


def _widths(left_out: Array, cell: Places, known: Array) -> Array:
    """Return the half width of 90 % intervals of log latency of each cell.

    Split conformal prediction on left-out errors, each over its cell's spread: few rows a cell, but together enough for
    a quantile. The `known` widths [N] of the uncalibrated proxy weigh in as PRIOR_ROWS rows.
    """
    rows, typical = np.bincount(cell), MAD * np.median(np.abs(left_out))
    own = np.array([MAD * np.median(np.abs(left_out[cell == place])) for place in range(len(rows))])
    spread = np.sqrt((SPREAD_ROWS * typical**2 + rows * own**2) / (SPREAD_ROWS + rows))
    spread = np.maximum(spread, LEAST_SPREAD)
    scores = np.sort(np.abs(left_out) / spread[cell])
    quantile = scores[min(int(np.ceil(COVERAGE * (len(scores) + 1))), len(scores)) - 1]
    before = np.array([known[cell == place].max() for place in range(len(rows))])
    share = np.where(before > 0, rows / (rows + PRIOR_ROWS), 1.0)
    widths: Array = share * max(quantile, 1.0) * spread + (1 - share) * before
    return widths


def _error(log_errors: Array) -> float:
    """Return the median absolute error in % of logs of predicted over measured."""
    return float(np.median(np.abs(np.expm1(log_errors)))) * 100


def _plain(parts: list[Array]) -> Shifts:
    return tuple(tuple(float(value) for value in part) for part in parts)
