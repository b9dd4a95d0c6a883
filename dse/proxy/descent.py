"""Descent: how the networks of latency, power and memory are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from dse.errors import DseError

RATE = 4e-3
"""Rate of AdamW, for biases, embeddings and single columns."""

MATRIX_RATE = 1e-2
"""Rate of Muon, for matrices."""

LEAST_COLUMNS = 8
"""Sides below which a matrix is left to AdamW: there is little to make orthogonal."""

BATCH = 1024

WARM_UP = 0.1
"""Share of the steps in which rates rise."""

LEAST_STEPS = 11
"""Fewest steps: the cycle of rates divides by WARM_UP x steps - 1."""


def descend(
    model: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    batches: Iterable[Tensor],
    *,
    steps: int,
    matrices: Sequence[nn.Parameter],
    rate: float = RATE,
    matrix_rate: float = MATRIX_RATE,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train `model` in place on `steps` batches of row numbers; `loss_of` gives the loss of a batch.

    Muon (K. Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024) trains `matrices`, AdamW the rest,
    both with one cycle of their rates. `progress` is told the step and its loss every hundred steps.

    Raises DseError for fewer than LEAST_STEPS steps.
    """
    if steps < LEAST_STEPS:
        raise DseError(f"steps = {steps}: too few to train a network", f"{LEAST_STEPS} or more")
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=rate, weight_decay=1e-4),
        torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, optimizer.param_groups[0]["lr"], steps, pct_start=WARM_UP, cycle_momentum=False
        )
        for optimizer in optimizers
    ]
    model.train()
    for step, batch in enumerate(batches):
        loss = loss_of(batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        for schedule in schedules:
            schedule.step()
        if step % 100 == 0:
            progress(step, loss.item())
    model.eval()


def even_batches(rows: int, *, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield `steps` batches of BATCH row numbers below `rows`, each row as likely as any other."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield torch.randint(rows, (BATCH,), generator=draw)


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Return the matrices that are worth making orthogonal: no embeddings, and none with a side below LEAST_COLUMNS."""
    tables = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    return [p for p in model.parameters() if p.ndim == 2 and min(p.shape) >= LEAST_COLUMNS and id(p) not in tables]
