"""Grid: one chip a site, chosen so that bytes x distance is small (a quadratic assignment problem).

Few enough assignments are all compared (vectorised, those that differ only by exchanging like chips once); more are
searched by compiled annealing of swaps, with the Gilmore-Lawler bound beside. Wirelength does not depend on rotation:
a chip is turned only where it does not fit otherwise. Power breaks ties only: of equal wirelengths, hot chips apart.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise, permutations, product
from math import factorial, perm, prod
from time import perf_counter
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solvers.placement.evaluate import (
    TOLERANCE_MM,
    extents,
    outline_excess_mm,
    violations,
    wirelength_byte_mm,
)
from solvers.placement.problem import Placement, PlacementProblem
from solvers.placement.solver import PlacementSolver

# Work of an enumeration in (assignment, pair of chips) look-ups, and the largest table of assignments kept in memory.
MAX_LOOKUPS = 300_000
MAX_TABLE = 50_000
RESTARTS = 4
MIN_MOVES = 10_000  # annealing moves a restart, and
MOVES_PER_PAIR = 100  # times chips x sites


class Grid(PlacementSolver):
    """Assign chips to sites: exact where the assignments are few, else annealed."""

    name = "grid"
    exact = True
    required_modules = ("numba",)

    def solve(self, problem: PlacementProblem, *, deadline_s: float = 10.0, seed: int = 0) -> Placement:
        """Return the best assignment found, legal or with its violations; see PlacementSolver."""
        started = perf_counter()
        chips, sites = len(problem.width_mm), len(problem.sites)
        if chips > sites:
            return _no_room(problem, self.name, started)
        task = _Task.of(problem)
        groups = _like_chips(problem, task.flow)
        count = perm(sites, chips) // prod(factorial(len(group)) for group in groups)
        if perm(sites, chips) <= MAX_TABLE and count * chips * (chips - 1) // 2 <= MAX_LOOKUPS:
            site, rotated, bound = _enumerate(problem, task, groups)
        else:
            site, rotated = _anneal(problem, task, started + deadline_s, seed)
            bound = gilmore_lawler(task.flow, task.distance)
        return _answer(problem, site, rotated, bound, self.name, started)


class _Task(NamedTuple):
    """The quadratic assignment problem behind a placement problem."""

    flow: NDArray[np.float64]  # [C, C] symmetric, bytes both ways
    distance: NDArray[np.float64]  # [P, P] Manhattan, mm
    outside: NDArray[np.float64]  # [C, P, 2] mm over the outline, upright and turned; 0 where inside
    roomy: bool  # every chip fits upright on every site whatever its neighbours are

    @staticmethod
    def of(problem: PlacementProblem) -> _Task:
        step = np.abs(problem.sites[:, None] - problem.sites[None])  # [P, P, 2]
        flow = problem.traffic_bytes + problem.traffic_bytes.T
        np.fill_diagonal(flow, 0.0)
        sizes = np.stack([problem.width_mm, problem.height_mm])  # [2, C]: turned by reading it backwards
        x, y = problem.sites.T
        outside = outline_excess_mm(problem.outline, x[:, None], y[:, None], sizes.T[:, None], sizes[::-1].T[:, None])
        outside = np.where(outside > TOLERANCE_MM, outside, 0.0)
        need = sizes.max(axis=1, initial=0.0) + problem.spacing_mm
        close = (step < need - TOLERANCE_MM).all(axis=2)  # a pair of sites too near for the largest two chips
        roomy = not outside[:, :, 0].any() and int(close.sum()) == len(x)
        return _Task(flow=flow, distance=step.sum(axis=2), outside=outside, roomy=roomy)


def _like_chips(problem: PlacementProblem, flow: NDArray[np.float64]) -> list[list[int]]:
    """Groups of chips that can be exchanged with nothing changed: same size, power and traffic."""
    groups: list[list[int]] = []
    for chip in range(len(flow)):
        for group in groups:
            other = group[0]
            same = flow[chip] == flow[other]
            same[[chip, other]] = True  # a pair's own exchange is symmetric
            if same.all() and (
                problem.width_mm[chip] == problem.width_mm[other]
                and problem.height_mm[chip] == problem.height_mm[other]
                and problem.power_w[chip] == problem.power_w[other]
            ):
                group.append(chip)
                break
        else:
            groups.append([chip])
    return groups


@lru_cache(maxsize=16)
def _assignments(sites: int, chips: int) -> NDArray[np.int64]:
    """Every injective assignment of chips to sites, [sites! / (sites - chips)!, chips], in lexicographic order."""
    table = np.array(list(permutations(range(sites), chips)), dtype=np.int64).reshape(-1, chips)
    table.flags.writeable = False
    return table


def _enumerate(
    problem: PlacementProblem, task: _Task, groups: list[list[int]]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], float]:
    """Site and rotation [C] of the best assignment of all, and the exact lower bound of the wirelength."""
    chips = len(task.flow)
    table = _assignments(len(task.distance), chips)
    for group in groups:
        for one, other in pairwise(group):
            table = table[table[:, one] < table[:, other]]
    length = np.zeros(len(table))
    for one in range(chips):
        for other in range(one):
            if task.flow[one, other]:
                length += task.flow[one, other] * task.distance[table[:, one], table[:, other]]
    upright = np.zeros(chips, dtype=np.bool_)
    if not task.roomy:
        excess = _least_excess_mm(problem, task, table)
        legal = np.flatnonzero(excess == 0.0)
        for index in legal[np.lexsort((_heat(problem, task, table[legal]), length[legal]))]:
            if (turned := _orient(problem, table[index])) is not None:
                return table[index], turned, float(length[index])
        site = table[int(np.lexsort((length, excess))[0])]
        out_upright, out_turned = task.outside[np.arange(chips), site].T
        return site, out_turned < out_upright, float("inf")
    shortest = length.min(initial=np.inf)
    ties = table[length <= shortest * (1 + 1e-12)]
    site = ties[int(np.argmin(_heat(problem, task, ties)))] if len(ties) > 1 else ties[0]
    return site, upright, float(shortest)


def _heat(problem: PlacementProblem, task: _Task, table: NDArray[np.int64]) -> NDArray[np.float64]:
    """How close hot chips lie, [A] of assignments [A, C]: sum over pairs of power x power / distance."""
    heat = np.zeros(len(table))
    closeness = 1.0 / np.maximum(task.distance, TOLERANCE_MM)
    for one in range(table.shape[1]):
        for other in range(one):
            heat += problem.power_w[one] * problem.power_w[other] * closeness[table[:, one], table[:, other]]
    return heat


def _least_excess_mm(problem: PlacementProblem, task: _Task, table: NDArray[np.int64]) -> NDArray[np.float64]:
    """Lower bound [A] on the mm by which assignments [A, C] break outline and spacing, each pair turned as it likes."""
    chips = table.shape[1]
    excess = np.zeros(len(table))
    for chip in range(chips):
        excess += task.outside.min(axis=2)[chip, table[:, chip]]
    step = np.abs(problem.sites[:, None] - problem.sites[None])
    sizes = np.stack([problem.width_mm, problem.height_mm])
    for one in range(chips):
        for other in range(one):
            least = np.full(step.shape[:2], np.inf)
            for turn, turn_other in product((0, 1), (0, 1)):
                need = (sizes[[turn, 1 - turn], one] + sizes[[turn_other, 1 - turn_other], other]) / 2
                lack = problem.spacing_mm - (step - need).max(axis=2)
                least = np.minimum(least, np.where(lack > TOLERANCE_MM, lack, 0.0))
            excess += least[table[:, one], table[:, other]]
    return excess


def _orient(problem: PlacementProblem, site: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """Rotations [C] that make the assignment legal, few chips turned; None where there are none (backtracking)."""
    chips = len(site)
    x, y = problem.sites[site].T
    turned = np.zeros(chips, dtype=np.bool_)

    def fits(chip: int) -> bool:
        width, height = extents(problem, turned)
        over = outline_excess_mm(problem.outline, x[chip], y[chip], width[chip], height[chip])
        if over > TOLERANCE_MM:
            return False
        apart_x = np.abs(x[:chip] - x[chip]) - (width[:chip] + width[chip]) / 2
        apart_y = np.abs(y[:chip] - y[chip]) - (height[:chip] + height[chip]) / 2
        return bool((np.maximum(apart_x, apart_y) >= problem.spacing_mm - TOLERANCE_MM).all())

    def place(chip: int) -> bool:
        if chip == chips:
            return True
        for turn in (False, True):
            turned[chip] = turn
            if fits(chip) and place(chip + 1):
                return True
        turned[chip] = False
        return False

    return turned if place(0) else None


def _anneal(
    problem: PlacementProblem, task: _Task, deadline: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Site and rotation [C] of the best assignment that annealing finds, by a fixed number of moves."""
    from solvers.placement._swap_search import Board, anneal, cost_of

    chips, sites = len(task.flow), len(task.distance)
    closeness = 1.0 / np.maximum(task.distance, TOLERANCE_MM)
    np.fill_diagonal(closeness, 0.0)
    hot = np.outer(problem.power_w, problem.power_w)
    longest = float(task.flow.sum() * task.distance.max(initial=0.0))
    hottest = float(hot.sum() * closeness.max(initial=0.0))
    tie = (
        (1e-9 * longest if longest > 0 else 1.0) / hottest if hottest > 0 else 0.0
    )  # all heat: a billionth of the bytes
    board = Board(
        flow=task.flow,
        distance=task.distance,
        hot=tie * hot,
        closeness=closeness,
        step=np.abs(problem.sites[:, None] - problem.sites[None]),
        sizes=np.stack([problem.width_mm, problem.height_mm]),
        outside=task.outside,
        spacing=float(problem.spacing_mm),
        penalty=max(longest, 1.0),  # a millimetre over outweighs any wirelength
        roomy=task.roomy,
    )
    moves = max(MIN_MOVES, MOVES_PER_PAIR * chips * sites)
    found: list[tuple[float, NDArray[np.int64], NDArray[np.int64]]] = []
    for restart in range(RESTARTS):
        rng = np.random.default_rng((seed, restart))
        site = _greedy(task) if restart == 0 else rng.permutation(sites)
        turned = np.zeros(sites, dtype=np.int64)
        turned[:chips] = np.argmin(task.outside[np.arange(chips), site[:chips]], axis=1)
        anneal(board, site, turned, moves, int(rng.integers(2**31)))
        found.append((float(cost_of(board, site, turned)), site, turned))
        if perf_counter() > deadline:
            break
    cost, site, turned = min(found, key=lambda entry: entry[0])
    for chip in np.flatnonzero(turned[:chips]):  # upright again where nothing needs the turn
        turned[chip] = 0
        if cost_of(board, site, turned) > cost + 1e-9 * abs(cost):
            turned[chip] = 1
    return site[:chips].copy(), turned[:chips] == 1


def _greedy(task: _Task) -> NDArray[np.int64]:
    """Every site in an order [P] that serves the busiest chips first, each at the free site nearest its partners."""
    chips, sites = len(task.flow), len(task.distance)
    order = np.full(sites, -1, dtype=np.int64)
    free = np.ones(sites, dtype=np.bool_)
    todo = list(np.argsort(-task.flow.sum(axis=1), kind="stable"))
    done: list[int] = []
    while todo:
        chip = max(todo, key=lambda c: float(task.flow[c, done].sum())) if done else todo[0]
        todo.remove(chip)
        pull = task.flow[chip, done] @ task.distance[order[done]] if done else task.distance.sum(axis=1)
        over = task.outside[chip].min(axis=1)
        order[chip] = int(np.lexsort((pull, over, ~free))[0])
        free[order[chip]] = False
        done.append(chip)
    order[chips:] = np.flatnonzero(free)
    return order


def gilmore_lawler(flow: NDArray[np.float64], distance: NDArray[np.float64]) -> float:
    """Lower bound on sum over pairs of flow x distance, of C chips on P >= C sites.

    A chip at a site pays at least the product of its flows, falling, and the site's distances, rising; the cheapest
    assignment of these costs, halved because each pair is seen from both ends, bounds the whole (Gilmore 1962,
    Lawler 1963). `flow` [C, C] and `distance` [P, P] are symmetric.
    """
    from scipy.optimize import linear_sum_assignment

    chips = len(flow)
    off_diagonal = ~np.eye(chips, dtype=np.bool_)
    flows = -np.sort(-flow[off_diagonal].reshape(chips, chips - 1), axis=1)
    others = distance[~np.eye(len(distance), dtype=np.bool_)].reshape(len(distance), -1)
    cost = flows @ np.sort(others, axis=1)[:, : chips - 1].T
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].sum()) / 2 * (1 - 1e-12)  # rounding of the sums


def _answer(
    problem: PlacementProblem,
    site: NDArray[np.int64],
    rotated: NDArray[np.bool_],
    lower_bound: float,
    solver: str,
    started: float,
) -> Placement:
    """The placement, checked."""
    width, height = extents(problem, rotated)
    centres = problem.sites[site]
    length = wirelength_byte_mm(problem.traffic_bytes, centres)

    def placement(status: Literal["optimal", "feasible", "infeasible"], broken: tuple[str, ...]) -> Placement:
        return Placement(
            x_mm=centres[:, 0] - width / 2,
            y_mm=centres[:, 1] - height / 2,
            rotated=rotated,
            site=site,
            wirelength_byte_mm=length,
            lower_bound=lower_bound if status == "infeasible" else min(lower_bound, length),
            status=status,
            solver=solver,
            wall_s=perf_counter() - started,
            violations=broken,
        )

    status: Literal["optimal", "feasible"] = "optimal" if lower_bound >= length * (1 - 1e-9) else "feasible"
    broken = violations(problem, placement(status, ()))
    return placement("infeasible" if broken else status, broken)


def _no_room(problem: PlacementProblem, solver: str, started: float) -> Placement:
    """The answer where chips outnumber sites: no positions."""
    chips = len(problem.width_mm)
    nowhere = np.full(chips, np.nan)
    short = f"{chips} chips for {len(problem.sites)} sites: {chips - len(problem.sites)} sites too few"
    return Placement(
        x_mm=nowhere,
        y_mm=nowhere,
        rotated=np.zeros(chips, dtype=np.bool_),
        site=np.full(chips, -1, dtype=np.int64),
        wirelength_byte_mm=float("inf"),
        lower_bound=float("inf"),
        status="infeasible",
        solver=solver,
        wall_s=perf_counter() - started,
        violations=(short,),
    )
