"""The technology tables of data/nodes.yaml, and the one rule by which figures between two nodes are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from chiplib.chip import ChipType, Precision
from chiplib.errors import ChipError
from chiplib.validation import did_you_mean, read_yaml, validate

DATA = Path(__file__).parent / "data"

ASSUMED_NODE_NM = 7.0
"""Node of a chip whose datasheet names none (our assumption: the process of most accelerators that ship here)."""

ASSUMED_MEMORY = "HBM2e"
"""Memory of a chip whose datasheet names none (our assumption: the commonest on accelerators, and a costly one)."""

_FORBID: Mapping[str, object] = {"extra": "forbid", "allow_inf_nan": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Price and defects of a 300 mm wafer."""

    __pydantic_config__: ClassVar = _FORBID
    node_nm: float
    wafer_usd: float
    defects_cm2: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """Energy of a multiply-accumulate at one node, datapath only."""

    __pydantic_config__: ClassVar = _FORBID
    node_nm: float
    pj_per_mac: Mapping[Precision, float]
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sram:
    """Energy of a read from a 1 MB array at one node."""

    __pydantic_config__: ClassVar = _FORBID
    node_nm: float
    pj_per_byte: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Energy and price of one type of memory; `pj_per_bit` is None where it follows from the die's node."""

    __pydantic_config__: ClassVar = _FORBID
    name: str
    pj_per_bit: float | None
    usd_per_gb: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InterposerProcess:
    """Wafer of passive interposers; above `tile_mm2` one is joined from tested tiles."""

    __pydantic_config__: ClassVar = _FORBID
    wafer_usd: float
    defects_cm2: float
    alpha: float
    tile_mm2: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """What a package of one kind costs, and what share of bonded dies survives."""

    __pydantic_config__: ClassVar = _FORBID
    kind: str
    usd_per_mm2: float  # of the substrate or board
    layer_factor: float
    bonding_yield: float  # a die
    bump_usd_per_mm2: float  # of die
    substrate_scale: float = 1.0  # area of the substrate / the outline's
    interposer: InterposerProcess | None = None
    fan_out_wafer_usd: float = 0.0
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Technology:
    """Everything in data/nodes.yaml."""

    __pydantic_config__: ClassVar = _FORBID
    nodes: tuple[Node, ...]
    operations: tuple[Operations, ...]
    sram: tuple[Sram, ...]
    memories: tuple[Memory, ...]
    carriers: tuple[Carrier, ...]


@cache
def technology() -> Technology:
    """Return the tables that ship."""
    path = DATA / "nodes.yaml"
    return validate(read_yaml(path), Technology, str(path))


def node_of(chip: ChipType) -> float:
    """Return the chip's node, nm: as its datasheet says, else ASSUMED_NODE_NM."""
    return chip.node_nm if chip.node_nm is not None else ASSUMED_NODE_NM


@cache
def memory_of(memory_type: str) -> Memory:
    """Return the memory of this type ("" means ASSUMED_MEMORY). Raises ChipError where it is unknown."""
    memories = {memory.name: memory for memory in technology().memories}
    if memory_type and memory_type not in memories:
        raise ChipError(f"unknown memory_type {memory_type!r}", did_you_mean(memory_type, memories))
    return memories[memory_type or ASSUMED_MEMORY]


def interpolate(node_nm: float, figures: Mapping[float, float]) -> float:
    """Return the figure at `node_nm`: a straight line on log(figure) against log(node) between the nearest two.

    Outside the table the line through its outermost two nodes goes on.
    """
    if node_nm in figures:
        return figures[node_nm]
    nodes = sorted(figures)
    upper = min((i for i, node in enumerate(nodes) if node > node_nm), default=len(nodes) - 1)
    upper = max(upper, 1)
    low, high = nodes[upper - 1], nodes[upper]
    share = math.log(node_nm / low) / math.log(high / low)
    return figures[low] * math.exp(share * math.log(figures[high] / figures[low]))
