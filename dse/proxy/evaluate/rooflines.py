"""Rooflines: the bare one, and one with three efficiencies fitted to each kind of operator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dse.proxy.devices import PEAKS, matrix_peaks
from dse.proxy.evaluate.predictor import Array, Prediction
from dse.proxy.selection import has_power

FIRST_STEP, LAST_STEP, ROUNDS = np.log(2.0), np.log(1.005), 80
"""Of the search for efficiencies: factors that they are multiplied and divided by, and how often at most."""

Kind = tuple[str, str]
"""op_type and compute_dtype; empty for all of them."""


def of_device(rows: pd.DataFrame, devices: pd.DataFrame, column: str) -> Array:
    """Return a number of the device table for each row [N]; NaN where the table has none."""
    codes = devices.index.get_indexer(rows["device"].cat.categories)[rows["device"].cat.codes]
    return np.append(devices[column].to_numpy(dtype=np.float64), np.nan)[codes]


def peak_flops_s(rows: pd.DataFrame, devices: pd.DataFrame) -> Array:
    """Return the peak [N] in FLOP/s of what each row computes in; the device's highest where that is not known."""
    compute = rows["compute_dtype"].cat
    peaks = matrix_peaks(devices, list(compute.categories))
    highest = np.nanmax(devices[list(PEAKS)].to_numpy(dtype=np.float64), axis=1, keepdims=True) * 1e12
    peaks = np.where(np.isnan(peaks), highest, peaks)
    device = devices.index.get_indexer(rows["device"].cat.categories)[rows["device"].cat.codes]
    found: Array = peaks[device, compute.codes]
    return found


def roofline_terms(rows: pd.DataFrame, devices: pd.DataFrame) -> tuple[Array, Array]:
    """Return FLOPs / peak [N] and bytes / bandwidth [N], in ms (Williams et al., doi:10.1145/1498765.1498785)."""
    compute_ms = rows["flops"].to_numpy(dtype=np.float64) / peak_flops_s(rows, devices) * 1e3
    bandwidth = of_device(rows, devices, "peak_bw_gbs") * 1e9
    return compute_ms, rows["bytes"].to_numpy(dtype=np.float64) / bandwidth * 1e3


class Roofline:
    """The longer of FLOPs / peak and bytes / bandwidth: nothing is fitted."""

    name = "roofline"

    def fit(self, rows: pd.DataFrame, devices: pd.DataFrame, *, seed: int) -> Roofline:
        """Return itself."""
        return self

    def predict(self, rows: pd.DataFrame, devices: pd.DataFrame) -> Prediction:
        """Predict latency [N]; no interval, no power."""
        return Prediction.of(np.maximum(*roofline_terms(rows, devices)))


class FittedRoofline:
    """max(FLOPs / (e_c x peak), bytes / (e_b x bandwidth)) + launch, with three numbers an (op_type, compute_dtype).

    Power is the median share of its device's TDP that the kind of operator draws.
    """

    name = "fitted-roofline"

    def fit(self, rows: pd.DataFrame, devices: pd.DataFrame, *, seed: int) -> FittedTerms:
        """Fit the least mean absolute log error; a kind without rows takes the numbers of its op_type, or of all."""
        terms = np.stack(roofline_terms(rows, devices))
        latency = rows["latency_ms"].to_numpy(dtype=np.float64)
        op_type, compute = (rows[name].astype(object).to_numpy() for name in ("op_type", "compute_dtype"))
        nothing = np.full(len(rows), "")
        found: dict[Kind, Array] = {}
        for kinds in ((op_type, compute), (op_type, nothing), (nothing, nothing)):
            index = pd.MultiIndex.from_arrays(kinds)
            group, names = pd.factorize(index)
            found |= dict(zip(names, fit_terms(latency, terms, group, len(names)).T, strict=True))
        measured = has_power(rows)
        share = pd.Series(measured_power(rows)[measured] / of_device(rows, devices, "tdp_w")[measured])
        return FittedTerms(
            terms=found,
            power_share={str(name): float(value) for name, value in share.groupby(op_type[measured]).median().items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedTerms:
    """A fitted roofline."""

    terms: dict[Kind, Array]  # [3] 1 / compute efficiency, 1 / bandwidth efficiency, launch in ms
    power_share: dict[str, float]  # op_type -> share of the TDP

    def predict(self, rows: pd.DataFrame, devices: pd.DataFrame) -> Prediction:
        """Predict latency and power [N]; no interval."""
        op_type, compute = rows["op_type"].cat, rows["compute_dtype"].cat
        table = np.array([[self._of(op, kind) for kind in compute.categories] for op in op_type.categories])
        slow_compute, slow_memory, launch_ms = table[op_type.codes, compute.codes].T
        compute_ms, memory_ms = roofline_terms(rows, devices)
        share = rows["op_type"].astype(object).map(self.power_share).to_numpy(dtype=np.float64)
        latency_ms = np.maximum(slow_compute * compute_ms, slow_memory * memory_ms) + launch_ms
        return Prediction.of(latency_ms, share * of_device(rows, devices, "tdp_w"))

    def _of(self, op_type: str, compute: str) -> Array:
        for kind in ((op_type, compute), (op_type, "")):
            if kind in self.terms:
                return self.terms[kind]
        return self.terms["", ""]


def measured_power(rows: pd.DataFrame) -> Array:
    """Return the power [N] in W; NaN where none was measured."""
    if "power_w" not in rows:
        return np.full(len(rows), np.nan)
    return rows["power_w"].to_numpy(dtype=np.float64)


def fit_terms(latency: Array, terms: Array, group: NDArray[np.int64], groups: int) -> Array:
    """Fit max(a x terms[0], b x terms[1]) + c to latency [N]: the least mean absolute log error, all groups at once.

    A pattern search (Hooke and Jeeves, doi:10.1145/321062.321069): each number is multiplied and divided by a step,
    what helps a group is kept, and its step shrinks where nothing does. Returns a, b, c [3, groups].
    """
    log_latency = np.log(latency)
    least = pd.Series(latency).groupby(group).quantile(0.05).to_numpy()
    found = np.log(np.stack([np.full(groups, 1.5), np.full(groups, 1.5), least / 2]))

    def errors(trial: Array) -> Array:
        slow_compute, slow_memory, launch = np.exp(trial)[:, group]
        predicted = np.maximum(slow_compute * terms[0], slow_memory * terms[1]) + launch
        error = np.abs(np.log(predicted) - log_latency)
        return np.bincount(group, weights=error, minlength=groups).astype(np.float64)

    best = errors(found)
    step: Array = np.full(groups, float(FIRST_STEP))
    for _ in range(ROUNDS):
        improved = np.zeros(groups, np.bool_)
        for number in range(3):
            for direction in (step, -step):
                trial = found.copy()
                trial[number] += direction
                error = errors(trial)
                better = error < best * (1 - 1e-9)
                found[:, better], best[better] = trial[:, better], error[better]
                improved |= better
        step[~improved] /= 2
        if (step < LAST_STEP).all():
            break
    terms_found: Array = np.exp(found)
    return terms_found
