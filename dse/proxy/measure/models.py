"""Whole models of the catalogue, timed as they run: what the sum of their layers is compared with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from dse.proxy.measure.machine import Machine
from dse.proxy.measure.timing import allocated_peak
from dse.store import prepare_file, write_atomically
from workloads import catalog
from workloads.factory import build

COLUMNS = ("model", "device", "latency_ms", "peak_memory_mb", "min_ms", "max_ms", "repeats", "framework")


def measure_model(name: str, machine: Machine, repeats: int = 3, seed: int = 0) -> dict[str, Any]:
    """Time the forward pass of a model of the catalogue at its default input: eager, no gradients, after a warm-up.

    peak_memory_mb holds weights, buffers, inputs and what torch's allocator gives out at most on top of them.
    Raises WorkloadError if there is no such model.
    """
    entry = catalog.entry(name)
    torch.manual_seed(seed)
    module, inputs = build(entry.factory, entry.inputs, kwargs=entry.kwargs)
    module = module.eval().to(machine.kind)
    given = tree_map_only(torch.Tensor, lambda t: _random(t).to(machine.kind), inputs)

    def run() -> Any:
        with torch.no_grad():
            return module(*given)

    run()
    times = [_seconds(run, machine.kind) for _ in range(repeats)]
    held = [*module.parameters(), *module.buffers(), *(t for t in given if isinstance(t, torch.Tensor))]
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
    peak = sum(sizes.values()) + allocated_peak(run, machine.kind)
    return {
        "model": name,
        "device": machine.device,
        "latency_ms": 1e3 * statistics.median(times),
        "peak_memory_mb": peak / 1e6,
        "min_ms": 1e3 * min(times),
        "max_ms": 1e3 * max(times),
        "repeats": repeats,
        "framework": machine.framework,
    }


def _random(tensor: torch.Tensor) -> torch.Tensor:
    """Random numbers in the place of zeros, which some kernels are faster on; integers stay."""
    return torch.randn_like(tensor) if tensor.is_floating_point() else tensor


def _seconds(run: Callable[[], Any], kind: str) -> float:
    start = time.perf_counter()
    run()
    if kind == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure_models(
    names: Sequence[str], machine: Machine, out: Path, report: Callable[[int, str], None] = lambda done, name: None
) -> list[dict[str, Any]]:
    """Measure each model and write the table (CSV) anew after each: rows of other models and devices there are kept.

    Raises DseError where the table cannot be written, before anything is measured.
    """
    import pandas as pd

    prepare_file(out)
    rows = []
    for number, name in enumerate(names):
        report(number, name)
        rows.append(measure_model(name, machine))
        old = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=list(COLUMNS))
        kept = old[(old["model"] != name) | (old["device"] != machine.device)]
        table = pd.DataFrame([*kept.to_dict("records"), rows[-1]], columns=list(COLUMNS)).sort_values(
            ["device", "model"]
        )
        write_atomically(out, table.to_csv(index=False, float_format="%.6g"))
    return rows
