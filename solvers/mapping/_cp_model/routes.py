"""What crosses between modes: a variable for each edge, mode that it leaves, and kind of route that it takes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solvers.mapping._cp_model.core import Core
from solvers.mapping._cp_model.units import Pair


class Crossing(NamedTuple):
    """Where `literal` holds, the pair's edges cost what the route from mode p to mode q costs."""

    literal: Any
    p: int
    q: int


def crossings(core: Core) -> list[list[Crossing]]:
    """Return for each pair of units its crossings: as tight as one a pair of modes, and as few as routes differ."""
    kinds = {loaded: _kinds(core, loaded) for loaded in (False, True)}
    return [_crossings(core, i, pair, kinds[pair.size > 0]) for i, pair in enumerate(core.units.pairs)]


def _kinds(core: Core, loaded: bool) -> NDArray[np.int64]:
    """Return [M, M]: routes of one number cost the same; 0 costs nothing. `loaded` is False where nothing is sent."""
    p = core.problem
    layers: list[NDArray[Any]] = []
    if core.counts_time and p.regime != "pipelined":
        layers.append(p.route_latency_ms)
        if loaded:
            layers.append(p.route_ms_per_byte)
    elif core.counts_time and loaded:
        layers += list(np.moveaxis(p.route_ms_per_byte[:, :, None] * p.route_links, 2, 0))
    if core.counts_energy and loaded:
        layers.append(p.route_mj_per_byte)
    if not layers:
        return np.zeros((p.modes, p.modes), dtype=np.int64)
    flat = np.stack([np.zeros_like(layers[0], dtype=np.float64), *layers], axis=-1).reshape(p.modes**2, -1)
    rows = np.concatenate([np.zeros((1, flat.shape[1])), flat])  # zeros sort first: nothing is negative
    return np.unique(rows, axis=0, return_inverse=True)[1].ravel()[1:].reshape(p.modes, p.modes).astype(np.int64)


def _crossings(core: Core, i: int, pair: Pair, kinds: NDArray[np.int64]) -> list[Crossing]:
    u, v = pair.source, pair.target
    targets = core.modes_of(v)
    if not kinds[np.ix_(core.modes_of(u), targets)].any():
        return []
    found: list[Crossing] = []
    chosen: dict[int, list[Any]] = {q: [] for q in targets}  # what says that v runs in mode q
    for p in core.modes_of(u):
        reached: dict[int, list[int]] = {}
        for q in targets:
            reached.setdefault(int(kinds[p, q]), []).append(q)
        freely = reached.pop(0, [])
        stays: Any = core.x[u, p]
        for kind, modes in reached.items():
            hint = None
            if core.start is not None:
                hint = bool(core.start[u] == p and int(core.start[v]) in modes)
            literal = core.boolean(f"w{i},{p},{kind}", hint)
            core.cp.add(literal <= sum(core.x[v, q] for q in modes))
            stays = stays - literal
            for q in modes:
                chosen[q].append(literal)
            found.append(Crossing(literal, p, modes[0]))
        # What is left of x[u, p] goes where it costs nothing, its own mode most often.
        core.cp.add(stays <= sum(core.x[v, q] for q in freely))
        if reached:
            core.cp.add(stays >= 0)
        for q in freely:
            chosen[q].append(stays)
    for q in targets:
        core.cp.add(core.x[v, q] <= sum(chosen[q]))
    return found


def energy_of(core: Core, crossed: list[list[Crossing]]) -> list[Any]:
    """Return the terms of dynamic energy in ticks."""
    ticks = core.energy_ticks(core.units.energy_mj)
    terms: list[Any] = [int(ticks[cell]) * x for cell, x in core.x.items() if ticks[cell]]
    for pair, found in zip(core.units.pairs, crossed, strict=True):
        sent = core.energy_ticks(pair.size * core.problem.route_mj_per_byte)
        terms += [int(sent[c.p, c.q]) * c.literal for c in found if sent[c.p, c.q]]
    return terms
