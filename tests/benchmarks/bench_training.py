"""A training step of each model of the catalogue, traced, against what torch counts and allocates in a real one.

Each model runs in a process of its own, with Adam; inputs are short where the full size would take more than a few GB.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

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


def convolution_backward_flops(grad: Any, x: Any, weight: Any, *rest: Any, out_val: Any = None) -> int:
    """Each weight meets each position of the smaller side once a gradient; torch's counter takes groups for dense."""
    *_, transposed, _, _, mask = rest
    batch, _, *positions = (x if transposed else grad).shape
    return int(2 * batch * math.prod(positions) * weight.numel() * sum(mask[:2]))


def in_real_products(rule: Callable[..., int]) -> Callable[..., int]:
    """Return a rule of torch's counter by which a complex product is four real ones, not one."""

    def flops(*args: Any, **kwargs: Any) -> int:
        return rule(*args, **kwargs) * (4 if args[0].is_complex() else 1)

    flops._get_raw = True  # type: ignore[attr-defined]  # the counter hands on tensors, not shapes
    return flops


def step(name: str) -> dict[str, int]:
    """Bytes at the peak and FLOPs of matrix products of one step, traced and real.

    FLOPs are those of attention without fused kernels, which torch's counter does not open.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

    from tests.workloads.tracing_help import matrix_macs
    from tests.workloads.training_help import allocated_peak, squares
    from workloads import peak_memory
    from workloads.factory import build

    model = catalog.entry(name)
    if name in SHORT and model.length is not None:
        (shape, dtype), *others = model.inputs
        sizes = list(shape)
        sizes[model.length.dim] = SHORT[name]
        model = replace(model, inputs=((tuple(sizes), dtype), *others))
    torch.manual_seed(0)
    module, inputs = build(model.factory, model.inputs, kwargs=model.kwargs)
    inputs = tuple(torch.randn_like(t) if t.is_floating_point() else t for t in inputs)
    answer = {
        "traced_bytes": peak_memory(catalog.traced(model, cache=False, mode="train")).bytes,
        "allocated_bytes": allocated_peak(module, inputs),
    }
    rules = flop_registry | {torch.ops.aten.convolution_backward: convolution_backward_flops}
    real = {operator: in_real_products(rule) for operator, rule in rules.items()}
    counter = FlopCounterMode(display=False, custom_mapping=real)
    with sdpa_kernel(SDPBackend.MATH):
        answer["traced_flops"] = 2 * matrix_macs(catalog.traced(model, cache=False, mode="train"))
        with counter:
            squares(module(*inputs), []).backward()
    return answer | {"counted_flops": counter.get_total_flops()}


def measure() -> list[Figure]:
    """The differences of each model, in per cent of what torch counts and allocates."""
    figures = []
    for name in catalog.names():
        command = [sys.executable, "-m", "tests.benchmarks.bench_training", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
        got = json.loads(done.stdout)
        at = f"{SHORT[name]:,} samples; " if name in SHORT else ""
        mb = {who: f"{got[f'{who}_bytes'] / 1e6:,.1f} MB" for who in ("traced", "allocated")}
        figures += [
            Figure(
                figure=f"peak memory of a training step, {name}",
                goal=15.0,
                measured=100 * abs(got["traced_bytes"] / got["allocated_bytes"] - 1),
                unit="%",
                higher_is_better=False,
                note=f"{at}traced {mb['traced']}, allocated {mb['allocated']}",
            ),
            Figure(
                figure=f"matrix FLOPs of a training step, {name}",
                goal=0.1,
                measured=100 * abs(got["traced_flops"] / got["counted_flops"] - 1),
                unit="%",
                higher_is_better=False,
                note=f"{at}traced {got['traced_flops'] / 1e9:,.2f} G, counted {got['counted_flops'] / 1e9:,.2f} G",
            ),
        ]
    return figures


if __name__ == "__main__":
    print(json.dumps(step(sys.argv[1])))
