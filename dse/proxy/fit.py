"""Fitting the layer proxy: measured rows to networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from dse.proxy.features import CHIP_NAMES, NAMES, Features
from dse.proxy.network import Inputs, LayerProxyModel, Scales
from dse.proxy.vocabulary import Vocabulary

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How networks are trained. docs/layer_proxy.md tells what was tried."""

    steps: int = 6000
    batch: int = 1024
    rate: float = 4e-3  # of AdamW, for biases and embeddings
    matrix_rate: float = 1e-2  # of Muon, for matrices
    rows_a_cell: int = 6000  # most rows of one (device, op_type, framework)
    drop_chip: float = 0.5  # share of rows whose die is not known
    drop_device: float = 0.5  # of the others, those whose device is not known
    drop_framework: float = 0.15
    drop_library: float = 0.3  # of those without a framework
    drop_name: float = 0.03  # an operator's name, a timer


STANDARD = Recipe()


def sampled(rows: pd.DataFrame, *, cap: int, seed: int) -> NDArray[np.int64]:
    """Return places of at most `cap` rows of each (device, op_type, framework), drawn at random, in order."""
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    cells = rows[["device", "op_type", "framework"]].iloc[shuffled]
    number = cells.groupby(["device", "op_type", "framework"], observed=True).cumcount().to_numpy()
    return np.sort(shuffled[number < cap])


def inputs_of(features: Features, vocabulary: Vocabulary) -> Inputs:
    """Return features as tensors."""
    names, chips = vocabulary.codes(features)
    return Inputs(
        work=torch.from_numpy(features.work),
        shape_class=torch.from_numpy(features.shape_class),
        names=torch.from_numpy(names),
        rates=torch.from_numpy(features.rates),
        chip_names=torch.from_numpy(chips),
        floor=torch.from_numpy(features.floor),
    )


def fit_network(
    features: Features,
    latency_ms: Array,
    vocabulary: Vocabulary,
    *,
    seed: int,
    recipe: Recipe = STANDARD,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> LayerProxyModel:
    """Fit one network to measured latencies [N]; the same rows, recipe and seed give the same network on one machine.

    The loss is the mean absolute error of log latency, a cell (device, op_type, framework) of n rows being drawn in
    proportion to sqrt(n). Names of chip and software are dropped at random, so that the network knows what to say of
    new ones. Matrices are trained by Muon (K. Jordan, "Muon: an optimizer for hidden layers in neural networks",
    2024), the rest by AdamW, both with one cycle of their rates.
    """
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    x, target = inputs_of(features, vocabulary), torch.from_numpy(np.log(latency_ms).astype(np.float32))
    model = LayerProxyModel(vocabulary.sizes, _scales(x))
    optimizers = _optimizers(model, recipe)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, optimizer.param_groups[0]["lr"], recipe.steps, pct_start=0.1, cycle_momentum=False
        )
        for optimizer in optimizers
    ]
    chance = torch.from_numpy(_chances(features))
    order = torch.multinomial(chance, recipe.steps * recipe.batch, replacement=True, generator=draw)
    for step, rows in enumerate(order.view(recipe.steps, recipe.batch)):
        loss = (model(_dropped(x[rows], recipe, draw)) - target[rows]).abs().mean()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        for schedule in schedules:
            schedule.step()
        if step % 100 == 0:
            progress(step, loss.item())
    return model.eval()


def _scales(x: Inputs) -> Scales:
    return Scales(work_mean=x.work.mean(0), work_spread=x.work.std(0) + 1e-2, rates_mean=x.rates.mean(0))


def _chances(features: Features) -> Array:
    cells = pd.DataFrame(
        {
            "op_type": features.names[:, NAMES.index("op_type")],
            "framework": features.names[:, NAMES.index("framework")],
            "device": features.chip_names[:, CHIP_NAMES.index("device")],
        }
    )
    counts = cells.groupby(["device", "op_type", "framework"])["device"].transform("size").to_numpy()
    chances: Array = 1.0 / np.sqrt(counts)
    return chances


def _optimizers(model: LayerProxyModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    chip_tables = {id(table.weight) for table in model.chips}
    matrices = [
        p for p in model.parameters() if p.ndim == 2 and id(p) not in chip_tables and p is not model.pair_biases
    ]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.AdamW(others, lr=recipe.rate, weight_decay=1e-4),
        torch.optim.Muon(matrices, lr=recipe.matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]


def _dropped(x: Inputs, recipe: Recipe, draw: torch.Generator) -> Inputs:
    """Return the batch with names dropped at random."""

    def kept(share: float) -> Tensor:
        return torch.rand(len(x.work), generator=draw) >= share

    chip = kept(recipe.drop_chip)
    device = chip & kept(recipe.drop_device)
    framework = kept(recipe.drop_framework)
    names = torch.ones_like(x.names)
    names[:, NAMES.index("framework")] = framework.long()
    names[:, NAMES.index("library")] = (framework | kept(recipe.drop_library)).long()
    for column in ("op_name", "timer"):
        names[:, NAMES.index(column)] = kept(recipe.drop_name).long()
    return Inputs(
        work=x.work,
        shape_class=x.shape_class,
        names=x.names * names,
        rates=x.rates,
        chip_names=x.chip_names * torch.stack([chip, chip, chip, device], dim=1).long(),
        floor=x.floor,
    )
