"""DesignSpace: every multiset of chips on every package, at every precision, batch and mapper, as arrays."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import ClassVar, TypedDict

import numpy as np
from numpy.typing import NDArray

from chiplib import ChipLibrary
from chiplib.chip import Precision
from dse.errors import DseError


class DesignPoint(TypedDict):
    """One design of a space by its parameters: plain data, as rows of the run folder hold it."""

    chips: list[str]  # a name as often as the design holds the chip
    package: str
    precision: str
    batch: int
    mapper: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignSpace:
    """What a study varies. `chips` empty means every chip of the library."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    chips: tuple[str, ...] = ()
    min_chips: int = 1
    max_chips: int = 4
    packages: tuple[str, ...] = ("interposer_2x2",)
    precisions: tuple[Precision, ...] = (Precision.FP16,)
    batches: tuple[int, ...] = (1,)
    mappers: tuple[str, ...] = ("local_search",)

    def __post_init__(self) -> None:
        for name in ("packages", "precisions", "batches", "mappers"):
            values = getattr(self, name)
            if not values:
                raise DseError(f"space.{name} is empty", "give at least one value")
            if len(set(values)) != len(values):
                raise DseError(f"space.{name} names a value twice: {', '.join(map(str, values))}", "each once")
        if len(set(self.chips)) != len(self.chips):
            raise DseError(f"space.chips names a chip twice: {', '.join(self.chips)}", "each once")
        if not 1 <= self.min_chips <= self.max_chips:
            raise DseError(
                f"space.min_chips {self.min_chips} and max_chips {self.max_chips} leave no design",
                "1 <= min_chips <= max_chips",
            )
        if min(self.batches) < 1:
            raise DseError(f"space.batches holds {min(self.batches)}", "batches are whole numbers from 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class Designs:
    """All D designs of a space, in a fixed order: columns of indices into the space's own lists.

    A design is a multiset of chips (which slot each takes is the placement's business), so `counts` [D, T] says how
    many of each of the T chip types it holds.
    """

    space: DesignSpace
    chips: tuple[str, ...]  # [T] names
    counts: NDArray[np.int16]  # [D, T]
    package: NDArray[np.int16]  # [D]
    precision: NDArray[np.int16]  # [D]
    batch: NDArray[np.int16]  # [D]
    mapper: NDArray[np.int16]  # [D]

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: int) -> DesignPoint:
        row = self.counts[index]
        return {
            "chips": [self.chips[t] for t in np.flatnonzero(row) for _ in range(row[t])],
            "package": self.space.packages[self.package[index]],
            "precision": self.space.precisions[self.precision[index]].value,
            "batch": self.space.batches[self.batch[index]],
            "mapper": self.space.mappers[self.mapper[index]],
        }


def enumerate_designs(space: DesignSpace, library: ChipLibrary) -> Designs:
    """List the whole space.

    Designs with more chips than a package has slots are not part of the space. Raises DseError or ChipError where a
    chip or package is unknown, or nothing is left.
    """
    chips = space.chips or tuple(library.chips)
    for name in chips:
        library.chip(name)
    slots = [library.package(name).slots for name in space.packages]
    most = min(space.max_chips, max(slots))
    if most < space.min_chips:
        raise DseError(
            f"the space holds no design: {space.min_chips} chips or more, but no package has over {max(slots)} slots",
            "lower space.min_chips or name a larger package",
        )
    counts = np.concatenate([_multisets(len(chips), size) for size in range(space.min_chips, most + 1)])
    axes = np.meshgrid(
        np.arange(len(counts)),
        np.arange(len(space.packages)),
        np.arange(len(space.precisions)),
        np.arange(len(space.batches)),
        np.arange(len(space.mappers)),
        indexing="ij",
    )
    which, package, precision, batch, mapper = (axis.reshape(-1).astype(np.int64) for axis in axes)
    fits = counts.sum(1)[which] <= np.asarray(slots)[package]
    return Designs(
        space=space,
        chips=tuple(chips),
        counts=counts[which[fits]],
        package=package[fits].astype(np.int16),
        precision=precision[fits].astype(np.int16),
        batch=batch[fits].astype(np.int16),
        mapper=mapper[fits].astype(np.int16),
    )


def _multisets(types: int, size: int) -> NDArray[np.int16]:
    """Every multiset of `size` chips out of `types`, as counts [D, types]."""
    chosen = np.array(list(combinations_with_replacement(range(types), size)), np.int64)  # [D, size]
    counts = np.zeros((len(chosen), types), np.int16)
    np.add.at(counts, (np.arange(len(chosen))[:, None], chosen), 1)
    return counts


def design_id(point: DesignPoint) -> str:
    """Name a design by its parameters: the same parameters give the same id in every run and on every machine."""
    text = json.dumps({**point, "chips": sorted(point["chips"])}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def describe(point: DesignPoint) -> str:
    """One line for people: `2 x big_core + npu, interposer_2x2, fp16, batch 1`."""
    counted = {name: point["chips"].count(name) for name in dict.fromkeys(point["chips"])}
    chips = " + ".join(name if n == 1 else f"{n} x {name}" for name, n in counted.items())
    return f"{chips}, {point['package']}, {point['precision']}, batch {point['batch']}"
