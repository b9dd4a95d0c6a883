"""Objectives of a study, and the criteria that they become: positive numbers, all to be made small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray

from dse.errors import DseError
from dse.metrics import LESS_IS_BETTER

TIME = {"serial": "latency_ms", "pipelined": "throughput_per_s"}
"""The objective that the time T of a mapping problem decides, by regime; one over it where more is better."""
ENERGY = "energy_mj"
EXACT = ("cost_usd", "area_mm2")
"""Objectives that the design alone fixes, whatever the mapping."""


@dataclass(frozen=True, slots=True)
class Objectives:
    """Two or more metrics by name, each with its own direction."""

    names: tuple[str, ...]
    regime: str

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in LESS_IS_BETTER:
                close = get_close_matches(name, LESS_IS_BETTER, 1)
                raise DseError(
                    f"objective {name!r} is not a metric",
                    f"did you mean {close[0]!r}?" if close else f"one of {', '.join(LESS_IS_BETTER)}",
                )
        if len(self.names) < 2 or len(set(self.names)) != len(self.names):
            raise DseError(f"objectives are {', '.join(self.names) or 'empty'}", "two or more metrics, each once")

    def criteria(self, metrics: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """Criteria [P, M] of P points, in the order of the names; one over the metric where more is better."""
        values = np.array([[float(m[name]) for name in self.names] for m in metrics], float).reshape(
            -1, len(self.names)
        )
        for column, name in enumerate(self.names):
            if not LESS_IS_BETTER[name]:
                values[:, column] = 1.0 / np.maximum(values[:, column], 1e-300)
        return values

    def metrics(self, criteria: NDArray[np.float64]) -> list[float]:
        """Metrics [M] of one point's criteria [M]: the way back from `criteria`."""
        return [
            float(value if LESS_IS_BETTER[name] else 1.0 / value)
            for name, value in zip(self.names, criteria, strict=True)
        ]

    @property
    def unbounded(self) -> tuple[str, ...]:
        """Objectives for which there is no lower bound, so that nothing can be proven."""
        return tuple(name for name in self.names if name not in (TIME[self.regime], ENERGY, *EXACT))

    @property
    def exact(self) -> tuple[str, ...]:
        """Objectives that the design alone fixes."""
        return tuple(name for name in self.names if name in EXACT)

    def time_energy(self, metrics: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """Points [P, 2] in the plane of the half-planes: ms a sample or batch, and mJ; 1 where not an objective."""
        plane = np.ones((len(metrics), 2))
        if TIME[self.regime] in self.names:
            plane[:, 0] = [m["latency_ms"] if self.regime == "serial" else 1e3 / m["throughput_per_s"] for m in metrics]
        if ENERGY in self.names:
            plane[:, 1] = [m["energy_mj"] for m in metrics]
        return plane


def nondominated(criteria: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the points that no other dominates; of equal points the first."""
    if not len(criteria):
        return np.zeros(0, np.int64)
    return np.flatnonzero(moocore.is_nondominated(criteria))


def hypervolume(criteria: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Share of the box between the origin and `reference` that the points dominate (all criteria are positive)."""
    if not len(criteria):
        return 0.0
    return float(moocore.hypervolume(criteria / reference, ref=np.ones(len(reference))))


def knee(criteria: NDArray[np.float64]) -> int:
    """Index of the balanced choice: nearest to the ideal point, each criterion on a log scale from best to worst."""
    logs = np.log(np.maximum(criteria, 1e-300))
    span = np.ptp(logs, axis=0)
    scaled = (logs - logs.min(0)) / np.where(span > 0, span, 1.0)
    return int(np.square(scaled).sum(1).argmin())
