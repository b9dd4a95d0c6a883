"""Vocabulary: the names that a fitted proxy knows, as numbers, and how far what they stand for reaches."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dse.proxy.features import CHIP_NAMES, NAMES, Features
from dse.proxy.reach import Reach

CASE = "case"
"""Key of what was measured together: maker, op_type and dtype of rows, joined by SEPARATOR."""

WORD = "word"
"""Key of names of operators that were measured on a maker's chips: maker and op_name, joined alike."""

SEPARATOR = " | "

KIND_OF = {"conv1d": "conv2d"}
"""Operator kinds that are known as another one: libraries run a convolution along a line as one of images, a pixel
high."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The texts of training rows, by column of NAMES and CHIP_NAMES, CASE and WORD. A text's number is its place plus
    one; 0: new.

    An operator's name is not known on chips of a maker on whose chips others alone were measured: how a processor runs
    it says nothing of a GPU. A framework is known with a kind of operator: what its products tell says nothing of its
    attention. A chip, but for its maker, is known with a library and a kind of operator: what one library's kernels
    make of a die says little of another's. What was not measured together is then taken for new, and predicted as all
    others are: with names of the die alone a V100, known from one framework, was predicted worse for another than a
    chip that is not known at all.
    """

    known: dict[str, tuple[str, ...]]
    reach: Reach = field(default_factory=lambda: Reach(limits={}))

    @classmethod
    def of(cls, features: Features) -> Vocabulary:
        """Return the vocabulary of training rows."""
        columns = _columns(features)
        known = {name: tuple(sorted(column.texts)) for name, column in columns.items()}
        case = columns["maker"].with_texts(columns["op_type"]).with_texts(columns["dtype"])
        word = columns["maker"].with_texts(columns["op_name"])
        known |= {CASE: tuple(sorted(case.texts)), WORD: tuple(sorted(word.texts))}
        return cls(known=known, reach=Reach.of(features))

    @property
    def sizes(self) -> dict[str, int]:
        """Number of texts a column."""
        return {name: len(known) for name, known in self.known.items()}

    def codes(self, features: Features) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the numbers of each row's names [N, NAMES] and chip names [N, CHIP_NAMES]."""
        columns = _columns(features)
        numbers = {name: self._numbers(name, column) for name, column in columns.items()}
        word = self._numbers(WORD, columns["maker"].with_texts(columns["op_name"]))
        numbers["op_name"][(word == 0) & (numbers["maker"] > 0)] = 0
        names, chips = ([numbers[name] for name in group] for group in (NAMES, CHIP_NAMES))
        return np.stack(names, axis=1), np.stack(chips, axis=1)

    def places(self, column: str) -> dict[str, int]:
        """Return the number of each text of a column."""
        return {text: place + 1 for place, text in enumerate(self.known[column])}

    def _numbers(self, name: str, column: _Column) -> NDArray[np.int64]:
        numbers: NDArray[np.int64] = (pd.Index(self.known[name]).get_indexer(pd.Index(column.texts)) + 1)[column.codes]
        return numbers


@dataclass(frozen=True, slots=True, eq=False)
class _Column:
    """A column of N texts: the place of each among the texts that occur."""

    codes: NDArray[np.int64]  # [N]
    texts: list[str]

    @classmethod
    def of(cls, column: NDArray[np.object_]) -> _Column:
        codes, texts = pd.factorize(column)
        return cls(codes, [*texts])

    def with_texts(self, other: _Column) -> _Column:
        """Return the column of these texts followed by another column's."""
        codes, pairs = pd.factorize(self.codes * len(other.texts) + other.codes)
        both = [divmod(int(pair), len(other.texts)) for pair in pairs]
        return _Column(codes, [f"{self.texts[a]}{SEPARATOR}{other.texts[b]}" for a, b in both])


def _columns(features: Features) -> dict[str, _Column]:
    """Return the columns of NAMES and CHIP_NAMES, their texts followed by those of the columns they go with."""
    texts = dict(zip(NAMES, features.names.T, strict=True)) | dict(zip(CHIP_NAMES, features.chip_names.T, strict=True))
    columns = {name: _Column.of(column) for name, column in texts.items()}
    kind = columns["op_type"]
    columns["op_type"] = _Column.of(np.array([KIND_OF.get(text, text) for text in kind.texts], object)[kind.codes])
    software = columns["library"].with_texts(columns["op_type"])
    columns |= {name: columns[name].with_texts(software) for name in CHIP_NAMES if name != "maker"}
    return columns | {"library": software, "framework": columns["framework"].with_texts(columns["op_type"])}
