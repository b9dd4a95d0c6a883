"""When segments run: one after the other on each slot (serial), or each slot as one call (offload)."""

from __future__ import annotations

from typing import Any

import numpy as np

from solvers.mapping._cp_model.core import Core
from solvers.mapping._cp_model.routes import Crossing


def schedule(core: Core, crossed: list[list[Crossing]], time: Any) -> list[Any]:
    """Serial: state starts and ends of segments; return the starts [K] in ticks. `time` is no less than any end."""
    p, cp = core.problem, core.cp
    begin, end = [], []
    for k in range(p.segments):
        begin.append(cp.new_int_var(0, core.latest, f"begin{k}"))
        end.append(begin[k] + _duration(core, k))
        cp.add(end[k] <= time)
    for (i, j), wait in zip(p.edges.tolist(), waits(core, crossed), strict=True):
        cp.add(begin[j] >= end[i] + sum(wait))
    for s in range(p.slots):
        if p.never_busy[s]:
            continue
        if p.free_order:
            _one_at_a_time(core, s, begin)
        else:
            _in_number_order(core, s, begin, end)
    return begin


def _duration(core: Core, k: int) -> Any:
    u = int(core.units.of[k])
    ticks = core.time_ticks(np.where(core.units.runs[u], core.problem.compute_ms[k], 0.0))
    return sum(int(ticks[m]) * core.x[u, m] for m in core.modes_of(u) if ticks[m])


def _in_number_order(core: Core, s: int, begin: list[Any], end: list[Any]) -> None:
    """A slot is free from the end of the last segment on it."""
    free: Any = 0
    for k in range(core.problem.segments):
        u = int(core.units.of[k])
        here = [core.x[u, m] for m in core.modes_on(s) if (u, m) in core.x]
        if not here:
            continue
        later = core.cp.new_int_var(0, core.latest, f"free{k},{s}")
        core.cp.add(later >= free)
        for literal in here:
            core.cp.add(begin[k] >= free).only_enforce_if(literal)
            core.cp.add(later >= end[k]).only_enforce_if(literal)
        free = later


def _one_at_a_time(core: Core, s: int, begin: list[Any]) -> None:
    runs = []
    for k in range(core.problem.segments):
        u = int(core.units.of[k])
        for m in core.modes_on(s):
            if (u, m) in core.x:
                ticks = int(core.time_ticks(core.problem.compute_ms[k, m]))
                name = f"run{k},{s},{m}"
                runs.append(core.cp.new_optional_fixed_size_interval_var(begin[k], ticks, core.x[u, m], name))
    core.cp.add_no_overlap(runs)


def waits(core: Core, crossed: list[list[Crossing]]) -> list[list[Any]]:
    """Return for each edge [E] the terms of the time that its route takes, in ticks."""
    p = core.problem
    found: list[list[Any]] = [[] for _ in p.edges]
    for pair, crossing in zip(core.units.pairs, crossed, strict=True):
        for e in pair.edges:
            ticks = core.time_ticks(p.route_latency_ms + p.edge_bytes[e] * p.route_ms_per_byte)
            found[e] = [int(ticks[c.p, c.q]) * c.literal for c in crossing if ticks[c.p, c.q]]
    return found


def call_slots(core: Core, crossed: list[list[Crossing]], loads: dict[int, list[Any]], time: Any) -> None:
    """Offload: state when the call of each slot starts and ends, and those of segments on slots never busy.

    `loads` are the terms of each slot that can be busy; `time` is None where no time counts.
    """
    p, cp = core.problem, core.cp
    _no_way_back(core)
    if time is None:
        return
    start = {s: cp.new_int_var(0, core.latest, f"start{s}") for s in loads}
    stop = {s: cp.new_int_var(0, core.latest, f"stop{s}") for s in loads}
    for s, load in loads.items():
        cp.add(stop[s] >= start[s] + sum(load))
        cp.add(time >= stop[s])
    begin = [cp.new_int_var(0, core.latest, f"begin{k}") for k in range(p.segments)]
    end = [cp.new_int_var(0, core.latest, f"end{k}") for k in range(p.segments)]
    for k in range(p.segments):
        cp.add(time >= end[k])
        cp.add(end[k] >= begin[k] + _duration(core, k))
        u = int(core.units.of[k])
        for s in core.modes_of(u):
            if s in loads:
                cp.add(begin[k] <= start[s]).only_enforce_if(core.x[u, s])
                cp.add(end[k] >= stop[s]).only_enforce_if(core.x[u, s])
    for e, wait in enumerate(waits(core, crossed)):
        i, j = p.edges[e].tolist()
        u, v = int(core.units.of[i]), int(core.units.of[j])
        for s in core.modes_of(v):
            here = core.x.get((u, s), 0)
            if s in loads and u != v:  # s waits for what comes from elsewhere
                literals = [core.x[v, s]] + ([] if isinstance(here, int) else [~here])
                cp.add(start[s] >= end[i] + sum(wait)).only_enforce_if(literals)
            elif s not in loads:
                cp.add(begin[j] >= end[i] + sum(wait)).only_enforce_if(core.x[v, s])


def _no_way_back(core: Core) -> None:
    """Calls have ranks that rise along edges between them: no path leaves a slot and comes back."""
    p, cp = core.problem, core.cp
    calls = range(p.segments)  # no more ranks than calls
    busy = [s for s in range(p.slots) if not p.never_busy[s]]
    of_slot = {s: cp.new_int_var(0, len(calls), f"rank_slot{s}") for s in busy}
    rank = [cp.new_int_var(0, len(calls), f"rank{k}") for k in calls]
    for k in calls:
        u = int(core.units.of[k])
        for s in core.modes_of(u):
            if s in of_slot:
                cp.add(rank[k] == of_slot[s]).only_enforce_if(core.x[u, s])
    for i, j in p.edges.tolist():
        u, v = int(core.units.of[i]), int(core.units.of[j])
        together = [(core.x[u, s], core.x[v, s]) for s in busy if (u, s) in core.x and (v, s) in core.x]
        if u == v:
            cp.add(rank[j] >= rank[i] + 1).only_enforce_if([~one for one, _ in together])
            continue
        cp.add(rank[j] >= rank[i])
        for s in core.modes_of(v):
            apart = [core.x[v, s]]
            if s in of_slot and (u, s) in core.x:
                apart.append(~core.x[u, s])
            cp.add(rank[j] >= rank[i] + 1).only_enforce_if(apart)
