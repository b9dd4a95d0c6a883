"""Reading a run folder: good rows are kept, bad ones are named, and nothing else is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reports.records import Detail, Summary
from reports.run import Problem, parse_record, read_run


def test_a_whole_folder_is_read_whole(shared_run: Path) -> None:
    run = read_run(shared_run)
    assert run.summary is not None and run.workload is not None and run.library is not None
    assert len(run.rows) == 600
    assert len(run.details) == 3
    assert run.knee is not None and run.knee_detail is not None
    assert run.knee_detail.design == run.knee.design
    assert [problem.where for problem in run.problems] == ["line 17"]  # what the study itself noted


def test_a_torn_and_a_wrong_row_are_named_by_line(make_run: Callable[..., Path]) -> None:
    folder = make_run(designs=20)
    path = folder / "results" / "worker-1.jsonl"
    lines = path.read_text().splitlines()
    wrong = json.loads(lines[2])
    del wrong["status"]
    lines[2] = json.dumps(wrong)
    path.write_text("\n".join(lines) + '\n{"design": "cut sho')
    run = read_run(folder)
    assert len(run.rows) == 19
    found = {(p.file, p.where): p.reason for p in run.problems}
    assert "status" in found["results/worker-1.jsonl", "line 3"]
    assert ("results/worker-1.jsonl", "line 11") in found


def test_a_row_written_again_counts_once(make_run: Callable[..., Path]) -> None:
    folder = make_run(designs=20)
    row = json.loads((folder / "results" / "worker-0.jsonl").read_text().splitlines()[0])
    again = folder / "results" / "worker-9.jsonl"
    again.write_text(json.dumps(row | {"status": "failed", "reason": "once more"}) + "\n")
    rows = {r.design: r for r in read_run(folder).rows}
    assert len(rows) == 20
    assert rows[row["design"]].reason == "once more"


def test_a_bad_entry_is_left_out_and_named(make_run: Callable[..., Path]) -> None:
    folder = make_run(designs=40)
    summary = json.loads((folder / "summary.json").read_text())
    good = len(summary["front"])
    summary["front"][2]["metrics"]["latency_ms"] = "fast"
    del summary["front"][4]["design"]
    summary["history"] = "none"
    (folder / "summary.json").write_text(json.dumps(summary))
    run = read_run(folder)
    assert run.summary is not None
    assert len(run.summary.front) == good - 2
    assert run.summary.history == []
    assert {"front.2.metrics.latency_ms", "front.4.design", "history"} <= {p.where for p in run.problems}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_stands_in_a_file_reading_ends_without_an_error(data: st.DataObject) -> None:
    for kind in (Summary, Detail):
        fields = list(kind.__dataclass_fields__)
        value: Any = data.draw(st.dictionaries(st.sampled_from(fields) | st.text(max_size=4), JSON, max_size=8) | JSON)
        problems: list[Problem] = []
        record = parse_record(kind, value, "file.json", problems)
        assert record is None or isinstance(record, kind)
        assert record is not None or problems
