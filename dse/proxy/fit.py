"""Fitting the layer proxy: measured rows to networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dse.proxy.descent import MATRIX_RATE, RATE, descend
from dse.proxy.features import CHIP_NAMES, NAMES, Features
from dse.proxy.network import Inputs, LayerProxyModel, Scales
from dse.proxy.vocabulary import Vocabulary

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How networks are trained. docs/layer_proxy.md tells what was tried."""

    steps: int = 9000
    batch: int = 1024
    rate: float = RATE
    matrix_rate: float = MATRIX_RATE
    rows_a_cell: int = 6000  # most rows of one (device, op_type, framework)
    drop_chip: float = 0.5  # share of rows whose die is not known
    drop_device: float = 0.5  # of the others, those whose device is not known
    drop_framework: float = 0.15
    drop_library: float = 0.3  # of those without a framework
    drop_name: float = 0.03  # an operator's name, a timer


STANDARD = Recipe()


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
    new ones. See dse.proxy.descent for how it is trained.
    """
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    x, target = inputs_of(features, vocabulary), torch.from_numpy(np.log(latency_ms).astype(np.float32))
    model = LayerProxyModel(vocabulary.sizes, _scales(x))
    chance = torch.from_numpy(_chances(features))
    order = torch.multinomial(chance, recipe.steps * recipe.batch, replacement=True, generator=draw)

    def loss_of(rows: Tensor) -> Tensor:
        error: Tensor = model(_dropped(x[rows], recipe, draw)) - target[rows]
        return error.abs().mean()

    descend(
        model,
        loss_of,
        order.view(recipe.steps, recipe.batch),
        steps=recipe.steps,
        matrices=_matrices(model),
        rate=recipe.rate,
        matrix_rate=recipe.matrix_rate,
        progress=progress,
    )
    return model


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


def _matrices(model: LayerProxyModel) -> list[nn.Parameter]:
    """Return what Muon trains: all matrices, tables of words among them, but for those of chips and pairs."""
    tables = {id(p) for p in (*model.chips.parameters(), model.pair_biases)}
    return [p for p in model.parameters() if p.ndim == 2 and id(p) not in tables]


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
