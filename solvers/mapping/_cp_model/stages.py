"""Contiguous slots as stages of a pipeline; like slots in one order; how deep in the pipeline each slot is.

"Ideal" booleans y[u, m], unit u runs in mode m or in a stage before it, make an order without circles a matter of
implications: an edge from u to v says y[v, m] -> y[u, m]. Where modes are alike the number of the stage is that of the
mode; others get a place among them: before[m, n], a linear order.
"""

from __future__ import annotations

from itertools import combinations, pairwise, permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solvers.mapping._cp_model.core import Core
from solvers.mapping.problem import MappingProblem


def order_like_slots(core: Core, alike: list[list[int]]) -> None:
    """Free assignment: slots that are alike are used in the order of the first unit on each."""
    for group in alike:
        for one, other in pairwise(group):
            begun: Any = 0  # a unit before this one is on `one`
            for u in range(core.units.count):
                if (u, other) in core.x:
                    core.cp.add(core.x[u, other] <= begun)
                if (u, one) in core.x:
                    hint = None if core.start is None else bool((core.start[: u + 1] == one).any())
                    now = core.boolean(f"begun{u},{one}", hint)
                    core.cp.add(now <= begun + core.x[u, one])
                    begun = now


def order_stages(core: Core, alike: list[list[int]], order: list[int] | None = None) -> None:
    """Contiguous: modes in a linear order that every edge respects, and no slot in two of them.

    `order` [M] is that order where it is given; else the search is free in it.
    """
    p, cp = core.problem, core.cp
    chains = [order] if order is not None else [*alike, *([m] for m in range(p.slots, p.modes))]
    y = _ideals(core, chains[0]) if len(chains) == 1 else _placed_ideals(core, chains)
    for pair in core.units.pairs:
        for m in range(p.modes) if pair.ordering else ():
            source, target = y[pair.source, m], y[pair.target, m]
            if source is not target and target is not core.never and source is not core.always:
                cp.add_implication(target, source)
    used = _used(core, alike)
    for s in range(p.slots):
        if len(core.modes_on(s)) > 1:
            cp.add_at_most_one(used[m] for m in core.modes_on(s))


def _ideals(core: Core, order: list[int]) -> dict[tuple[int, int], Any]:
    """Return y of modes in a known order: sums of x, of which only those that change from mode to mode are new."""
    y: dict[tuple[int, int], Any] = {}
    for u in range(core.units.count):
        able = set(core.modes_of(u))
        last: Any = core.never
        for i, m in enumerate(order):
            if m in able:
                able.remove(m)
                if not able:
                    last = core.always
                elif last is core.never:
                    last = core.x[u, m]
                else:
                    hint = None if core.start is None else int(core.start[u]) in order[: i + 1]
                    before, last = last, core.boolean(f"y{u},{m}", hint)
                    core.cp.add(last == before + core.x[u, m])
            y[u, m] = last
    return y


def _placed_ideals(core: Core, chains: list[list[int]]) -> dict[tuple[int, int], Any]:
    """Return y of modes of which only those of a chain have a known order."""
    p, cp = core.problem, core.cp
    order = None if core.start is None else stage_order(p, core.units.of, core.start, chains)
    before = _before(core, chains, order)
    place = None if order is None else {m: i for i, m in enumerate(order)}
    y: dict[tuple[int, int], Any] = {}
    for u in range(core.units.count):
        for m in range(p.modes):
            hint = None
            if place is not None and core.start is not None:
                hint = place[int(core.start[u])] <= place[m]
            y[u, m] = core.boolean(f"y{u},{m}", hint)
    for u in range(core.units.count):
        on = {m: core.x[u, m] for m in core.modes_of(u)}
        for chain in chains:
            for i, m in enumerate(chain):
                upto = [on[n] for n in chain[: i + 1] if n in on]
                after = [on[n] for n in chain[i + 1 :] if n in on]
                if len(on) == len(upto) + len(after):  # it runs nowhere else
                    cp.add(y[u, m] == sum(upto))
                    continue
                cp.add(sum(upto) <= y[u, m])
                cp.add(sum(after) + y[u, m] <= 1)
                if i:
                    cp.add_implication(y[u, chain[i - 1]], y[u, m])
                for n, literal in on.items():
                    if n not in chain:
                        cp.add_bool_or(~literal, ~before[n, m], y[u, m])
                        cp.add_bool_or(~literal, before[n, m], ~y[u, m])
    return y


def _before(core: Core, chains: list[list[int]], order: list[int] | None) -> dict[tuple[int, int], Any]:
    """Return literals before[m, n] of a linear order of the modes in which each chain rises."""
    cp, modes = core.cp, core.problem.modes
    before: dict[tuple[int, int], Any] = {}
    for chain in chains:
        for m, n in combinations(chain, 2):
            before[m, n], before[n, m] = core.always, core.never
    for m, n in combinations(range(modes), 2):
        if (m, n) not in before:
            hint = None if order is None else order.index(m) < order.index(n)
            before[m, n] = core.boolean(f"before{m},{n}", hint)
            before[n, m] = ~before[m, n]
    for a, b, c in permutations(range(modes), 3):
        if a == min(a, b, c):
            cp.add_bool_or(~before[a, b], ~before[b, c], ~before[c, a])
    return before


def _used(core: Core, alike: list[list[int]]) -> list[Any]:
    """Return a literal a mode: some unit runs in it. Of slots that are alike, the first ones are used."""
    used = []
    for m in range(core.problem.modes):
        here = core.units_of(m)
        hint = None if core.start is None else bool((core.start == m).any())
        used.append(core.boolean(f"used{m}", hint))
        for u in here:
            core.cp.add_implication(core.x[u, m], used[m])
        core.cp.add_bool_or(~used[m], *(core.x[u, m] for u in here))
    for group in alike:
        for one, other in pairwise(group):
            core.cp.add_implication(used[other], used[one])
    return used


def inputs_in_flight(core: Core) -> dict[int, list[Any]]:
    """Return for each slot literals in a row: more than 1, more than 2, ... inputs in flight there.

    They may be true without need, never false against it. None where nothing is stashed.
    """
    p = core.problem
    most = min(p.most_in_flight, p.slots)
    if not p.stash.any() or most == 1:
        return {}
    return _depth_of_stages(core, most) if p.contiguous else _slots_in_use(core, most)


def _slots_in_use(core: Core, most: int) -> dict[int, list[Any]]:
    used = [core.boolean(f"inuse{s}") for s in range(core.problem.slots)]
    for u, m in core.x:
        for s in np.flatnonzero(core.problem.members[m]).tolist():
            core.cp.add_implication(core.x[u, m], used[s])
    more = [core.boolean(f"more{d}") for d in range(1, most)]
    for d, literal in enumerate(more, 1):
        core.cp.add(sum(used) <= d).only_enforce_if(~literal)
    return dict.fromkeys(range(core.problem.slots), more)


def _depth_of_stages(core: Core, most: int) -> dict[int, list[Any]]:
    """Longest chain of stages from each: deeper[m][d] says that mode m has more than d + 1 stages ahead, itself one."""
    p, cp = core.problem, core.cp
    deeper = {m: [core.boolean(f"deep{m},{d}") for d in range(1, most)] for m in range(p.modes)}
    feeds = {(m, n): core.boolean(f"feeds{m},{n}") for m, n in permutations(range(p.modes), 2)}
    for pair in core.units.pairs:
        for m in core.modes_of(pair.source) if pair.ordering else ():
            for n in core.modes_of(pair.target):
                if m != n:
                    cp.add_bool_or(~core.x[pair.source, m], ~core.x[pair.target, n], feeds[m, n])
    for (m, n), literal in feeds.items():
        cp.add_implication(literal, deeper[m][0])
        for less, more in zip(deeper[n], deeper[m][1:], strict=False):
            cp.add_bool_or(~literal, ~less, more)
    found: dict[int, list[Any]] = {}
    for s in range(p.slots):
        modes = core.modes_on(s)
        found[s] = deeper[s]
        if len(modes) > 1:  # whichever of them is used says how deep
            found[s] = [core.boolean(f"deep_slot{s},{d}") for d in range(1, most)]
            for m in modes:
                for u in core.units_of(m):
                    for mine, slot in zip(deeper[m], found[s], strict=True):
                        cp.add_bool_or(~core.x[u, m], ~mine, slot)
    return found


def stage_order(
    problem: MappingProblem, of: NDArray[np.int64], modes: NDArray[np.int64], chains: list[list[int]]
) -> list[int] | None:
    """Return all modes in an order that the ordering edges of a mapping of units [U] respect; None in a circle.

    The modes of a chain come in its order.
    """
    ends = modes[of][problem.edges[problem.ordering]].tolist()
    after: dict[int, set[int]] = {m: set() for m in range(problem.modes)}
    waiting = dict.fromkeys(after, 0)
    for m, n in [*ends, *(pair for chain in chains for pair in pairwise(chain))]:
        if m != n and n not in after[m]:
            after[m].add(n)
            waiting[n] += 1
    used = set(modes.tolist())
    ready = sorted((m for m, count in waiting.items() if not count), key=lambda m: (m in used, -m))
    order: list[int] = []
    while ready:
        order.append(ready.pop())
        for n in sorted(after[order[-1]], reverse=True):
            waiting[n] -= 1
            if not waiting[n]:
                ready.append(n)
    return order if len(order) == problem.modes else None


def relabelled(
    problem: MappingProblem, of: NDArray[np.int64], modes: NDArray[np.int64], alike: list[list[int]]
) -> NDArray[np.int64]:
    """Return a mapping of units [U] with like slots renamed to the order in which the model wants them.

    A hint has to follow the symmetry cuts of the model that it is given to.
    """
    rename = np.arange(problem.modes)
    order = stage_order(problem, of, modes, []) if problem.contiguous else None
    last = len(modes)
    for group in alike:
        if order is None:
            key = [int(np.argmax(modes == m)) if (modes == m).any() else last for m in group]
        else:
            key = [order.index(m) if (modes == m).any() else problem.modes for m in group]
        for new, old in zip(group, np.argsort(key, kind="stable"), strict=True):
            rename[group[old]] = new
    return rename[modes]
