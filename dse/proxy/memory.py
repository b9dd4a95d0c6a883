"""Memory of the layer proxy: the most that an operator holds at once, its inputs, weights and outputs included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dse.proxy.columns import DTYPES
from dse.proxy.descent import descend, even_batches, hidden_matrices
from dse.proxy.features import CHIP_NAMES, CLASS, NAMES, WORK, Features
from dse.proxy.vocabulary import Vocabulary
from dse.proxy.words import word_tables

Array = NDArray[np.float64]

WORDS = ("op_type", "op_name", "dtype")
"""Names that tell of memory."""

BUFFERS = ("in", "out", "larger", "weights", "unfolded", "unfolded_image", "blocked_out", "kilobyte")
"""What an operator may hold a copy of: its inputs, its outputs, the larger of them, its weights, the left matrix of its
product (a convolution's unfolded input, of all images or of one), its output in blocks of BLOCK channels, and 1 kB."""

BLOCK = 16
"""Channels to which libraries pad a blocked layout: one AVX-512 register of fp32 (oneDNN's nChw16c)."""

CHUNK = 16384
"""Rows that go through the network at once: their activations stay in the cache."""

STEPS = 6000
WIDTH = 64


class MemoryModel(nn.Module):
    """Workspace of a layer over its bytes: so many copies of each of BUFFERS, at least none.

    How many is a network's answer to the layer's class, and does not depend on its size; buffers only grow with it. So
    no prediction is below inputs, weights and outputs, and more work never takes less memory.
    """

    def __init__(self, vocabulary: Vocabulary, *, width: int = WIDTH) -> None:
        super().__init__()
        self.words = word_tables([vocabulary.sizes[name] for name in WORDS], width)
        self.numbers = nn.Linear(len(CLASS) + 1, width)
        self.hidden = nn.Linear(width, width)
        self.copies = nn.Linear(width, len(BUFFERS))
        nn.init.constant_(self.copies.bias, -2.0)

    def forward(self, shape_class: Tensor, names: Tensor, buffers: Tensor) -> Tensor:
        """Return workspace / bytes [N] from class [N, CLASS + 1], codes [N, WORDS] and buffers / bytes [N, BUFFERS]."""
        first = self.numbers(shape_class)
        for column, table in enumerate(self.words):
            first = first + table(names[:, column])
        first = F.silu(first)
        copies = F.softplus(self.copies(first + F.silu(self.hidden(first))), beta=4.0)
        return (copies * buffers).sum(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryHead:
    """A fitted network, and the names that it knows."""

    model: MemoryModel
    vocabulary: Vocabulary

    def __call__(self, rows: Features) -> Array:
        """Return peak memory [N] in MB.

        What workspace an operator takes depends on the library, which differs by maker (and kind) of chip. For a maker
        without measurements it is inputs, weights and outputs alone: the least that it can be.
        """
        memory = least_mb(rows)
        measured = pd.Series(rows.chip_names[:, CHIP_NAMES.index("maker")]).isin(self.vocabulary.known["maker"])
        places = np.flatnonzero(measured.to_numpy())
        with torch.inference_mode():
            for start in range(0, len(places), CHUNK):
                chunk = places[start : start + CHUNK]
                memory[chunk] *= 1.0 + self.model(*memory_inputs(rows[chunk], self.vocabulary)).double().numpy()
        return memory


def least_mb(rows: Features) -> Array:
    """Return the MB [N] of inputs, weights and outputs, which no prediction is below."""
    moved: Array = np.exp(rows.work[:, WORK.index("bytes")].astype(np.float64)) / 1e6
    return moved


def fit_memory(rows: Features, memory_mb: Array, *, seed: int, steps: int = STEPS) -> MemoryHead:
    """Fit measured peak memory [N] in MB; the loss is the mean absolute error of its log."""
    vocabulary = Vocabulary.of(rows)
    torch.manual_seed(seed)
    model = MemoryModel(vocabulary)
    shape_class, names, buffers = memory_inputs(rows, vocabulary)
    target = torch.from_numpy(np.log(memory_mb / least_mb(rows)).astype(np.float32))

    def loss_of(batch: Tensor) -> Tensor:
        return (torch.log1p(model(shape_class[batch], names[batch], buffers[batch])) - target[batch]).abs().mean()

    batches = even_batches(len(rows), steps=steps, seed=seed)
    descend(model, loss_of, batches, steps=steps, matrices=hidden_matrices(model))
    return MemoryHead(model=model, vocabulary=vocabulary)


def memory_inputs(rows: Features, vocabulary: Vocabulary) -> tuple[Tensor, Tensor, Tensor]:
    """Return class [N, CLASS + 1] (the last: one image or sequence alone), codes [N, WORDS], buffers / bytes."""
    alone = rows.work[:, WORK.index("batch")] < np.log(1.5)
    names, _ = vocabulary.codes(rows)
    buffers = buffers_of(torch.from_numpy(rows.work).double(), number_bytes(rows))
    return (
        torch.from_numpy(np.concatenate([rows.shape_class, alone[:, None].astype(rows.shape_class.dtype)], axis=1)),
        torch.from_numpy(names[:, [NAMES.index(name) for name in WORDS]]),
        buffers.to(torch.from_numpy(rows.work).dtype),
    )


def number_bytes(rows: Features) -> Tensor:
    """Return the bytes [N] that one number of each row's activations takes."""
    dtypes, place = np.unique(rows.names[:, NAMES.index("dtype")].astype(str), return_inverse=True)
    return torch.from_numpy(np.array([DTYPES[name].activation for name in dtypes])[place])


def buffers_of(log_work: Tensor, size: Tensor) -> Tensor:
    """Return BUFFERS over the bytes of inputs, weights and outputs [N, BUFFERS].

    From `log_work` [N, WORK] and the bytes of a number [N]; between two whole widths, padding is that of the nearer.
    """
    work = dict(zip(WORK, torch.exp(log_work).unbind(1), strict=True))
    results = work["products"] * work["m"] * work["n"] * size
    width = work["n"].detach().round().clamp(min=1.0)
    blocked = results * torch.ceil(width / BLOCK) * BLOCK / width
    unfolded = work["products"] * work["m"] * work["k"] * size
    inputs = torch.clamp(work["activation_bytes"] - results, min=0.0)
    columns = [inputs, results, torch.maximum(inputs, results), work["weight_bytes"] - 1.0]
    columns += [unfolded, unfolded / work["batch"], blocked, torch.full_like(results, 1e3)]
    return torch.stack(columns, dim=1) / work["bytes"][:, None]
