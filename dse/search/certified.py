"""The epsilon that known points and lower bounds prove together, design by design.

Criteria are all to be made small and positive: two that a mapping decides (time and energy; 1 where the study does not
ask for one) and those that the design alone fixes exactly (cost, area).

A design is *closed* at epsilon when no mapping of it can be better than every known point by more than that: each
corner of the staircase of known points that cost no more than (1 + epsilon) times the design, divided by
(1 + epsilon), violates one of the design's half-planes. `proven_epsilon` finds the least such epsilon of each design.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CEILING = 1e6
"""An epsilon above this is not worth a name: the design is as good as unbounded, and inf is returned."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DesignBounds:
    """What is known of D designs before any is mapped: a*t + b*e >= least, and exact criteria."""

    a: NDArray[np.float64]  # [D, H]
    b: NDArray[np.float64]  # [D, H]
    least: NDArray[np.float64]  # [D, H]
    exact: NDArray[np.float64]  # [D, X]

    def with_room(self, columns: int) -> DesignBounds:
        """The same bounds with `columns` more half-planes a design that say nothing yet (t >= 0)."""
        room = np.zeros((len(self.exact), columns))
        return DesignBounds(
            a=np.hstack((self.a, room + 1.0)),
            b=np.hstack((self.b, room)),
            least=np.hstack((self.least, room)),
            exact=self.exact,
        )

    def take(self, index: NDArray[np.int64]) -> DesignBounds:
        """The bounds of some of the designs."""
        return DesignBounds(a=self.a[index], b=self.b[index], least=self.least[index], exact=self.exact[index])


def closed(
    bounds: DesignBounds,
    points: NDArray[np.float64],
    point_exact: NDArray[np.float64],
    epsilon: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Whether each of D designs is closed at its own `epsilon` [D] by P points (t, e) [P, 2].

    `point_exact` [P, X] are the exact criteria of the points' designs.
    """
    result = np.zeros(len(epsilon), bool)
    if not len(points) or not len(epsilon):
        return result
    usable: NDArray[np.bool_] = np.all(
        point_exact[None, :, :] <= (1.0 + epsilon)[:, None, None] * bounds.exact[:, None, :], axis=2
    )  # [D, P]
    packed = np.packbits(usable, axis=1)
    _, first, group = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    group = group.reshape(-1)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(len(first)))
    for members in np.split(order, starts[1:]):
        which = usable[members[0]]
        if not which.any():
            continue
        corners = _corners(points[which])  # [C, 2]
        scaled = corners[None, :, :] / (1.0 + epsilon[members])[:, None, None]  # [n, C, 2]
        a, b, least = (part[members][:, None, :] for part in (bounds.a, bounds.b, bounds.least))
        with np.errstate(invalid="ignore"):  # 0 x inf at the open ends: the half-plane does not look that way
            reach = np.where(a > 0, a * scaled[:, :, :1], 0.0) + np.where(b > 0, b * scaled[:, :, 1:], 0.0)
        result[members] = np.all(np.any(reach <= least, axis=2), axis=1)
    return result


def proven_epsilon(
    bounds: DesignBounds,
    points: NDArray[np.float64],
    point_exact: NDArray[np.float64],
    *,
    tolerance: float = 1e-4,
) -> NDArray[np.float64]:
    """Least epsilon at which each of D designs is closed, [D], rounded up by at most `tolerance` (of 1 + epsilon).

    0 where a design is closed as it is; inf where no finite epsilon (below CEILING) closes it.
    """
    designs = len(bounds.exact)
    epsilon = np.full(designs, np.inf)
    if not len(points):
        return epsilon
    zero = np.zeros(designs)
    done = closed(bounds, points, point_exact, zero)
    epsilon[done] = 0.0
    todo = np.flatnonzero(~done)
    # closedness is monotone in epsilon: bisect log(1 + epsilon), first between powers of ten, then finely
    low, high = np.zeros(len(todo)), np.full(len(todo), np.log1p(CEILING))
    bounded = closed(bounds.take(todo), points, point_exact, np.full(len(todo), CEILING))
    todo, low, high = todo[bounded], low[bounded], high[bounded]
    part = bounds.take(todo)
    while len(todo) and float((high - low).max()) > tolerance:
        middle = (low + high) / 2
        is_closed = closed(part, points, point_exact, np.expm1(middle))
        high = np.where(is_closed, middle, high)
        low = np.where(is_closed, low, middle)
    epsilon[todo] = np.expm1(high)
    return epsilon


def _corners(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper right corners [C, 2] of the region that no point dominates, the two open ends included."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    t, e = points[order, 0], points[order, 1]
    kept = np.concatenate(([True], e[1:] < np.minimum.accumulate(e)[:-1]))
    t, e = t[kept], e[kept]
    return np.column_stack((np.append(t, np.inf), np.concatenate(([np.inf], e))))
