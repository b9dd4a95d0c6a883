"""What the figures of a set of chips and packages rest on: each rule and table in a sentence, with its source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chiplib.chip import ChipType
from chiplib.cost import LOGIC_ALPHA, RETICLE_MM2
from chiplib.energy import NODE_RANGE_NM, STATIC_SHARE
from chiplib.package import Package
from chiplib.technology import ASSUMED_MEMORY, ASSUMED_NODE_NM, Carrier, memory_of, technology

ACTUARY = "Chiplet Actuary: Feng & Ma, DAC 2022; github.com/Yinxiao-Feng/chiplet-actuary@c91fb92"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One thing that figures rest on: what it concerns, what is done, and who says so ("assumed": we do)."""

    subject: str
    statement: str
    source: str


def basis(chips: Sequence[ChipType], packages: Sequence[Package]) -> tuple[Statement, ...]:
    """Return what energy, cost and peaks of these chips and packages rest on, and what is assumed for which chip."""
    return (*_energy(chips), *_cost(chips, packages), *_gaps(chips))


def _energy(chips: Sequence[ChipType]) -> list[Statement]:
    tables = technology()
    guessed = _names(chip for chip in chips if chip.idle_w is None)
    found = [
        Statement(
            subject="static power",
            statement=f"Measured idle power; {STATIC_SHARE:.0%} of the TDP where none is published: {guessed}.",
            source="assumed; measured H200 126 W of 700 W, B200 226 W of 1000 W",
        ),
        Statement(
            subject="compute energy",
            statement="A chip at its sustained peak draws its TDP: what static power and memory leave is spent on "
            "arithmetic; at least the datapath's energy by node and precision, nodes outside "
            f"{NODE_RANGE_NM[0]:g} to {NODE_RANGE_NM[1]:g} nm as those. Vector units spend as much an operation.",
            source="; ".join(row.source for row in tables.operations),
        ),
    ]
    for name in sorted({memory_of(chip.memory_type).name for chip in chips}):
        memory = memory_of(name)
        energy = "by node, from a 1 MB array" if memory.pj_per_bit is None else f"{memory.pj_per_bit:g} pJ/bit"
        price = f", {memory.usd_per_gb:g} $/GB" if memory.usd_per_gb else ""
        found.append(Statement(subject=f"memory {name}", statement=f"{energy}{price}.", source=memory.source))
    return found


def _cost(chips: Sequence[ChipType], packages: Sequence[Package]) -> list[Statement]:
    found = [
        Statement(
            subject="die cost",
            statement="Known good die = wafer / (dies a wafer x yield), yield negative binomial with alpha "
            f"{LOGIC_ALPHA:g}, wafer price and defects by node; manufacturing only: no design cost, test or margin.",
            source="; ".join(dict.fromkeys([ACTUARY, *(node.source for node in technology().nodes)])),
        )
    ]
    if bought := [chip for chip in chips if chip.price_usd is not None]:
        found.append(
            Statement(
                subject="bought parts",
                statement=f"The price stands for dies and memory: {_names(bought)}.",
                source="the datasheet's price_usd",
            )
        )
    if large := [chip for chip in chips if chip.area_mm2 / chip.dies > RETICLE_MM2]:
        found.append(
            Statement(
                subject="wafer-scale parts",
                statement=f"Larger than a reticle field of {RETICLE_MM2:g} mm2, so built with redundancy: whole parts "
                f"a wafer, none lost: {_names(large)}.",
                source="assumed: spare cores replace what is broken, as Cerebras says of its parts",
            )
        )
    kinds = {package.kind for package in packages}
    for carrier in technology().carriers:
        if carrier.kind in kinds:
            found.append(
                Statement(
                    subject=f"{carrier.kind} cost",
                    statement=f"{carrier.usd_per_mm2:g} $/mm2 x {carrier.layer_factor:g} layer factor, bumps "
                    f"{carrier.bump_usd_per_mm2:g} $/mm2 of die, a bonded die survives with {carrier.bonding_yield:g}"
                    f"{_carrier_wafers(carrier)}.",
                    source=carrier.source,
                )
            )
    return found


def _carrier_wafers(carrier: Carrier) -> str:
    """What a carrier holds besides its substrate, in words."""
    text = f"; fan-out wafer {carrier.fan_out_wafer_usd:g} $" if carrier.fan_out_wafer_usd else ""
    if (process := carrier.interposer) is not None:
        text += f"; interposer of {process.wafer_usd:g} $ wafers, {process.defects_cm2:g} defects/cm2, in tested tiles "
        text += f"of at most {process.tile_mm2:g} mm2"
    return text


def _gaps(chips: Sequence[ChipType]) -> list[Statement]:
    """What datasheets leave open, and what stands in for it."""
    gaps = [
        ("node", f"{ASSUMED_NODE_NM:g} nm where the datasheet names none", [c for c in chips if c.node_nm is None]),
        ("memory type", f"{ASSUMED_MEMORY} where the datasheet names none", [c for c in chips if not c.memory_type]),
        ("achievable peak", "1.0, for nothing was measured", [c for c in chips if c.achievable == 1.0]),
        ("achievable bandwidth", "1.0, for nothing was measured", [c for c in chips if c.achievable_bw == 1.0]),
    ]
    gaps += [
        (
            "vector peak",
            "its fp32 peak, else its lowest one, where none is given",
            [c for c in chips if not c.vector_flops],
        ),
        (
            "one achievable fraction a chip",
            "measured on the largest fp16 or bf16 matrix products, taken for all precisions and the vector units",
            [c for c in chips if c.achievable < 1.0],
        ),
    ]
    assumed = "; ".join(f"{chip.name}: {', '.join(chip.assumed)}" for chip in chips if chip.assumed)
    found = [
        Statement(subject=subject, statement=f"{rule}: {_names(concerned)}.", source="assumed")
        for subject, rule, concerned in gaps
        if concerned
    ]
    if assumed:
        statement = f"Figures that are ours, derived or guessed, not the vendor's: {assumed}."
        found.append(Statement(subject="datasheets", statement=statement, source="the chips' own sources"))
    return found


def _names(chips: Iterable[ChipType]) -> str:
    return ", ".join(chip.name for chip in chips) or "no chip here"
