"""Manufacturing cost: known good dies by a named yield model, memory, package and bonding.

After Chiplet Actuary (Feng & Ma, DAC 2022; formulas of its chip.py and package.py), with its parameters in
data/nodes.yaml. Costs are of one unit in volume: design and masks (NRE), test and margin are left out, so they compare
designs; they are no market prices.

A part with a price (`price_usd`) is bought: the price stands for its dies and memory. A die larger than a reticle field
cannot be exposed at once; such a part is wafer-scale, with redundancy: it shares a wafer with as many others as fit
(one, for Cerebras' 46,225 mm2) and none is lost, because spare cores replace what is broken. A yield model of single
dies would give that part 1e-8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from chiplib.chip import ChipType
from chiplib.errors import ChipError
from chiplib.package import Package
from chiplib.technology import Carrier, interpolate, memory_of, node_of, technology
from chiplib.validation import did_you_mean

WAFER_MM = 300.0
WAFER_EDGE_MM = 5.0  # lost along the rim; Chiplet Actuary parameter.ini
SCRIBE_MM = 0.2  # between dies; Chiplet Actuary parameter.ini
LOGIC_ALPHA = 10.0  # clustering of defects, "critical level" of logic; Chiplet Actuary parameter.ini
RETICLE_MM2 = 26.0 * 33.0  # CATCH wafer_process_definitions.xml

YieldModel = Literal["negative_binomial", "poisson", "murphy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CostBreakdown:
    """Cost by item, USD."""

    items: Mapping[str, float]

    @property
    def total_usd(self) -> float:
        """Sum of the items."""
        return math.fsum(self.items.values())


def dies_per_wafer(area_mm2: float, *, wafer_mm: float = WAFER_MM) -> float:
    """Return how many square dies of `area_mm2` a round wafer holds (a mean, not a whole number), at least 1.

    N = pi (d/2 - e)^2 / A' - pi (d - 2e) / sqrt(2 A'), A' = A + 2 s sqrt(A) + s^2, scribe s, edge e (Chiplet Actuary).
    """
    scribed = area_mm2 + 2 * SCRIBE_MM * math.sqrt(area_mm2) + SCRIBE_MM**2
    usable = wafer_mm - 2 * WAFER_EDGE_MM
    return max(1.0, math.pi * (usable / 2) ** 2 / scribed - math.pi * usable / math.sqrt(2 * scribed))


def negative_binomial(defects: float, alpha: float) -> float:
    """Yield (1 + D A / alpha)^-alpha of a die with `defects` = D A on average (Stapper; Chiplet Actuary)."""
    return float((1 + defects / alpha) ** -alpha)


def poisson(defects: float, alpha: float) -> float:
    """Yield e^(-D A): defects that do not cluster; `alpha` is not used."""
    return math.exp(-defects)


def murphy(defects: float, alpha: float) -> float:
    """Yield ((1 - e^(-D A)) / (D A))^2 (Murphy 1964, triangular defect density); `alpha` is not used."""
    return (-math.expm1(-defects) / defects) ** 2 if defects > 0 else 1.0


YIELD_MODELS: Mapping[str, Callable[[float, float], float]] = {
    "negative_binomial": negative_binomial,
    "poisson": poisson,
    "murphy": murphy,
}


def wafer_usd(node_nm: float) -> float:
    """Return the price of a 300 mm wafer, USD, log-log between the nodes of the table.

    Raises ChipError for a node outside the table.
    """
    return interpolate(_priced(node_nm), {node.node_nm: node.wafer_usd for node in technology().nodes})


def defects_cm2(node_nm: float) -> float:
    """Return the defect density, 1/cm2, log-log between the nodes of the table. Raises ChipError outside it."""
    return interpolate(_priced(node_nm), {node.node_nm: node.defects_cm2 for node in technology().nodes})


def die_yield(area_mm2: float, node_nm: float, model: YieldModel = "negative_binomial") -> float:
    """Return the share of good dies, in (0, 1]. Raises ChipError for an unknown model or node."""
    if model not in YIELD_MODELS:
        raise ChipError(f"unknown yield model {model!r}", did_you_mean(model, get_args(YieldModel)))
    return YIELD_MODELS[model](defects_cm2(node_nm) * area_mm2 / 100, LOGIC_ALPHA)


@cache
def known_good_die_usd(area_mm2: float, node_nm: float, model: YieldModel = "negative_binomial") -> float:
    """Return the cost of one working die, USD: wafer / (dies a wafer x yield).

    Above a reticle field: wafer / whole parts a wafer, none lost (see the top of this file).
    Raises ChipError for an unknown model or node.
    """
    if area_mm2 > RETICLE_MM2:
        return wafer_usd(node_nm) / math.floor(dies_per_wafer(area_mm2))
    return wafer_usd(node_nm) / (dies_per_wafer(area_mm2) * die_yield(area_mm2, node_nm, model))


@cache
def chip_cost(chip: ChipType, model: YieldModel = "negative_binomial") -> CostBreakdown:
    """Return the cost of one chip before assembly: `parts` (bought at a market price), or `dies` and `memory`.

    Raises ChipError where the node has no wafer price.
    """
    if chip.price_usd is not None:
        return CostBreakdown(items={"parts": chip.price_usd})
    dies = chip.dies * known_good_die_usd(chip.area_mm2 / chip.dies, node_of(chip), model)
    return CostBreakdown(items={"dies": dies, "memory": chip.mem_gb * memory_of(chip.memory_type).usd_per_gb})


@cache
def carrier_usd(package: Package) -> CostBreakdown:
    """Return the cost of the empty package: `package` (substrate, board or wafer), and `interposer` if it has one."""
    carrier = _carrier(package)
    outline = package.outline_mm2
    substrate = outline * carrier.substrate_scale * carrier.usd_per_mm2 * carrier.layer_factor
    items = {"package": substrate + carrier.fan_out_wafer_usd}
    if (process := carrier.interposer) is not None:
        tiles = math.ceil(outline / process.tile_mm2)
        tile = outline / tiles
        good = negative_binomial(process.defects_cm2 * tile / 100, process.alpha)
        items["interposer"] = tiles * process.wafer_usd / (dies_per_wafer(tile) * good)
    return CostBreakdown(items=items)


def system_cost(package: Package, chips: Sequence[ChipType], model: YieldModel = "negative_binomial") -> CostBreakdown:
    """Return the cost of `chips` assembled on `package`: parts, dies, memory, package, interposer, bumps, bonding.

    `bonding` is what assembly loses: each of n chips survives with the yield y of the package's kind, so 1 / y^n
    systems are built for one that works (Chiplet Actuary package.py). Bumps are counted for every chip.
    """
    carrier = _carrier(package)
    items = dict(carrier_usd(package).items)
    bumps = 0.0
    for chip in chips:
        for item, usd in chip_cost(chip, model).items.items():
            items[item] = items.get(item, 0.0) + usd
        bumps += chip.area_mm2 * carrier.bump_usd_per_mm2
    items["bumps"] = bumps
    items["bonding"] = sum(items.values()) * (carrier.bonding_yield ** -len(chips) - 1)
    return CostBreakdown(items=items)


@cache
def _carrier(package: Package) -> Carrier:
    return next(carrier for carrier in technology().carriers if carrier.kind == package.kind)


def _priced(node_nm: float) -> float:
    nodes = [node.node_nm for node in technology().nodes]
    if not min(nodes) <= node_nm <= max(nodes):
        raise ChipError(
            f"no wafer price at node_nm {node_nm:g}", f"a node from {min(nodes):g} to {max(nodes):g} nm, or a price_usd"
        )
    return node_nm
