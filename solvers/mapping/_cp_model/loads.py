"""Loads of slots and links for one input: computing, ports, and what links carry."""

from __future__ import annotations

from typing import Any

import numpy as np

from solvers.mapping._cp_model.core import Core
from solvers.mapping._cp_model.routes import Crossing
from solvers.mapping._cp_model.units import Output


def slot_loads(core: Core, *, ports: bool) -> dict[int, list[Any]]:
    """Return the terms of each slot that can be busy, in ticks: computing, and with `ports` what they move."""
    by_mode = [_computing(core, m) + (_port(core, m) if ports else []) for m in range(core.problem.modes)]
    return {
        s: [term for m in core.modes_on(s) for term in by_mode[m]]
        for s in range(core.problem.slots)
        if not core.problem.never_busy[s]
    }


def largest_on_hosts(core: Core) -> list[Any]:
    """Return what T is at least for slots that are never busy: each of their segments by itself."""
    ticks = core.time_ticks(core.units.longest_ms)
    hosts = core.problem.members @ core.problem.never_busy
    return [int(ticks[u, m]) * x for (u, m), x in core.x.items() if hosts[m] and ticks[u, m]]


def link_loads(core: Core, crossed: list[list[Crossing]]) -> list[list[Any]]:
    """Return the terms of each link that carries anything, in ticks."""
    p = core.problem
    loads: dict[int, list[Any]] = {}
    for pair, found in zip(core.units.pairs, crossed, strict=True):
        ticks = core.time_ticks(pair.size * p.route_ms_per_byte[:, :, None] * p.route_links)
        for c in found:
            for link in np.flatnonzero(ticks[c.p, c.q]).tolist():
                loads.setdefault(link, []).append(int(ticks[c.p, c.q, link]) * c.literal)
    return list(loads.values())


def _computing(core: Core, m: int) -> list[Any]:
    ticks = core.time_ticks(core.units.compute_ms[:, m])
    return [int(ticks[u]) * core.x[u, m] for u in core.units_of(m) if ticks[u]]


def _port(core: Core, m: int) -> list[Any]:
    """Terms of what mode m takes in and gives out: an output once, however many segments there read it."""
    into, out = core.problem.ports[:, m].tolist()
    terms: list[Any] = []
    for i, output in enumerate(core.units.outputs):
        for rate, leaves in ((into, False), (out, True)):
            ticks = int(core.time_ticks(output.size * rate))
            if ticks and (moves := _moves(core, output, m, leaves, f"{'out' if leaves else 'in'}{i},{m}")) is not None:
                terms.append(ticks * moves)
    return terms


def _moves(core: Core, output: Output, m: int, leaves: bool, name: str) -> Any:
    """Return a literal that holds where the output leaves (or enters) mode m; None where it cannot."""
    here = core.x.get((output.source, m), 0)
    readers = [core.x.get((v, m), 0) for v in output.readers]
    if leaves:
        if isinstance(here, int):
            return None
        gaps = [here - reader for reader in readers]
    else:
        gaps = [reader - here for reader in readers if not isinstance(reader, int)]
    if not gaps:
        return None
    hint = None
    if core.start is not None:
        at_source, at_readers = core.start[output.source] == m, core.start[list(output.readers)] == m
        hint = bool((at_source and not at_readers.all()) if leaves else (at_readers.any() and not at_source))
    moves = core.boolean(name, hint)
    for gap in gaps:
        core.cp.add(moves >= gap)
    return moves
