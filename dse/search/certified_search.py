"""The order in which designs are evaluated: what can still matter first, until nothing unmapped can.

The search is a coroutine: it yields batches of design indices and is sent their rows. It depends on rows alone, never
on the clock or on the number of workers, so a resumed run that answers from stored rows takes the very same way.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dse.objectives import Objectives, nondominated
from dse.search.bounds import SLOPES
from dse.search.certified import DesignBounds, proven_epsilon

Rows = Sequence[dict[str, Any]]

FIRST_BATCH = 64
GROWTH = 1.5
"""Growing batches: few while every point still closes many designs, many when the front stands."""
RANDOM_SEEDS = 40
ROW_BOUNDS = 2 + len(SLOPES)  # half-planes that a row brings at most: the mapping solvers' own, tighter ones


@dataclass(kw_only=True)
class CertifiedSearch:
    """State of a certified search over D designs; `possible` says which can be mapped at all."""

    bounds: DesignBounds
    possible: NDArray[np.bool_]
    chips: NDArray[np.int64]  # [D] number of chips of each design
    objectives: Objectives
    target: float  # epsilon at which an unmapped design is closed
    rng: np.random.Generator
    phase: str = "seed"
    points: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    point_exact: NDArray[np.float64] = field(init=False)
    mapped: NDArray[np.bool_] = field(init=False)
    epsilons: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.bounds = self.bounds.with_room(ROW_BOUNDS)
        self.point_exact = np.zeros((0, self.bounds.exact.shape[1]))
        self.mapped = np.zeros(len(self.possible), bool)
        self.epsilons = np.where(self.possible, np.inf, 0.0)

    @property
    def epsilon(self) -> float | None:
        """Proven over all designs, the mapped ones included; None where nothing finite is proven."""
        if self.objectives.unbounded or not self.possible.any():
            return None
        worst = float(self.epsilons.max(initial=0.0))
        return worst if np.isfinite(worst) else None

    @property
    def open_unmapped(self) -> int:
        """Designs that are neither mapped nor closed at the target."""
        return int((self.possible & ~self.mapped & (self.epsilons > self.target)).sum())

    def batches(self) -> Generator[NDArray[np.int64], Rows, None]:
        """Yield batches of design indices; send the rows of each, in the same order."""
        first = np.flatnonzero(self.possible & (self.chips == self.chips[self.possible].min(initial=1)))
        others = np.setdiff1d(np.flatnonzero(self.possible), first)
        drawn = self.rng.choice(others, min(RANDOM_SEEDS, len(others)), replace=False)
        batch = np.concatenate((first, np.sort(drawn)))
        size = float(FIRST_BATCH)
        while len(batch):
            rows = yield batch
            self.learn(batch, rows)
            self.phase = "search"
            candidates = np.flatnonzero(self.possible & ~self.mapped & (self.epsilons > self.target))
            # widest epsilon first; among those that nothing bounds yet, the one with the best bounds first
            promise = np.log(np.maximum(self.bounds.least[candidates, :2], 1e-300)).sum(1)
            promise += np.log(np.maximum(self.bounds.exact[candidates], 1e-300)).sum(1)
            order = np.lexsort((candidates, promise, -self.epsilons[candidates]))
            batch = candidates[order[: int(size)]]
            size *= GROWTH

    def learn(self, batch: NDArray[np.int64], rows: Rows) -> None:
        """Take in evaluated designs: their points, and what these close."""
        self.mapped[batch] = True
        metrics = [point["metrics"] for row in rows for point in row["points"]]
        owners = np.repeat(batch, [len(row["points"]) for row in rows])
        for index, row in zip(batch, rows, strict=True):
            if row["status"] == "infeasible":  # proven: there is nothing of this design to be better
                self.possible[index], self.epsilons[index] = False, 0.0
            for column, (a, b, least) in enumerate(row["bounds"], start=-ROW_BOUNDS):
                self.bounds.a[index, column] = a
                self.bounds.b[index, column] = b
                self.bounds.least[index, column] = least
        points = np.concatenate((self.points, self.objectives.time_energy(metrics)))
        exact = np.concatenate((self.point_exact, self.bounds.exact[owners]))
        kept = nondominated(np.column_stack((points, exact)))
        self.points, self.point_exact = points[kept], exact[kept]
        if not self.objectives.unbounded:
            self.tighten(np.flatnonzero(self.epsilons > self.target), tolerance=1e-3)

    def tighten(self, index: NDArray[np.int64], *, tolerance: float = 1e-4) -> None:
        """Recompute the epsilon of some designs from the points known now (it never grows)."""
        fresh = proven_epsilon(self.bounds.take(index), self.points, self.point_exact, tolerance=tolerance)
        self.epsilons[index] = np.minimum(self.epsilons[index], fresh)
