"""Package: outline, slots and topology, and the route matrices between slots that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chiplib.links import LinkType

Topology = Literal["mesh", "torus", "ring", "star", "point_to_point"]
PackageKind = Literal["substrate", "interposer", "wafer", "board"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A carrier of chips: a rectangle or a round wafer with a grid of slots, joined by links of one type.

    Slots are numbered row by row from the lower left; on a wafer only those wholly inside the edge exclusion count.
    """

    name: str
    kind: PackageKind
    shape: Literal["rectangle", "disc"]
    width_mm: float  # the diameter of a disc
    height_mm: float
    rows: int
    columns: int
    slot_width_mm: float  # largest chip that a slot holds (rotation allowed)
    slot_height_mm: float
    link: LinkType
    topology: Topology = "mesh"
    spacing_mm: float = 0.5  # between chips
    edge_mm: float = 0.5  # exclusion along the border
    source: str = ""
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Routes:
    """Between S slots over L directed links. Units as the mapping problems take them; diagonals are zero."""

    hops: NDArray[np.int64]  # [S, S]
    latency_ms: NDArray[np.float64]  # [S, S] hops x hop latency
    ms_per_byte: NDArray[np.float64]  # [S, S] 1 / bottleneck bandwidth
    mj_per_byte: NDArray[np.float64]  # [S, S] 8 x pJ/bit x hops
    uses_link: NDArray[np.bool_]  # [S, S, L]
    links: NDArray[np.int64]  # [L, 2] slots that each directed link joins
