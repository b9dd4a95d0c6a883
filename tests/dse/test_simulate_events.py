"""The event simulation against closed forms, and against a replay of its own rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.errors import DseError
from dse.simulate import simulate
from solvers.mapping.evaluate import evaluate
from solvers.placement.problem import Placement
from tests.dse.toy import toy_table


@st.composite
def mapped(draw, max_segments=9, max_slots=4):
    """A random DAG with costs of a coarse grid (so that events tie), and a mapping of it."""
    count, slots = draw(st.integers(1, max_segments)), draw(st.integers(1, max_slots))
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=14)) if pairs else []
    quarter = st.integers(0, 12).map(lambda n: n / 4)
    times = draw(st.lists(st.lists(quarter, min_size=slots, max_size=slots), min_size=count, max_size=count))
    sizes = draw(st.lists(st.integers(0, 8).map(lambda n: 250.0 * n), min_size=len(edges), max_size=len(edges)))
    weights = draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    extra = draw(st.lists(st.integers(0, 4000), min_size=count, max_size=count))
    table = toy_table(times, edges, sizes, weight_bytes=weights)
    table.segments.workspace_bytes = table.segments.workspace_bytes + np.array(extra, float)
    return table, np.array(draw(st.lists(st.integers(0, slots - 1), min_size=count, max_size=count)))


def run(table, assignment, **options):
    return simulate(table.segments, assignment, table.system, table=table, **options)


def longest_path_ms(table, assignment) -> float:
    """Finish of the last segment, by the recurrence of MappingProblem's docstring, in plain Python."""
    routes, segments = table.system.routes, table.segments
    slot_free: dict[int, float] = {}
    finish: dict[int, float] = {}
    for k, slot in enumerate(assignment):
        start = slot_free.get(slot, 0.0)
        for (i, j), size in zip(segments.edges.tolist(), segments.edge_bytes.tolist(), strict=True):
            if j == k:
                p = assignment[i]
                wait = 0.0 if p == slot else routes.latency_ms[p, slot] + size * routes.ms_per_byte[p, slot]
                start = max(start, finish[i] + wait)
        finish[k] = slot_free[slot] = start + table.latency_ms[k, slot]
    return max(finish.values())


@given(mapped())
@settings(deadline=None)
def test_serial_without_contention_is_the_closed_form(case):
    table, assignment = case
    timeline = run(table, assignment, contention=False)
    assert timeline.makespan_ms == longest_path_ms(table, assignment)
    claimed = evaluate(table.mapping_problem("latency"), assignment)
    metrics = timeline.metrics() if timeline.period_ms > 0 else None
    assert timeline.makespan_ms == pytest.approx(float(claimed.latency_ms[0]), rel=1e-12)
    if metrics:
        assert metrics.energy_mj == pytest.approx(float(claimed.energy_mj[0]), rel=1e-12)


@given(mapped(), st.integers(1, 4))
@settings(deadline=None)
def test_serial_inputs_follow_one_another(case, inputs):
    table, assignment = case
    timeline = run(table, assignment, inputs=inputs)
    assert timeline.makespan_ms == pytest.approx(inputs * run(table, assignment).makespan_ms)


@given(mapped(), st.sampled_from(["serial", "pipelined"]), st.booleans(), st.integers(1, 6))
@settings(deadline=None, max_examples=150)
def test_every_rule_of_the_machine_is_kept(case, regime, contention, inputs):
    table, assignment = case
    timeline = run(table, assignment, regime=regime, contention=contention, inputs=inputs)
    count, segments, routes = len(assignment), table.segments, table.system.routes
    spans = timeline.compute.reshape(inputs, count)
    moves = timeline.transfers.reshape(inputs, -1)

    # each segment of each input runs once, where it is mapped, for as long as it takes
    assert (spans["segment"] == np.arange(count)).all() and (spans["slot"] == assignment).all()
    durations = table.latency_ms[np.arange(count), assignment]
    assert spans["end_ms"] - spans["start_ms"] == pytest.approx(np.tile(durations, (inputs, 1)))
    assert timeline.slot_busy_ms == pytest.approx(
        inputs * np.bincount(assignment, weights=durations, minlength=len(table.system.chips))
    )
    # a slot computes one thing at a time
    for slot in range(len(table.system.chips)):
        mine = np.sort(timeline.compute[timeline.compute["slot"] == slot], order=["start_ms", "end_ms"])
        assert (mine["start_ms"][1:] >= mine["end_ms"][:-1]).all()
    # what a segment reads has arrived before it starts
    column = {int(edge): place for place, edge in enumerate(timeline.cut_edges)}
    for edge, (i, j) in enumerate(segments.edges):
        before = spans["end_ms"][:, i]
        if edge in column:
            move = moves[:, column[edge]]
            assert (move["source"] == assignment[i]).all() and (move["target"] == assignment[j]).all()
            assert (move["start_ms"] >= before).all()
            before = move["end_ms"]
        assert (spans["start_ms"][:, j] >= before).all()
    # links: replay first come, first served
    free = np.zeros(routes.uses_link.shape[2])
    ready = spans["end_ms"][:, segments.edges[timeline.cut_edges, 0]]
    order = sorted((ready[m], m[0], timeline.cut_edges[m[1]], m) for m in np.ndindex(*ready.shape))
    for since, _, edge, m in order if (durations > 0).all() else ():  # what takes no time ties with what it waited for
        p, q = assignment[segments.edges[edge]]
        hold = segments.edge_bytes[edge] * routes.ms_per_byte[p, q]
        start = max(since, free[routes.uses_link[p, q]].max()) if contention else since
        free[routes.uses_link[p, q]] = start + hold
        assert moves["start_ms"][m] == start
        assert moves["end_ms"][m] == start + (routes.latency_ms[p, q] + hold)
    # never more in flight than the window, and no stream faster than its busiest resource
    for begin in timeline.begin_ms:
        assert ((timeline.begin_ms <= begin) & (timeline.complete_ms > begin)).sum() <= timeline.window
    bound = timeline.slot_busy_ms.max() / inputs
    if contention:
        bound = max(bound, timeline.link_busy_ms.max(initial=0.0) / inputs)
    assert timeline.period_ms >= bound * (1 - 1e-12)
    assert timeline.makespan_ms >= inputs * bound * (1 - 1e-12)


@given(mapped(), st.integers(2, 6))
@settings(deadline=None)
def test_a_slot_takes_the_oldest_input_that_is_ready_and_never_idles_before_ready_work(case, inputs):
    table, assignment = case
    timeline = run(table, assignment, regime="pipelined", inputs=inputs, window=inputs)
    spans = timeline.compute.reshape(inputs, -1)
    ready = np.zeros_like(spans["start_ms"])
    moves = timeline.transfers.reshape(inputs, -1)
    column = {int(edge): place for place, edge in enumerate(timeline.cut_edges)}
    for edge, (i, j) in enumerate(table.segments.edges):
        arrived = moves["end_ms"][:, column[edge]] if edge in column else spans["end_ms"][:, i]
        ready[:, j] = np.maximum(ready[:, j], arrived)
    for slot in range(len(table.system.chips)):
        mine = [(i, k) for i in range(inputs) for k in np.flatnonzero(assignment == slot)]
        for a in mine:
            for b in mine:  # b was ready when a started, and still to be run: so a is the older
                if ready[b] < spans["start_ms"][a] < spans["start_ms"][b]:
                    assert a < b
        for a in mine:  # from ready to start the slot is busy all the time
            work = sum(
                max(0.0, min(spans["end_ms"][b], spans["start_ms"][a]) - max(spans["start_ms"][b], ready[a]))
                for b in mine
                if b != a
            )
            assert work == pytest.approx(spans["start_ms"][a] - ready[a], abs=1e-9)


@given(
    st.lists(st.floats(0.1, 5), min_size=1, max_size=5),
    st.lists(st.floats(0, 5000), min_size=4, max_size=4),
    st.integers(1, 20),
)
@settings(deadline=None)
def test_a_pipeline_of_stages_is_a_flow_shop(stages, sizes, inputs):
    """Makespan = sum of stages + transfers + (N - 1) x the longest stage; the rate is one over the longest stage."""
    count = len(stages)
    edges = [(k, k + 1) for k in range(count - 1)]
    table = toy_table(np.repeat(np.array(stages)[:, None], count, 1), edges, sizes[: count - 1])
    timeline = run(table, np.arange(count), regime="pipelined", inputs=inputs, contention=False)
    moved = sum(0.25 + size * 1e-3 for size in sizes[: count - 1])
    assert timeline.makespan_ms == pytest.approx(sum(stages) + moved + (inputs - 1) * max(stages), rel=1e-12)
    if inputs > 1:
        assert timeline.metrics().throughput_per_s == pytest.approx(1e3 / max(stages), rel=1e-9)
        assert timeline.metrics().latency_ms >= sum(stages) + moved - 1e-9


def test_the_default_window_fills_the_pipe_and_no_more():
    table = toy_table(np.repeat([[1.0], [3.0], [1.0]], 3, 1), [(0, 1), (1, 2)], [0, 0])  # 5.5 ms alone, 3 ms apart
    chosen = run(table, [0, 1, 2], regime="pipelined", inputs=32)
    assert (chosen.window, chosen.period_ms) == (2, pytest.approx(3.0))
    assert chosen.latency_ms == pytest.approx(2 * 3.0)  # Little's law: two in flight, one every 3 ms
    one, many = (run(table, [0, 1, 2], regime="pipelined", inputs=32, window=window) for window in (1, 8))
    assert one.period_ms == pytest.approx(5.5)
    assert many.period_ms == pytest.approx(3.0) and many.latency_ms == pytest.approx(8 * 3.0, rel=0.1)


@given(
    st.lists(st.floats(0.1, 5), min_size=2, max_size=8), st.lists(st.floats(0, 5000), min_size=7, max_size=7), st.data()
)
@settings(deadline=None)
def test_contention_never_speeds_up_a_chain_and_one_input_of_it_meets_none(stages, sizes, data):
    count = len(stages)
    table = toy_table(
        np.repeat(np.array(stages)[:, None], 4, 1), [(k, k + 1) for k in range(count - 1)], sizes[: count - 1]
    )
    assignment = np.array(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    assert run(table, assignment).makespan_ms == run(table, assignment, contention=False).makespan_ms
    stream = {"regime": "pipelined", "inputs": 8, "window": 8}
    ordered = np.sort(assignment)
    busy = run(table, ordered, **stream)
    assert busy.makespan_ms >= run(table, ordered, contention=False, **stream).makespan_ms - 1e-9
    assert busy.metrics().contention_ms >= -1e-9


def test_two_transfers_on_one_link_queue_and_on_two_links_do_not():
    # 0 sends to 1 and to 2, each 1000 bytes x 0.001 ms + 0.25 ms a hop
    table = toy_table(np.ones((3, 3)), [(0, 1), (0, 2)], [1000, 1000])
    line = run(table, [0, 1, 2])  # both over link 0 -> 1
    assert line.transfers["start_ms"].tolist() == [1.0, 2.0]
    assert line.transfers["end_ms"].tolist() == [2.25, 3.5]
    assert line.makespan_ms == 4.5
    assert line.metrics().contention_ms == 1.0
    fork = run(table, [1, 0, 2])  # one to the left, one to the right
    assert fork.transfers["start_ms"].tolist() == [1.0, 1.0]
    assert fork.metrics().contention_ms == 0.0


def test_a_slot_of_the_serial_regime_waits_for_the_lower_number():
    # 2 is ready at once, but 1, which is lower, must run first on the slot that both share
    table = toy_table([[4, 4], [1, 1], [1, 1]], [(0, 1)], [1000])
    timeline = run(table, [0, 1, 1])
    assert timeline.compute["start_ms"].tolist() == [0.0, 5.25, 6.25]
    stream = run(table, [0, 1, 1], regime="pipelined")
    assert stream.compute["start_ms"].tolist() == [0.0, 5.25, 0.0]


def test_a_layout_moves_chips_and_so_their_routes():
    table = toy_table(np.ones((2, 3)), [(0, 1)], [1000])
    where = np.array([0, 2, 1])
    layout = Placement(
        x_mm=np.zeros(3), y_mm=np.zeros(3), rotated=np.zeros(3, bool), site=where, wirelength_byte_mm=0.0,
        lower_bound=0.0, status="feasible", solver="hand", wall_s=0.0,
    )  # fmt: skip
    near = simulate(table.segments, [0, 1], table.system, table=table)
    far = simulate(table.segments, [0, 1], table.system, layout, table=table)
    assert far.makespan_ms == near.makespan_ms + 0.25  # one hop more
    assert far.site_of_slot.tolist() == [0, 2, 1]
    assert (far.link_busy_ms > 0).sum() == 2 and (near.link_busy_ms > 0).sum() == 1


def test_the_same_call_gives_the_same_bits():
    rng = np.random.default_rng(3)
    edges = sorted({tuple(sorted(pair)) for pair in rng.integers(0, 30, (60, 2)).tolist() if pair[0] != pair[1]})
    table = toy_table(rng.uniform(0.1, 1, (30, 4)), edges, rng.uniform(0, 3000, len(edges)))
    assignment = rng.integers(0, 4, 30)
    first, second = (run(table, assignment, regime="pipelined", inputs=16) for _ in range(2))
    assert first.compute.tobytes() == second.compute.tobytes()
    assert first.transfers.tobytes() == second.transfers.tobytes()
    assert first.metrics() == second.metrics()


@pytest.mark.parametrize(
    ("mapping", "message"),
    [([0], "1 segments|2 segments"), ([0, 7], "slot 7.*slots are 0 to 1"), ([0, 1], "segment 1 cannot run on slot 1")],
)
def test_a_mapping_that_does_not_fit_is_an_error(mapping, message):
    table = toy_table([[1, 1], [1, np.inf]], [(0, 1)], [1000])
    with pytest.raises(DseError, match=message):
        run(table, mapping)


def test_an_unknown_regime_is_refused():
    with pytest.raises(DseError, match="no regime is called 'steady'"):
        run(toy_table([[1.0]], [], []), [0], regime="steady")
