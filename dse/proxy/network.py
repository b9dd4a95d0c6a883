"""LayerProxyModel: the network that predicts how long a layer takes on a chip, physics built in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dse.proxy.features import CHIP_NAMES, CLASS, NAMES, RATES, TILES, WORK
from dse.proxy.words import draw_words

TERMS = 16
"""Learned times that the prediction is the soft maximum of, beside the PHYSICAL ones."""

PHYSICAL = ("compute", "memory", "dram", "launch")
TIMES = TERMS + len(PHYSICAL)
LAUNCH = TIMES - 1
"""All times, the learned ones first, and the place of the launch among them."""

SHARPNESS = 5.0
"""Order of the p-norm that is the soft maximum: 5 was best of a trial on the public table."""

EMBEDDED = ("chip", "device")
"""Names of a chip that the network knows it by: another part with the same die behaves alike. A family often has one
measured chip, whose own ways would be taken for the family's: left-out chips were then predicted worse than unknown
ones. Maker and family only widen intervals, see dse.proxy.intervals."""

EMBEDDING = 4
"""Numbers that stand for each of them."""

QUANTITIES = ("flops", "bytes", "flops", "bytes", "flops", "dram_bytes")
OF_RATES = ("peak", "bandwidth", "power", "power", "vector", "bandwidth")
"""A learned time starts from a geometric mean of quantity / rate of these pairs, of 1 / rate of each, and of one."""

PAIRS = len(QUANTITIES) + len(RATES) + 1
TILED = tuple(name for name in WORK if "tiles" in name)
GROWING = ("flops", "bytes", "dram_bytes", "activation_bytes", "batch", "seq_q", "all_pixels", *TILED)
"""Columns of work that double where the rows of a layer double (images, tokens, queries), or its products. In a time,
powers of them and of rows, or of products, sum to one at most."""

FIRST_TILE = WORK.index(f"flops_in_tiles_{TILES[0][0]}x{TILES[0][1]}")
COLUMNS = len(WORK) + len(RATES) + 1
"""Columns of a monomial: exponents of work and of rates, and the log of its coefficient."""


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
    """Log latency [ms] of a layer on a chip: a posynomial of its work and the chip's rates, which its class sets.

    A network reads the class of the layer, the software and what is known of the chip by name (embeddings that are zero
    for one that is not known), and writes monomials: times that are products of powers of work and rates. Their soft
    maximum is the latency. Exponents of work are never negative and those of rates never positive. So, by construction
    and for any weights: more work takes no less time, a higher rate no more, and no prediction beats physics. Twice the
    rows (images of a size, tokens, queries) or products take at most twice the time, as two layers would, but for what
    a cache no longer holds: so the network goes on beyond the largest layers that were measured. The times under the
    soft maximum are

    - compute: operations, padded to a learned mix of tiles, over peak x utilisation,
    - memory: bytes over bandwidth x utilisation (above one where the last-level cache holds part of them),
    - DRAM: bytes that the last-level cache cannot hold over bandwidth x utilisation,
    - launch: a constant of the class,
    - TERMS learned ones: a geometric mean of quantity / rate pairs, times powers of the work; all exponents of work are
      scaled down together where they would count rows, or products, more than once.

    Posynomials are convex in the logs of work and rates: S. Boyd et al., "A tutorial on geometric programming",
    Optimization and Engineering 8, 2007; a soft maximum of planes fits any convex function: W. Hoburg et al., "Data
    fitting with geometric-programming-compatible softmax functions", ibid. 17, 2016. That the class sets them follows
    D. Ha et al., "HyperNetworks", arXiv:1609.09106.
    """

    work_mean: Tensor
    work_spread: Tensor
    rates_mean: Tensor
    pair_work: Tensor  # [PAIRS, WORK]
    pair_rates: Tensor  # [PAIRS, RATES]
    growing: Tensor  # [WORK, 2] one where a column grows with rows, or with products

    def __init__(self, vocabulary: Mapping[str, int], scales: Scales, *, width: int = 128) -> None:
        super().__init__()
        for name in ("work_mean", "work_spread", "rates_mean"):
            self.register_buffer(name, getattr(scales, name))
        self.register_buffer("pair_work", _selecting(WORK, QUANTITIES, first=0), persistent=False)
        rates = _selecting(RATES, OF_RATES, first=0) + _selecting(RATES, RATES, first=len(QUANTITIES))
        self.register_buffer("pair_rates", rates, persistent=False)
        growing = [[float(name in (*GROWING, what)) for what in ("m", "products")] for name in WORK]
        self.register_buffer("growing", torch.tensor(growing), persistent=False)
        self.words = nn.ModuleList(nn.Embedding(vocabulary[name] + 1, width, padding_idx=0) for name in NAMES)
        self.chips = nn.ModuleList(nn.Embedding(vocabulary[name] + 1, EMBEDDING, padding_idx=0) for name in EMBEDDED)
        self.numbers = nn.Linear(len(CLASS) + EMBEDDING * len(EMBEDDED), width)
        self.hidden = nn.Linear(width, width)
        self.parts = [TERMS * len(WORK), TERMS * PAIRS, TERMS, len(TILES), len(PHYSICAL)]
        self.settings = nn.Linear(width, sum(self.parts))
        self.slope_biases = nn.Parameter(torch.randn(TERMS, len(WORK)) * 0.5 - 4.0)
        self.pair_biases = nn.Parameter(torch.randn(TERMS, PAIRS))
        self.offset_biases = nn.Parameter(torch.randn(TERMS) * 0.5 - 1.0)
        with torch.no_grad():
            self.settings.weight.mul_(0.5)
            self.settings.bias.zero_()
        draw_words([*self.words, *self.chips])

    def forward(self, x: Inputs) -> Tensor:
        """Return log latency [N] in log ms."""
        return torch.maximum(self.latency(x, self.classes(x.shape_class, x.names, x.chip_names)), x.floor)

    def classes(
        self, shape_class: Tensor, names: Tensor, chip_names: Tensor, embedding: Tensor | None = None
    ) -> Tensor:
        """Return the monomials [N, TIMES, COLUMNS] of rows; see `times`.

        `embedding` [N or 1, width] stands for a chip beyond its names; see dse.proxy.fit_calibration.
        """
        chips = [table(chip_names[:, CHIP_NAMES.index(name)]) for name, table in zip(EMBEDDED, self.chips, strict=True)]
        first = self.numbers(torch.cat([shape_class, *chips], dim=1))
        for i, table in enumerate(self.words):
            first = first + table(names[:, i])
        if embedding is not None:
            first = first + embedding
        parts = torch.split(self.settings(F.silu(self.hidden(F.silu(first)))), self.parts, dim=1)
        slopes, pairs, offset, tiles, roof = parts
        share = torch.softmax(2.0 * pairs.view(-1, TERMS, PAIRS) + self.pair_biases, dim=2)
        slope = F.softplus(slopes.view(-1, TERMS, len(WORK)) + self.slope_biases) / self.work_spread
        powers = slope + share @ self.pair_work
        powers = powers / torch.clamp((powers @ self.growing).amax(dim=2, keepdim=True), min=1.0)
        constant = (offset + self.offset_biases)[:, :, None]
        learned = torch.cat([powers, -(share @ self.pair_rates), constant], dim=2)
        return torch.cat([learned, self._physics(torch.softmax(tiles, dim=1), roof)], dim=1)

    def _physics(self, tiles: Tensor, roof: Tensor) -> Tensor:
        """Return the monomials [N, PHYSICAL, COLUMNS]."""
        zeros = tiles.new_zeros(len(tiles), COLUMNS)
        compute, memory, dram, launch = (zeros.clone() for _ in PHYSICAL)
        compute[:, FIRST_TILE : FIRST_TILE + len(TILES)] = tiles
        memory[:, WORK.index("bytes")] = 1.0
        dram[:, WORK.index("dram_bytes")] = 1.0
        for monomial, rate in ((compute, "peak"), (memory, "bandwidth"), (dram, "bandwidth")):
            monomial[:, len(WORK) + RATES.index(rate)] = -1.0
        means = torch.cat([self.work_mean, self.rates_mean, zeros.new_zeros(1)])
        compute[:, -1] = F.softplus(roof[:, 0]) + compute @ means
        memory[:, -1] = F.softplus(roof[:, 1]) - 1.0 + memory @ means
        dram[:, -1] = F.softplus(roof[:, 2]) + dram @ means
        launch[:, -1] = roof[:, 3] - 5.0
        return torch.stack([compute, memory, dram, launch], dim=1)

    def latency(self, x: Inputs, monomials: Tensor) -> Tensor:
        """Return log latency [N] before the floor."""
        return soft_maximum(self.times(x, monomials))

    def times(self, x: Inputs, monomials: Tensor) -> Tensor:
        """Return logs of the times [N, TIMES] under the soft maximum; the last are PHYSICAL."""
        powers = torch.cat([x.work - self.work_mean, x.rates - self.rates_mean, torch.ones_like(x.work[:, :1])], dim=1)
        return (monomials @ powers[:, :, None])[:, :, 0]


def soft_maximum(times: Tensor) -> Tensor:
    """Return the log of the p-norm [N] of times of which the logs are given [N, T]."""
    return torch.logsumexp(SHARPNESS * times, dim=1) / SHARPNESS


def _selecting(columns: Sequence[str], chosen: Sequence[str], *, first: int) -> Tensor:
    """Return a matrix [PAIRS, columns]: one where pair `first` + i is of column chosen[i], else zero."""
    matrix = torch.zeros(PAIRS, len(columns))
    for row, name in enumerate(chosen, start=first):
        matrix[row, columns.index(name)] = 1.0
    return matrix
