"""Fitting a whole layer proxy: an ensemble on all rows, and its intervals from networks that left devices out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dse.proxy.descent import LEAST_STEPS
from dse.proxy.features import CHIP_NAMES, NAMES, Features, features
from dse.proxy.fit import STANDARD, Recipe, fit_network
from dse.proxy.intervals import Widths, novelty
from dse.proxy.memory import MemoryHead, fit_memory
from dse.proxy.power import PowerHead, fit_power
from dse.proxy.predict import LayerProxy
from dse.proxy.selection import capped, has_power
from dse.proxy.vocabulary import Vocabulary

Array = NDArray[np.float64]

FOLDS = 4
"""Parts that devices are dealt into; each is left out of one network, by whose errors intervals are calibrated."""

FOLD_STEPS = 1 / 3
"""Steps of such a network, as a share of those of the ensemble's."""

HEAD_STEPS = 2 / 3
"""Steps of the networks of power and memory, as such a share."""

HELD_OUT = 0.05
"""Share of rows of known devices that such a network does not see either."""

LEAST_ROWS = 100
"""Rows with a measured power, or memory, from which on it is fitted."""

Progress = Callable[[str, float], None]
"""Told what is being fitted and which share of all work is done."""


def fit_proxy(
    rows: pd.DataFrame,
    devices: pd.DataFrame,
    *,
    seed: int = 0,
    recipe: Recipe = STANDARD,
    networks: int = 2,
    intervals: bool = True,
    card: Mapping[str, Any] | None = None,
    progress: Progress = lambda what, share: None,
) -> LayerProxy:
    """Fit `networks` networks to tidy rows of the devices of a device table, and calibrate the ensemble's intervals.

    The same rows, recipe and seed give the same proxy on one machine. Without `intervals` every width is zero.
    """
    table = rows.iloc[capped(rows, cap=recipe.rows_a_cell, seed=seed)]
    all_features, latency = features(table, devices), table["latency_ms"].to_numpy(np.float64)
    work = networks + (FOLDS + 1) * FOLD_STEPS * intervals
    done = 0.0

    def told(what: str, weight: float) -> Callable[[int, float], None]:
        return lambda step, loss: progress(what, (done + weight * step / recipe.steps) / work)

    vocabulary = Vocabulary.of(all_features)
    models = []
    for number in range(networks):
        name = f"network {number + 1} of {networks}"
        models.append(
            fit_network(all_features, latency, vocabulary, seed=seed + number, recipe=recipe, progress=told(name, 1.0))
        )
        done += 1.0
    errors = []
    if intervals:
        short = replace(recipe, steps=_steps(recipe, FOLD_STEPS))
        for name, held_out in _folds(all_features, seed):
            seen = Vocabulary.of(all_features[~held_out])
            model = fit_network(
                all_features[~held_out], latency[~held_out], seen, seed=seed, recipe=short, progress=told(name, 1.0)
            )
            done += FOLD_STEPS
            left = all_features[held_out]
            alone = LayerProxy(models=(model,), vocabulary=seen, widths=Widths.none(), card={})
            errors.append(
                pd.DataFrame(
                    {
                        "residual": alone.log_latency(left) - np.log(latency[held_out]),
                        "kind": left.names[:, NAMES.index("op_type")],
                        "level": novelty(left, seen),
                        "device": left.chip_names[:, CHIP_NAMES.index("device")],
                    }
                )
            )
    progress("power and memory", done / work)
    power, power_card = _power(rows, devices, seed, _steps(recipe, HEAD_STEPS))
    memory, memory_card = _memory(rows, devices, seed, _steps(recipe, HEAD_STEPS))
    described = {"seed": seed, "recipe": asdict(recipe), "rows": len(rows), "rows_used": len(table), **(card or {})}
    described |= {"power": power_card, "memory": memory_card}
    widths = _widths(pd.concat(errors)) if errors else Widths.none()
    return LayerProxy(
        models=tuple(models), vocabulary=vocabulary, widths=widths, card=described, power=power, memory=memory
    )


def _steps(recipe: Recipe, share: float) -> int:
    return max(int(recipe.steps * share), LEAST_STEPS)


def _power(rows: pd.DataFrame, devices: pd.DataFrame, seed: int, steps: int) -> tuple[PowerHead | None, dict[str, Any]]:
    """Fit power to the rows that have one, and tell what of: rows a device, or why there is none."""
    known = devices["tdp_w"].reindex(rows["device"].astype(object)).notna().to_numpy()
    measured = rows[has_power(rows) & known]
    if len(measured) < LEAST_ROWS:
        return None, {"reason": f"{len(measured)} rows have a power, on a board with a known TDP, of 0.05 ms or more"}
    log_ms = np.log(measured["latency_ms"].to_numpy(np.float64))
    watts = measured["power_w"].to_numpy(np.float64)
    return fit_power(features(measured, devices), log_ms, watts, seed=seed, steps=steps), _rows_a_device(measured)


def _memory(
    rows: pd.DataFrame, devices: pd.DataFrame, seed: int, steps: int
) -> tuple[MemoryHead | None, dict[str, Any]]:
    """Fit memory to the rows that have one, and tell what of: rows a device, or why there is none."""
    measured = rows[rows["mem_mb"].notna()] if "mem_mb" in rows else rows[:0]
    if len(measured) < LEAST_ROWS:
        return None, {"reason": f"{len(measured)} rows have a peak memory"}
    megabytes = measured["mem_mb"].to_numpy(np.float64)
    return fit_memory(features(measured, devices), megabytes, seed=seed, steps=steps), _rows_a_device(measured)


def _rows_a_device(rows: pd.DataFrame) -> dict[str, Any]:
    return {"rows": {str(name): int(count) for name, count in rows["device"].value_counts().items() if count}}


def _folds(rows: Features, seed: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield names of folds and the rows [N] that each leaves out: some devices, or all but the commonest maker."""
    draw = np.random.default_rng(seed)
    device = rows.chip_names[:, CHIP_NAMES.index("device")].astype(str)
    names = np.unique(device)
    part = dict(zip(draw.permutation(names), np.arange(len(names)) % FOLDS, strict=True))
    fold_of_row = np.array([part[name] for name in names])[np.unique(device, return_inverse=True)[1]]
    for fold in range(FOLDS):
        yield f"interval {fold + 1} of {FOLDS + 1}", (fold_of_row == fold) | (draw.random(len(rows)) < HELD_OUT)
    maker = rows.chip_names[:, CHIP_NAMES.index("maker")].astype(str)
    makers, counts = np.unique(maker, return_counts=True)
    if len(makers) > 1:
        yield f"interval {FOLDS + 1} of {FOLDS + 1}", maker != makers[counts.argmax()]


def _widths(errors: pd.DataFrame) -> Widths:
    return Widths.of(
        errors["residual"].to_numpy(np.float64),
        errors["kind"].to_numpy(object),
        errors["level"].to_numpy(np.int8),
        errors["device"].to_numpy(object),
    )
