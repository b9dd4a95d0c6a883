"""LayerProxyModel: the network that predicts how long a layer takes on a chip, physics built in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dse.proxy.features import CHIP_NAMES, CLASS, NAMES, RATES, TILES, WORK
from dse.proxy.words import draw_words

TERMS = 10
"""Learned times that the prediction is the soft maximum of, beside those of the roofline and the launch."""

SHARPNESS = 5.0
"""Order of the p-norm that is the soft maximum: 5 was best of a trial on the public table."""

EMBEDDED = ("chip", "device")
"""Names of a chip that the network knows it by: another part with the same die behaves alike. A family often has one
measured chip, whose own ways would be taken for the family's: left-out chips were then predicted worse than unknown
ones. Maker and family only widen intervals, see dse.proxy.intervals."""

EMBEDDING = 4
"""Numbers that stand for each of them."""

QUANTITIES = ("flops", "bytes", "flops", "bytes", "flops")
OF_RATES = ("peak", "bandwidth", "power", "power", "vector")
"""A learned time is a geometric mean of quantity / rate of these pairs, of 1 / rate of each rate, and of a constant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """Means and spreads of training rows, by which inputs are brought to the size of one."""

    work_mean: Tensor  # [WORK]
    work_spread: Tensor  # [WORK]
    rates_mean: Tensor  # [RATES]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A batch of N rows as tensors; see dse.proxy.features.Features."""

    work: Tensor  # [N, WORK]
    shape_class: Tensor  # [N, CLASS]
    names: Tensor  # [N, NAMES] codes, 0 for a name that is not known
    rates: Tensor  # [N, RATES]
    chip_names: Tensor  # [N, CHIP_NAMES] codes, 0 for a name that is not known
    floor: Tensor  # [N]

    def __getitem__(self, rows: Tensor) -> Inputs:
        return Inputs(**{name: getattr(self, name)[rows] for name in self.__slots__})


class LayerProxyModel(nn.Module):
    """Log latency [ms] of a layer on a chip: a soft maximum of times, never below the floor of physics.

    One network reads the class of the layer, the software and what is known of the chip by name (embeddings that are
    zero for one that is not known). It sets the weights of a second one, through which alone the work flows, and which
    only grows with it: its weights are positive, its activations increasing. Chip rates enter as divisors alone. So, by
    construction and for any weights: more work takes no less time, a higher rate no more, and no prediction beats
    physics. The times under the soft maximum are

    - compute: operations, padded to a learned mix of tiles, over peak x utilisation,
    - memory: bytes over bandwidth x utilisation (above one where the cache holds part of them),
    - launch: a constant of the class,
    - TERMS learned ones: a geometric mean of quantity / rate pairs (weights of a softmax, of the class) times an
      increasing function of the work.

    The form follows a trial on the public table (mixtures of log times under a p-norm); partially monotone networks:
    J. Sill, "Monotonic networks", NeurIPS 1997, and D. Runje, S. Shankaranarayana, "Constrained monotonic neural
    networks", ICML 2023 (convex, concave and saturating activations side by side).
    """

    work_mean: Tensor
    work_spread: Tensor
    rates_mean: Tensor

    def __init__(
        self, vocabulary: Mapping[str, int], scales: Scales, *, width: int = 128, work_width: int = 64
    ) -> None:
        super().__init__()
        for name in ("work_mean", "work_spread", "rates_mean"):
            self.register_buffer(name, getattr(scales, name))
        self.words = nn.ModuleList(nn.Embedding(vocabulary[name] + 1, width, padding_idx=0) for name in NAMES)
        self.chips = nn.ModuleList(nn.Embedding(vocabulary[name] + 1, EMBEDDING, padding_idx=0) for name in EMBEDDED)
        self.numbers = nn.Linear(len(CLASS) + EMBEDDING * len(EMBEDDED), width)
        self.hidden = nn.Linear(width, width)
        self.parts = [work_width] * 4 + [TERMS * PAIRS, TERMS, len(TILES), 3]
        self.settings = nn.Linear(width, sum(self.parts))
        widths = [len(WORK), work_width, work_width]
        self.work_weights = nn.ParameterList(
            nn.Parameter(torch.randn(a, b) * 0.3 - level)
            for (a, b), level in zip(pairwise(widths), (2.5, 3.0), strict=True)
        )
        self.work_biases = nn.ParameterList(nn.Parameter(torch.randn(work_width) * scale) for scale in (1.0, 0.1))
        self.out_weights = nn.Parameter(torch.randn(work_width, TERMS) * 0.3 - 3.0)
        self.out_biases = nn.Parameter(torch.randn(TERMS) * 0.5 - 1.0)
        self.pair_biases = nn.Parameter(torch.randn(TERMS, PAIRS))
        nn.init.zeros_(self.settings.bias)
        draw_words([*self.words, *self.chips])

    def forward(self, x: Inputs) -> Tensor:
        """Return log latency [N] in log ms."""
        return torch.maximum(self.latency(x, self.classes(x.shape_class, x.names, x.chip_names)), x.floor)

    def classes(
        self, shape_class: Tensor, names: Tensor, chip_names: Tensor, embedding: Tensor | None = None
    ) -> Tensor:
        """Return the settings [N, S] of rows: what does not depend on their work, nor on the chip's rates.

        `embedding` [N or 1, width] stands for a chip beyond its names; see dse.proxy.fit_calibration.
        """
        chips = [table(chip_names[:, CHIP_NAMES.index(name)]) for name, table in zip(EMBEDDED, self.chips, strict=True)]
        first = self.numbers(torch.cat([shape_class, *chips], dim=1))
        for i, table in enumerate(self.words):
            first = first + table(names[:, i])
        if embedding is not None:
            first = first + embedding
        parts = torch.split(self.settings(F.silu(self.hidden(F.silu(first)))), self.parts, dim=1)
        gain1, shift1, gain2, shift2, pairs, offset, tiles, roof = parts
        settings = [
            torch.exp(torch.tanh(gain1)),
            shift1 + self.work_biases[0],
            torch.exp(torch.tanh(gain2)),
            shift2 + self.work_biases[1],
            torch.softmax(2.0 * pairs.view(-1, TERMS, PAIRS) + self.pair_biases, dim=2).flatten(1),
            offset + self.out_biases,
            torch.softmax(tiles, dim=1),
            torch.cat([F.softplus(roof[:, :1]), F.softplus(roof[:, 1:2]) - 1.0, roof[:, 2:] - 5.0], dim=1),
        ]
        return torch.cat(settings, dim=1)

    def latency(self, x: Inputs, settings: Tensor) -> Tensor:
        """Return log latency [N] before the floor."""
        return soft_maximum(self.times(x, settings))

    def times(self, x: Inputs, settings: Tensor) -> Tensor:
        """Return logs of the times [N, TERMS + 3] under the soft maximum; the last are compute, memory and launch."""
        gain1, shift1, gain2, shift2, share, offset, tiles, roof = torch.split(settings, self.parts, dim=1)
        hidden = (x.work - self.work_mean) / self.work_spread
        for weight, gain, shift in zip(self.work_weights, (gain1, gain2), (shift1, shift2), strict=True):
            hidden = _increasing(torch.addcmul(shift, hidden @ F.softplus(weight), gain))
        work, rates = x.work - self.work_mean, x.rates - self.rates_mean
        logs = [work[:, WORK.index(q)] - rates[:, RATES.index(r)] for q, r in zip(QUANTITIES, OF_RATES, strict=True)]
        logs += [*(-rates).unbind(1), torch.zeros_like(logs[0])]
        learned = (share.view(-1, TERMS, PAIRS) @ torch.stack(logs, dim=1)[:, :, None])[:, :, 0]
        learned = learned + offset + hidden @ F.softplus(self.out_weights)
        padded = (tiles * x.work[:, FIRST_TILE : FIRST_TILE + len(TILES)]).sum(1)
        compute = padded - x.rates[:, RATES.index("peak")] + roof[:, 0]
        memory = x.work[:, WORK.index("bytes")] - x.rates[:, RATES.index("bandwidth")] + roof[:, 1]
        return torch.cat([learned, torch.stack([compute, memory, roof[:, 2]], dim=1)], dim=1)


PAIRS = len(QUANTITIES) + len(RATES) + 1
FIRST_TILE = WORK.index(f"flops_in_tiles_{TILES[0][0]}x{TILES[0][1]}")


def soft_maximum(times: Tensor) -> Tensor:
    """Return the log latency [N] of logs of times [N, T]: the log of the p-norm of the times, of order SHARPNESS."""
    return torch.logsumexp(SHARPNESS * times, dim=1) / SHARPNESS


def _increasing(x: Tensor) -> Tensor:
    """Apply a convex, a concave and a saturating activation, each to a third of the columns.

    All three leave their bend fast: with squareplus, which does so slowly, left-out chips were predicted worse.
    """
    third = x.shape[1] // 3
    convex, concave, rest = x[:, :third], x[:, third : 2 * third], x[:, 2 * third :]
    return torch.cat([F.elu(convex), -F.elu(-concave), F.softsign(rest)], dim=1)
