"""System: chips in the slots of a package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chiplib.chip import ChipType
from chiplib.cost import CostBreakdown, system_cost
from chiplib.energy import static_w
from chiplib.errors import ChipError
from chiplib.library import ChipLibrary, load_library
from chiplib.package import Package, Routes


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A package with a chip, or None, in each of its slots.

    Raises ChipError where the number of chips is not that of the slots, or a chip fits its slot in neither orientation.
    """

    package: Package
    chips: tuple[ChipType | None, ...]  # [S]

    def __post_init__(self) -> None:
        package = self.package
        if len(self.chips) != package.slots:
            raise ChipError(
                f"{len(self.chips)} chips for {package.slots} slots of {package.name!r}", "one chip or None each"
            )
        slot = sorted((package.slot_width_mm, package.slot_height_mm))
        for chip in set(self.chips):
            if chip is None:
                continue
            size = sorted((chip.width_mm, chip.height_mm))
            excess = [mine - room for mine, room in zip(size, slot, strict=True)]
            if max(excess) > 1e-9:
                raise ChipError(
                    f"chip {chip.name!r} ({chip.width_mm:g} x {chip.height_mm:g} mm) does not fit the slots of "
                    f"{package.name!r} ({package.slot_width_mm:g} x {package.slot_height_mm:g} mm) in either "
                    f"orientation: {max(excess):.4g} mm too large",
                    "a smaller chip, or a package with larger slots",
                )

    @classmethod
    def build(
        cls,
        package: str | Package,
        chips: Sequence[str | ChipType | None],
        library: ChipLibrary | str = "chiplets",
    ) -> System:
        """Return `package` with `chips` in its first slots; the slots after them stay empty.

        Packages and chips are given by name in `library` (a ChipLibrary, or what load_library takes), or as such.
        Raises ChipError for an unknown name, more chips than slots, no chip at all, or a chip too large for its slot.
        """
        named = library if isinstance(library, ChipLibrary) else load_library(library)
        carrier = named.package(package) if isinstance(package, str) else package
        present = [named.chip(chip) if isinstance(chip, str) else chip for chip in chips]
        empty = carrier.slots - len(present)
        if empty < 0:
            raise ChipError(
                f"{len(present)} chips for the {carrier.slots} slots of {carrier.name!r}: {-empty} too many",
                "fewer chips, or a larger package",
            )
        if not any(present):
            raise ChipError(f"no chip on {carrier.name!r}", "at least one chip")
        return cls(package=carrier, chips=(*present, *[None] * empty))

    @property
    def slots(self) -> int:
        """Number of slots, S."""
        return len(self.chips)

    @property
    def occupied(self) -> NDArray[np.int64]:
        """Slots that hold a chip, ascending."""
        return np.array([slot for slot, chip in enumerate(self.chips) if chip is not None], np.int64)

    @property
    def present(self) -> tuple[ChipType, ...]:
        """The chips, in the order of their slots, empty slots left out."""
        return tuple(chip for chip in self.chips if chip is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the chips in the order of their slots, empty slots left out."""
        return tuple(chip.name for chip in self.present)

    @property
    def area_mm2(self) -> float:
        """Silicon of all chips."""
        return sum(chip.area_mm2 for chip in self.present)

    @property
    def static_w(self) -> float:
        """Power of all chips with nothing to do, W."""
        return sum(static_w(chip) for chip in self.present)

    @property
    def capacity_bytes(self) -> NDArray[np.float64]:
        """Memory of each slot's chip, [S]; 0 where the slot is empty."""
        return np.array([0.0 if chip is None else chip.mem_gb * 1e9 for chip in self.chips])

    @property
    def routes(self) -> Routes:
        """Routes between all slots. Raises ChipError where a link of the package is longer than it reaches."""
        return self.package.routes

    @property
    def cost(self) -> CostBreakdown:
        """Cost by item, USD."""
        return system_cost(self.package, self.present)

    @property
    def cost_usd(self) -> float:
        """Cost of the chips, their memory, the package and assembly, USD."""
        return self.cost.total_usd
