"""Latency or energy of a chain with memory limits: Lagrangian prices, beam search on their guidance, and windows."""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.bounds import SAFETY, bound_and_start
from solvers.mapping.evaluate import PROVEN, best_of, evaluate, finish
from solvers.mapping.greedy import greedy_assignment
from solvers.mapping.problem import Incumbent, Mapping, MappingProblem, Regime
from solvers.mapping.solver import MappingSolver, Request

if TYPE_CHECKING:
    from solvers.mapping._chain_kernel import Chain, Routes
    from solvers.mapping._kernels import Arrays

DUAL_WORK = 4_000_000_000  # steps between modes looked at for the prices, at most, or
TRIED = 32  # for each segment and mode where modes are more: few are nearest or cheapest
PHASES = 0.4, 0.2, 0.2, 0.2  # shares of them; a narrow search after each finds a better target for the next
BEAM_WORK = 1_500_000_000  # partial mappings extended by all searches of the whole chain
WIDTHS = (30, 300, 3_000, 30_000, 200_000)  # of the beam, the wider after the narrower
BEAM_ROOM = 30_000_000  # places that one search may take in memory
PROVABLE = 10_000  # mappings; a beam that wide keeps all of them
WINDOW = 48  # segments that are assigned anew together
WINDOW_WIDTH = 200
WINDOW_WORK = 2_000_000_000
WINDOW_TURNS = 20  # of its prices
STEP_S = 4e-9  # between modes, or of a partial mapping, where the deadline is counted in work


class Lagrangian(MappingSolver):
    """Chains in the serial regime, where each segment feeds the next, and memory that binds.

    Memory gets prices, by subgradient steps on the Lagrangian dual, whose inner problem is a Viterbi programme; that is
    the bound, and without limits the optimum. A beam search that is guided by the costs to go at these prices looks for
    mappings that fit, wider and wider until nothing is dropped (a proof) or its work is spent. Then windows of the
    chain are solved again in the same way, the rest fixed. Edges that skip segments count in what is answered, and not
    in what guides. Its effort is counted, so that the same seed gives the same answer; the deadline is a guard.
    """

    name = "lagrangian"
    regimes: ClassVar[tuple[Regime, ...]] = ("serial",)
    required_modules = ("numba",)

    @classmethod
    def refusal(cls, problem: MappingProblem) -> str:
        """Return what it does not do; see MappingSolver."""
        told = {
            "graphs that are not a chain": not _is_chain(problem),
            "groups": len(np.unique(problem.unit)) < problem.segments,
            "contiguous mappings": problem.contiguous,
        }
        return super().refusal(problem) or ", ".join(name for name, present in told.items() if present)

    @classmethod
    def proves(cls, problem: MappingProblem) -> bool:
        """Whether no edge skips a segment: then the search is complete where it drops nothing."""
        limited = np.isfinite((problem.max_latency_ms, problem.max_energy_mj)).any()
        return not limited and not _skips(problem) and bool(problem.modes**problem.segments <= PROVABLE)

    @classmethod
    def weight(cls, problem: MappingProblem) -> float:
        """Return much: no other solver knows that a chain is one; see MappingSolver."""
        return 60.0

    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Return the best mapping met; see MappingSolver."""
        from solvers.mapping._chain_kernel import beam, dual
        from solvers.mapping._kernels import arrays

        compiled = arrays(problem)
        bound, relaxed = bound_and_start(problem)
        candidates = [request.warm_start, relaxed, greedy_assignment(problem, compiled, request)]
        best = best_of(problem, candidates)
        value = np.inf if best is None else float(evaluate(problem, best).objective[0])
        history: list[Incumbent] = []

        def keep(x: NDArray[np.int64]) -> bool:
            nonlocal best, value
            after = float(evaluate(problem, x).objective[0])
            if not after < value:
                return False
            best, value = x.copy(), after
            history.append(Incumbent(wall_s=perf_counter() - request.started, objective=value, lower_bound=bound))
            return True

        routes = _routes(problem)
        chain = _chain(problem, compiled, routes)
        k, m = chain.node.shape
        x = np.zeros(k, dtype=np.int64)
        price = np.zeros(problem.slots)
        turns = int(np.clip(DUAL_WORK // (k * m * min(m, TRIED)), 20, 400))
        took = 0.0
        for share in PHASES:
            left_s = request.left_s
            if bound >= value * PROVEN or took > left_s:
                break
            bound = max(bound, dual(chain, max(1, int(share * turns)), value, price) * SAFETY)
            request.spend((max(1, int(share * turns)) * m * min(m, TRIED) + m * WIDTHS[0]) * k * STEP_S)
            if beam(chain, price, WIDTHS[0], value, x)[0] < np.inf:
                keep(x)
            took = left_s - request.left_s
        work, took, nowhere = 0, 0.0, False
        for narrow, width in pairwise(WIDTHS):
            work += k * m * width
            left_s = request.left_s
            in_time = took * width / narrow < left_s
            too_large = max(k, 4 * (m + problem.slots)) * width > BEAM_ROOM
            if bound >= value * PROVEN or not in_time or work > BEAM_WORK or too_large:
                break
            met, dropped = beam(chain, price, width, value, x)
            request.spend(k * m * width * STEP_S)
            if met < np.inf:
                keep(x)
            bound = max(bound, min(met, dropped, value) * SAFETY)
            took = left_s - request.left_s
            if dropped == np.inf:  # complete
                nowhere = met == value == np.inf
                break
        if best is not None:
            rng = np.random.default_rng(request.seed)
            turns = max(1, WINDOW_WORK // (WINDOW * m * (WINDOW_WIDTH + m))) if k > WINDOW // 2 else 0
            for turn in range(turns):
                if bound >= value * PROVEN or request.left_s <= 0:
                    break
                free = _window(k, turn, rng)
                part = _chain(problem, compiled, routes, best, free)
                here = price.copy()
                met_part = np.zeros(len(free), dtype=np.int64)
                ceiling = _cost(part, best[free])
                dual(part, WINDOW_TURNS, ceiling, here)
                request.spend((WINDOW_TURNS * min(m, TRIED) + WINDOW_WIDTH) * len(free) * m * STEP_S)
                if beam(part, here, WINDOW_WIDTH, ceiling, met_part)[0] < ceiling * (1 - 1e-12):
                    x[:] = best
                    x[free] = met_part
                    keep(x)
        return finish(
            problem,
            best,
            lower_bound=bound,
            solver=self.name,
            started=request.started,
            history=history,
            exact=nowhere,
        )


def _is_chain(problem: MappingProblem) -> bool:
    feeds = problem.edges[problem.edges[:, 1] == problem.edges[:, 0] + 1, 0]
    return len(np.unique(feeds)) == problem.segments - 1


def _skips(problem: MappingProblem) -> bool:
    return bool((problem.edges[:, 1] - problem.edges[:, 0] > 1).any())


def _window(segments: int, turn: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the segments to assign anew: one stretch, or two of half the length, that can swap memory."""
    parts = 1 + turn % 2
    length = min(WINDOW // parts, segments)
    starts = rng.integers(0, segments - length + 1, parts)
    return np.unique((starts[:, None] + np.arange(length)).ravel())


def _cost(chain: Chain, x: NDArray[np.int64]) -> float:
    from solvers.mapping._chain_kernel import value_of

    return float(value_of(chain, x))


def _routes(problem: MappingProblem) -> Routes:
    from solvers.mapping._chain_kernel import Routes

    p = problem
    costs = (
        p.time_weight * p.route_latency_ms,
        p.time_weight * p.route_ms_per_byte,
        p.energy_weight * p.route_mj_per_byte,
    )
    size = float(p.edge_bytes.mean()) if len(p.edge_bytes) else 0.0
    near = np.argsort(costs[0] + size * (costs[1] + costs[2]), axis=1, kind="stable")
    beyond = [np.minimum.accumulate(np.take_along_axis(cost, near, axis=1)[:, ::-1], axis=1)[:, ::-1] for cost in costs]
    return Routes(*costs, near, np.stack(beyond))


def _chain(
    problem: MappingProblem,
    compiled: Arrays,
    routes: Routes,
    fixed: NDArray[np.int64] | None = None,
    free: NDArray[np.int64] | None = None,
) -> Chain:
    """Return the chain of the segments `free` [N] as the compiled code takes it, the others as in `fixed` [K]."""
    from solvers.mapping._chain_kernel import Chain

    p = problem
    direct = p.edges[:, 1] == p.edges[:, 0] + 1
    wait_bytes, moved_bytes = np.zeros((2, p.segments))
    np.maximum.at(wait_bytes, p.edges[direct, 1], p.edge_bytes[direct])
    np.add.at(moved_bytes, p.edges[direct, 1], p.edge_bytes[direct])
    latency, per_wait, per_moved = routes.latency, routes.per_wait, routes.per_moved
    cost = p.time_weight * compiled.compute + p.energy_weight * compiled.energy
    node = np.where(compiled.ok, cost, np.inf)
    used, largest, room = np.zeros(p.slots), np.zeros(p.slots), compiled.room
    linked = np.arange(p.segments) > 0
    here = np.arange(p.segments) if free is None else free
    if fixed is not None:
        is_free = np.zeros(p.segments, dtype=np.bool_)
        is_free[here] = True
        node = node[here]
        before, after = here - 1, here + 1
        for i in np.flatnonzero((before >= 0) & ~is_free[before]).tolist():
            k = here[i]
            q = fixed[k - 1]
            node[i] += latency[q] + wait_bytes[k] * per_wait[q] + moved_bytes[k] * per_moved[q]
        for i in np.flatnonzero((after < p.segments) & ~is_free[np.minimum(after, p.segments - 1)]).tolist():
            k = here[i] + 1
            q = fixed[k]
            node[i] += latency[:, q] + wait_bytes[k] * per_wait[:, q] + moved_bytes[k] * per_moved[:, q]
        others = np.flatnonzero(~is_free)
        for s in range(p.slots):
            on = others[p.members[fixed[others], s]]
            used[s] = compiled.resident[on, fixed[on]].sum()
            largest[s] = p.workspace_bytes[on].max(initial=0.0)
        room = np.maximum(compiled.room - used, 0.0)
        linked = np.diff(here, prepend=-2) == 1
    return Chain(
        node=node,
        linked=linked,
        wait_bytes=wait_bytes[here],
        moved_bytes=moved_bytes[here],
        routes=routes,
        held=np.ascontiguousarray(compiled.resident[here]),
        workspace=compiled.workspace[here],
        room=room,
        used=used,
        largest=largest,
        capacity=compiled.capacity,
        member_first=compiled.member_first,
        member=compiled.member,
    )
