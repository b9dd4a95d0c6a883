"""What hardware exists, and its physics: datasheets, links, packages, energy, cost."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chiplib.chip import ChipType, NetworkRule, Precision, Rule
    from chiplib.cost import CostBreakdown, die_yield, dies_per_wafer, known_good_die_usd, system_cost
    from chiplib.cycle_rules import CycleRules
    from chiplib.energy import pj_per_byte, pj_per_flop, static_w
    from chiplib.errors import ChipError
    from chiplib.features import CHIP_FEATURES, chip_features
    from chiplib.library import ChipLibrary, load_library, shipped_libraries
    from chiplib.links import LinkType
    from chiplib.package import Package, Routes, routes
    from chiplib.pe_array import Dataflow, DataflowCode, PeArray
    from chiplib.provenance import Statement, basis
    from chiplib.rules import BrokenRule, broken_network_rules, broken_rules, network_measures
    from chiplib.system import System

_HOME = {
    "chip": ("ChipType", "NetworkRule", "Precision", "Rule"),
    "cost": ("CostBreakdown", "die_yield", "dies_per_wafer", "known_good_die_usd", "system_cost"),
    "cycle_rules": ("CycleRules",),
    "energy": ("pj_per_byte", "pj_per_flop", "static_w"),
    "errors": ("ChipError",),
    "features": ("CHIP_FEATURES", "chip_features"),
    "library": ("ChipLibrary", "load_library", "shipped_libraries"),
    "links": ("LinkType",),
    "package": ("Package", "Routes", "routes"),
    "pe_array": ("Dataflow", "DataflowCode", "PeArray"),
    "provenance": ("Statement", "basis"),
    "rules": ("BrokenRule", "broken_network_rules", "broken_rules", "network_measures"),
    "system": ("System",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "CHIP_FEATURES",
    "BrokenRule",
    "ChipError",
    "ChipLibrary",
    "ChipType",
    "CostBreakdown",
    "CycleRules",
    "Dataflow",
    "DataflowCode",
    "LinkType",
    "NetworkRule",
    "Package",
    "PeArray",
    "Precision",
    "Routes",
    "Rule",
    "Statement",
    "System",
    "basis",
    "broken_network_rules",
    "broken_rules",
    "chip_features",
    "die_yield",
    "dies_per_wafer",
    "known_good_die_usd",
    "load_library",
    "network_measures",
    "pj_per_byte",
    "pj_per_flop",
    "routes",
    "shipped_libraries",
    "static_w",
    "system_cost",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
