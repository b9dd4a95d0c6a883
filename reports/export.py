"""Tables and traces beside the page: front.csv, front.parquet, and a Perfetto trace a timeline."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dse.errors import DseError
from reports.records import Detail
from reports.run import Run, read_run


def write_tables(run: Run | str | Path) -> list[Path]:
    """Write `front.csv` and `front.parquet` into the run folder, one row a point of the front, as in `summary.json`.

    Returns the paths written; none where the run has no summary. Raises DseError where the folder cannot be written.
    """
    run = _as_run(run)
    if run.summary is None:
        return []
    import pandas as pd

    metrics = list(dict.fromkeys(name for point in run.summary.front for name in point.metrics))
    timed = list(dict.fromkeys(name for point in run.summary.front for name in point.intervals))
    rows = [
        {
            "design": point.design,
            "point": point.point,
            "chips": "+".join(point.params.chips),
            "package": point.params.package,
            "precision": point.params.precision,
            "batch": point.params.batch,
            "mapper": point.params.mapper,
            **{name: point.metrics.get(name) for name in metrics},
            **{
                f"{name}_{end}": point.intervals[name][place] if name in point.intervals else None
                for name in timed
                for place, end in enumerate(("low", "high"))
            },
        }
        for point in run.summary.front
    ]
    columns = ["design", "point", "chips", "package", "precision", "batch", "mapper", *metrics]
    columns += [f"{name}_{end}" for name in timed for end in ("low", "high")]
    frame = pd.DataFrame(rows, columns=columns)
    csv, parquet = run.folder / "front.csv", run.folder / "front.parquet"
    write_file(csv, lambda path: frame.to_csv(path, index=False))
    write_file(parquet, lambda path: frame.to_parquet(path, index=False))
    return [csv, parquet]


def write_perfetto(run: Run | str | Path) -> list[Path]:
    """Write `timelines/NAME.perfetto.json` for each point in detail: opens in ui.perfetto.dev and chrome://tracing.

    Returns the paths written. Raises DseError where the folder cannot be written.
    """
    run = _as_run(run)
    paths = []
    for name, detail in run.details.items():
        path = run.folder / "timelines" / f"{name}.perfetto.json"
        text = json.dumps(trace_events(detail), separators=(",", ":"))
        write_file(path, partial(Path.write_text, data=text, encoding="utf-8"))
        paths.append(path)
    return paths


CHIPS_PID, TRANSFERS_PID = 1, 2


def trace_events(detail: Detail) -> dict[str, Any]:
    """Return the timeline as a Chrome trace: a track a chip, a track a pair of slots, no overlap on a track.

    Times are microseconds on a grid of one nanosecond. Transfers that share a pair of slots at the same time (they
    took different routes, or links were not serialised) go to further tracks of that pair. Live memory is a counter.
    The format: Chromium's "Trace Event Format", complete events (X), counters (C) and metadata (M).
    """
    names = {segment.id: segment.name or f"segment {segment.id}" for segment in detail.segments}
    events: list[dict[str, Any]] = [
        _name("process_name", CHIPS_PID, 0, "chips"),
        _name("process_name", TRANSFERS_PID, 0, "transfers"),
    ]
    lanes: dict[tuple[int, Any], list[dict[str, Any]]] = {}
    labels: dict[tuple[int, Any], str] = {}
    for segment, slot, item, start, end in detail.compute:
        labels[CHIPS_PID, slot] = f"slot {slot}: {detail.chip_name(slot)}"
        slice_ = _slice(f"{segment}: {names.get(segment, '')}".rstrip(": "), start, end)
        slice_["args"] = {"segment": segment, "input": item}
        lanes.setdefault((CHIPS_PID, slot), []).append(slice_)
    for producer, consumer, item, source, target, start, end, size in detail.transfers:
        labels[TRANSFERS_PID, (source, target)] = f"slot {source} to slot {target}"
        slice_ = _slice(f"{producer} to {consumer}", start, end)
        slice_["args"] = {"from": producer, "to": consumer, "input": item, "bytes": size}
        lanes.setdefault((TRANSFERS_PID, (source, target)), []).append(slice_)
    next_tid = {CHIPS_PID: 1, TRANSFERS_PID: 1}
    for (pid, key), slices in sorted(lanes.items()):
        for number, track in enumerate(_tracks(slices), start=1):
            label = labels[pid, key] + (f" ({number})" if number > 1 else "")
            tid = next_tid[pid]
            next_tid[pid] += 1
            events.append(_name("thread_name", pid, tid, label))
            events.append({"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": tid}})
            events += [{**slice_, "pid": pid, "tid": tid} for slice_ in track]
    for slot, time, size in detail.memory:
        counter = {"ph": "C", "name": f"memory of slot {slot}", "pid": CHIPS_PID, "ts": _grid(time) / 1e3}
        events.append({**counter, "args": {"bytes": size}})
    return {"displayTimeUnit": "ns", "traceEvents": events}


def _name(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def _grid(time_ms: float) -> int:
    """Whole nanoseconds: spans that touch in milliseconds still touch, and never overlap, after rounding."""
    return round(time_ms * 1e6)


def _slice(name: str, start_ms: float, end_ms: float) -> dict[str, Any]:
    start = _grid(start_ms)
    return {"ph": "X", "name": name, "ts": start / 1e3, "dur": max(_grid(end_ms) - start, 0) / 1e3}


def _tracks(slices: Sequence[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    """Spread slices over as few tracks as hold them without overlap, first come, first served."""
    tracks: list[list[dict[str, Any]]] = []
    ends: list[int] = []
    for slice_ in sorted(slices, key=lambda item: (item["ts"], item["dur"])):
        start = round(slice_["ts"] * 1e3)
        free = next((index for index, end in enumerate(ends) if end <= start), None)
        if free is None:
            free = len(tracks)
            tracks.append([])
            ends.append(0)
        tracks[free].append(slice_)
        ends[free] = start + round(slice_["dur"] * 1e3)
    return tracks


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file, then rename it to `path`: readers see the old file or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            write(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        there = path.parent.is_dir()
        hint = "make the folder writable, or give another one" if there else f"make the folder {path.parent} first"
        raise DseError(f"{path}: cannot be written: {reason}", hint) from error


def _as_run(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else read_run(run)
