"""Compiled annealing of a quadratic assignment: exchange two sites' contents, or turn a chip. Loaded only when used."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

TOLERANCE_MM = 1e-6
END_TEMPERATURE = 1e-4  # of the starting temperature


class Board(NamedTuple):
    """C chips, P sites, and what each pair of chips on each pair of sites costs."""

    flow: NDArray[np.float64]  # [C, C] symmetric
    distance: NDArray[np.float64]  # [P, P] symmetric
    hot: NDArray[np.float64]  # [C, C] symmetric, weighs closeness
    closeness: NDArray[np.float64]  # [P, P] symmetric
    step: NDArray[np.float64]  # [P, P, 2] mm between centres along x and y
    sizes: NDArray[np.float64]  # [2, C] mm along x and y, upright
    outside: NDArray[np.float64]  # [C, P, 2] mm over the outline, upright and turned
    spacing: float  # mm
    penalty: float  # cost of a mm over the outline or too near
    roomy: bool  # nothing can be over the outline or too near


@njit(cache=True)
def _pull(board, site, turned, c, p, turn, skip):  # type: ignore[no-untyped-def]
    """Cost of chip c on site p, turned or not, against every chip but `skip`; none of an empty site (c >= C)."""
    chips = len(board.flow)
    if c >= chips:
        return 0.0
    cost, over = 0.0, 0.0
    for k in range(chips):
        if k in (c, skip):
            continue
        q = site[k]
        cost += board.flow[c, k] * board.distance[p, q] + board.hot[c, k] * board.closeness[p, q]
        if not board.roomy:
            apart_x = board.step[p, q, 0] - (board.sizes[turn, c] + board.sizes[turned[k], k]) / 2
            apart_y = board.step[p, q, 1] - (board.sizes[1 - turn, c] + board.sizes[1 - turned[k], k]) / 2
            lack = board.spacing - max(apart_x, apart_y)
            if lack > TOLERANCE_MM:
                over += lack
    if not board.roomy:
        over += board.outside[c, p, turn]
    return cost + board.penalty * over


@njit(cache=True)
def cost_of(board, site, turned):  # type: ignore[no-untyped-def]
    """Cost of an assignment: each pair once, and what breaks outline or spacing."""
    cost = 0.0
    for c in range(len(board.flow)):
        alone = board.penalty * board.outside[c, site[c], turned[c]]
        cost += alone + (_pull(board, site, turned, c, site[c], turned[c], -1) - alone) / 2
    return cost


@njit(cache=True)
def _exchange(board, site, turned, i, j):  # type: ignore[no-untyped-def]
    """Change of cost if chip i and j exchange sites. What the two cost each other is symmetric and stays."""
    p, q = site[i], site[j]
    chips = len(board.flow)
    change = 0.0
    if board.roomy and j < chips:  # the common case in one pass
        for k in range(chips):
            if k not in (i, j):
                r = site[k]
                change += (board.flow[i, k] - board.flow[j, k]) * (board.distance[q, r] - board.distance[p, r])
                change += (board.hot[i, k] - board.hot[j, k]) * (board.closeness[q, r] - board.closeness[p, r])
        return change
    change = _pull(board, site, turned, i, q, turned[i], j) - _pull(board, site, turned, i, p, turned[i], j)
    return change + _pull(board, site, turned, j, p, turned[j], i) - _pull(board, site, turned, j, q, turned[j], i)


@njit(cache=True)
def anneal(board, site, turned, moves, seed):  # type: ignore[no-untyped-def]
    """Improve `site` [P] (of the chips, then the empty sites) and `turned` [P] in place by `moves` annealing moves."""
    np.random.seed(seed)  # noqa: NPY002 - numba's own generator
    chips, sites = len(board.flow), len(board.distance)
    typical = 0.0  # change of cost by a move
    for _ in range(100):
        i, j = np.random.randint(chips), np.random.randint(sites)  # noqa: NPY002
        if i != j:
            typical += abs(_exchange(board, site, turned, i, j)) / 100
    temperature = 0.5 * typical if typical > 0 else 1.0
    cooling = END_TEMPERATURE ** (1.0 / moves)
    cost = cost_of(board, site, turned)
    best, best_site, best_turned = cost, site.copy(), turned.copy()
    for _ in range(moves):
        temperature *= cooling
        i, j = np.random.randint(chips), np.random.randint(sites)  # noqa: NPY002
        if i == j:
            if board.roomy:
                continue
            change = _pull(board, site, turned, i, site[i], 1 - turned[i], -1)
            change -= _pull(board, site, turned, i, site[i], turned[i], -1)
        else:
            change = _exchange(board, site, turned, i, j)
        if change <= 0.0 or np.random.random() < np.exp(-change / temperature):  # noqa: NPY002
            if i == j:
                turned[i] = 1 - turned[i]
            else:
                site[i], site[j] = site[j], site[i]
            cost += change
            if cost < best - 1e-12 * abs(best):
                best = cost
                best_site[:] = site
                best_turned[:] = turned
    site[:] = best_site
    turned[:] = best_turned
