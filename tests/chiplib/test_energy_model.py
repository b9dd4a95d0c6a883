"""Energy: the anchors of its tables, and the power that a datasheet allows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiplib import ChipError, ChipType, Precision, chip_features, load_library, pj_per_byte, pj_per_flop, static_w
from chiplib.energy import table_pj_per_flop
from chiplib.features import CHIP_FEATURES

ALL_CHIPS = [chip for name in ("reference", "chiplets") for chip in load_library(name).chips.values()]
each_chip = pytest.mark.parametrize("chip", ALL_CHIPS, ids=lambda chip: chip.name)


@pytest.mark.parametrize(
    ("node_nm", "precision", "pj_per_mac"),
    [
        (45, Precision.FP32, 3.7 + 0.9),  # Horowitz 2014
        (45, Precision.FP16, 1.1 + 0.4),
        (45, Precision.INT8, 0.2 + 0.1),
        (7, Precision.FP32, 1.31 + 0.38),  # Jouppi 2021
        (7, Precision.FP16, 0.34 + 0.16),
        (7, Precision.INT8, 0.07 + 0.03),
    ],
)
def test_published_anchors(node_nm: float, precision: Precision, pj_per_mac: float) -> None:
    assert table_pj_per_flop(node_nm, precision) == pytest.approx(pj_per_mac / 2)


@given(a=st.floats(1, 130), b=st.floats(1, 130), precision=st.sampled_from(list(Precision)))
def test_energy_falls_with_the_node(a: float, b: float, precision: Precision) -> None:
    low, high = sorted((a, b))
    assert 0 < table_pj_per_flop(low, precision) <= table_pj_per_flop(high, precision)


def test_outside_the_trusted_nodes_the_ends_hold() -> None:
    assert table_pj_per_flop(2, Precision.FP16) == table_pj_per_flop(3, Precision.FP16)
    assert table_pj_per_flop(90, Precision.FP16) == table_pj_per_flop(65, Precision.FP16)


@each_chip
def test_full_load_draws_the_tdp_or_what_the_datapath_needs(chip: ChipType) -> None:
    anchor = Precision.FP16 if chip.supports(Precision.FP16) else max(chip.peak_flops, key=lambda p: chip.peak_flops[p])
    for precision, peak in chip.peak_flops.items():
        compute = pj_per_flop(chip, precision) * 1e-12 * chip.achievable * peak
        memory = pj_per_byte(chip) * 1e-12 * chip.achievable_bw * chip.peak_bw
        floor = pj_per_flop(chip, precision) == table_pj_per_flop(chip.node_nm or 7.0, precision)
        if precision is anchor and not floor:
            assert static_w(chip) + compute + memory == pytest.approx(chip.tdp_w)
        assert floor or static_w(chip) + compute + memory <= chip.tdp_w * (1 + 1e-9)
        assert memory <= (chip.tdp_w - static_w(chip)) / 2 * (1 + 1e-9)


@each_chip
def test_a_narrower_format_of_one_family_never_costs_more(chip: ChipType) -> None:
    by_width = [p for p in (Precision.FP32, Precision.TF32, Precision.FP16, Precision.FP8) if chip.supports(p)]
    figures = [pj_per_flop(chip, p) for p in by_width]
    assert figures == sorted(figures, reverse=True)


def test_a100_power_is_split_as_published_figures_say() -> None:
    chip = load_library("reference").chip("a100_sxm4_80gb")
    assert static_w(chip) == 80
    assert pj_per_byte(chip) == 8 * 6.0
    budget = 400 - 80 - 48e-12 * 2.04e12
    assert pj_per_flop(chip, Precision.FP16) == pytest.approx(budget / (0.869 * 3.12e14) * 1e12)


def test_features_carry_the_same_figures_and_mark_what_is_not_supported() -> None:
    rows = chip_features(ALL_CHIPS, Precision.FP8)
    assert rows.dtype == CHIP_FEATURES
    for row, chip in zip(rows, ALL_CHIPS, strict=True):
        assert row["supported"] == (Precision.FP8 in chip.peak_flops)
        assert row["pj_per_flop"] == (pj_per_flop(chip, Precision.FP8) if row["supported"] else 0)
        assert row["memory_bytes"] == chip.mem_gb * 1e9
        assert row["vector_flops"] > 0


def test_unknown_memory_type() -> None:
    chip = ChipType(
        name="c", peak_flops={Precision.FP16: 1e12}, peak_bw=1e11, mem_gb=1, area_mm2=100, width_mm=10, height_mm=10,
        tdp_w=10, memory_type="HMB3",
    )  # fmt: skip
    with pytest.raises(ChipError, match="HMB3") as error:
        pj_per_byte(chip)
    assert error.value.hint == "did you mean 'HBM3'?"
