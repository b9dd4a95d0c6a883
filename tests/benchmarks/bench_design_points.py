"""Designs of HTDemucs in full a second on two cores: map, place, simulate, as the sweep does."""

from __future__ import annotations

import time

import numpy as np

from tests.benchmarks.figure import Figure

WORKERS = 2
WARM_UP = 32
DESIGNS = 400


def measure() -> list[Figure]:
    """Evaluate random designs of the study `htdemucs` in two processes, started and warm."""
    from chiplib import load_library
    from dse.resolve import resolve
    from dse.study import Study
    from dse.workers import Workers

    study = Study.load("htdemucs")
    resolved = resolve(study, load_library(study.library))
    mappable = np.flatnonzero(resolved.possible)
    chosen = np.random.default_rng(0).choice(mappable, size=WARM_UP + DESIGNS, replace=False)
    designs = [resolved.designs[int(index)] for index in chosen]
    with Workers(resolved.evaluator, WORKERS) as pool:
        list(pool.rows(designs[:WARM_UP]))
        started = time.perf_counter()
        rows = list(pool.rows(designs[WARM_UP:]))
        wall_s = time.perf_counter() - started
    points = sum(len(row["points"]) for row in rows)
    failed = sum(row["status"] == "failed" for row in rows)
    if failed:
        raise RuntimeError(f"{failed} of {len(rows)} designs failed")
    return [
        Figure(
            figure="full designs of htdemucs (mapped, placed, simulated), 2 workers",
            goal=100,
            measured=len(rows) / wall_s,
            unit="designs/s",
            note=f"each mapped for three weightings, {points / len(rows):.1f} distinct points simulated",
        ),
    ]
