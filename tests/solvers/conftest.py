"""What every test of the solvers needs: random problems, and brute force."""

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest

from solvers.mapping.evaluate import Evaluation, evaluate
from solvers.mapping.problem import MappingProblem


def _random_problem(
    seed: int,
    *,
    segments: int | None = None,
    slots: int | None = None,
    regime: str | None = None,
    contiguous: bool = False,
    memory: float | None = None,
    **changes: Any,
) -> MappingProblem:
    """Draw a problem of 1 to 6 segments on 1 to 3 slots, unless told otherwise.

    `memory` is all resident bytes / capacity of all slots; drawn where not told, from ample to out of reach.
    """
    rng = np.random.default_rng(seed)
    k = segments or int(rng.integers(1, 7))
    s = slots or int(rng.integers(1, 4))
    pairs = [(i, i + 1) for i in range(k - 1) if rng.random() < 0.85]
    pairs += [(i, j) for i in range(k) for j in range(i + 1, k) if rng.random() < 1.2 / k]  # may repeat one
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    kind = rng.integers(0, 3)
    compute = rng.uniform(0.1, 5.0, (k, 1)) * rng.uniform(0.5, 2.0, s)
    if kind == 0:
        compute = rng.uniform(0.0, 5.0, (k, s))  # unrelated machines
    elif kind == 1:
        compute = np.repeat(rng.integers(0, 6, (k, 1)).astype(float), s, axis=1)  # alike machines: ties, zeros
    energy = rng.uniform(0.0, 4.0, (k, s))
    distance = np.abs(np.arange(s)[:, None] - np.arange(s))  # slots in a line
    if rng.random() < 0.5:
        distance = rng.integers(1, 4, (s, s)) * ~np.eye(s, dtype=bool)  # any, and not symmetric
    links = np.zeros((s, s, max(0, 2 * (s - 1)) if rng.random() < 0.8 else 0), dtype=bool)
    if links.shape[-1]:
        for p in range(s):
            for q in range(s):
                if p < q:
                    links[p, q, p:q] = True
                elif q < p:
                    links[p, q, s - 1 + q : s - 1 + p] = True
    allowed = np.ones((k, s), dtype=bool)
    if rng.random() < 0.4:
        allowed = rng.random((k, s)) < 0.8
        allowed[np.arange(k), rng.integers(0, s, k)] = True
        compute = np.where(allowed, compute, rng.choice([np.inf, np.nan, 0.0]))
        energy = np.where(allowed, energy, rng.choice([np.inf, np.nan, 0.0]))
    resident = rng.integers(0, 100, k).astype(float)
    load = memory if memory is not None else float(rng.choice([0.1, 0.6, 0.85, 1.1]))
    capacity = np.ceil(rng.uniform(0.5, 1.5, s) * (resident.sum() + 1) / load / s)
    fields: dict[str, Any] = {
        "compute_ms": compute,
        "energy_mj": energy,
        "edges": edges,
        "edge_bytes": rng.integers(0, 200, len(edges)).astype(float),
        "route_latency_ms": distance * rng.choice([0.0, 0.3]),
        "route_ms_per_byte": distance * rng.choice([0.0, 0.002, 0.03]),
        "route_mj_per_byte": distance * rng.choice([0.0, 0.01]),
        "route_links": links,
        "resident_bytes": resident,
        "workspace_bytes": rng.integers(0, 20, k).astype(float),
        "capacity_bytes": capacity,
        "allowed": allowed,
        "static_w": float(rng.choice([0.0, 0.7])),
        "regime": regime or ("serial", "pipelined")[int(rng.integers(2))],
        "contiguous": contiguous,
    }
    weights = [(1.0, 0.0), (0.0, 1.0), (1.0, 0.5)][int(rng.integers(3))]
    fields |= {"latency_weight": weights[0], "energy_weight": weights[1]}
    return MappingProblem(**(fields | changes))


def _rich_problem(
    seed: int, *, segments: int | None = None, slots: int | None = None, regime: str | None = None, **changes: Any
) -> MappingProblem:
    """Draw a problem with some of what real ones have: teams, groups, ports, training, hosts, limits, a free order."""
    rng = np.random.default_rng([seed, 7])
    regime = regime or ("serial", "pipelined", "offload")[int(rng.integers(3))]
    plain = _random_problem(seed, segments=segments, slots=slots, regime=regime)
    k, s = plain.segments, plain.slots
    fields: dict[str, Any] = {"contiguous": bool(rng.random() < 0.4)}

    def sometimes(share: float) -> bool:
        return bool(rng.random() < share)

    modes = s
    if s > 1 and regime != "offload" and sometimes(0.5):
        teams = [row for row in product((False, True), repeat=s) if sum(row) > 1]
        chosen = rng.permutation(len(teams))[: int(rng.integers(1, 3))]
        fields["teams"] = np.array([teams[i] for i in chosen])
        members = np.concatenate([np.eye(s, dtype=bool), fields["teams"]])
        modes = len(members)
        size = members.sum(axis=1)
        shares = size[s:] * rng.uniform(0.6, 1.0, len(chosen))
        compute, energy = (np.where(plain.allowed, v, 0.0) for v in (plain.compute_ms, plain.energy_mj))
        slowest = np.stack([compute[:, row].max(axis=1) for row in members[s:]], axis=1)
        fields["compute_ms"] = np.hstack([compute, slowest / shares])
        fields["energy_mj"] = np.hstack(
            [energy, energy.mean(axis=1, keepdims=True) * rng.uniform(0.9, 1.3, len(chosen))]
        )
        fields["allowed"] = np.hstack([plain.allowed, rng.random((k, len(chosen))) < 0.7])
        fields["resident_bytes"] = np.ceil(plain.resident_bytes[:, None] / size)
        to = np.array([rng.choice(np.flatnonzero(row)) for row in members])
        for name in ("route_latency_ms", "route_ms_per_byte", "route_mj_per_byte"):
            route = getattr(plain, name)[np.ix_(to, to)]
            np.fill_diagonal(route, 0.0)
            fields[name] = route
        links = plain.route_links[np.ix_(to, to)] * rng.uniform(0.5, 1.0, (modes, modes, plain.route_links.shape[-1]))
        links[np.arange(modes), np.arange(modes)] = 0.0
        fields["route_links"] = links
    elif sometimes(0.3):
        fields["resident_bytes"] = np.ceil(plain.resident_bytes[:, None] * rng.uniform(0.5, 1.5, (k, s)))
    if sometimes(0.4):
        fields["group"] = rng.integers(-1, max(1, k // 2), k)
    if sometimes(0.4):
        fields["backward"] = rng.random(k) < 0.3
    if regime != "serial" and sometimes(0.5):
        fields["port_in_ms_per_byte"] = rng.choice([0.0, 0.01, 0.02], modes)
        fields["port_out_ms_per_byte"] = rng.choice([0.0, 0.01, 0.02], modes)
    if sometimes(0.4) or (regime == "offload" and sometimes(0.5)):
        fields["concurrent"] = np.arange(s) == int(rng.integers(s))
    if regime == "pipelined" and sometimes(0.4):
        fields["stash_bytes"] = rng.integers(0, 40, k).astype(float)
        fields["most_in_flight"] = int(rng.choice([1, 2, 100]))
    if regime == "serial" and sometimes(0.4):
        fields["free_order"] = True
    return replace(plain, **(fields | changes))


def _brute_force(problem: MappingProblem) -> tuple[float, np.ndarray, Evaluation]:
    """Return the least objective (inf where nothing is legal), all M**K assignments, and their evaluation.

    Where the order is free, each assignment's evaluation is that of its best order.
    """
    every = np.array(list(product(range(problem.modes), repeat=problem.segments)), dtype=np.int64)
    evaluation = evaluate(problem, every)
    for order in permutations(range(problem.segments)) if problem.free_order else ():
        again = evaluate(problem, every, np.broadcast_to(order, every.shape))
        better = again.objective < evaluation.objective
        for name in ("latency_ms", "energy_mj", "objective", "feasible"):
            getattr(evaluation, name)[better] = getattr(again, name)[better]
    return float(evaluation.objective.min()), every, evaluation


def _knapsacks(seed: int, *, units: int = 40, slots: int = 5, **changes: Any) -> MappingProblem:
    """Draw a generalised assignment of the hard kind: what costs less takes more room (Chu and Beasley's type D)."""
    rng = np.random.default_rng(seed)
    held = rng.integers(1, 101, (units, slots)).astype(float)
    nothing = np.zeros((slots, slots))
    fields: dict[str, Any] = {
        "compute_ms": np.zeros((units, slots)),
        "energy_mj": 111 - held + rng.integers(-10, 11, (units, slots)),
        "edges": np.zeros((0, 2), dtype=np.int64),
        "edge_bytes": np.zeros(0),
        "route_latency_ms": nothing,
        "route_ms_per_byte": nothing,
        "route_mj_per_byte": nothing,
        "route_links": np.zeros((slots, slots, 0)),
        "resident_bytes": held,
        "workspace_bytes": np.zeros(units),
        "capacity_bytes": np.floor(0.8 * held.sum(axis=0) / slots),
        "allowed": np.ones((units, slots), dtype=bool),
        "regime": "pipelined",
        "latency_weight": 0.0,
        "energy_weight": 1.0,
    }
    return MappingProblem(**(fields | changes))


@pytest.fixture(scope="session")
def random_problem() -> Callable[..., MappingProblem]:
    return _random_problem


@pytest.fixture(scope="session")
def rich_problem() -> Callable[..., MappingProblem]:
    return _rich_problem


@pytest.fixture(scope="session")
def brute_force() -> Callable[[MappingProblem], tuple[float, np.ndarray, Evaluation]]:
    return _brute_force


@pytest.fixture(scope="session")
def knapsacks() -> Callable[..., MappingProblem]:
    return _knapsacks
