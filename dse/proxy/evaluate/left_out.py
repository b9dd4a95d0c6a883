"""Layer proxies that have not seen the layers of some models: what is measured of them is left out of their fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dse.proxy.columns import SHAPES
from dse.proxy.ensemble import fit_proxy
from dse.proxy.evaluate.splits import hashed
from dse.proxy.fit import STANDARD
from dse.proxy.intervals import Widths
from dse.proxy.layer_rows import layer_rows
from dse.proxy.predict import LayerProxy
from workloads import catalog

FOLDS = 4
STEPS = 3000
"""Training steps of each fit, half of those of the weights that ship."""

OPERATOR = ("op_type", "op_name", "dtype", *SHAPES)
"""Columns that make two rows the same operator."""


def dealt(models: Sequence[str], folds: int = FOLDS) -> list[list[str]]:
    """Deal models into parts, families (those of one source file) as a whole: the largest first, to the smallest part.

    A family is as large as its models have layers.
    """
    families: dict[str, list[str]] = {}
    for name in models:
        families.setdefault(catalog.entry(name).factory.partition(":")[0], []).append(name)
    sizes = {family: sum(len(catalog.load(name).layers) for name in names) for family, names in families.items()}
    parts: list[list[str]] = [[] for _ in range(min(folds, len(families)))]
    filled = [0] * len(parts)
    for family in sorted(families, key=lambda family: -sizes[family]):
        smallest = int(np.argmin(filled))
        parts[smallest] += families[family]
        filled[smallest] += sizes[family]
    return parts


def not_of(models: Sequence[str], rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which tidy rows [N] are no operator that a layer of one of the models is, on any device."""
    layers = pd.concat([layer_rows(catalog.load(name)) for name in models], ignore_index=True)
    names = ["op_type", "op_name", "dtype"]
    layers = layers.astype(dict.fromkeys(names, "category") | dict.fromkeys(SHAPES, np.float32))
    full = rows.assign(**{name: np.float32(np.nan) for name in SHAPES if name not in rows})
    other: NDArray[np.bool_] = ~np.isin(hashed(full, OPERATOR), hashed(layers, OPERATOR))
    return other


def proxies_left_out(
    models: Sequence[str],
    rows: pd.DataFrame,
    devices: pd.DataFrame,
    *,
    widths: Widths,
    seed: int = 0,
    steps: int = STEPS,
    progress: Callable[[int, str], None] = lambda done, what: None,
) -> Iterator[tuple[list[str], LayerProxy, int]]:
    """Yield parts of the models, a proxy that was fitted without their layers, and how many rows that left out.

    Intervals have the given widths: those of the proxy that is judged.
    """
    for number, part in enumerate(dealt(models)):
        kept = not_of(part, rows)
        progress(number, f"fitting without {', '.join(part)}")
        proxy = fit_proxy(
            rows[kept], devices, seed=seed, recipe=replace(STANDARD, steps=steps), networks=1, intervals=False
        )
        yield part, replace(proxy, widths=widths), int((~kept).sum())
