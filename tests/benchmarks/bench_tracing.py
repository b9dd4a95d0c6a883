"""Tracing large models, each in a fresh process: wall time with imports and building the model, and peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.figure import Figure

LARGEST = "mossformer2"  # 4 s at 16 kHz, 663 GMACs

LLAMA = """
import torch, transformers, workloads
from workloads.graph import MATRIX_KINDS
with torch.device("meta"):
    module = transformers.LlamaForCausalLM(transformers.LlamaConfig(use_cache=False))  # the defaults are Llama-2-7B's
    tokens = torch.zeros(1, 128, dtype=torch.int64)
graph = workloads.trace(module, tokens, cache=False)
assert graph.parameters == 6_738_415_616 and not graph.refused
assert round(sum(layer.macs for layer in graph.layers if layer.kind in MATRIX_KINDS) / 1e9, 1) == 850.0
"""

MEASURED = """
import json, resource, sys
{code}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({{"layers": len(graph.layers), "gmacs": graph.macs / 1e9, "peak_bytes": peak}}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One fresh process: wall time from its start to its end, imports included, and its peak resident memory."""

    wall_s: float
    peak_gb: float
    note: str


def fresh_process(code: str, cache: Path) -> Run:
    """Run `code`, which binds `graph`, in a new interpreter with this folder as the cache of traced graphs."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED.format(code=code)],
        env=os.environ | {"CHIPFRONT_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    wall_s = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr else f"exit code {done.returncode}")
    answer = json.loads(done.stdout)
    note = f"{answer['layers']:,} layers, {answer['gmacs']:,.1f} GMACs; imports included"
    return Run(wall_s=wall_s, peak_gb=answer["peak_bytes"] / 1e9, note=note)


def figures(what: str, run: Run, *, wall_s: float, peak_gb: float) -> list[Figure]:
    """Return wall time and peak memory of a run beside their goals, neither to be exceeded."""
    time_figure = Figure(
        figure=f"{what}: time", goal=wall_s, measured=run.wall_s, unit="s", higher_is_better=False, note=run.note
    )
    memory_figure = Figure(
        figure=f"{what}: peak memory", goal=peak_gb, measured=run.peak_gb, unit="GB", higher_is_better=False
    )
    return [time_figure, memory_figure]


def measure() -> list[Figure]:
    """Trace the catalogue's largest model, load what was kept of it, and trace Llama-2-7B without weights."""
    code = f"import workloads; graph = workloads.load({LARGEST!r})"
    with tempfile.TemporaryDirectory() as folder:
        cold, cached = (fresh_process(code, Path(folder)) for _ in range(2))
        llama = fresh_process(LLAMA, Path(folder))
    return [
        *figures(f"trace {LARGEST}, 4 s of audio", cold, wall_s=60, peak_gb=6),
        Figure(
            figure=f"load {LARGEST} from the cache",
            goal=1,
            measured=cached.wall_s,
            unit="s",
            higher_is_better=False,
            note=cached.note,
        ),
        *figures("trace Llama-2-7B without weights, 128 tokens", llama, wall_s=90, peak_gb=4),
    ]
