"""What eager PyTorch really allocates in a training step."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

OPTIMIZERS: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def allocated_peak(module: nn.Module, inputs: tuple[Any, ...], optimizer: str = "adam") -> int:
    """Bytes at the peak of one training step in its steady state: what torch's allocator of the processor gave out.

    The loss is the mean of squares of each floating output. Weights, buffers, optimiser state, inputs and targets are
    there from the start; what the step allocates and frees on top is told by the profiler's memory events, in which the
    workspace of kernels counts where they take it of torch.
    """
    module.train()
    stepper = OPTIMIZERS[optimizer](module.parameters(), lr=1e-6)
    targets: list[torch.Tensor] = []

    def step() -> None:
        output = module(*inputs)  # held to the end, as the variable of a loop does
        squares(output, targets).backward()
        stepper.step()

    step()
    stepper.zero_grad(set_to_none=True)
    state = [t for held in stepper.state.values() for t in held.values()]
    held = [*module.parameters(), *module.buffers(), *state, *inputs, *targets]
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held if isinstance(t, torch.Tensor)}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = sum(sizes.values())
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def squares(output: Any, targets: list[torch.Tensor]) -> torch.Tensor:
    """Sum of the mean squares of each floating output, taken from zeros that `targets` keeps from step to step."""
    trained = [t for t in tree_leaves(output) if isinstance(t, torch.Tensor) and t.requires_grad]
    targets.extend(torch.zeros_like(t) for t in trained[len(targets) :])
    losses = [nn.functional.mse_loss(t, target) for t, target in zip(trained, targets, strict=True)]
    return torch.stack(losses).sum() if len(losses) > 1 else losses[0]
