"""Cost: the vectors of Chiplet Actuary, and what any cost model must obey."""

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiplib import ChipError, ChipType, System, load_library
from chiplib.cost import (
    RETICLE_MM2,
    YIELD_MODELS,
    YieldModel,
    carrier_usd,
    chip_cost,
    defects_cm2,
    die_yield,
    dies_per_wafer,
    known_good_die_usd,
    system_cost,
    wafer_usd,
)

areas = st.floats(1, RETICLE_MM2)
nodes = st.floats(3, 55)
models = st.sampled_from(get_args(YieldModel))


@pytest.mark.parametrize(
    ("area_mm2", "node_nm", "dies", "good", "usd"),
    [
        (814, 5, 57.60, 0.4242, 695.31),
        (826, 7, 56.60, 0.4882, 338.22),
        (628, 10, 78.02, 0.6125, 125.39),
        (100, 7, 571.71, 0.9143, 17.88),
        (6, 14, 9166.24, 0.9952, 0.44),
    ],
)
def test_chiplet_actuary_vectors(area_mm2: float, node_nm: float, dies: float, good: float, usd: float) -> None:
    assert round(dies_per_wafer(area_mm2), 2) == dies
    assert round(die_yield(area_mm2, node_nm), 4) == good
    assert round(known_good_die_usd(area_mm2, node_nm), 2) == usd


def test_yield_models_by_hand() -> None:
    assert YIELD_MODELS["poisson"](0.8954, 10) == pytest.approx(math.exp(-0.8954))
    assert YIELD_MODELS["murphy"](1.0, 10) == pytest.approx((1 - math.exp(-1)) ** 2)
    assert YIELD_MODELS["negative_binomial"](0.8954, 1e9) == pytest.approx(math.exp(-0.8954))  # no clustering: Poisson
    assert all(model(0.0, 10) == 1 for model in YIELD_MODELS.values())


@given(area=areas, more=st.floats(0.5, 100), node=nodes, model=models)
def test_larger_dies_yield_less_and_cost_more(area: float, more: float, node: float, model: YieldModel) -> None:
    larger = min(area + more, RETICLE_MM2)
    assert 0 < die_yield(larger, node, model) <= die_yield(area, node, model) <= 1
    assert dies_per_wafer(larger) <= dies_per_wafer(area)
    assert known_good_die_usd(larger, node, model) >= known_good_die_usd(area, node, model)


@given(a=nodes, b=nodes)
def test_wafers_between_table_nodes_lie_between_their_prices(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert wafer_usd(low) >= wafer_usd(high)
    assert 0.07 - 1e-12 <= defects_cm2(a) <= 0.20 + 1e-12


def test_node_between_table_entries_is_log_log() -> None:
    share = math.log(8 / 7) / math.log(10 / 7)
    assert wafer_usd(8) == pytest.approx(9346 ** (1 - share) * 5992**share)
    assert wafer_usd(10) == 5992


@pytest.mark.parametrize("node_nm", [2, 90])
def test_node_without_a_wafer_price(node_nm: float) -> None:
    with pytest.raises(ChipError, match=f"node_nm {node_nm}") as error:
        known_good_die_usd(100, node_nm)
    assert "3 to 55 nm" in error.value.hint


def test_unknown_yield_model() -> None:
    with pytest.raises(ChipError) as error:
        die_yield(100, 7, "poison")  # type: ignore[arg-type]
    assert error.value.hint == "did you mean 'poisson'?"


def test_wafer_scale_part_takes_one_whole_wafer() -> None:
    wafer = load_library("reference").chip("cerebras_wse_2")
    assert chip_cost(wafer).items == {"dies": 9346, "memory": 0}


def chip(**fields: object) -> ChipType:
    base = {
        "name": "c",
        "peak_flops": {"fp16": 1e14},
        "peak_bw": 1e12,
        "mem_gb": 16,
        "area_mm2": 400,
        "width_mm": 20,
        "height_mm": 20,
    }
    return ChipType(**(base | {"tdp_w": 100, "node_nm": 7, "memory_type": "HBM2"} | fields))  # type: ignore[arg-type]


def test_price_stands_for_dies_and_memory() -> None:
    assert chip_cost(chip(price_usd=999.0)).items == {"parts": 999.0}
    assert chip_cost(chip()).items == {"dies": known_good_die_usd(400, 7), "memory": 16 * 7.25}


def test_splitting_a_large_die_is_cheaper_in_silicon() -> None:
    whole, halves = chip(area_mm2=800, width_mm=25, height_mm=32), chip(area_mm2=800, dies=2)
    assert chip_cost(halves).items["dies"] < chip_cost(whole).items["dies"]


def test_substrate_cost_by_hand() -> None:
    library = load_library("chiplets")
    big = library.chip("big_core")
    items = System.build("substrate_2x2", [big, big], library).cost.items
    assert items["package"] == pytest.approx(71 * 71 * 0.005 * 2)
    assert items["dies"] == pytest.approx(2 * known_good_die_usd(600, 7))
    assert items["bumps"] == pytest.approx(2 * 600 * 0.005)
    before = items["package"] + items["dies"] + items["memory"] + items["bumps"]
    assert items["bonding"] == pytest.approx(before * (0.99**-2 - 1))


def test_cost_sums_and_rises_with_every_chip() -> None:
    library = load_library("chiplets")
    for package in library.packages.values():
        costs = [system_cost(package, [library.chip("small_core")] * n).total_usd for n in range(package.slots + 1)]
        assert costs == sorted(costs)
        cost = system_cost(package, [library.chip("small_core")])
        assert cost.total_usd == pytest.approx(sum(cost.items.values()))
        assert all(usd >= 0 for usd in cost.items.values())
        assert set(carrier_usd(package).items) <= set(cost.items)
