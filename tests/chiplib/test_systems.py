"""Systems: chips in slots."""

from dataclasses import replace

import pytest

from chiplib import ChipError, System, load_library, static_w

LIBRARY = load_library("chiplets")


def test_fewer_chips_leave_the_rest_empty() -> None:
    system = System.build("substrate_2x2", ["big_core", None, "small_core"], LIBRARY)
    assert system.slots == 4
    assert system.occupied.tolist() == [0, 2]
    assert system.names == ("big_core", "small_core")
    assert system.area_mm2 == 750
    assert system.capacity_bytes.tolist() == [24e9, 0, 8e9, 0]
    assert system.static_w == sum(static_w(chip) for chip in system.present) == pytest.approx(0.2 * 430)
    assert system.cost_usd == pytest.approx(sum(system.cost.items.values()))
    assert system.routes is LIBRARY.package("substrate_2x2").routes  # one for all systems on the package


def test_names_and_objects_mean_the_same() -> None:
    by_name = System.build("interposer_4x4", ["big_core"] * 4, "chiplets")
    by_object = System.build(LIBRARY.package("interposer_4x4"), [LIBRARY.chip("big_core")] * 4, LIBRARY)
    assert by_name == by_object and hash(by_name) == hash(by_object)


def test_a_chip_may_be_turned() -> None:
    package = replace(LIBRARY.package("substrate_2x2"), slot_width_mm=24.0, slot_height_mm=25.0)
    assert System.build(package, ["big_core"], LIBRARY).names == ("big_core",)  # 25 x 24 mm


def test_a_chip_that_fits_in_neither_orientation() -> None:
    package = replace(LIBRARY.package("substrate_2x2"), slot_width_mm=23.0)
    with pytest.raises(ChipError, match=r"25 x 24 mm.*23 x 33 mm.*1 mm too large"):
        System.build(package, ["big_core"], LIBRARY)


def test_every_chiplet_fits_every_shipped_package() -> None:
    for package in LIBRARY.packages:
        for chip in LIBRARY.chips:
            assert System.build(package, [chip], LIBRARY).cost_usd > 0


@pytest.mark.parametrize(
    ("package", "chips", "message", "hint"),
    [
        ("substrate_2x2", ["big_core"] * 6, "6 chips for the 4 slots of 'substrate_2x2': 2 too many", "larger package"),
        ("substrate_2x2", [None], "no chip", "at least one"),
        ("substrate_2x2", [], "no chip", "at least one"),
        ("substrate_2x2", ["big_cor"], "unknown chip 'big_cor'", "did you mean 'big_core'?"),
        ("substrat_2x2", ["big_core"], "unknown package 'substrat_2x2'", "did you mean 'substrate_2x2'?"),
    ],
)
def test_wrong_systems(package: str, chips: list[str | None], message: str, hint: str) -> None:
    with pytest.raises(ChipError, match=message) as error:
        System.build(package, chips, LIBRARY)
    assert hint in error.value.hint


def test_wrong_number_of_chips_in_the_record() -> None:
    with pytest.raises(ChipError, match="1 chips for 4 slots"):
        System(package=LIBRARY.package("substrate_2x2"), chips=(None,))
