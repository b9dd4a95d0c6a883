"""Splits: which rows are fitted and which are judged, by what is left out of the fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chiplib.validation import did_you_mean
from dse.errors import DseError
from dse.proxy.columns import SHAPES
from dse.proxy.selection import CELL, capped, has_any_power, has_power

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

DEVELOPMENT_ROWS = 500
"""Rows from which on a device (or family) is one to leave out: below, a median says little."""

LEFT_OUT = 0.05
"""Share of rows, or of distinct shapes, that `random` and `shapes` leave out."""

EXAMPLES = "random, shapes, device:NAME, device:development, family:NAME, family:development, power, llmcompass"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Positions of rows to fit and of rows to judge; no row is in both."""

    name: str
    train: Index
    test: Index


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Some rows, and how many rows each of them stands for."""

    rows: Index  # [S] positions, ascending
    weight: NDArray[np.float64]  # [S] their sum is the number of rows that were sampled from


def split_names(asked: Sequence[str], rows: pd.DataFrame, devices: pd.DataFrame) -> list[str]:
    """Return the names of single splits: `device:development` is one a device, `power` one a pair of devices.

    Raises DseError for a split, device or family that is unknown, or that has no rows.
    """
    names: list[str] = []
    for name in asked:
        kind, _, what = name.partition(":")
        if kind not in _SPLITS:
            raise DseError(f"unknown split {name!r}", f"{did_you_mean(kind, list(_SPLITS))}: {EXAMPLES}")
        if kind == "power" and not what:
            measured = has_any_power(rows)
            known = [str(device) for device in rows["device"][measured].unique()]
            if len(known) < 2:
                raise DseError("split 'power': fewer than two devices have rows with a power", "leave it out")
            names += [f"power:{source}:{target}" for source in known for target in known if source != target]
        elif kind in ("device", "family") and what == "development":
            counts = _group_of(rows, devices, kind).value_counts()
            found = sorted(counts.index[counts >= DEVELOPMENT_ROWS].astype(str))
            if len(found) < 2:
                hint = f"name one ({kind}:NAME), or give more rows"
                raise DseError(f"split {name!r}: fewer than two have {DEVELOPMENT_ROWS} rows", hint)
            names += [f"{kind}:{group}" for group in found]
        else:
            names.append(name)
    return list(dict.fromkeys(names))


def make_split(name: str, rows: pd.DataFrame, devices: pd.DataFrame, *, seed: int = 0) -> Split:
    """Return the split of that name over tidy `rows` [N].

    random: 5 % of the rows are judged. shapes: 5 % of the distinct shapes, every row of one, on any device, framework
    and number type. device:NAME: a device. family:NAME: all devices of a family. power:SOURCE:TARGET: rows of TARGET
    with a power; fitted are all other devices' rows that are of SOURCE or have no power. llmcompass: the A100 operators
    of LLMCompass (arXiv:2312.03134); fitted are all devices with another die.

    Raises DseError where the split is unknown, or has no rows to fit or to judge.
    """
    kind, _, what = name.partition(":")
    if kind not in _SPLITS:
        raise DseError(f"unknown split {name!r}", f"{did_you_mean(kind, list(_SPLITS))}: {EXAMPLES}")
    fitted, judged = _SPLITS[kind](what, rows, devices, np.random.default_rng(seed))
    for mask, purpose in ((judged, "judge"), (fitted, "fit")):
        if not mask.any():
            raise DseError(f"split {name!r} has no rows to {purpose}", "leave it out, or give more rows with --rows")
    return Split(name=name, train=np.flatnonzero(fitted), test=np.flatnonzero(judged))


def sample(rows: pd.DataFrame, index: Index, *, cap: int | None, seed: int) -> Sample:
    """Draw at most `cap` rows of each cell from those at `index`, as a fit does; None draws all."""
    if cap is None:
        return Sample(rows=index, weight=np.ones(len(index)))
    cells = rows[[*CELL]].iloc[index]
    kept = capped(cells, cap=cap, seed=seed)
    counts = cells.groupby([*CELL], observed=True)[CELL[0]].transform("size").to_numpy()[kept]
    return Sample(rows=index[kept], weight=counts / np.minimum(counts, cap))


def hashed(rows: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.uint64]:
    """Return a 64-bit hash [N] of the columns of each row, the same for any order of rows and categories."""
    mixed = np.zeros(len(rows), np.uint64)
    with np.errstate(over="ignore"):
        for name in columns:
            values = rows[name]
            if isinstance(values.dtype, pd.CategoricalDtype):
                of_category = pd.util.hash_array(values.cat.categories.to_numpy(dtype=object))
                bits = np.append(of_category, np.uint64(0))[values.cat.codes]
            else:
                bits = pd.util.hash_array(values.to_numpy(dtype=np.float32) + np.float32(0))  # -0 and 0 are one
            mixed = (mixed ^ bits) * np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: 2^64 / golden ratio
            mixed ^= mixed >> np.uint64(29)
    return mixed


def _random(what: str, rows: pd.DataFrame, devices: pd.DataFrame, rng: np.random.Generator) -> tuple[Mask, Mask]:
    judged = rng.random(len(rows)) < LEFT_OUT
    return ~judged, judged


def _shapes(what: str, rows: pd.DataFrame, devices: pd.DataFrame, rng: np.random.Generator) -> tuple[Mask, Mask]:
    shapes, of_row = np.unique(hashed(rows, ("op_type", *SHAPES)), return_inverse=True)
    judged = (rng.random(len(shapes)) < LEFT_OUT)[of_row]
    return ~judged, judged


def _device(what: str, rows: pd.DataFrame, devices: pd.DataFrame, rng: np.random.Generator) -> tuple[Mask, Mask]:
    return _one_left_out("device", what, rows, devices)


def _family(what: str, rows: pd.DataFrame, devices: pd.DataFrame, rng: np.random.Generator) -> tuple[Mask, Mask]:
    return _one_left_out("family", what, rows, devices)


def _power(what: str, rows: pd.DataFrame, devices: pd.DataFrame, rng: np.random.Generator) -> tuple[Mask, Mask]:
    source, _, target = what.partition(":")
    measured, device = has_any_power(rows), rows["device"]
    for name in (source, target):
        known = [str(known) for known in device[measured].unique()]
        if name not in known:
            raise DseError(f"split 'power:{what}': no power of device {name!r}", did_you_mean(name, known))
    judged = (device == target).to_numpy() & has_power(rows)
    fitted = (device != target).to_numpy() & ((device == source).to_numpy() | ~measured)
    return fitted, judged


def _llmcompass(what: str, rows: pd.DataFrame, devices: pd.DataFrame, rng: np.random.Generator) -> tuple[Mask, Mask]:
    judged = (rows["source"] == "llmcompass").to_numpy()
    same_die = devices["chip"].isin(devices["chip"].reindex(rows["device"][judged].unique()).dropna())
    left_out = {*devices.index[same_die], *rows["device"][judged].unique()}
    return ~rows["device"].isin(left_out).to_numpy() & ~judged, judged


_SPLITS: dict[str, Callable[[str, pd.DataFrame, pd.DataFrame, np.random.Generator], tuple[Mask, Mask]]] = {
    "random": _random,
    "shapes": _shapes,
    "device": _device,
    "family": _family,
    "power": _power,
    "llmcompass": _llmcompass,
}


def _one_left_out(kind: str, what: str, rows: pd.DataFrame, devices: pd.DataFrame) -> tuple[Mask, Mask]:
    groups = _group_of(rows, devices, kind)
    judged = (groups == what).to_numpy()
    if not judged.any():
        known = sorted(str(name) for name in groups.unique())
        raise DseError(f"split '{kind}:{what}': no rows of {kind} {what!r}", did_you_mean(what, known))
    return ~judged, judged


def _group_of(rows: pd.DataFrame, devices: pd.DataFrame, kind: str) -> pd.Series:
    """Device or family of each row [N]."""
    return rows["device"].astype(object).map(devices["family"]) if kind == "family" else rows["device"].astype(object)
