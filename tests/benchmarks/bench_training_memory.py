"""Peak memory of a training step against what torch allocates, each model of the catalogue in a process of its own.

Inputs are short where the full size would take more than a few GB. The worst difference is the figure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

from tests.benchmarks.figure import Figure
from workloads import catalog

SHORT = {
    "htdemucs": 44100,
    "htdemucs-released": 44100,
    "htdemucs_n": 44100,
    "htdemucs_n-quality": 44100,
    "htdemucs_n-fast": 44100,
    "htdemucs_n-low-memory": 44100,
    "mossformer2": 4000,
    "mossformer2-s": 4000,
}
"""Length of the first input where it is not the catalogue's."""


def peaks(name: str) -> tuple[int, int]:
    """Bytes at the peak of a step with Adam: traced, and given out by torch's allocator."""
    import torch

    from tests.workloads.training_help import allocated_peak
    from workloads import peak_memory
    from workloads.factory import build

    model = catalog.entry(name)
    if name in SHORT and model.length is not None:
        (shape, dtype), *others = model.inputs
        sizes = list(shape)
        sizes[model.length.dim] = SHORT[name]
        model = replace(model, inputs=((tuple(sizes), dtype), *others))
    traced = peak_memory(catalog.traced(model, cache=False, mode="train")).bytes
    torch.manual_seed(0)
    module, inputs = build(model.factory, model.inputs, kwargs=model.kwargs)
    inputs = tuple(torch.randn_like(t) if t.is_floating_point() else t for t in inputs)
    return traced, allocated_peak(module, inputs)


def measure() -> list[Figure]:
    """The difference of each model, in per cent of what torch allocates."""
    figures = []
    for name in catalog.names():
        script = f"import json; from {__name__} import peaks; print(json.dumps(peaks({name!r})))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        traced, allocated = json.loads(done.stdout.splitlines()[-1])
        figures.append(
            Figure(
                figure=f"peak memory of a training step, {name}",
                goal=15.0,
                measured=100 * abs(traced / allocated - 1),
                unit="%",
                higher_is_better=False,
                note=f"traced {traced / 1e6:,.1f} MB, allocated {allocated / 1e6:,.1f} MB"
                + (f", {SHORT[name]:,} samples" if name in SHORT else ""),
            )
        )
    return figures
