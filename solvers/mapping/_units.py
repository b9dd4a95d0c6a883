"""A problem with groups, and whatever else is to stay together, as single units: what incremental moves are made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solvers.mapping.feasibility import mode_capacity
from solvers.mapping.problem import MappingProblem


class Units(NamedTuple):
    """U units on M modes of S slots, as compiled code takes them; zeros (never inf or nan) where a cell is not ok."""

    ok: NDArray[np.bool_]  # [U, M]
    compute: NDArray[np.float64]  # [U, M] ms
    energy: NDArray[np.float64]  # [U, M] mJ
    held: NDArray[np.float64]  # [U, M] bytes on each slot of the mode
    stash: NDArray[np.float64]  # [U] bytes for each input in flight
    workspace: NDArray[np.float64]  # [U] the largest of its segments
    candidates: NDArray[np.int64]  # [U, C] the modes that are cheapest for it, or all
    near_first: NDArray[np.int64]  # [U + 1] entries near_first[u]:near_first[u + 1] are edges of unit u, either way
    near: NDArray[np.int64]  # the unit at the other end
    near_bytes: NDArray[np.float64]  # summed over the edges of that pair and direction
    near_out: NDArray[np.bool_]  # whether the edge leads away from u
    near_ordering: NDArray[np.bool_]  # whether contiguous stages have to respect it
    net_source: NDArray[np.int64]  # [N] unit whose output is charged once for each mode that it enters (ports)
    net_bytes: NDArray[np.float64]  # [N]
    net_readers: NDArray[np.int64]  # [N] units other than the source
    out_first: NDArray[np.int64]  # [U + 1] nets out_net[out_first[u]:...] begin in u
    out_net: NDArray[np.int64]
    in_first: NDArray[np.int64]  # [U + 1] nets in_net[in_first[u]:...] are read by u
    in_net: NDArray[np.int64]
    hop_first: NDArray[np.int64]  # [M * M + 1] links hop[hop_first[p * M + q]:...] lie on the route p -> q
    hop: NDArray[np.int64]
    hop_ms: NDArray[np.float64]  # ms a byte that the route holds that link
    mj_per_byte: NDArray[np.float64]  # [M, M]
    port_in: NDArray[np.float64]  # [M] ms a byte
    port_out: NDArray[np.float64]  # [M] ms a byte
    capacity: NDArray[np.float64]  # [S]
    member_first: NDArray[np.int64]  # [M + 1] slots member[member_first[m]:...] belong to mode m
    member: NDArray[np.int64]
    links: int
    time_w: float
    energy_w: float
    static_w: float
    max_time: float
    max_energy: float
    most_in_flight: int
    contiguous: bool
    stashes: bool
    roomy: bool  # everything fits on every slot
    wired: bool  # a cut edge holds a link or takes energy


def units_of(
    problem: MappingProblem,
    unit: NDArray[np.int64],
    choices: int,
    prices: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> Units:
    """Return the problem with the segments of each number in `unit` [K] (0 to U - 1) merged; the pipelined regime's
    loads, or only energy. `choices` is the number of candidate modes a unit: the cheapest at prices [S] of a ms and of
    a byte.
    """
    count, modes = int(unit.max()) + 1, problem.modes
    ok = np.ones((count, modes), dtype=np.bool_)
    np.logical_and.at(ok, unit, problem.allowed)
    workspace = np.zeros(count)
    np.maximum.at(workspace, unit, problem.workspace_bytes)
    stash = np.bincount(unit, problem.stash, count).astype(np.float64)
    held = _summed(problem.held_bytes, unit, count)
    ok &= held + (stash + workspace)[:, None] <= mode_capacity(problem)
    compute, energy = (
        np.where(ok, _summed(np.where(problem.allowed, v, 0.0), unit, count), 0.0)
        for v in (problem.compute_ms, problem.energy_mj)
    )
    uses = problem.route_links.reshape(modes**2, -1)
    timed = problem.time_weight > 0 or np.isfinite(problem.max_latency_ms)
    route, hop = np.nonzero(uses) if timed else (np.zeros(0, dtype=np.int64),) * 2
    members = problem.members
    per_ms, per_byte = (members @ price for price in prices)
    price = np.where(ok, compute * per_ms + problem.energy_weight * energy + held * per_byte, np.inf)
    most = np.where(ok, held, 0.0).max(axis=1).sum() + problem.slots * stash.sum() + workspace.max()
    return Units(
        ok=ok,
        compute=compute,
        energy=energy,
        held=np.where(ok, held, 0.0),
        stash=stash,
        workspace=workspace,
        candidates=np.ascontiguousarray(np.argsort(price, axis=1, kind="stable")[:, : min(choices, modes)]),
        **_neighbours(problem, unit, count),
        **_nets(problem, unit, count),
        hop_first=_offsets(route, modes**2),
        hop=hop.astype(np.int64),
        hop_ms=np.ascontiguousarray(uses[route, hop] * problem.route_ms_per_byte.ravel()[route]),
        mj_per_byte=np.ascontiguousarray(problem.route_mj_per_byte),
        port_in=problem.ports[0].copy(),
        port_out=problem.ports[1].copy(),
        capacity=np.ascontiguousarray(problem.capacity_bytes, dtype=np.float64),
        member_first=_offsets(np.nonzero(members)[0], modes),
        member=np.nonzero(members)[1].astype(np.int64),
        links=int(problem.route_links.shape[-1]) if timed else 0,
        time_w=float(problem.time_weight),
        energy_w=float(problem.energy_weight),
        static_w=float(problem.static_w),
        max_time=float(problem.max_latency_ms),
        max_energy=float(problem.max_energy_mj),
        most_in_flight=int(problem.most_in_flight),
        contiguous=bool(problem.contiguous),
        stashes=bool(problem.stash_bytes.any()),
        roomy=bool(most <= problem.capacity_bytes.min()),
        wired=bool(len(route) or problem.route_mj_per_byte.any()),
    )


def _summed(values: NDArray[np.float64], unit: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    total = np.zeros((count, values.shape[1]))
    np.add.at(total, unit, values)
    return total


def _offsets(keys: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    first = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(keys, minlength=count), out=first[1:])
    return first


def _neighbours(problem: MappingProblem, unit: NDArray[np.int64], count: int) -> dict[str, Any]:
    source, target = unit[problem.edges[:, 0]], unit[problem.edges[:, 1]]
    apart = source != target
    pair, inverse = np.unique(source[apart] * count + target[apart], return_inverse=True)
    size = np.bincount(inverse, problem.edge_bytes[apart], len(pair)).astype(np.float64)  # of nothing, whole numbers
    ordering = np.bincount(inverse, problem.ordering[apart].astype(np.float64), len(pair)) > 0
    begin, end = pair // count, pair % count
    here = np.concatenate([begin, end])
    by_unit = np.argsort(here, kind="stable")
    return {
        "near_first": _offsets(here, count),
        "near": np.concatenate([end, begin])[by_unit],
        "near_bytes": np.concatenate([size, size])[by_unit],
        "near_out": np.repeat([True, False], len(pair))[by_unit],
        "near_ordering": np.concatenate([ordering, ordering])[by_unit],
    }


def _nets(problem: MappingProblem, unit: NDArray[np.int64], count: int) -> dict[str, Any]:
    readers: dict[int, set[int]] = {}
    if problem.has_ports:
        for i, j in problem.edges.tolist():
            if unit[i] != unit[j] and problem.output_bytes[i] > 0:
                readers.setdefault(i, set()).add(int(unit[j]))
    merged: dict[tuple[int, tuple[int, ...]], float] = {}
    for i, others in readers.items():
        key = int(unit[i]), tuple(sorted(others))
        merged[key] = merged.get(key, 0.0) + float(problem.output_bytes[i])
    sources = np.array([source for source, _ in merged], dtype=np.int64)
    pairs = [(reader, net) for net, (_, others) in enumerate(merged) for reader in others]
    flat = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    return {
        "net_source": sources,
        "net_bytes": np.array(list(merged.values()), dtype=np.float64),
        "net_readers": np.array([len(others) for _, others in merged], dtype=np.int64),
        "out_first": _offsets(sources, count),
        "out_net": np.argsort(sources, kind="stable").astype(np.int64),
        "in_first": _offsets(flat[:, 0], count),
        "in_net": np.ascontiguousarray(flat[:, 1]),
    }
