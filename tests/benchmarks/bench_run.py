"""The main job: `dse run htdemucs` from a cold trace cache, and once traced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.figure import Figure


def run(study: str, out: Path, cache: Path) -> dict[str, Any]:
    """Run a study as a user does, with its own caches of traced graphs and compiled loops; return the --json answer."""
    command = [sys.executable, "-c", "from dse.cli import main; main()"]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "run", study, "--out", str(out), "--workers", "2", "--json"],
        env=os.environ | {"CHIPFRONT_CACHE": str(cache), "NUMBA_CACHE_DIR": str(cache / "numba")},
        capture_output=True,
        text=True,
        check=False,
    )
    wall_s = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr else f"exit code {done.returncode}")
    return json.loads(done.stdout) | {"command_wall_s": wall_s}


def measure() -> list[Figure]:
    """Wall time of the whole command, import and report included."""
    with tempfile.TemporaryDirectory() as folder:
        cold = run("htdemucs", Path(folder) / "cold", Path(folder) / "cache")
        warm = run("htdemucs", Path(folder) / "warm", Path(folder) / "cache")
    note = f"{warm['evaluated']:,} of {warm['designs']:,} designs evaluated, epsilon {warm['epsilon']}"
    return [
        Figure(figure="designs of the study htdemucs", goal=2000, measured=warm["designs"], unit="designs"),
        Figure(
            figure="dse run htdemucs, cold cache",
            goal=180,
            measured=cold["command_wall_s"],
            unit="s",
            higher_is_better=False,
            note=note,
        ),
        Figure(
            figure="dse run htdemucs, once traced",
            goal=60,
            measured=warm["command_wall_s"],
            unit="s",
            higher_is_better=False,
            note=note,
        ),
    ]
