"""Intervals of the layer proxy: how far measured rows lay from predictions for chips and software as little known."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from dse.proxy.features import CHIP_NAMES, NAMES, Features
from dse.proxy.model import Outside
from dse.proxy.vocabulary import CASE, SEPARATOR, Vocabulary

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

COVERAGE = 0.9
"""Share of rows that should lie in their interval."""

WIDEST = float(np.log(1000.0))
"""Widest half width: an interval of a factor of a thousand either way says that nothing is known."""

LEAST_ROWS = 200
"""Rows that a kind of operator needs for a width of its own; with fewer it has that of all kinds."""


class Novelty(IntEnum):
    """What of a row the proxy has not seen: each value holds for what is less known than the one before."""

    KNOWN = 0  # the device with this framework
    SOFTWARE = 1  # the device with another version of the framework
    DEVICE = 2  # another device of the same die, with the same library; as the next two
    DIE = 3  # other chips of the family are known
    FAMILY = 4  # other chips of the maker (vendor and kind of chip) are known
    MAKER = 5  # outside of the data: see `outside`

    @property
    def label(self) -> str:
        """As reports say it."""
        return (
            "known device",
            "new framework version on a known device",
            "new device of a known die",
            "new die of a known family",
            "new family of a known maker",
            "outside of the data: new maker, operator or number type, or far from those that were measured",
        )[self]


UNKNOWN = Outside.CHIP | Outside.OPERATOR | Outside.NUMBERS
"""What is outside of the data by its names, however small it is."""


def novelty(features: Features, vocabulary: Vocabulary) -> NDArray[np.int8]:
    """Return the Novelty of each row [N] by its names alone, as intervals are calibrated."""
    names, chips = vocabulary.codes(features)
    return _novelty(names, chips, _unknown(names, chips, vocabulary))


def outside(features: Features, vocabulary: Vocabulary) -> NDArray[np.int8]:
    """Return codes of Outside of each row [N]: why it is outside of the data, 0 where it is not.

    A new maker (vendor and kind of chip), a kind of operator that was not measured on chips of a maker that was, or one
    that was measured in other number types alone (fp16 and bf16 count as one); a layer or a chip well beyond those of
    the maker, see dse.proxy.reach.
    """
    return standing(features, vocabulary)[1]


def standing(features: Features, vocabulary: Vocabulary) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Return novelty and outside of each row [N]. What is well beyond the data is as new as can be, too."""
    names, chips = vocabulary.codes(features)
    far_chip, large = vocabulary.reach.beyond(features)
    codes = _unknown(names, chips, vocabulary)
    codes[large] |= Outside.SIZE
    codes[far_chip] |= Outside.RATES
    return _novelty(names, chips, codes), codes


def _novelty(names: Codes, chips: Codes, codes: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return the Novelty of each row [N]; the highest where its code of Outside is not zero."""
    _, family, chip, device = (chips[:, CHIP_NAMES.index(name)] > 0 for name in CHIP_NAMES)
    software = names[:, NAMES.index("framework")] > 0
    levels = [codes > 0, device & software, device, chip, family]
    found: NDArray[np.int8] = np.select(levels, [Novelty.MAKER, *Novelty][:5], Novelty.FAMILY).astype(np.int8)
    return found


def _unknown(names: Codes, chips: Codes, vocabulary: Vocabulary) -> NDArray[np.int8]:
    maker, op_type, dtype = chips[:, 0], names[:, NAMES.index("op_type")], names[:, NAMES.index("dtype")].copy()
    known, place = vocabulary.known, {name: vocabulary.places(name) for name in ("maker", "op_type", "dtype")}
    half = [place["dtype"][name] for name in ("bf16", "fp16") if name in place["dtype"]]
    cases = [case.split(SEPARATOR) for case in known.get(CASE, ())]
    numbers = np.array([[place[n][t] for n, t in zip(place, case, strict=True)] for case in cases]).reshape(-1, 3)
    for types in (dtype, numbers[:, 2]):
        types[np.isin(types, half)] = max(half, default=0)
    types_of, kinds_of = len(known["dtype"]) + 1, len(known["op_type"]) + 1
    new_kind, new_numbers = op_type == 0, np.zeros(len(op_type), np.bool_)
    if len(numbers):
        new_kind |= (maker > 0) & ~np.isin(maker * kinds_of + op_type, numbers[:, 0] * kinds_of + numbers[:, 1])
        new_numbers = (op_type > 0) & ~np.isin(op_type * types_of + dtype, numbers[:, 1] * types_of + numbers[:, 2])
    reasons = {Outside.CHIP: maker == 0, Outside.OPERATOR: new_kind, Outside.NUMBERS: new_numbers}
    codes = np.zeros(len(maker), np.int8)
    for reason, rows in reasons.items():
        codes[rows] |= reason
    return codes


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Half widths of 90 % intervals of log latency, by operator kind and Novelty."""

    kinds: tuple[str, ...]
    table: Array  # [kinds + 1, Novelty], the last row of all kinds

    @classmethod
    def of(
        cls, residuals: Array, kinds: NDArray[np.object_], levels: NDArray[np.int8], devices: NDArray[np.object_]
    ) -> Widths:
        """Calibrate on rows that their networks had not seen: log errors [N], operator kinds, Novelty and device.

        Split conformal prediction (V. Vovk et al., "Algorithmic Learning in a Random World", 2005): the width is the
        COVERAGE quantile of absolute errors, every device having one vote. No width is below that of a lesser novelty.
        """
        names = tuple(sorted(set(kinds)))
        table = np.zeros((len(names) + 1, len(Novelty)))
        for level in Novelty:
            of_level = levels == level
            table[-1, level] = _quantile(residuals[of_level], devices[of_level])
            for place, kind in enumerate(names):
                rows = of_level & (kinds == kind)
                own = rows.sum() >= LEAST_ROWS
                table[place, level] = _quantile(residuals[rows], devices[rows]) if own else table[-1, level]
        return cls(kinds=names, table=np.minimum(np.maximum.accumulate(table, axis=1), WIDEST))

    @classmethod
    def none(cls) -> Widths:
        """Return widths of zero, of a proxy that was not calibrated."""
        return cls(kinds=(), table=np.zeros((1, len(Novelty))))

    def __call__(self, kinds: NDArray[np.object_], levels: NDArray[np.int8]) -> Array:
        """Return the half width [N] of each row."""
        place = {kind: index for index, kind in enumerate(self.kinds)}
        unique, inverse = np.unique(kinds.astype(str), return_inverse=True)
        rows = np.array([place.get(kind, len(self.kinds)) for kind in unique], np.int64)[inverse]
        widths: Array = self.table[rows, levels]
        return widths


def _quantile(residuals: Array, devices: NDArray[np.object_]) -> float:
    """Return the COVERAGE quantile of absolute values, each device weighing the same; 0 where there are none."""
    if not len(residuals):
        return 0.0
    _, codes, counts = np.unique(devices.astype(str), return_inverse=True, return_counts=True)
    order = np.argsort(np.abs(residuals))
    share = np.cumsum((1.0 / counts[codes])[order]) / len(counts)
    place = min(int(np.searchsorted(share, COVERAGE)), len(order) - 1)
    return float(np.abs(residuals)[order][place])
