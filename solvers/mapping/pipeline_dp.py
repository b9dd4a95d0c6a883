"""Pipeline DP: contiguous stages over the problem's own order, by dynamic programming over used slots.

The state is (segments done, slots used, slot of the last stage); slots that are interchangeable count as one kind. The
programme minimises a cost that separates by neighbouring stages and never exceeds the true one:

  serial     compute + the crossing of edge (a - 1, a) at the first segment a of each stage, where every segment has an
             edge to the next, so that this path is a chain of waits.
  pipelined  the busiest slot or route between neighbouring stages, where a route carries the edges from the last
             segment before the stage.
  energy     exact for those edges; for edges from further back at least their bytes over the cheapest route.

So its value bounds every contiguous mapping from below, and it is exact wherever the true cost of the stages it finds
is no more: always for chains (edges k -> k + 1 only) whose routes share no link, or in the serial regime. With skip
edges, a second run charges every edge into a stage as if it came from the stage before, and the better mapping is kept;
if that leaves a gap and the contiguous mappings are few, all are compared.
Where slots are too many and too different to count subsets of, slots are used in the order of several fixed lists: then
it is a heuristic with the general lower bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations, product
from math import comb, perm, prod
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.bounds import bound_and_start
from solvers.mapping.evaluate import PROVEN, best_of, evaluate, finish
from solvers.mapping.problem import Mapping, MappingProblem
from solvers.mapping.solver import MappingSolver, Request
from solvers.mapping.symmetry import interchangeable_slots

if TYPE_CHECKING:
    from solvers.mapping._stage_kernel import Stages

MAX_CELLS = 4_000_000  # of the table of states
MAX_STEPS = 400_000_000  # transitions, about a second
MAX_PERIODS = 200  # points of the period-energy front that are looked at
ORDERS = 16  # lists of slots tried where subsets are too many
MAX_COMPARED = 20_000  # contiguous mappings that are all compared
ROUNDING = 1 - 1e-12


class PipelineDP(MappingSolver):
    """Contiguous stages, exact where the cost separates; a free problem gets a contiguous answer and a free bound.

    What it proves by itself it proves of contiguous mappings. On a free problem its bound is the general one, and its
    answer is contiguous, unless the relaxation behind that bound or the warm start is a better mapping: a free serial
    chain with memory to spare is solved exactly by the former.
    """

    name = "pipeline_dp"
    required_modules = ("numba",)
    regimes = ("serial", "pipelined")

    @classmethod
    def refusal(cls, problem: MappingProblem) -> str:
        """Return what it does not do; see MappingSolver."""
        told = {
            "teams": len(problem.teams) > 0,
            "groups": len(np.unique(problem.unit)) < problem.segments,
            "ports": problem.has_ports,
            "backward segments": bool(problem.backward.any()),
            "stashes": bool(problem.stash_bytes.any()),
            "concurrent slots": bool(problem.concurrent.any()),
            "memory that depends on the slot": problem.resident_bytes.ndim == 2,
        }
        return super().refusal(problem) or ", ".join(name for name, present in told.items() if present)

    @classmethod
    def proves(cls, problem: MappingProblem) -> bool:
        """Return whether stages are runs of consecutive segments, so that these are all there are."""
        return problem.contiguous and _one_order(problem)

    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Return the best of the stages found and the warm start; see MappingSolver."""
        until = request.started + request.deadline_s
        bound, relaxed = bound_and_start(problem)
        candidates = [request.warm_start, relaxed]
        groups = interchangeable_slots(problem)
        complete = _tractable(problem.segments, groups)
        if np.isfinite(bound):
            if complete:
                value, mappings = _solve(problem, groups, _used_counts(groups), until, optimistic=True)
                candidates += mappings
                if problem.contiguous and _one_order(problem):
                    bound = max(bound, value * ROUNDING)
                if _skips(problem):
                    candidates += _solve(problem, groups, _used_counts(groups), until, optimistic=False)[1]
            else:
                alone = [[slot] for slot in range(problem.slots)]
                for order in _orders(problem, request.seed):
                    candidates += _solve(problem, alone, _in_order(order), until, optimistic=False)[1]
                    if perf_counter() > until:
                        break
        answer = best_of(problem, candidates)
        in_one_order = problem.contiguous and _one_order(problem)
        proven = answer is None and complete and in_one_order
        if answer is not None and in_one_order and bound < evaluate(problem, answer).objective[0] * PROVEN:
            everything = _all_contiguous(problem)
            if everything is not None:
                answer, proven = best_of(problem, [answer, everything]), True
        return finish(problem, answer, lower_bound=bound, solver=self.name, started=request.started, exact=proven)


def _tractable(segments: int, groups: list[list[int]]) -> bool:
    states = prod(len(group) + 1 for group in groups)
    cells = states * len(groups) * (segments + 1)
    return cells <= MAX_CELLS and cells * len(groups) * segments // 2 <= MAX_STEPS


def _all_contiguous(problem: MappingProblem) -> NDArray[np.int64] | None:
    """Every contiguous mapping [M, K], or None where they are more than MAX_COMPARED."""
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


def _skips(problem: MappingProblem) -> bool:
    return bool((problem.edges[:, 1] - problem.edges[:, 0] > 1).any())


def _one_order(problem: MappingProblem) -> bool:
    """Whether each segment feeds the next: then stages are runs of consecutive segments, and a chain of waits."""
    feeds = problem.edges[problem.edges[:, 1] == problem.edges[:, 0] + 1, 0]
    return len(np.unique(feeds)) == problem.segments - 1


def _used_counts(groups: list[list[int]]) -> NDArray[np.int64]:
    """State after using one more slot of a kind, [states, kinds]: states count the used slots of each kind."""
    sizes = [len(group) for group in groups]
    counts = np.array(list(product(*(range(size + 1) for size in sizes))), dtype=np.int64)
    stride = np.array([prod(size + 1 for size in sizes[kind + 1 :]) for kind in range(len(sizes))], dtype=np.int64)
    return np.where(counts < sizes, np.arange(len(counts))[:, None] + stride, -1)


def _in_order(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """State after using slot s, [S + 1, S]: states are positions in `order`; slots are skipped, never gone back to."""
    position = np.argsort(order)
    return np.where(position[None] >= np.arange(len(order) + 1)[:, None], position + 1, -1)


def _orders(problem: MappingProblem, seed: int) -> Iterator[NDArray[np.int64]]:
    """Lists of slots: by number, fastest first, nearest neighbours from several slots, then at random."""
    slots = problem.slots
    yield np.arange(slots)
    speed = np.where(problem.allowed, problem.compute_ms, np.inf).sum(axis=0)
    yield np.argsort(speed, kind="stable")
    size = float(problem.edge_bytes.mean()) if len(problem.edge_bytes) else 0.0
    far = problem.route_latency_ms + size * problem.route_ms_per_byte
    for first in np.argsort(speed, kind="stable")[: ORDERS // 2].tolist():
        order = [first]
        while len(order) < slots:
            left = np.setdiff1d(np.arange(slots), order)
            order.append(int(left[np.lexsort((speed[left], far[order[-1], left]))[0]]))
        yield np.array(order)
    rng = np.random.default_rng(seed)
    for _ in range(ORDERS - ORDERS // 2 - 2):
        yield rng.permutation(slots)


def _solve(
    problem: MappingProblem, groups: list[list[int]], step: NDArray[np.int64], until: float, *, optimistic: bool
) -> tuple[float, list[NDArray[np.int64]]]:
    """Least value of the separable objective (inf where no stages fit) and the mappings [K] met on the way.

    Cut short `until` a time, or after MAX_PERIODS points, the value is a lower bound on the least one.
    """
    from solvers.mapping._stage_kernel import best_stages

    stages = _stages(problem, groups, step, optimistic=optimistic)
    if problem.regime == "serial" or problem.time_weight == 0:
        value, starts, kinds = best_stages(stages, True, np.inf)
        return value, [_mapping(problem, groups, starts, kinds)] if len(starts) else []
    period, starts, kinds = best_stages(stages, False, np.inf)
    if not len(starts):
        return np.inf, []
    mappings = [_mapping(problem, groups, starts, kinds)]
    if problem.energy_weight == 0:
        return problem.time_weight * period, mappings
    # Walk down the front of period against energy: least energy, then least energy at a shorter period, and so on.
    value, most_load = np.inf, np.inf
    for _ in range(MAX_PERIODS):
        energy, starts, kinds = best_stages(stages, True, most_load)
        if not len(starts) or problem.time_weight * period + energy >= value:
            return value, mappings
        mappings.append(_mapping(problem, groups, starts, kinds))
        load = _largest_load(stages, starts, kinds)
        value = min(value, problem.time_weight * load + energy)
        most_load = np.nextafter(load, 0.0)
        if perf_counter() > until:
            break
    return min(value, problem.time_weight * period + energy), mappings


def _stages(problem: MappingProblem, groups: list[list[int]], step: NDArray[np.int64], *, optimistic: bool) -> Stages:
    """What stages cost: never more than they really do, or (not optimistic) with every edge from the stage before."""
    from solvers.mapping._stage_kernel import Stages, stage_limits

    p, first = problem, [group[0] for group in groups]
    serial = p.regime == "serial"

    compute_ms, energy_mj = (np.where(p.allowed, cost, 0.0) for cost in (p.compute_ms, p.energy_mj))

    def by_segment(cost: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.ascontiguousarray(cost[:, first].T)

    def by_kind(route: NDArray[np.float64]) -> NDArray[np.float64]:
        between = route[np.ix_(first, first)]
        for kind, group in enumerate(groups):
            between[kind, kind] = route[group[0], group[1]] if len(group) > 1 else 0.0
        return between

    near, far = _bytes_into(p)
    mj = p.energy_weight * by_kind(p.route_mj_per_byte)
    ms, none = by_kind(p.route_ms_per_byte), np.zeros_like(mj)
    far_mj = mj
    if optimistic and p.slots > 1:
        others = p.route_mj_per_byte + np.where(np.eye(p.slots, dtype=np.bool_), np.inf, 0.0)
        far_mj = p.energy_weight * np.tile(others.min(axis=0)[first], (len(first), 1))
    if serial:
        # A stage waits for the edge into its first segment; for all edges into it would be no bound.
        direct = p.edges[:, 1] == p.edges[:, 0] + 1
        into = np.zeros(p.segments)
        np.maximum.at(into, p.edges[direct, 1], p.edge_bytes[direct])
        time_bytes = np.repeat(into[:, None], p.segments + 1, axis=1)
    else:
        time_bytes = near if optimistic else near + far
    return Stages(
        limit=stage_limits(
            np.ascontiguousarray(p.allowed[:, first]), p.resident_bytes, p.workspace_bytes, p.capacity_bytes[first]
        ),
        step=step,
        load=by_segment(np.zeros_like(compute_ms) if serial else compute_ms),
        weight=by_segment((p.time_weight if serial else 0.0) * compute_ms + p.energy_weight * energy_mj),
        fixed=p.time_weight * by_kind(p.route_latency_ms) if serial else none,
        time_bytes=time_bytes,
        load_rate=none if serial else by_kind(p.route_ms_per_byte * p.route_links.any(axis=2)),
        wait_rate=p.time_weight * ms if serial else none,
        near_bytes=near,
        near_rate=mj,
        far_bytes=far,
        far_rate=far_mj,
    )


def _bytes_into(problem: MappingProblem) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bytes [K, K + 1] that cross into stage [a, b) from segment a - 1, and from the segments before that one."""
    segments = problem.segments
    traffic = np.zeros((segments, segments))
    np.add.at(traffic, (problem.edges[:, 0], problem.edges[:, 1]), problem.edge_bytes)
    near, far = np.zeros((segments, segments + 1)), np.zeros((segments, segments + 1))
    before = np.zeros(segments)
    for a in range(1, segments):
        near[a, a + 1 :] = np.cumsum(traffic[a - 1, a:])
        far[a, a + 1 :] = np.cumsum(before[a:])
        before = before + traffic[a - 1]
    return near, far


def _largest_load(stages: Stages, starts: NDArray[np.int64], kinds: NDArray[np.int64]) -> float:
    """Load in ms of the busiest stage or route."""
    ends = [*starts[1:].tolist(), stages.limit.shape[1]]
    largest = 0.0
    for i, (a, b, kind) in enumerate(zip(starts.tolist(), ends, kinds.tolist(), strict=True)):
        largest = max(largest, float(np.cumsum(stages.load[kind, a:b])[-1]))  # summed as the kernel does
        if i:
            largest = max(largest, float(stages.time_bytes[a, b] * stages.load_rate[kinds[i - 1], kind]))
    return largest


def _mapping(
    problem: MappingProblem, groups: list[list[int]], starts: NDArray[np.int64], kinds: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Slot of each segment [K]: the stages of a kind take its slots in the order of their numbers."""
    left = [iter(group) for group in groups]
    slots = np.array([next(left[kind]) for kind in kinds.tolist()], dtype=np.int64)
    return np.repeat(slots, np.diff([*starts.tolist(), problem.segments]))
