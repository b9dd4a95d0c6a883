"""The simulation of teams of slots and of a free order: against the mapping problem, and against formulas by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.errors import DseError
from dse.mapped_work import MappedWork
from dse.prediction import intervals
from dse.simulate import simulate
from dse.teams import Team, TeamCosts
from solvers.mapping.evaluate import evaluate
from tests.dse.toy import toy_table

LINK_MS, BYTE_MS, BYTE_MJ = 0.25, 1e-3, 1e-4  # of the toy's chain


def between(p: int, q: int) -> range:
    """Links that a way between two slots of the chain holds, numbered from the lower slot."""
    return range(min(p, q), max(p, q))


def gathering(slots, sent) -> tuple[float, float]:
    """Time and energy of one collective in which slot g sends sent[g] bytes, an even part to each other."""
    held: dict[tuple[int, bool], float] = {}
    energy = 0.0
    for p, size in zip(slots, sent, strict=True):
        for q in slots:
            for link in between(p, q):
                held[link, q > p] = held.get((link, q > p), 0.0) + size / (len(slots) - 1) * BYTE_MS
            energy += size / (len(slots) - 1) * abs(p - q) * BYTE_MJ
    return max(held.values()) + (max(slots) - min(slots)) * LINK_MS, energy


def toy_teams(table, teams, own_ms, sent) -> TeamCosts:
    """Teams of given times [K, T] without collectives, in which every slot sends `sent` [K, T] bytes, all allowed."""
    count, slots = table.latency_ms.shape
    members = np.zeros((len(teams), slots), bool)
    for t, team in enumerate(teams):
        members[t, list(team.slots)] = True
    own_ms, own_mj = np.array(own_ms, float), np.ones((count, len(teams)))
    compute_ms, energy_mj, splits = own_ms.copy(), own_mj.copy(), {}
    for k, t in np.ndindex(count, len(teams)):
        team = teams[t]
        if team.way == "replicate":
            compute_ms[k, t] = own_ms[k, t] = table.latency_ms[k, list(team.slots)].max() / team.size
            continue
        bytes_ = np.full(team.size, float(sent[k][t]))
        if sent[k][t]:
            wait, moved = gathering(team.slots, bytes_)
            compute_ms[k, t] += wait
            energy_mj[k, t] += moved
        sizes = SimpleNamespace(
            sent_bytes=bytes_[None] if sent[k][t] else np.zeros((0, team.size)),
            weight_bytes=np.full(team.size, 3.0),
            workspace_bytes=np.zeros(team.size),
        )
        splits[k, t] = SimpleNamespace(inputs=(), outputs=(), groups=team.size, at=lambda _, sizes=sizes: sizes)
    return TeamCosts(
        teams=tuple(teams),
        members=members,
        compute_ms=compute_ms,
        energy_mj=energy_mj,
        own_ms=own_ms,
        own_mj=own_mj,
        resident_bytes=np.zeros(compute_ms.shape),
        allowed=np.ones(compute_ms.shape, bool),
        splits=splits,
        low_ms=own_ms / 2,
        high_ms=own_ms * 2,
    )


@st.composite
def mapped(draw, *, replicate=False):
    """A random DAG on a chain of slots with teams that overlap, a mapping to slots and teams, and an order."""
    count, slots = draw(st.integers(1, 7)), draw(st.integers(2, 5))
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=10)) if pairs else []
    quarter = st.integers(1, 12).map(lambda n: n / 4)
    size = st.integers(0, 8).map(lambda n: 240.0 * n)
    table = toy_table(
        draw(st.lists(st.lists(quarter, min_size=slots, max_size=slots), min_size=count, max_size=count)),
        edges,
        draw(st.lists(size, min_size=len(edges), max_size=len(edges))),
    )
    groups = st.lists(st.integers(0, slots - 1), unique=True, min_size=2, max_size=slots).map(
        lambda s: tuple(sorted(s))
    )
    ways = st.sampled_from(["channels", "sequence", *(["replicate"] if replicate else [])])
    teams = [Team(slots=s, way=w) for s, w in draw(st.lists(st.tuples(groups, ways), min_size=1, max_size=3))]
    columns = st.lists(quarter, min_size=len(teams), max_size=len(teams))
    costs = toy_teams(
        table,
        teams,
        draw(st.lists(columns, min_size=count, max_size=count)),
        draw(st.lists(st.lists(size, min_size=len(teams), max_size=len(teams)), min_size=count, max_size=count)),
    )
    modes = draw(st.lists(st.integers(0, slots + len(teams) - 1), min_size=count, max_size=count))
    order: list[int] = []
    while len(order) < count:
        ready = [j for j in range(count) if j not in order and all(i in order for i, k in edges if k == j)]
        order.append(draw(st.sampled_from(ready)))
    return table, costs, np.array(modes), np.array(order)


def run(case, **options):
    table, teams, modes = case[:3]
    return simulate(table.segments, modes, table.system, table=table, teams=teams, **options)


def slots_of(case, mode: int) -> tuple[int, ...]:
    slots = len(case[0].system.chips)
    return (mode,) if mode < slots else case[1].teams[mode - slots].slots


def piece_bytes(case, i: int, j: int, size: float) -> list[tuple[int, int, float]]:
    """What crosses for an edge: an even piece from each slot of its producer to each other one of its consumer."""
    modes = case[2]
    ours, theirs = slots_of(case, modes[i]), slots_of(case, modes[j])
    if modes[i] == modes[j]:
        return []
    return [(p, q, size / len(ours) / len(theirs)) for p in ours for q in theirs if p != q]


def finish_ms(case) -> float:
    """End of the last segment in the order given, by the recurrence of MappingProblem's docstring, in plain Python."""
    table, teams, modes, order = case
    slots = table.latency_ms.shape[1]
    free: dict[int, float] = {}
    finish: dict[int, float] = {}
    for k in order.tolist():
        mode = int(modes[k])
        start = max(free.get(slot, 0.0) for slot in slots_of(case, mode))
        for (i, j), size in zip(table.segments.edges.tolist(), table.segments.edge_bytes.tolist(), strict=True):
            if j != k:
                continue
            pieces = piece_bytes(case, i, j, size)
            held: dict[tuple[int, bool], float] = {}
            for p, q, part in pieces:
                for link in between(p, q):
                    held[link, q > p] = held.get((link, q > p), 0.0) + part * BYTE_MS
            hops = max((abs(p - q) for p, q, _ in pieces), default=0)
            start = max(start, finish[i] + hops * LINK_MS + max(held.values(), default=0.0))
        took = table.latency_ms[k, mode] if mode < slots else teams.compute_ms[k, mode - slots]
        finish[k] = start + took
        for slot in slots_of(case, mode):
            free[slot] = finish[k]
    return max(finish.values())


@given(mapped())
@settings(deadline=None, max_examples=100)
def test_without_contention_an_input_takes_what_the_mapping_problem_says(case):
    table, teams, modes, order = case
    timeline = run(case, order=order, contention=False)
    assert timeline.latency_ms == pytest.approx(finish_ms(case), rel=1e-12)
    problem = table.mapping_problem("latency", teams=teams, free_order=True)
    claimed = evaluate(problem, modes, order)
    assert timeline.latency_ms == pytest.approx(float(claimed.latency_ms[0]), rel=1e-12)
    metrics = timeline.metrics()
    assert metrics.energy_mj == pytest.approx(float(claimed.energy_mj[0]), rel=1e-12)
    by_number = run(case, contention=False)
    numbered = evaluate(table.mapping_problem("latency", teams=teams), modes)
    assert by_number.latency_ms == pytest.approx(float(numbered.latency_ms[0]), rel=1e-12)
    # links add waiting only, and what they carry does not depend on it
    busy = run(case, order=order)
    assert busy.latency_without_contention_ms == timeline.latency_ms
    assert busy.sent_bytes == pytest.approx(timeline.sent_bytes)


def replay_links(case, timeline, expected, at, contention) -> None:
    """Links serve first come, first served: an edge when its producer ends, a team's collectives when it starts."""
    table, teams, modes, _ = case
    slots = table.latency_ms.shape[1]
    asked = []  # time, edges before teams, tie-break, what to hold, where it must end
    for number, k in np.ndindex(timeline.inputs, len(modes)):
        start, end = at[number, k]
        mode, on = modes[k], expected[number, k]
        if mode >= slots and teams.teams[mode - slots].way != "replicate":
            sizes = teams.splits[k, mode - slots].at(2).sent_bytes.sum(axis=0)
            pieces = [
                (p, q, size / (len(on) - 1)) for p, size in zip(on, sizes, strict=True) for q in on if p != q and size
            ]
            asked.append((start, 1, min(on), number, pieces, end - teams.compute_ms[k, mode - slots]))
    moves: dict[tuple[int, int], list] = {}
    for edge, number, source, target, start, _, size in timeline.transfers.tolist():
        moves.setdefault((number, edge), []).append((source, target, size, start))
    for (number, edge), rows in moves.items():
        ready = at[number, table.segments.edges[edge, 0]][1]
        asked.append((ready, 0, number, edge, [row[:3] for row in rows], rows[0][3]))
    free: dict[tuple[int, bool], float] = {}
    for since, *_, pieces, began in sorted(asked, key=lambda each: each[:4]):
        held: dict[tuple[int, bool], float] = {}
        for p, q, size in pieces:
            for link in between(p, q):
                held[link, q > p] = held.get((link, q > p), 0.0) + size * BYTE_MS
        start = max([since, *(free.get(link, 0.0) for link in held)]) if contention else since
        free |= {link: start + took for link, took in held.items()}
        assert began == pytest.approx(start)


@given(mapped(replicate=True), st.booleans(), st.integers(1, 5))
@settings(deadline=None, max_examples=100)
def test_a_stream_keeps_the_rules_of_teams(case, contention, inputs):
    table, teams, modes, _ = case
    slots = table.latency_ms.shape[1]
    timeline = run(case, regime="pipelined", inputs=inputs, contention=contention)
    spans, moves = timeline.compute, timeline.transfers
    expected: dict[tuple[int, int], tuple[int, ...]] = {}
    for number, k in np.ndindex(inputs, len(modes)):
        on = slots_of(case, modes[k])
        replica = modes[k] >= slots and teams.teams[modes[k] - slots].way == "replicate"
        expected[number, k] = (on[number % len(on)],) if replica else on
    found: dict[tuple[int, int], list] = {}
    for k, slot, number, start, end in spans.tolist():
        found.setdefault((number, k), []).append((slot, start, end))
    assert {key: tuple(row[0] for row in rows) for key, rows in found.items()} == expected
    at = {key: rows[0][1:] for key, rows in found.items()}
    for key, rows in found.items():  # all of a team at the same time, for as long as it takes
        assert {row[1:] for row in rows} == {at[key]}
        k, mode = key[1], modes[key[1]]
        whole = mode < slots or teams.teams[mode - slots].way == "replicate"
        least = table.latency_ms[k, rows[0][0]] if whole else teams.compute_ms[k, mode - slots]
        assert at[key][1] - at[key][0] >= least * (1 - 1e-12)
        if not contention:
            assert at[key][1] - at[key][0] == pytest.approx(least)
    for slot in range(slots):  # one thing at a time
        mine = np.sort(spans[spans["slot"] == slot], order=["start_ms", "end_ms"])
        assert (mine["start_ms"][1:] >= mine["end_ms"][:-1]).all()
    arrived = {}
    for edge, number, source, target, start, end, size in moves.tolist():  # what crosses, and when
        i, j = table.segments.edges[edge]
        ours, theirs = expected[number, i], expected[number, j]
        assert source in ours and target in theirs and source != target
        assert size == pytest.approx(table.segments.edge_bytes[edge] / len(ours) / len(theirs))
        assert start >= at[number, i][1]
        arrived[number, edge] = end
    for number, (edge, (i, j)) in ((n, e) for n in range(inputs) for e in enumerate(table.segments.edges.tolist())):
        if modes[i] == modes[j]:
            assert (number, edge) not in arrived
        assert at[number, j][0] >= arrived.get((number, edge), at[number, i][1])
    replay_links(case, timeline, expected, at, contention)
    # the rate: no replica, and no collective that holds links, then the problem's period is the bound
    problem = table.mapping_problem("throughput", teams=teams)
    claimed = float(evaluate(problem, modes).latency_ms[0])
    if timeline.work.variants == 1 and contention:
        only_edges = timeline.period_bound_ms if not len(timeline.work.collectives) else None
        assert timeline.period_bound_ms >= claimed * (1 - 1e-12)
        assert only_edges is None or only_edges == pytest.approx(claimed, rel=1e-12)
    assert timeline.period_ms >= timeline.period_bound_ms * (1 - 1e-12) or inputs == 1
    assert timeline.slot_busy_ms.max() <= timeline.makespan_ms * (1 + 1e-12)


def test_replicas_halve_the_period_and_not_the_latency():
    table = toy_table([[2.0, 2.0, 9.0], [9.0, 9.0, 1.0]], [(0, 1)], [1000.0], weight_bytes=[70.0, 5.0])
    teams = toy_teams(table, [Team(slots=(0, 1), way="replicate")], np.ones((2, 1)), np.zeros((2, 1)))
    case = table, teams, np.array([3, 2])
    one = run(case, regime="pipelined")
    assert one.latency_ms == 2.0 + (2 * 0.25 + 1.0) + 1.0  # from the first replica, two hops away
    stream = run(case, regime="pipelined", inputs=40)
    assert stream.period_ms == pytest.approx(1.0)
    assert stream.compute["slot"][stream.compute["segment"] == 0].tolist() == [0, 1] * 20
    held = stream.peak_memory_bytes
    assert held[0] >= 70 and held[1] >= 70  # whole weights on both
    with pytest.raises(DseError, match="replicas take inputs in turn"):
        run(case)


def test_collectives_wait_for_links_that_others_hold():
    # segment 0 sends 4000 B from slot 0 to slot 2 (4 ms on both links); the team of 0 and 1 meanwhile gathers
    table = toy_table(np.ones((3, 3)), [(0, 1)], [4000.0])
    teams = toy_teams(table, [Team(slots=(0, 1), way="channels")], np.full((3, 1), 0.5), np.full((3, 1), 1000.0))
    case = table, teams, np.array([0, 2, 3])
    wait = 0.25 + 1.0  # one hop, 1000 B
    free, busy = run(case, contention=False), run(case)
    ends = [timeline.compute["end_ms"][timeline.compute["segment"] == 2].tolist() for timeline in (free, busy)]
    assert ends == [[1 + 0.5 + wait] * 2, [1 + 4 + 0.5 + wait] * 2]
    assert busy.link_bytes.tolist() == [5000.0, 1000.0, 4000.0, 0.0]  # 0 to 1, 1 to 0, 1 to 2, 2 to 1
    assert busy.metrics().contention_ms == pytest.approx(busy.latency_ms - free.latency_ms)


def test_members_hold_their_part_of_weights_and_outputs():
    table = toy_table([[1.0, 1.0], [1.0, 1.0]], [(0, 1)], [800.0], weight_bytes=[50.0, 40.0])
    teams = toy_teams(table, [Team(slots=(0, 1), way="channels")], np.ones((2, 1)), np.zeros((2, 1)))
    case = table, teams, np.array([2, 0])
    timeline = run(case)
    # slot 0: 3 B of the member, 40 B whole, its half of the tensor and the other one's; slot 1: 3 B and its half
    assert timeline.peak_memory_bytes.tolist() == [3 + 40 + 400 + 400, 3 + 400]
    assert timeline.transfers[["source", "target", "bytes"]].tolist() == [(1, 0, 400.0)]
    assert MappedWork.of(table, case[2], teams).bytes_between(2).tolist() == [[0.0, 0.0], [400.0, 0.0]]


def test_intervals_take_the_ends_of_teams_and_the_order():
    table = toy_table(np.ones((2, 2)), [(0, 1)], [0.0])
    teams = toy_teams(table, [Team(slots=(0, 1), way="channels")], np.ones((2, 1)), np.full((2, 1), 1000.0))
    object.__setattr__(table.costs, "low_ms", table.costs.latency_ms / 2)
    object.__setattr__(table.costs, "high_ms", table.costs.latency_ms * 2)
    timeline = run((table, teams, np.array([2, 2])), order=[0, 1])
    wait = 0.25 + 1.0
    assert timeline.latency_ms == 2 * (1 + wait)
    assert intervals(timeline, None)["latency_ms"] == (2 * (0.5 + wait), 2 * (2 + wait))


@pytest.mark.parametrize(
    ("modes", "options", "message"),
    [
        ([0, 3], {}, "slot 3.*then 1 teams|slots are 0 to 1"),
        ([0, 2], {}, "segment 1 cannot run on slots 0 and 1 together"),
        ([0, 1], {"order": [1, 0]}, "segment 1 before segment 0"),
        ([0, 1], {"order": [0, 0]}, "no permutation of 2 segments"),
        ([0, 1], {"order": [0, 1], "regime": "pipelined"}, "does not go with the pipelined regime"),
    ],
)
def test_what_does_not_fit_is_an_error(modes, options, message):
    table = toy_table(np.ones((2, 2)), [(0, 1)], [1000.0])
    teams = toy_teams(table, [Team(slots=(0, 1), way="channels")], np.ones((2, 1)), np.zeros((2, 1)))
    teams.allowed[1, 0] = False
    with pytest.raises(DseError, match=message):
        run((table, teams, np.array(modes)), **options)
