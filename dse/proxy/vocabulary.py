"""Vocabulary: the names that a fitted proxy knows, as numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dse.proxy.features import CHIP_NAMES, NAMES, Features

CASE = "case"
"""Key of what was measured together: maker, op_type and dtype of rows, joined by SEPARATOR."""

SEPARATOR = " | "


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The texts of training rows, by column of NAMES and CHIP_NAMES, and CASE. A text's number is its place plus one;
    0: new.

    But for the maker, a chip's names are known with a library: what one library's kernels make of a die says little of
    another's. With names of the die alone a V100, known from one framework, was predicted worse for another than a chip
    that is not known at all.
    """

    known: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, features: Features) -> Vocabulary:
        """Return the vocabulary of training rows."""
        columns = {name: features.names[:, i] for i, name in enumerate(NAMES)}
        columns |= dict(zip(CHIP_NAMES, _with_library(features), strict=True))
        known = {name: tuple(sorted(pd.unique(texts))) for name, texts in columns.items()}
        return cls(known=known | {CASE: _cases(features)})

    @property
    def sizes(self) -> dict[str, int]:
        """Number of texts a column."""
        return {name: len(known) for name, known in self.known.items()}

    def codes(self, features: Features) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the numbers of each row's names [N, NAMES] and chip names [N, CHIP_NAMES]."""
        names = [self._numbers(name, features.names[:, i]) for i, name in enumerate(NAMES)]
        chips = [self._numbers(*column) for column in zip(CHIP_NAMES, _with_library(features), strict=True)]
        return np.stack(names, axis=1), np.stack(chips, axis=1)

    def places(self, column: str) -> dict[str, int]:
        """Return the number of each text of a column."""
        return {text: place + 1 for place, text in enumerate(self.known[column])}

    def _numbers(self, column: str, texts: NDArray[np.object_]) -> NDArray[np.int64]:
        codes, uniques = pd.factorize(texts)
        numbers: NDArray[np.int64] = (pd.Index(self.known[column]).get_indexer(pd.Index(uniques)) + 1)[codes]
        return numbers


def _cases(features: Features) -> tuple[str, ...]:
    of_case = [features.chip_names[:, CHIP_NAMES.index("maker")]]
    of_case += [features.names[:, NAMES.index(name)] for name in ("op_type", "dtype")]
    unique = pd.DataFrame(dict(enumerate(of_case))).drop_duplicates()
    return tuple(sorted(SEPARATOR.join(case) for case in unique.itertuples(index=False, name=None)))


def _with_library(features: Features) -> list[NDArray[np.object_]]:
    """Return the columns of chip names [N], all but the maker's followed by the row's library."""
    library_codes, libraries = pd.factorize(features.names[:, NAMES.index("library")])
    columns = [features.chip_names[:, 0]]
    for column in range(1, len(CHIP_NAMES)):
        codes, texts = pd.factorize(features.chip_names[:, column])
        pairs, unique = pd.factorize(codes * len(libraries) + library_codes)
        both = [f"{texts[pair // len(libraries)]} {libraries[pair % len(libraries)]}" for pair in unique]
        columns.append(np.array(both, object)[pairs])
    return columns
