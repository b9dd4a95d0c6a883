"""Tracing large models, each in a fresh process: wall time with building the model, and peak memory."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.benchmarks.figure import Figure

LLAMA = """
import torch, transformers, workloads
with torch.device("meta"):
    module = transformers.LlamaForCausalLM(transformers.LlamaConfig(use_cache=False))  # the defaults are Llama-2-7B's
    tokens = torch.zeros(1, 128, dtype=torch.int64)
graph = workloads.trace(module, tokens, cache=False)
assert graph.parameters == 6_738_415_616 and not graph.refused
assert round(sum(layer.macs for layer in graph.layers if layer.kind in MATRIX_KINDS) / 1e9, 1) == 850.0
"""


def in_fresh_process(code: str) -> tuple[float, float]:
    """Run code in a new interpreter; return its wall time in seconds, imports apart, and its peak memory in MB."""
    script = f"""
import json, resource, time
from workloads.graph import MATRIX_KINDS
import torch, workloads.trace
started = time.perf_counter()
{code}
print(json.dumps([time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    seconds, peak_mb = json.loads(done.stdout.strip().splitlines()[-1])
    return seconds, peak_mb


def measure() -> list[Figure]:
    """Seconds and peak memory of each trace."""
    seconds, peak_mb = in_fresh_process(LLAMA)
    return [
        Figure(
            figure="Llama-2-7B without weights, 128 tokens, traced",
            goal=90,
            measured=seconds,
            unit="s",
            higher_is_better=False,
            note="transformers' configuration, built on the meta device",
        ),
        Figure(
            figure="Llama-2-7B without weights, peak memory of the process",
            goal=4000,
            measured=peak_mb,
            unit="MB",
            higher_is_better=False,
        ),
    ]
