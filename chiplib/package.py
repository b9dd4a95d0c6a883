"""Package: outline, slots and topology, and the route matrices between slots that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar, Literal, TypeVar

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray

from chiplib.errors import ChipError
from chiplib.links import LinkType

Topology = Literal["mesh", "torus", "ring", "star", "point_to_point"]
PackageKind = Literal["substrate", "interposer", "wafer", "board"]
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A carrier of chips: a rectangle or a round wafer with a grid of slots, joined by links of one type.

    Slots are numbered row by row from the lower left; on a wafer only those wholly inside the edge exclusion count.
    Coordinates are those of the placement: a rectangle has its lower left corner at the origin, a disc its centre;
    the grid lies in the middle of the outline.

    Raises ChipError where the grid does not fit the outline, or a disc has no slot inside its edge exclusion.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}  # unknown keys are errors

    name: str
    kind: PackageKind
    shape: Literal["rectangle", "disc"]
    width_mm: Annotated[float, Gt(0)]  # the diameter of a disc
    height_mm: Annotated[float, Gt(0)]
    rows: Annotated[int, Gt(0)]
    columns: Annotated[int, Gt(0)]
    slot_width_mm: Annotated[float, Gt(0)]  # largest chip that a slot holds (rotation allowed)
    slot_height_mm: Annotated[float, Gt(0)]
    link: LinkType
    topology: Topology = "mesh"
    spacing_mm: Annotated[float, Ge(0)] = 0.5  # between chips
    edge_mm: Annotated[float, Ge(0)] = 0.5  # exclusion along the border
    source: str = ""
    assumed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.shape == "disc":
            if self.width_mm != self.height_mm:
                raise ChipError(
                    f"disc {self.name!r} is {self.width_mm:g} x {self.height_mm:g} mm", "width_mm = height_mm"
                )
            if not len(slot_grid(self)):
                raise ChipError(f"no slot of {self.name!r} lies inside its edge exclusion", "smaller slots")
            return
        for side, need in zip(("width_mm", "height_mm"), self.grid_mm, strict=True):
            missing = need + 2 * self.edge_mm - getattr(self, side)
            if missing > 1e-9:
                raise ChipError(
                    f"the slots of {self.name!r} exceed its {side} {getattr(self, side):g} by {missing:g} mm",
                    f"{side} of at least {need + 2 * self.edge_mm:g} for slots, spacing and edges",
                )

    @property
    def pitch_mm(self) -> tuple[float, float]:
        """Distance of neighbouring slot centres in x and in y."""
        return self.slot_width_mm + self.spacing_mm, self.slot_height_mm + self.spacing_mm

    @property
    def grid_mm(self) -> tuple[float, float]:
        """Width and height of the whole grid of slots, edges not counted."""
        pitch_x, pitch_y = self.pitch_mm
        return self.columns * pitch_x - self.spacing_mm, self.rows * pitch_y - self.spacing_mm

    @property
    def outline_mm2(self) -> float:
        """Area of the carrier itself."""
        if self.shape == "disc":
            return math.pi * (self.width_mm / 2) ** 2
        return self.width_mm * self.height_mm

    @property
    def slots(self) -> int:
        """Number of slots, S."""
        return len(slot_grid(self))

    @property
    def slot_grid(self) -> NDArray[np.int64]:
        """Row and column of each slot, [S, 2]."""
        return slot_grid(self)

    @property
    def slot_centres(self) -> NDArray[np.float64]:
        """Centre of each slot in mm, [S, 2]."""
        return slot_centres(self)

    @property
    def routes(self) -> Routes:
        """Routes between all slots. Raises ChipError where a link is longer than it reaches."""
        return routes(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Routes:
    """Between S slots over L directed links. Units as the mapping problems take them; diagonals are zero.

    All arrays are read-only. `link_mm` is the distance that a link spans between the facing edges of its two slots.
    """

    hops: NDArray[np.int64]  # [S, S]
    latency_ms: NDArray[np.float64]  # [S, S] hops x hop latency
    ms_per_byte: NDArray[np.float64]  # [S, S] 1 / bottleneck bandwidth
    mj_per_byte: NDArray[np.float64]  # [S, S] 8 x pJ/bit x hops
    uses_link: NDArray[np.bool_]  # [S, S, L]
    links: NDArray[np.int64]  # [L, 2] slots that each directed link joins
    link_mm: NDArray[np.float64]  # [L]


@cache
def slot_grid(package: Package) -> NDArray[np.int64]:
    """Return row and column of each slot, [S, 2], read-only.

    A slot lies on a disc iff its four corners do: (|x| + w/2)^2 + (|y| + h/2)^2 <= (diameter/2 - edge)^2.
    """
    row, column = (a.ravel() for a in np.indices((package.rows, package.columns)))
    grid = np.stack([row, column], axis=1).astype(np.int64)
    if package.shape == "disc":
        x, y = np.abs(_centres(package, grid)).T
        corner_x, corner_y = x + package.slot_width_mm / 2, y + package.slot_height_mm / 2
        grid = grid[np.hypot(corner_x, corner_y) <= package.width_mm / 2 - package.edge_mm]
    return _read_only(grid)


@cache
def slot_centres(package: Package) -> NDArray[np.float64]:
    """Return the centre of each slot in mm, [S, 2], read-only."""
    centres = _centres(package, slot_grid(package))
    if package.shape == "rectangle":
        centres = centres + np.array([package.width_mm, package.height_mm]) / 2
    return _read_only(centres)


@cache
def routes(package: Package) -> Routes:
    """Return the routes between all slots of `package`.

    Routing is deterministic and minimal:
    mesh            along the row, then along the column; the other way round where a wafer's edge has cut the corner
    torus           as the mesh, each direction the shorter way round (rectangles only)
    ring            the slots in a snake over the grid's rows, the shorter way round
    star            two hops through the hub, the slot nearest to the middle of the package; one hop to and from it
    point_to_point  a link of its own for each pair

    Raises ChipError where a link spans more than its `reach_mm` between the facing edges of its slots.
    """
    s = package.slots
    next_slot = _next_slots(package)  # [S, S] first slot on the way from p to q
    is_link = np.zeros((s, s), bool)
    is_link[np.arange(s)[:, None], next_slot] = True
    np.fill_diagonal(is_link, False)
    links = np.argwhere(is_link)
    link_number = np.full((s, s), -1)
    link_number[tuple(links.T)] = np.arange(len(links))

    hops = np.zeros((s, s), np.int64)
    uses_link = np.zeros((s, s, len(links)), bool)
    here, target = (a.copy() for a in np.indices((s, s)))
    while (moving := here != target).any():
        source, goal = np.nonzero(moving)
        stand = here[moving]
        step = next_slot[stand, goal]
        uses_link[source, goal, link_number[stand, step]] = True
        hops[moving] += 1
        here[moving] = step

    link = package.link
    link_mm = _link_mm(package, links)
    _check_reach(package, links, link_mm)
    apart = ~np.eye(s, dtype=bool)
    return Routes(
        hops=_read_only(hops),
        latency_ms=_read_only(hops * np.float64(link.latency_ns * 1e-6)),
        ms_per_byte=_read_only(apart * 1e-6 / link.bandwidth_gb_s),
        mj_per_byte=_read_only(hops * np.float64(8 * link.pj_per_bit * 1e-9)),
        uses_link=_read_only(uses_link),
        links=_read_only(links.astype(np.int64)),
        link_mm=_read_only(link_mm),
    )


def _centres(package: Package, grid: NDArray[np.int64]) -> NDArray[np.float64]:
    """Centres [S, 2] in mm about the middle of the grid."""
    row, column = grid.T
    pitch_x, pitch_y = package.pitch_mm
    return np.stack([(column - (package.columns - 1) / 2) * pitch_x, (row - (package.rows - 1) / 2) * pitch_y], axis=1)


def _next_slots(package: Package) -> NDArray[np.int64]:
    """Return [S, S]: the first slot on the way from p to q (p itself where p = q)."""
    s = package.slots
    here, goal = np.indices((s, s))
    match package.topology:
        case "point_to_point":
            return goal
        case "star":
            centres = slot_centres(package)
            hub = int(np.argmin(((centres - centres.mean(axis=0)) ** 2).sum(axis=1).round(9)))
            return np.where((here == hub) | (goal == hub) | (here == goal), goal, hub)
        case "ring":
            grid = slot_grid(package)
            snake = np.where(grid[:, 0] % 2 == 0, grid[:, 1], -grid[:, 1])
            order = np.lexsort((snake, grid[:, 0]))  # slot at each place of the ring
            place = np.argsort(order)
            ahead = (place[goal] - place[here]) % s
            step = np.where(ahead == 0, 0, np.where(ahead <= s // 2, 1, -1))
            return np.asarray(order[(place[here] + step) % s], np.int64)
        case "mesh" | "torus":
            return _grid_steps(package)


def _grid_steps(package: Package) -> NDArray[np.int64]:
    """Return the first slots of mesh and torus routes, [S, S]."""
    wraps = package.topology == "torus"
    if wraps and package.shape == "disc":
        raise ChipError(f"package {package.name!r} is a torus on a disc", "a mesh: rows of a disc differ in length")
    grid = slot_grid(package)
    number = np.full((package.rows, package.columns), -1)
    number[tuple(grid.T)] = np.arange(len(grid))
    row, column = grid.T
    delta = grid[None, :, :] - grid[:, None, :]  # [S, S, 2] rows, columns to go
    size = np.array([package.rows, package.columns])
    step = np.sign(delta)
    if wraps:
        around = np.abs(delta) > size // 2
        step = np.where(around, -step, step)
    # A disc is convex and symmetric: where the corner in p's row and q's column is cut off, the other one is there.
    # q's column is reached along p's row only if that corner exists; once in it, the rest of the way is straight.
    along_row = (delta[..., 1] != 0) & ((number[row[:, None], column[None, :]] >= 0) | (delta[..., 0] == 0))
    to_row = (row[:, None] + np.where(along_row, 0, step[..., 0])) % package.rows
    to_column = (column[:, None] + np.where(along_row, step[..., 1], 0)) % package.columns
    return np.asarray(number[to_row, to_column], np.int64)


def _link_mm(package: Package, links: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the distance [L] in mm between the facing edges of each link's two slots, along x plus along y."""
    centres = slot_centres(package)
    slot = np.array([package.slot_width_mm, package.slot_height_mm])
    gaps = np.abs(centres[links[:, 0]] - centres[links[:, 1]]) - slot
    length: NDArray[np.float64] = np.maximum(gaps, 0).sum(axis=1)
    return length


def _check_reach(package: Package, links: NDArray[np.int64], link_mm: NDArray[np.float64]) -> None:
    reach = package.link.reach_mm
    if reach is None or not len(links) or link_mm.max() <= reach + 1e-9:
        return
    worst = int(np.argmax(link_mm))
    a, b = links[worst]
    raise ChipError(
        f"package {package.name!r}: the link between slots {a} and {b} spans {link_mm[worst]:.4g} mm, "
        f"but {package.link.name} reaches {reach:g} mm",
        "slots closer together, another topology, or a link of longer reach",
    )


def _read_only(array: NDArray[Number]) -> NDArray[Number]:
    array.setflags(write=False)
    return array
