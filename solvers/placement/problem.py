"""PlacementProblem and Placement: where each chip lies on the package, stated as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """Where chips may lie: a rectangle with its corner at the origin, or a disc centred on the origin."""

    shape: Literal["rectangle", "disc"]
    width_mm: float  # the diameter of a disc
    height_mm: float  # equals width_mm for a disc
    edge_mm: float = 0.0  # kept free along the border


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacementProblem:
    """Place C rectangular chips, one in a site, so that bytes x distance is small.

    `sites` [P, 2] are the centres of the places where a chip may lie (mm); P >= C.
    """

    width_mm: NDArray[np.float64]  # [C]
    height_mm: NDArray[np.float64]  # [C]
    traffic_bytes: NDArray[np.float64]  # [C, C] from chip to chip
    power_w: NDArray[np.float64]  # [C]
    outline: Outline
    sites: NDArray[np.float64]  # [P, 2]
    spacing_mm: float = 0.0
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Placement:
    """Lower left corners x, y [C] in mm after rotation, whether each chip is turned by 90 degrees, and its site."""

    x_mm: NDArray[np.float64]
    y_mm: NDArray[np.float64]
    rotated: NDArray[np.bool_]
    site: NDArray[np.int64]  # [C] index into the problem's sites
    wirelength_byte_mm: float  # sum of traffic x Manhattan distance between centres
    lower_bound: float  # on the wirelength of every legal placement; inf where it is proven that there is none
    status: Literal["optimal", "feasible", "infeasible"]
    solver: str
    wall_s: float
    violations: tuple[str, ...] = ()  # what does not fit, and by how much; empty where legal
