"""Pipeline DP: contiguous stages of one or several topological orders, by dynamic programming over used slots.

Items are segments that cannot be parted (groups, circles of edges). A topological order of them is cut into stages; the
state is (items done, slots used, slot of the last stage); slots that are interchangeable count as one kind. The
programme minimises a cost that separates by neighbouring stages and never exceeds the true one:

  serial     compute + the crossing of edge (a - 1, a) at the first item a of each stage, where every item has an edge
             to the next, so that this path is a chain of waits.
  pipelined  the busiest slot, its ports included, or route between neighbouring stages, where a route carries the edges
             between the last item before a stage boundary and the stage after it.
  energy     exact for those edges; for edges from further off at least their bytes over the cheapest route.

So its value bounds every contiguous mapping of that order from below, and it is exact wherever the true cost of the
stages it finds is no more: always for chains (Viterbi's programme), and for ports. Where each item feeds the next there
is only one order, and the value bounds every contiguous mapping. With edges that skip items, a second run charges every
edge into a stage as if it came from the stage before, and the better mapping is kept; if that leaves a gap and the
contiguous mappings are few, all are compared.

Other orders are tried in rounds: depth-first ones at random, then those that follow the stages of the best mapping so
far and shuffle what lies inside of them. Each round's answer is as good as the one before, and moves its boundaries.
Where slots are too many and too different to count subsets of, they are used in the order of lists that are varied in
the same way: then it is a heuristic with the general lower bound.
"""

from __future__ import annotations

from itertools import combinations, permutations, product
from math import comb, perm, prod
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.bounds import bound_and_start
from solvers.mapping.evaluate import PROVEN, best_of, evaluate, finish
from solvers.mapping.problem import Incumbent, Mapping, MappingProblem
from solvers.mapping.solver import MappingSolver, Request
from solvers.mapping.symmetry import interchangeable_slots

if TYPE_CHECKING:
    from solvers.mapping._stage_items import Items
    from solvers.mapping._stage_kernel import Stages

MAX_CELLS = 4_000_000  # of the table of states
MAX_STEPS = 400_000_000  # transitions, about a second
MAX_PERIODS = 200  # points of the period-energy front that are looked at
ROUNDS = 64  # orders tried at most
ROUND_STEPS = 3_000_000_000  # transitions of all rounds at most
STEP_S = 2e-9  # a transition, about
MAX_COMPARED = 20_000  # contiguous mappings that are all compared
ROUNDING = 1 - 1e-10  # of a value summed in another order


class PipelineDP(MappingSolver):
    """Contiguous stages, exact where the cost separates; a free problem gets a contiguous answer and a free bound.

    What it proves by itself it proves of contiguous mappings. On a free problem its bound is the general one, and its
    answer is contiguous, unless the relaxation behind that bound or the warm start is a better mapping: a free serial
    chain with memory to spare is solved exactly by the former.
    """

    name = "pipeline_dp"
    role = "construct"
    required_modules = ("numba",)
    regimes = ("serial", "pipelined")

    def __init__(self, *, rounds: int = ROUNDS) -> None:
        """Try so many topological orders at most."""
        self.rounds = rounds

    @classmethod
    def proves(cls, problem: MappingProblem) -> bool:
        """Return whether stages are runs of consecutive segments, so that these are all there are."""
        return problem.contiguous and not problem.free_order and _one_order(problem)

    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Return the best of the stages found and the warm start; see MappingSolver."""
        bound, relaxed = bound_and_start(problem)
        search = _Search(problem, request, bound)
        search.offer([request.warm_start, relaxed])
        if np.isfinite(bound):
            search.run(self.rounds)
        return finish(
            problem,
            search.best,
            lower_bound=search.bound,
            solver=self.name,
            started=request.started,
            history=search.history,
            exact=search.complete,
        )


class _Search:
    """The rounds of one call, and the best mapping so far."""

    def __init__(self, problem: MappingProblem, request: Request, bound: float) -> None:
        from solvers.mapping._stage_items import stage_items

        self.problem, self.request, self.bound = problem, request, bound
        self.items: Items = stage_items(problem)
        self.groups = interchangeable_slots(problem)
        self.groups += [[mode] for mode in range(problem.slots, problem.modes)]
        self.states = _state_count(problem, self.groups)
        self.tractable = _tractable(self.items.count, self.groups, self.states)
        self.best: NDArray[np.int64] | None = None
        self.objective = np.inf
        self.history: list[Incumbent] = []
        self.complete = False

    def offer(self, candidates: list[NDArray[np.int64] | None]) -> None:
        """Keep the best of the candidates and the best so far."""
        found = best_of(self.problem, [self.best, *candidates])
        if found is None:
            return
        objective = float(evaluate(self.problem, found).objective[0])
        if objective < self.objective:
            self.best, self.objective = found, objective
            wall_s = perf_counter() - self.request.started
            self.history.append(Incumbent(wall_s=wall_s, objective=objective, lower_bound=min(self.bound, objective)))

    def run(self, rounds: int) -> None:
        """Try one order after another."""
        problem, rng = self.problem, np.random.default_rng(self.request.seed)
        slots = np.arange(len(self.groups))
        steps = 0
        for turn in range(rounds):
            order = self._order(turn, rng)
            if self.tractable:
                value = self._cut(order)
                done = len(self.groups) ** 2 * self.states * self.items.count**2 // 2
                if turn == 0 and PipelineDP.proves(problem):
                    self._settle(value)
                    return
            else:
                slots = self._cut_in_order(order, slots, turn, rng)
                done = len(slots) * self.items.count**2 // 2
            steps += done
            self.request.spend(done * STEP_S)
            if self.objective * PROVEN <= self.bound or steps > ROUND_STEPS or self.request.left_s < 0:
                return
            if not len(self.items.edges) and turn == 0:
                return  # no edges: one order is as good as another to them

    def _order(self, turn: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the order of items [I] of a round: their numbers, at random, or along the best stages so far."""
        from solvers.mapping._stage_items import topological_order

        items = self.items
        if turn == 0:
            return topological_order(items, np.arange(items.count, dtype=np.float64), depth_first=False)
        stages = None if self.best is None or turn % 4 == 1 else _stage_numbers(items, self.best)
        if stages is None:
            return topological_order(items, rng.random(items.count), depth_first=turn % 8 != 5)
        shuffled = rng.random(items.count) if turn % 2 else np.arange(items.count) / items.count
        return topological_order(items, stages + shuffled, depth_first=False)

    def _cut(self, order: NDArray[np.int64]) -> float:
        """Cut one order into stages, used slots counted by kind; return a bound on contiguous mappings of it."""
        states = _counts(self.problem, self.groups)
        stages = _stages(self.problem, self.items, order, self.groups, states, optimistic=True)
        value, mappings = self._solve(stages, order)
        self.offer([*mappings])
        if _Sequence(self.problem, self.items, order).skips and (stages.near_bytes.any() or stages.far_bytes.any()):
            stages = _stages(self.problem, self.items, order, self.groups, states, optimistic=False)
            self.offer([*self._solve(stages, order)[1]])
        return value

    def _solve(self, stages: Stages, order: NDArray[np.int64]) -> tuple[float, list[NDArray[np.int64]]]:
        """Least value of the separable objective (inf where no stages fit), and the mappings [K] met on the way.

        Cut short by the deadline, or after MAX_PERIODS points, the value is a lower bound on the least one.
        """
        from solvers.mapping._stage_kernel import best_stages

        problem = self.problem
        if problem.regime == "serial" or problem.time_weight == 0:
            value, starts, kinds = best_stages(stages, True, np.inf)
            return value, [self._mapping(order, starts, kinds)] if len(starts) else []
        period, starts, kinds = best_stages(stages, False, np.inf)
        if not len(starts):
            return np.inf, []
        mappings = [self._mapping(order, starts, kinds)]
        if problem.energy_weight == 0:
            return problem.time_weight * period, mappings
        # Walk down the front of period against energy: least energy, then least energy at a shorter period, and so on.
        value, most_load = np.inf, np.inf
        for _ in range(MAX_PERIODS):
            energy, starts, kinds = best_stages(stages, True, most_load)
            if not len(starts) or problem.time_weight * period + energy >= value:
                return value, mappings
            mappings.append(self._mapping(order, starts, kinds))
            load = _largest_load(stages, starts, kinds)
            value = min(value, problem.time_weight * load + energy)
            most_load = np.nextafter(load, 0.0)
            if self.request.left_s < 0:
                break
        return min(value, problem.time_weight * period + energy), mappings

    def _cut_in_order(
        self, order: NDArray[np.int64], slots: NDArray[np.int64], turn: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Cut one order into stages on a list of slots; return the list to vary next: the best so far."""
        from solvers.mapping._stage_kernel import stages_in_order

        problem = self.problem
        alone = [[mode] for mode in range(problem.modes)]
        stages = _stages(problem, self.items, order, alone, _in_order(problem), optimistic=False)
        additive = problem.regime == "serial" or problem.time_weight == 0
        tried = list(_slot_lists(problem, rng)) if turn == 0 else [_varied(slots, rng) for _ in range(4)]
        best = slots if turn else np.arange(problem.slots)
        for modes in (*tried, best) if turn else tried:
            before = self.objective
            limit = np.inf if additive or problem.energy_weight else self.objective / problem.time_weight
            _, starts, kinds = stages_in_order(stages, modes[::-1].copy(), additive, limit)
            if len(starts):
                self.offer([self._mapping(order, starts, kinds, alone)])
            if self.objective < before:
                best = modes
            if self.request.left_s < 0:
                break
        return best

    def _settle(self, value: float) -> None:
        """Take the value of the only order as a bound; compare all contiguous mappings where that leaves a gap."""
        problem = self.problem
        self.bound = max(self.bound, value * ROUNDING)
        if self.best is None:
            self.complete = value == np.inf
            return
        if self.bound < self.objective * PROVEN and not len(problem.teams):
            everything = _all_contiguous(problem)
            if everything is not None:
                self.offer([everything])
                self.complete = True

    def _mapping(
        self,
        order: NDArray[np.int64],
        starts: NDArray[np.int64],
        kinds: NDArray[np.int64],
        groups: list[list[int]] | None = None,
    ) -> NDArray[np.int64]:
        """Mode of each segment [K]: the stages of a kind take its slots in the order of their numbers."""
        left = [iter(group) for group in groups or self.groups]
        modes = np.array([next(left[kind]) for kind in kinds[::-1].tolist()], dtype=np.int64)[::-1]
        of_item = np.empty(self.items.count, dtype=np.int64)
        of_item[order[::-1]] = np.repeat(modes, np.diff([*starts.tolist(), self.items.count]))
        return of_item[self.items.item]


def _tractable(items: int, groups: list[list[int]], states: int) -> bool:
    cells = states * len(groups) * (items + 1)
    return cells <= MAX_CELLS and cells * len(groups) * items // 2 <= MAX_STEPS


def _all_contiguous(problem: MappingProblem) -> NDArray[np.int64] | None:
    """Every mapping in runs of consecutive segments [N, K], or None where they are more than MAX_COMPARED."""
    segments, slots = problem.segments, problem.slots
    sizes = range(1, min(segments, slots) + 1)
    if sum(comb(segments - 1, stages - 1) * perm(slots, stages) for stages in sizes) > MAX_COMPARED:
        return None
    rows = []
    for stages in sizes:
        cuts = np.array(list(combinations(range(1, segments), stages - 1)), dtype=np.int64)
        stage = (np.arange(segments) >= cuts[:, :, None]).sum(axis=1)  # [cuts, K]
        order = np.array(list(permutations(range(slots), stages)), dtype=np.int64)
        rows.append(order[:, stage].reshape(-1, segments))
    return np.concatenate(rows)


def _one_order(problem: MappingProblem) -> bool:
    """Whether each segment feeds the next: then stages are runs of consecutive segments, and a chain of waits."""
    ordering = problem.edges[problem.ordering]
    feeds = ordering[ordering[:, 1] == ordering[:, 0] + 1, 0]
    return len(np.unique(feeds)) == problem.segments - 1


def _stage_numbers(items: Items, assignment: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Place of each item's stage [I] in an order of the pipeline; None where the mapping is not contiguous."""
    of_item = np.empty(items.count, dtype=np.int64)
    of_item[items.item] = assignment
    ends = of_item[items.edges]
    after: dict[int, set[int]] = {mode: set() for mode in np.unique(of_item).tolist()}
    waiting = dict.fromkeys(after, 0)
    for p, q in np.unique(ends[ends[:, 0] != ends[:, 1]], axis=0).tolist():
        after[p].add(q)
        waiting[q] += 1
    ready = sorted(mode for mode, count in waiting.items() if not count)
    place: dict[int, int] = {}
    while ready:
        mode = ready.pop()
        place[mode] = len(place)
        for other in sorted(after[mode]):
            waiting[other] -= 1
            if not waiting[other]:
                ready.append(other)
    if len(place) < len(after):
        return None
    return np.array([place[mode] for mode in of_item.tolist()], dtype=np.float64)


def _state_count(problem: MappingProblem, groups: list[list[int]]) -> int:
    return 2**problem.slots if len(problem.teams) else prod(len(group) + 1 for group in groups)


def _counts(problem: MappingProblem, groups: list[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """State after using one more mode of a kind [N, G], and stages of a state [N].

    States count the used slots of each kind; with teams, they are sets of slots, and a team uses all of its own.
    """
    if len(problem.teams):
        masks = problem.members @ (1 << np.arange(problem.slots))
        used = np.arange(2**problem.slots)
        free = (used[:, None] & masks) == 0
        return np.where(free, used[:, None] | masks, -1), np.bitwise_count(used).astype(np.int64)
    sizes = [len(group) for group in groups]
    counts = np.array(list(product(*(range(size + 1) for size in sizes))), dtype=np.int64)
    stride = np.array([prod(size + 1 for size in sizes[kind + 1 :]) for kind in range(len(sizes))], dtype=np.int64)
    return np.where(counts < sizes, np.arange(len(counts))[:, None] + stride, -1), counts.sum(axis=1)


def _in_order(problem: MappingProblem) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What `_counts` returns, where slots are used in the order of a list."""
    return np.zeros((0, 0), dtype=np.int64), np.arange(problem.slots + 1)


def _slot_lists(problem: MappingProblem, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Lists of slots to begin with: by number, fastest first, nearest neighbours from the fastest, at random."""
    slots = problem.slots
    speed = np.where(problem.allowed, problem.compute_ms, np.inf).sum(axis=0)[:slots]
    size = float(problem.edge_bytes.mean()) if len(problem.edge_bytes) else 0.0
    far = (problem.route_latency_ms + size * problem.route_ms_per_byte)[:slots, :slots]
    near = [int(np.argmin(speed))]
    while len(near) < slots:
        left = np.setdiff1d(np.arange(slots), near)
        near.append(int(left[np.lexsort((speed[left], far[near[-1], left]))[0]]))
    return [np.arange(slots), np.argsort(speed, kind="stable"), np.array(near), rng.permutation(slots)]


def _varied(slots: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the list with two slots exchanged, or one moved elsewhere."""
    i, j = (int(place) for place in rng.integers(len(slots), size=2))
    varied = slots.tolist()
    if rng.random() < 0.5:
        varied[i], varied[j] = varied[j], varied[i]
    else:
        varied.insert(j, varied.pop(i))
    return np.array(varied, dtype=np.int64)


class _Sequence:
    """The items of one order from its end to its start: what crosses between places of it."""

    def __init__(self, problem: MappingProblem, items: Items, order: NDArray[np.int64]) -> None:
        self.place = np.empty(items.count, dtype=np.int64)
        self.place[order[::-1]] = np.arange(items.count)
        ends = self.place[items.item[problem.edges]]
        self.crossing = ends[:, 0] != ends[:, 1]
        self.near, self.far = np.sort(ends[self.crossing], axis=1).T  # [C] places, near the pipeline's end first
        self.bytes = problem.edge_bytes[self.crossing]
        self.ends = ends[self.crossing]

    @property
    def skips(self) -> bool:
        """Whether an edge passes over an item."""
        return bool((self.far - self.near > 1).any())


def _stages(
    problem: MappingProblem,
    items: Items,
    order: NDArray[np.int64],
    groups: list[list[int]],
    states: tuple[NDArray[np.int64], NDArray[np.int64]],
    *,
    optimistic: bool,
) -> Stages:
    """What stages cost: never more than they really do, or (not optimistic) with every edge from the stage beside."""
    from solvers.mapping._stage_kernel import Stages

    p, first = problem, np.array([group[0] for group in groups])
    serial = p.regime == "serial"
    sequence = _Sequence(p, items, order)
    place = sequence.place[items.item]  # [K]
    count = items.count

    def by_item(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum values [K] or [K, M] over the segments of each place: [I], or [G, I] of each kind."""
        if values.ndim == 1:
            total: NDArray[np.float64] = np.bincount(place, weights=values, minlength=count).astype(np.float64)
            return total
        summed = np.zeros((count, len(first)))
        np.add.at(summed, place, values[:, first])
        return np.ascontiguousarray(summed.T)

    def by_kind(route: NDArray[np.float64]) -> NDArray[np.float64]:
        """Route [M, M] from the second kind to the first, [G, G]: the sequence runs backwards."""
        between: NDArray[np.float64] = route.T[np.ix_(first, first)]
        for kind, group in enumerate(groups):
            between[kind, kind] = route[group[1], group[0]] if len(group) > 1 else 0.0
        return between

    compute_ms, energy_mj = (by_item(np.where(p.allowed, cost, 0.0)) for cost in (p.compute_ms, p.energy_mj))
    mj = p.energy_weight * by_kind(p.route_mj_per_byte)
    ms, none = by_kind(p.route_ms_per_byte), np.zeros_like(mj)
    far_mj = mj
    if optimistic and p.modes > 1:
        others = p.route_mj_per_byte + np.where(np.eye(p.modes, dtype=np.bool_), np.inf, 0.0)
        far_mj = p.energy_weight * np.tile(others.min(axis=1)[first], (len(first), 1))
    near, far = _bytes_between(sequence, count, energy=bool(p.energy_weight), links=bool(p.route_links.any()))
    if serial:
        # A stage waits for the edge into its first item; for all edges into it would be no bound.
        direct = sequence.far - sequence.near == 1
        into = np.zeros(count)
        np.maximum.at(into, sequence.far[direct], sequence.bytes[direct])
        time_bytes = np.repeat(into[:, None], count + 1, axis=1)
    else:
        time_bytes = near if optimistic else near + far
    allowed = np.ones((count, len(first)), dtype=np.bool_)
    np.logical_and.at(allowed, place, p.allowed[:, first])
    workspace = np.zeros(count)
    np.maximum.at(workspace, place, p.workspace_bytes)
    widest = np.array([bool(p.never_busy[p.members[mode]].all()) for mode in first.tolist()])
    hosts = np.zeros((len(first), count))
    if widest.any():
        np.maximum.at(hosts.T, place, np.where(p.allowed, p.compute_ms, 0.0)[:, first])
    loads = np.where(widest[:, None], hosts, compute_ms)
    links = p.route_links.max(axis=2, initial=0.0).astype(np.float64)
    return Stages(
        step=states[0],
        depth=np.minimum(states[1], p.most_in_flight),
        allowed=np.ascontiguousarray(allowed.T),
        load=np.zeros_like(compute_ms) if serial else loads,
        weight=(p.time_weight if serial else 0.0) * compute_ms + p.energy_weight * energy_mj,
        held=by_item(np.where(p.allowed, p.held_bytes, 0.0)),
        stash=by_item(p.stash),
        workspace=workspace,
        capacity=np.where(p.members[first], p.capacity_bytes, np.inf).min(axis=1),
        widest=widest,
        port_bytes=_port_bytes(p, items, sequence) if p.has_ports else np.zeros((2, 0, 0)),
        port_rate=np.ascontiguousarray(p.ports[:, first]),
        fixed=p.time_weight * by_kind(p.route_latency_ms) if serial else none,
        time_bytes=time_bytes,
        load_rate=none if serial else by_kind(p.route_ms_per_byte * links),
        wait_rate=p.time_weight * ms if serial else none,
        near_bytes=near,
        near_rate=mj,
        far_bytes=far,
        far_rate=far_mj,
    )


def _bytes_between(
    sequence: _Sequence, items: int, *, energy: bool, links: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bytes [I, I + 1] that cross between stage [a, b) and item a - 1, and items before that one."""
    near, far = np.zeros((items, items + 1)), np.zeros((items, items + 1))
    if not (energy or links):
        return near, far
    traffic = np.zeros((items, items))
    np.add.at(traffic, (sequence.near, sequence.far), sequence.bytes)
    before = np.zeros(items)
    for a in range(1, items):
        near[a, a + 1 :] = np.cumsum(traffic[a - 1, a:])
        far[a, a + 1 :] = np.cumsum(before[a:])
        before = before + traffic[a - 1]
    return near, far


def _port_bytes(problem: MappingProblem, items: Items, sequence: _Sequence) -> NDArray[np.float64]:
    """Bytes [2, I, I + 1] that ports of stage [a, b) take in and give out."""
    from solvers.mapping._stage_kernel import port_bytes

    source = problem.edges[sequence.crossing, 0]
    pairs = np.unique(np.stack([source, sequence.ends[:, 1]], axis=1), axis=0).reshape(-1, 2)  # segment, reading place
    producers, first = np.unique(pairs[:, 0], return_index=True)
    table: NDArray[np.float64] = port_bytes(
        items.count,
        sequence.place[items.item[producers]],
        np.append(first, len(pairs)).astype(np.int64),
        np.ascontiguousarray(pairs[:, 1]),
        problem.output_bytes[producers],
    )
    return table


def _largest_load(stages: Stages, starts: NDArray[np.int64], kinds: NDArray[np.int64]) -> float:
    """Load in ms of the busiest stage or route."""
    from solvers.mapping._stage_kernel import largest_load

    return float(largest_load(stages, starts, kinds))
