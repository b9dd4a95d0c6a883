"""System: chips in the slots of a package."""

from __future__ import annotations

from dataclasses import dataclass

from chiplib.chip import ChipType
from chiplib.package import Package


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A package with a chip, or None, in each of its slots."""

    package: Package
    chips: tuple[ChipType | None, ...]  # [S]
