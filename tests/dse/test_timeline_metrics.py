from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from dse.errors import DseError
from dse.simulate import simulate
from solvers.mapping.evaluate import evaluate
from tests.dse.test_simulate_events import mapped, run
from tests.dse.toy import toy_table


def live_bytes_by_replay(timeline, slot: int, ms: float) -> float:
    """What lies on a slot just after `ms`, by asking each tensor whether it is there."""
    segments, assignment = timeline.table.segments, timeline.assignment
    spans = timeline.compute.reshape(timeline.inputs, -1)
    moves = timeline.transfers.reshape(timeline.inputs, -1)
    column = {int(edge): place for place, edge in enumerate(timeline.cut_edges)}
    total = sum(segments.weight_bytes[k] for k in range(len(assignment)) if assignment[k] == slot)
    for i in range(timeline.inputs):
        for k in range(len(assignment)):
            start, end = spans["start_ms"][i, k], spans["end_ms"][i, k]
            until, read = end, 0.0
            for edge, (a, b) in enumerate(segments.edges):
                if a == k:
                    gone = moves["end_ms"][i, column[edge]] if edge in column else spans["end_ms"][i, b]
                    until = max(until, gone)
                if b == k:
                    read += segments.edge_bytes[edge]
                    if edge in column and assignment[k] == slot and moves["start_ms"][i, column[edge]] <= ms < end:
                        total += segments.edge_bytes[edge]
            if assignment[k] == slot:
                total += segments.output_bytes[k] * (start <= ms < until)
                total += max(0.0, segments.workspace_bytes[k] - segments.output_bytes[k] - read) * (start <= ms < end)
    return total


@given(mapped(max_segments=6, max_slots=3))
@settings(deadline=None, max_examples=60)
def test_memory_is_what_a_replay_finds(case):
    table, assignment = case
    for options in ({}, {"regime": "pipelined", "inputs": 3}):
        timeline = run(table, assignment, **options)
        instants = np.unique(timeline.memory["ms"])
        for slot in range(len(table.system.chips)):
            events = timeline.memory[timeline.memory["slot"] == slot]
            replay = [live_bytes_by_replay(timeline, slot, ms) for ms in instants]
            assert timeline.peak_memory_bytes[slot] == max(replay, default=0.0)
            assert (np.diff(events["ms"]) > 0).all()
            for ms, held in zip(events["ms"], events["bytes"], strict=True):
                assert held == live_bytes_by_replay(timeline, slot, ms)
            if len(events):  # at the end only the weights are left
                assert events["bytes"][-1] == table.segments.weight_bytes[assignment == slot].sum()


def test_metrics_of_two_chips_by_hand():
    # 2 ms on chip 0, 1000 bytes over one hop (1 ms + 0.25 ms), 3 ms on chip 1
    table = toy_table([[2, 2], [3, 3]], [(0, 1)], [1000], energy_mj=[[5, 5], [7, 7]], weight_bytes=[4e6, 1e6], batch=4)
    timeline = simulate(table.segments, [0, 1], table.system, table=table)
    metrics = timeline.metrics()
    assert metrics.latency_ms == 6.25
    assert metrics.throughput_per_s == pytest.approx(4 / 6.25e-3)
    assert timeline.energy.links_mj == pytest.approx(0.1 / 4)  # 1000 bytes x 1e-4 mJ, for four samples
    assert metrics.energy_mj == pytest.approx((12 + 0.1 + 10 * 6.25) / 4)
    assert metrics.power_w == pytest.approx(4 * metrics.energy_mj / 6.25)
    assert metrics.utilisation == pytest.approx((2 / 6.25 + 3 / 6.25) / 2)
    assert metrics.peak_memory_mb == pytest.approx(4.001)
    assert (metrics.area_mm2, metrics.cost_usd, metrics.contention_ms) == (100.0, 50.0, 0.0)


def test_an_idle_chip_counts_against_utilisation():
    table = toy_table([[2, 2, 2]], np.zeros((0, 2)), [])
    assert simulate(table.segments, [1], table.system, table=table).metrics().utilisation == pytest.approx(1 / 3)


@given(mapped())
@settings(deadline=None)
def test_identities_between_the_metrics(case):
    table, assignment = case
    for options in ({}, {"regime": "pipelined", "inputs": 12}):
        timeline = run(table, assignment, **options)
        if timeline.period_ms == 0.0:
            with pytest.raises(DseError, match="takes no time"):
                timeline.metrics()
            continue
        metrics, energy = timeline.metrics(), timeline.energy
        assert metrics.energy_mj == pytest.approx(energy.dynamic_mj + energy.links_mj + energy.static_mj)
        assert metrics.power_w == pytest.approx(metrics.energy_mj * 1e-3 * metrics.throughput_per_s)
        assert 0.0 <= metrics.utilisation <= 1.0 + 1e-12
        assert timeline.link_bytes * 1e-3 == pytest.approx(timeline.link_busy_ms)
        assert timeline.link_busy_ms.max(initial=0.0) <= timeline.makespan_ms * (1 + 1e-12)
        if timeline.regime == "pipelined":
            claimed = evaluate(table.mapping_problem("throughput"), assignment)
            assert timeline.period_bound_ms == pytest.approx(float(claimed.latency_ms[0]))
        else:
            assert metrics.throughput_per_s == pytest.approx(1e3 / metrics.latency_ms)
