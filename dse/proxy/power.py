"""Power of the layer proxy: what a board draws while an operator runs, between its idle power and its TDP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dse.proxy.descent import descend, even_batches, hidden_matrices
from dse.proxy.features import CHIP_NAMES, CLASS, NAMES, RATES, WORK, Features
from dse.proxy.vocabulary import Vocabulary
from dse.proxy.words import word_tables

Array = NDArray[np.float64]

WORDS = ("op_type", "op_name", "dtype", "compute_dtype", "framework", "library")
"""Names that tell of power; the timer does not."""

UTILISATIONS = 3
"""Logs of the roofline's compute and memory time over the latency, and of the latency in ms."""

PARALLEL = ("batch", "heads")
"""Columns of work that carry over from board to board: problems side by side, which fill a chip or leave parts idle."""

CHUNK = 16384
"""Rows that go through the network at once: their activations stay in the cache."""

STEPS = 6000
WIDTH = 64
MODELS = 1

DROPPED_DETAIL = 0.3
"""Share of training rows whose work is hidden, so that the network knows what to say of a board it never measured."""

DROPPED_FRAMEWORK = 0.3
DROPPED_LIBRARY = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerInputs:
    """A batch of N rows as tensors."""

    utilisation: Tensor  # [N, UTILISATIONS]
    shape_class: Tensor  # [N, CLASS]
    work: Tensor  # [N, WORK]
    names: Tensor  # [N, WORDS] codes, 0 for a name that is not known
    known: Tensor  # [N] one where power of this device was measured, else zero
    idle_w: Tensor  # [N]
    tdp_w: Tensor  # [N]

    def __getitem__(self, rows: Tensor | slice) -> PowerInputs:
        return PowerInputs(**{name: getattr(self, name)[rows] for name in self.__slots__})


class PowerModel(nn.Module):
    """Power [W] of a layer on a chip: idle + (TDP - idle) x sigmoid(g), for any weights between the two.

    g is a network of how busy the compute units and the memory are, of the latency, of how many problems run side by
    side, and of the layer's class and software: what carries over from board to board. How busy units are counts in
    shares of what their board can do, so that it also tells the share of its TDP that they draw. The rest of the work,
    which tells kernels apart beyond that, counts for boards alone whose power was measured: on another board the same
    shape runs another kernel.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, vocabulary: Vocabulary, mean: Tensor, spread: Tensor, *, width: int = WIDTH) -> None:
        super().__init__()
        self.register_buffer("mean", mean)  # of [utilisation, work], [UTILISATIONS + WORK]
        self.register_buffer("spread", spread)
        self.words = word_tables([vocabulary.sizes[name] for name in WORDS], width)
        self.numbers = nn.Linear(UTILISATIONS + len(PARALLEL) + len(CLASS), width)
        self.detail = nn.Linear(len(WORK), width, bias=False)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.out = nn.Linear(width, 1)

    def forward(self, x: PowerInputs) -> Tensor:
        """Return power [N] in W."""
        numbers = (torch.cat([x.utilisation, x.work], dim=1) - self.mean) / self.spread
        busy, work = numbers[:, :UTILISATIONS], numbers[:, UTILISATIONS:]
        parallel = [work[:, [WORK.index(name)]] for name in PARALLEL]
        first = self.numbers(torch.cat([busy, *parallel, x.shape_class], dim=1))
        first = first + x.known[:, None] * self.detail(work)
        for column, table in enumerate(self.words):
            first = first + table(x.names[:, column])
        hidden = F.silu(first)
        for layer in self.hidden:
            hidden = hidden + F.silu(layer(hidden))
        share = torch.sigmoid(self.out(hidden)[:, 0])
        return x.idle_w + (x.tdp_w - x.idle_w) * share


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerHead:
    """Fitted networks, and the names and devices that they know."""

    models: tuple[PowerModel, ...]
    vocabulary: Vocabulary

    def __call__(self, rows: Features, log_ms: Array) -> Array:
        """Return power [N] in W at the given log latency [N]; NaN for a device whose TDP is not known."""
        if not len(rows):
            return np.empty(0)
        x = power_inputs(rows, log_ms, self.vocabulary)
        chunks = [slice(start, start + CHUNK) for start in range(0, len(rows), CHUNK)]
        with torch.inference_mode():
            parts = [torch.stack([model(x[chunk]) for model in self.models]).mean(0) for chunk in chunks]
        power: Array = torch.cat(parts).double().numpy()
        return power


def power_inputs(rows: Features, log_ms: Array, vocabulary: Vocabulary) -> PowerInputs:
    """Return features, and log latency [N] in log ms, as tensors."""
    names, chips = vocabulary.codes(rows)
    latency = log_ms.astype(np.float32)[:, None]
    return PowerInputs(
        utilisation=torch.from_numpy(np.concatenate([rows.terms - latency, latency], axis=1)),
        shape_class=torch.from_numpy(rows.shape_class),
        work=torch.from_numpy(rows.work),
        names=torch.from_numpy(names[:, [NAMES.index(name) for name in WORDS]]),
        known=torch.from_numpy((chips[:, CHIP_NAMES.index("device")] > 0).astype(np.float32)),
        idle_w=torch.from_numpy(rows.idle_w),
        tdp_w=torch.from_numpy(np.exp(rows.rates[:, RATES.index("power")])),
    )


def fit_power(
    rows: Features,
    log_ms: Array,
    power_w: Array,
    *,
    seed: int,
    steps: int = STEPS,
    models: int = MODELS,
    progress: Callable[[float], None] = lambda share: None,
) -> PowerHead:
    """Fit measured power [N] in W at measured log latency [N]; the loss is the mean absolute error of log power."""
    vocabulary = Vocabulary.of(rows)
    x, target = power_inputs(rows, log_ms, vocabulary), torch.from_numpy(np.log(power_w).astype(np.float32))
    numbers = torch.cat([x.utilisation, x.work], dim=1)
    fitted = []
    for number in range(models):
        torch.manual_seed(seed + number)
        model = PowerModel(vocabulary, numbers.mean(0), numbers.std(0) + 1e-2)

        def loss_of(batch: Tensor, model: PowerModel = model) -> Tensor:
            return (torch.log(model(_dropped(x[batch]))) - target[batch]).abs().mean()

        batches = even_batches(len(rows), steps=steps, seed=seed + number)
        descend(model, loss_of, batches, steps=steps, matrices=hidden_matrices(model))
        fitted.append(model)
        progress((number + 1) / models)
    return PowerHead(models=tuple(fitted), vocabulary=vocabulary)


def _dropped(x: PowerInputs) -> PowerInputs:
    """Return the batch with work, framework and library hidden at random."""
    names = x.names.clone()
    for name, share in (("framework", DROPPED_FRAMEWORK), ("library", DROPPED_LIBRARY)):
        names[:, WORDS.index(name)] *= torch.rand(len(names)) >= share
    return PowerInputs(
        utilisation=x.utilisation,
        shape_class=x.shape_class,
        work=x.work,
        names=names,
        known=x.known * (torch.rand(len(names)) >= DROPPED_DETAIL),
        idle_w=x.idle_w,
        tdp_w=x.tdp_w,
    )
