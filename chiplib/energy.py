"""Energy: static power, and picojoules an operation and a byte, from a chip's datasheet.

The model has three parts, and a datasheet's TDP ties them together.

static    as measured (`idle_w`), else STATIC_SHARE of the TDP.
memory    pJ/bit by memory type (data/nodes.yaml), SRAM by node. At full bandwidth memory draws at most half of
          TDP - static: a bandwidth on a datasheet is one that its TDP can feed, and wafer-scale SRAM arrays are
          smaller than the 1 MB of the table.
compute   a table of pJ a multiply-accumulate, by precision, log-log between 45 nm (Horowitz 2014) and 7 nm (Jouppi
          2021), halved per FLOP, is the floor. Real chips spend several times as much on control and on moving
          operands, so where the budget is larger it counts: a chip at its sustained peak draws its TDP,
          budget = TDP - static - memory at full bandwidth, pj_per_flop = budget / (achievable x peak), at fp16 or
          else at the precision with the highest peak. The other precisions scale by the table's ratio, at most to
          what draws the TDP at their own peak.

Nodes outside 3 to 65 nm count as 3 or 65: the line between the two anchors is not trusted further (TSMC claims 30 %
less power from 7 to 5 nm where the line gives 18 %; from memory, unverified).
"""

from __future__ import annotations

from functools import cache

from chiplib.chip import ChipType, Precision
from chiplib.technology import interpolate, memory_of, node_of, technology

STATIC_SHARE = 0.2
"""Idle power / TDP where no idle power is published. Assumed; measured: H200 126 W of 700, B200 226 W of 1000."""

NODE_RANGE_NM = (3.0, 65.0)


def static_w(chip: ChipType) -> float:
    """Power drawn with nothing to do, W: measured, else STATIC_SHARE of the TDP."""
    return chip.idle_w if chip.idle_w is not None else STATIC_SHARE * chip.tdp_w


@cache
def pj_per_byte(chip: ChipType) -> float:
    """Dynamic energy of a byte between the chip and its memory, pJ. Raises ChipError for an unknown memory type."""
    memory = memory_of(chip.memory_type)
    if memory.pj_per_bit is not None:
        table = 8 * memory.pj_per_bit
    else:
        table = interpolate(_trusted(node_of(chip)), {row.node_nm: row.pj_per_byte for row in technology().sram})
    return min(table, _dynamic_w(chip) / 2 / (chip.achievable_bw * chip.peak_bw) * 1e12)


@cache
def pj_per_flop(chip: ChipType, precision: Precision) -> float:
    """Dynamic energy of one floating-point (or integer) operation, pJ; an operation is half a multiply-accumulate.

    `chip` need not have a peak in `precision`: the figure then follows from the table's ratio alone.
    """
    anchor = Precision.FP16 if chip.supports(Precision.FP16) else max(chip.peak_flops, key=lambda p: chip.peak_flops[p])
    node = node_of(chip)
    budget = (_dynamic_w(chip) - pj_per_byte(chip) * 1e-12 * chip.achievable_bw * chip.peak_bw) * 1e12
    scaled = budget / (chip.achievable * chip.peak_flops[anchor])
    if precision is not anchor:
        scaled *= table_pj_per_flop(node, precision) / table_pj_per_flop(node, anchor)
        if chip.supports(precision):
            scaled = min(scaled, budget / (chip.achievable * chip.peak_flops[precision]))
    return max(table_pj_per_flop(node, precision), scaled)


@cache
def table_pj_per_flop(node_nm: float, precision: Precision) -> float:
    """Energy of one operation in the datapath alone, pJ, by the tables of Horowitz (2014) and Jouppi (2021)."""
    figures = {row.node_nm: row.pj_per_mac[precision] for row in technology().operations}
    return interpolate(_trusted(node_nm), figures) / 2


def _dynamic_w(chip: ChipType) -> float:
    return chip.tdp_w - static_w(chip)


def _trusted(node_nm: float) -> float:
    return min(max(node_nm, NODE_RANGE_NM[0]), NODE_RANGE_NM[1])
