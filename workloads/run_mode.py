"""What of a model runs: its inference or a training step. Without torch, so that studies and the CLI can say it."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar, get_args

from workloads.errors import WorkloadError
from workloads.graph import Mode

OPTIMIZERS = ("sgd", "adam", "adamw")
"""Those of torch.optim, with their defaults (SGD: lr 0.01, no momentum)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A training step with this optimiser, and with what is computed again instead of kept.

    Raises WorkloadError for an optimizer that is not there, or a depth below 1.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    optimizer: str = "adam"  # one of OPTIMIZERS
    recompute: int | tuple[str, ...] | None = None  # see workloads.trace_training; None: all activations are kept

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer)
        if isinstance(self.recompute, int):
            check_depth(self.recompute)


RunMode = Mode | Training
"""What a workload runs: "inference"; or "train", which is Training()."""


def run_mode(mode: RunMode) -> Training | None:
    """Return the training step of a mode, None of an inference. Raises WorkloadError where there is no such mode."""
    if isinstance(mode, Training):
        return mode
    if mode not in get_args(Mode):
        close = get_close_matches(mode, get_args(Mode), n=1)
        hint = f"did you mean {close[0]!r}?" if close else " or ".join(get_args(Mode))
        raise WorkloadError(f"there is no mode {mode!r}", hint)
    return Training() if mode == "train" else None


def check_optimizer(name: str) -> None:
    """Raise WorkloadError where there is no such optimizer."""
    if name not in OPTIMIZERS:
        close = get_close_matches(name, OPTIMIZERS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(OPTIMIZERS)}"
        raise WorkloadError(f"there is no optimizer {name!r}", hint)


def check_depth(recompute: int) -> None:
    """Raise WorkloadError where a depth of modules to compute again is below 1."""
    if recompute < 1:
        raise WorkloadError(f"recompute is {recompute}", "a depth of at least 1, or paths of modules")
