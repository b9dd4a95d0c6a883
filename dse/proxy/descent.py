"""Descent: how the small networks of power and memory are trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

RATE = 4e-3
"""Rate of AdamW, for biases, embeddings and single columns."""

MATRIX_RATE = 1e-2
"""Rate of Muon, for matrices."""

LEAST_COLUMNS = 8
"""Sides below which a matrix is left to AdamW: there is little to make orthogonal."""

BATCH = 1024


def descend(model: nn.Module, loss_of: Callable[[Tensor], Tensor], rows: int, *, steps: int, seed: int) -> None:
    """Train `model` in place on batches of row numbers, drawn at random; `loss_of` gives the loss of a batch.

    Muon (K. Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024) trains matrices, AdamW the rest,
    both with one cycle of their rates, as dse.proxy.fit does for latency. `rows` is how many rows there are.
    """
    draw = torch.Generator().manual_seed(seed)
    tables = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    matrices = [p for p in model.parameters() if p.ndim == 2 and min(p.shape) >= LEAST_COLUMNS and id(p) not in tables]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=RATE, weight_decay=1e-4),
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, optimizer.param_groups[0]["lr"], steps, pct_start=0.1, cycle_momentum=False
        )
        for optimizer in optimizers
    ]
    model.train()
    for _ in range(steps):
        loss = loss_of(torch.randint(rows, (BATCH,), generator=draw))
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        for schedule in schedules:
            schedule.step()
    model.eval()


def word_tables(sizes: list[int], width: int) -> nn.ModuleList:
    """Return an embedding for each column of names, zero for the name 0: one that is not known."""
    tables = [nn.Embedding(size + 1, width, padding_idx=0) for size in sizes]
    for table in tables:
        nn.init.normal_(table.weight, std=0.1)
        with torch.no_grad():
            table.weight[0] = 0.0
    return nn.ModuleList(tables)
