"""How good and how legal a placement is: recomputed from the coordinates alone, whatever solver they came from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solvers.errors import SolverError
from solvers.placement.problem import Outline, Placement, PlacementProblem

TOLERANCE_MM = 1e-6  # a nanometre: rounding, not geometry


def validate(problem: PlacementProblem) -> None:
    """Raise SolverError where the problem's arrays do not fit together or hold impossible values."""
    chips = len(problem.width_mm)
    if chips == 0:
        raise SolverError("there is no chip to place", "at least one")
    shapes = {"height_mm": (chips,), "traffic_bytes": (chips, chips), "power_w": (chips,)}
    for name, shape in shapes.items():
        if getattr(problem, name).shape != shape:
            raise SolverError(f"{name} has shape {getattr(problem, name).shape}", f"expected {shape}")
    if problem.sites.ndim != 2 or problem.sites.shape[1] != 2:
        raise SolverError(f"sites has shape {problem.sites.shape}", "expected (sites, 2)")
    if problem.names and len(problem.names) != chips:
        raise SolverError(f"{len(problem.names)} names for {chips} chips", "one name a chip, or none")
    for name in ("width_mm", "height_mm"):
        if not (np.isfinite(values := getattr(problem, name)).all() and (values > 0).all()):
            raise SolverError(f"{name} has a value that is no length: {values.tolist()}", "positive, in mm")
    for name in ("traffic_bytes", "power_w"):
        if not (np.isfinite(values := getattr(problem, name)).all() and (values >= 0).all()):
            raise SolverError(f"{name} has a negative or non-finite value")
    if not np.isfinite(problem.sites).all():
        raise SolverError("sites has a non-finite coordinate")
    outline = problem.outline
    if outline.shape == "disc" and outline.width_mm != outline.height_mm:
        raise SolverError(f"a disc of {outline.width_mm} x {outline.height_mm} mm", "width_mm = height_mm = diameter")
    if outline.edge_mm < 0 or problem.spacing_mm < 0:
        raise SolverError(f"edge_mm {outline.edge_mm}, spacing_mm {problem.spacing_mm}", "both at least zero")


def wirelength_byte_mm(traffic_bytes: NDArray[np.float64], centres_mm: NDArray[np.float64]) -> float:
    """Sum over chips i, j of traffic_bytes[i, j] x Manhattan distance between `centres_mm` [C, 2]."""
    distance = np.abs(centres_mm[:, None] - centres_mm[None]).sum(axis=2)
    return float((traffic_bytes * distance).sum())


def extents(problem: PlacementProblem, rotated: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Width and height [C] in mm of the chips as they lie."""
    width, height = problem.width_mm, problem.height_mm
    return np.where(rotated, height, width), np.where(rotated, width, height)


def outline_excess_mm(
    outline: Outline,
    centre_x: NDArray[np.float64],
    centre_y: NDArray[np.float64],
    width: NDArray[np.float64],
    height: NDArray[np.float64],
) -> NDArray[np.float64]:
    """By how many mm each rectangle reaches into the outline's edge or over it; at most 0 where it is inside.

    All arrays broadcast. A rectangle is inside a disc of radius R iff its four corners are, that is iff
    (|x| + w/2)^2 + (|y| + h/2)^2 <= R^2 of its centre x, y.
    """
    if outline.shape == "disc":
        corner = np.hypot(np.abs(centre_x) + width / 2, np.abs(centre_y) + height / 2)
        disc: NDArray[np.float64] = corner - (outline.width_mm / 2 - outline.edge_mm)
        return disc
    beyond_x = np.abs(centre_x - outline.width_mm / 2) + width / 2 - (outline.width_mm / 2 - outline.edge_mm)
    beyond_y = np.abs(centre_y - outline.height_mm / 2) + height / 2 - (outline.height_mm / 2 - outline.edge_mm)
    rectangle: NDArray[np.float64] = np.maximum(beyond_x, beyond_y)
    return rectangle


def violations(problem: PlacementProblem, placement: Placement) -> tuple[str, ...]:
    """What is illegal about `placement`, and by how many mm; empty where it is legal.

    Checked: every chip on the centre of its site, no site used twice, every chip inside the outline without its
    edge, and every pair at least `spacing_mm` apart along x or along y.
    """
    chips = len(problem.width_mm)
    if len(problem.sites) < chips:
        return (f"{chips} chips for {len(problem.sites)} sites: {chips - len(problem.sites)} sites too few",)
    names = problem.names or tuple(f"chip {index}" for index in range(chips))
    width, height = extents(problem, placement.rotated)
    x, y = placement.x_mm + width / 2, placement.y_mm + height / 2
    found: list[str] = []
    site = problem.sites[placement.site]
    for chip in np.flatnonzero((off := np.hypot(x - site[:, 0], y - site[:, 1])) > TOLERANCE_MM):
        found.append(f"{names[chip]} lies {off[chip]:.4g} mm off the centre of site {placement.site[chip]}")
    excess = outline_excess_mm(problem.outline, x, y, width, height)
    for chip in np.flatnonzero(excess > TOLERANCE_MM):
        found.append(
            f"{names[chip]} ({width[chip]:g} x {height[chip]:g} mm) reaches {excess[chip]:.4g} mm over the "
            f"{problem.outline.shape}'s outline less its edge of {problem.outline.edge_mm:g} mm"
        )
    apart = np.maximum(
        np.abs(x[:, None] - x) - (width[:, None] + width) / 2, np.abs(y[:, None] - y) - (height[:, None] + height) / 2
    )
    for one, other in zip(*np.nonzero(np.triu(problem.spacing_mm - apart > TOLERANCE_MM, k=1)), strict=True):
        if placement.site[one] == placement.site[other]:
            found.append(f"{names[one]} and {names[other]} share site {placement.site[one]}")
        found.append(
            f"{names[one]} and {names[other]} need a spacing of {problem.spacing_mm:g} mm: "
            f"{problem.spacing_mm - apart[one, other]:.4g} mm too little"
        )
    return tuple(found)
