"""Lower bounds of whole designs, with no mapping solved: half-planes a*T + b*E >= B that every mapping obeys.

Two families, each sound for any mapping and placement of the design's chips; the larger one counts.

path   T is at least the finish along one fixed path of the segment graph. A Viterbi pass over chip *types* along the
       path (staying on a type is free, changing type pays at least the cheapest route of the package) bounds
       wT*T + wE*(dynamic energy); segments off the path add their least energy. Serial regime only.
load   T is at least the load of every slot, so at least any weighted mean of the loads: with multipliers m,
       T >= sum_k m[s(k)] * t[k, s(k)] / sum_s m[s] (the dual of the fractional assignment). Both regimes.

Static power flows for the whole time T, so E = dynamic + static_w * T and a*T + b*E = (a + b*static_w)*T + b*dynamic.
Every bound is multiplied by (1 - 1e-9) against rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SAFETY = 1.0 - 1e-9
SLOPES = (1 / 8, 1 / 3, 1.0, 3.0, 8.0)
"""Half-planes between the two pure ones, as weight of energy against time at the design's own ideal point."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TypeCosts:
    """What each of K segments costs on each of T chip types at one precision and batch, on one package."""

    latency_ms: NDArray[np.float64]  # [K, T]
    energy_mj: NDArray[np.float64]  # [K, T] dynamic
    allowed: NDArray[np.bool_]  # [K, T]
    resident_bytes: NDArray[np.float64]  # [K]
    workspace_bytes: NDArray[np.float64]  # [K]
    capacity_bytes: NDArray[np.float64]  # [T]
    static_w: NDArray[np.float64]  # [T]
    edges: NDArray[np.int64]  # [E, 2]
    edge_bytes: NDArray[np.float64]  # [E]
    hop_ms: float  # cheapest route between two slots of the package
    ms_per_byte: float
    mj_per_byte: float


@dataclass(frozen=True, kw_only=True, eq=False)
class HalfPlanes:
    """For each of D designs, H half-planes a*T + b*E >= B. `possible` is False where no mapping can exist."""

    a: NDArray[np.float64]  # [D, H]
    b: NDArray[np.float64]  # [D, H]
    least: NDArray[np.float64]  # [D, H] B
    possible: NDArray[np.bool_]  # [D]
    reason: NDArray[np.object_]  # [D] why not possible, "" where it is


def half_planes(costs: TypeCosts, counts: NDArray[np.int16], regime: Literal["serial", "pipelined"]) -> HalfPlanes:
    """Bound D designs that hold `counts` [D, T] chips of each type."""
    # what is not allowed is masked at each use; a finite filler keeps 0 x inf out of the arithmetic
    costs = replace(
        costs,
        latency_ms=np.where(costs.allowed, costs.latency_ms, 0.0),
        energy_mj=np.where(costs.allowed, costs.energy_mj, 0.0),
    )
    designs, static_w = len(counts), counts @ costs.static_w
    possible, reason = _possible(costs, counts)
    paths = _paths(costs) if regime == "serial" else []
    chosen = np.flatnonzero(possible)
    present = counts[chosen] > 0

    def least(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        time_weight = a + b * static_w[chosen]
        bound = _load_bound(costs, counts[chosen], time_weight, b)
        for path in paths:
            np.maximum(bound, _path_bound(costs, present, path, time_weight, b), out=bound)
        return bound * SAFETY

    one, zero = np.ones(len(chosen)), np.zeros(len(chosen))
    time_ms, energy_mj = least(one, zero), least(zero, one)
    columns = [(one, zero, time_ms), (zero, one, energy_mj)]
    for slope in SLOPES:
        a, b = 1.0 / np.maximum(time_ms, 1e-300), slope / np.maximum(energy_mj, 1e-300)
        columns.append((a, b, least(a, b)))

    def spread(part: int) -> NDArray[np.float64]:
        full = np.full((designs, len(columns)), np.inf if part == 2 else 1.0)
        full[chosen] = np.stack([column[part] for column in columns], axis=1)
        return full

    return HalfPlanes(a=spread(0), b=spread(1), least=spread(2), possible=possible, reason=reason)


def _possible(costs: TypeCosts, counts: NDArray[np.int16]) -> tuple[NDArray[np.bool_], NDArray[np.object_]]:
    """Which designs pass the constraints that need no search: deployability, and memory in sum and one by one."""
    present = counts > 0  # [D, T]
    need = costs.resident_bytes + costs.workspace_bytes  # [K]
    fits = costs.allowed & (need[:, None] <= costs.capacity_bytes[None, :])  # [K, T]
    deployable = (present @ costs.allowed.T.astype(np.int64) > 0).all(1)
    one_by_one = (present @ fits.T.astype(np.int64) > 0).all(1)
    total = costs.resident_bytes.sum()
    capacity = counts @ costs.capacity_bytes
    reason = np.full(len(counts), "", object)
    if (failing := deployable & ~one_by_one).any():
        room = np.where(present[failing][:, None, :] & costs.allowed, costs.capacity_bytes, 0.0).max(2)  # [D', K]
        nearest = int((need - room).max(1).argmin())  # the design that misses least, by its worst segment
        segment = int((need - room[nearest]).argmax())
        demand, has = need[segment], room[nearest, segment]
        reason[failing] = (
            f"memory: segment {segment} needs {_mb(demand)} on one chip, the roomiest of these designs has "
            f"{_mb(has)}, {_mb(demand - has)} too little; finer segments, a smaller precision, "
            "or chips with more memory"
        )
    if (failing := capacity < total).any():
        has = capacity[failing].max()
        reason[failing] = (
            f"memory: weights and boundary tensors need {_mb(total)} in all, the roomiest of these designs has "
            f"{_mb(has)}, {_mb(total - has)} too little; more chips, a smaller precision, or chips with more memory"
        )
    if (~deployable).any():
        stuck = np.any(present[~deployable] @ costs.allowed.T.astype(np.int64) == 0, axis=0)
        reason[~deployable] = (
            f"deployability: no chip of the design runs some segment ({np.sum(stuck)} of {len(need)} segments "
            "are concerned) at this precision; a chip with the missing operator or precision beside them"
        )
    return deployable & one_by_one & (capacity >= total), reason


def _mb(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def _masked(values: NDArray[np.float64], allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.where(allowed, values, np.inf)


def _load_bound(
    costs: TypeCosts, counts: NDArray[np.int16], time_weight: NDArray[np.float64], energy_weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[D] least time_weight*T + energy_weight*dynamic by the loads of slots, and by the largest segment alone."""
    present = counts > 0
    busy = costs.latency_ms.sum(0) / np.maximum(costs.allowed.sum(0), 1)  # [T] mean time of a segment
    speed = busy[busy > 0].min(initial=1.0) / np.where(busy > 0, busy, 1.0)
    best = np.zeros(len(counts))
    for power in (0.0, 0.5, 1.0, 1.5):
        multiplier = speed**power  # [T]
        share = multiplier[None, :] / np.maximum(counts @ multiplier, 1e-300)[:, None]  # [D, T]
        total = np.zeros(len(counts))
        for k in range(len(costs.latency_ms)):
            cell = (time_weight[:, None] * share) * costs.latency_ms[k] + energy_weight[:, None] * costs.energy_mj[k]
            total += np.where(present & costs.allowed[k], cell, np.inf).min(1)
        np.maximum(best, total, out=best)
    time = _masked(costs.latency_ms, costs.allowed)
    energy = _masked(costs.energy_mj, costs.allowed)
    largest = np.zeros(len(counts))
    dynamic = np.zeros(len(counts))
    for k in range(len(time)):
        np.maximum(largest, np.where(present, time[k], np.inf).min(1), out=largest)
        dynamic += np.where(present, energy[k], np.inf).min(1)
    return np.maximum(best, time_weight * largest + energy_weight * dynamic)


def _paths(costs: TypeCosts) -> list[NDArray[np.int64]]:
    """Heaviest paths of the segment graph, by the least latency over types and by each type's own; no path twice."""
    least = np.where(costs.allowed.any(1), _masked(costs.latency_ms, costs.allowed).min(1), 0.0)
    candidates = [least, *np.where(costs.allowed, costs.latency_ms, least[:, None]).T]
    found: dict[tuple[int, ...], None] = {}
    for weight in candidates:
        found[tuple(_heaviest_path(weight, costs.edges))] = None
    return [np.asarray(path, np.int64) for path in list(found)[:4]]


def _heaviest_path(weight: NDArray[np.float64], edges: NDArray[np.int64]) -> list[int]:
    finish, before = weight.copy(), np.full(len(weight), -1)
    for u, v in edges[np.argsort(edges[:, 1], kind="stable")]:
        if finish[u] + weight[v] > finish[v]:
            finish[v], before[v] = finish[u] + weight[v], u
    path = [int(finish.argmax())]
    while before[path[-1]] >= 0:
        path.append(int(before[path[-1]]))
    return path[::-1]


def _path_bound(
    costs: TypeCosts,
    present: NDArray[np.bool_],
    path: NDArray[np.int64],
    time_weight: NDArray[np.float64],
    energy_weight: NDArray[np.float64],
) -> NDArray[np.float64]:
    """[D] least time_weight*T + energy_weight*dynamic, T along `path`, by Viterbi over chip types."""
    on_path = np.zeros(len(costs.latency_ms), bool)
    on_path[path] = True
    energy = _masked(costs.energy_mj, costs.allowed)
    off_path = np.zeros(len(present))
    for k in np.flatnonzero(~on_path):
        off_path += np.where(present, energy[k], np.inf).min(1)
    between = {(int(u), int(v)): float(size) for (u, v), size in zip(costs.edges, costs.edge_bytes, strict=True)}
    state = np.zeros(present.shape)
    for position, k in enumerate(path):
        if position:
            size = between[int(path[position - 1]), int(k)]
            move = time_weight * (costs.hop_ms + size * costs.ms_per_byte) + energy_weight * size * costs.mj_per_byte
            state = np.minimum(state, (state.min(1) + move)[:, None])
        cell = time_weight[:, None] * costs.latency_ms[k] + energy_weight[:, None] * costs.energy_mj[k]
        state = state + np.where(present & costs.allowed[k], cell, np.inf)
    least: NDArray[np.float64] = state.min(1) + energy_weight * off_path
    return least
