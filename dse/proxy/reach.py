"""Reach: how far measured chips and layers of a maker go, and what lies well beyond."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dse.proxy.features import CHIP_NAMES, RATES, WORK, Features

SIZES = ("flops", "bytes")
"""Columns of work by which a layer is large."""

MARGIN = float(np.log(2.0))
"""How far beyond the measured ones a rate, or a size, still counts as of the data: a factor of two."""

Limits = Mapping[str, tuple[tuple[float, float], ...]]
"""Maker -> least and most of the log of each of RATES and SIZES."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The least and most of rates and sizes that were measured on chips of each maker."""

    limits: Limits

    @classmethod
    def of(cls, features: Features) -> Reach:
        """Return the reach of training rows."""
        numbers, (place, makers) = _numbers(features), _makers(features)
        limits = {}
        for number, maker in enumerate(makers):
            own = numbers[place == number]
            limits[maker] = tuple(
                (float(least), float(most)) for least, most in zip(own.min(0), own.max(0), strict=True)
            )
        return cls(limits=dict(sorted(limits.items())))

    def beyond(self, features: Features) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return of which rows [N] the chip has a rate, and the layer a size, well beyond those of the maker's data.

        A rate may be too low or too high, a size too large alone. Of a maker without data nothing is beyond.
        """
        place, makers = _makers(features)
        nothing = ((-np.inf, np.inf),) * (len(RATES) + len(SIZES))
        limits = np.array([self.limits.get(maker, nothing) for maker in makers]).reshape(len(makers), len(nothing), 2)
        numbers = _numbers(features)
        low, high = (numbers < limits[place, :, 0] - MARGIN), (numbers > limits[place, :, 1] + MARGIN)
        far: NDArray[np.bool_] = np.any(low[:, : len(RATES)] | high[:, : len(RATES)], axis=1)
        large: NDArray[np.bool_] = np.any(high[:, len(RATES) :], axis=1)
        return far, large


def _makers(features: Features) -> tuple[NDArray[np.int64], list[str]]:
    """Return the place [N] of each row's maker among those that occur."""
    place, makers = pd.factorize(features.chip_names[:, CHIP_NAMES.index("maker")])
    return place, [*map(str, makers)]


def _numbers(features: Features) -> NDArray[np.float64]:
    """Return logs [N, RATES + SIZES]."""
    sizes = features.work[:, [WORK.index(name) for name in SIZES]]
    return np.concatenate([features.rates, sizes], axis=1).astype(np.float64)
