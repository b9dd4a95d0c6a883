"""Tables equal the summary's front; traces keep the rules of the trace event format."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

import reports
from reports.export import trace_events
from reports.records import Detail, DetailChip, DetailSegment
from reports.run import read_run


def test_tables_hold_the_front_exactly(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    front = json.loads((folder / "summary.json").read_text())["front"]
    assert [path.name for path in reports.write_tables(folder)] == ["front.csv", "front.parquet"]
    with (folder / "front.csv").open(encoding="utf-8", newline="") as file:
        from_csv = list(csv.DictReader(file))
    from_parquet = pd.read_parquet(folder / "front.parquet").to_dict("records")
    for rows in (from_csv, from_parquet):
        assert list(rows[0])[:7] == ["design", "point", "chips", "package", "precision", "batch", "mapper"]
        for row, point in zip(rows, front, strict=True):
            assert row["design"] == point["design"]
            assert row["chips"].split("+") == point["params"]["chips"]
            assert {name: float(row[name]) for name in point["metrics"]} == point["metrics"]


def test_no_summary_no_tables(make_run: Callable[..., Path]) -> None:
    folder = make_run(designs=40)
    (folder / "summary.json").unlink()
    assert reports.write_tables(folder) == []
    assert not (folder / "front.csv").exists()


def check_trace(trace: dict[str, object], spans: int) -> None:
    """The rules: metadata for every track, microseconds, complete events, no overlap on a track."""
    events = trace["traceEvents"]
    assert isinstance(events, list)
    slices = [event for event in events if event["ph"] == "X"]
    assert len(slices) == spans
    named = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    processes = {e["pid"] for e in events if e["ph"] == "M" and e["name"] == "process_name"}
    tracks: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in slices:
        assert event["dur"] >= 0
        assert (event["pid"], event["tid"]) in named
        assert event["pid"] in processes
        start, length = round(event["ts"] * 1e3), round(event["dur"] * 1e3)  # nanoseconds
        tracks.setdefault((event["pid"], event["tid"]), []).append((start, start + length))
    for track in tracks.values():
        ordered = sorted(track)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ordered))
    assert {event["ph"] for event in events} <= {"X", "M", "C"}


def test_traces_of_a_run_keep_the_rules(make_run: Callable[..., Path]) -> None:
    folder = make_run(inputs=16)
    paths = reports.write_perfetto(folder)
    assert len(paths) == 3
    details = {f"{name}.perfetto.json": detail for name, detail in read_run(folder).details.items()}
    for path in paths:
        trace = json.loads(path.read_text())
        detail = details[path.name]
        check_trace(trace, len(detail.compute) + len(detail.transfers))
        names = [e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"]
        assert f"slot 0: {detail.chips[0].name}" in names
        assert "slot 0 to slot 1" in names
        first = next(e for e in trace["traceEvents"] if e["ph"] == "X" and e["args"].get("segment") == 3)
        span = next(s for s in detail.compute if s[0] == 3)
        assert abs(first["ts"] - span[3] * 1e3) < 1e-3
        assert abs(first["dur"] - (span[4] - span[3]) * 1e3) < 2e-3
    assert len(read_run(folder).details) == 3, "a trace is not taken for a timeline"


TIME = st.floats(0, 1e4, allow_nan=False)


@given(spans=st.lists(st.tuples(st.integers(0, 2), TIME, TIME), max_size=30))
def test_no_overlap_on_a_track_whatever_overlaps_in_the_file(spans: list[tuple[int, float, float]]) -> None:
    chip = {"x_mm": 0.0, "y_mm": 0.0, "width_mm": 1.0, "height_mm": 1.0}
    detail = Detail(
        design="d",
        chips=[DetailChip(slot=slot, name=f"chip{slot}", **chip) for slot in range(3)],
        segments=[DetailSegment(id=0, slot=0, latency_ms=1.0)],
        compute=[(0, slot, 0, start, start + length) for slot, start, length in spans],
        transfers=[(0, 1, 0, slot, slot + 1, start, start + length, 8.0) for slot, start, length in spans],
    )
    check_trace(trace_events(detail), 2 * len(spans))
