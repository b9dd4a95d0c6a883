"""Libraries: the owner's file loads unchanged, lookups, merging, and what every entry that ships must have."""

import csv
import dataclasses
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chiplib import ChipError, ChipType, Precision, System, basis, load_library, shipped_libraries
from chiplib.chip import AREA_TOLERANCE
from chiplib.cost import chip_cost
from chiplib.technology import technology

OWNERS_FILE = """
chip_types:
  - name: big_core
    peak_flops: 1.0e14
    peak_bw: 1.0e12
    mem_gb: 24
    area_mm2: 600
    width_mm: 25
    height_mm: 24
    tdp_w: 350
  - name: tiny_core
    peak_flops: {fp16: 1e13, int8: 2e13}
    peak_bw: 1e11
    mem_gb: 4
    area_mm2: 60
    width_mm: 10
    height_mm: 6
    tdp_w: 20
"""
SHIPPED_CHIPS = [
    pytest.param(chip, id=f"{name}:{chip.name}")
    for name in shipped_libraries()
    for chip in load_library(name).chips.values()
]


@pytest.fixture
def owners_file(tmp_path: Path) -> Path:
    path = tmp_path / "gpu_data.yaml"
    path.write_text(OWNERS_FILE)
    return path


def test_owners_file_loads_unchanged(owners_file: Path) -> None:
    library = load_library(owners_file)
    big = library.chip("big_core")
    assert (big.peak_bw, big.mem_gb, big.area_mm2, big.tdp_w) == (1e12, 24, 600, 350)
    assert big.peak_flops == dict.fromkeys(Precision, 1e14)  # one number: the same peak in every precision
    assert library.chip("tiny_core").peak_flops == {Precision.FP16: 1e13, Precision.INT8: 2e13}
    assert big == dataclasses.replace(load_library("chiplets").chip("big_core"), source={})


def test_own_chips_go_on_shipped_packages(owners_file: Path) -> None:
    system = System.build("interposer_4x4", ["big_core", "tiny_core"], load_library(str(owners_file)))
    assert system.names == ("big_core", "tiny_core")


def test_own_links_and_packages(owners_file: Path) -> None:
    owners_file.write_text(
        OWNERS_FILE + "links: [{name: wire, bandwidth_gb_s: 10, latency_ns: 1, pj_per_bit: 2}]\n"
        "packages: [{name: card, kind: board, shape: rectangle, width_mm: 100, height_mm: 60, rows: 1, columns: 2,"
        " slot_width_mm: 40, slot_height_mm: 40, link: wire}, {name: pair, kind: substrate, shape: rectangle,"
        " width_mm: 100, height_mm: 60, rows: 1, columns: 2, slot_width_mm: 40, slot_height_mm: 40, link: grs}]\n"
    )
    library = load_library(owners_file)
    assert library.package("card").link is library.link("wire") or library.package("card").link == library.link("wire")
    assert library.package("pair").link == library.link("grs")


def test_merge(owners_file: Path) -> None:
    reference = load_library("reference")
    both = reference.merge(load_library(owners_file))
    assert len(both.chips) == len(reference.chips) + 2
    assert both.packages == reference.packages
    with pytest.raises(ChipError, match="both define big_core"):
        load_library("chiplets").merge(load_library(owners_file))


def test_misspelt_names() -> None:
    library = load_library("chiplets")
    for lookup, name, hint in [
        (library.chip, "big_cor", "did you mean 'big_core'?"),
        (library.package, "interposer_4_4", "did you mean 'interposer_4x4'?"),
        (library.link, "nvlink", "did you mean 'nvlink4'?"),
    ]:
        with pytest.raises(ChipError, match=name) as error:
            lookup(name)
        assert error.value.hint == hint
    with pytest.raises(ChipError, match="'a100'") as error:
        load_library("reference").chip("a100")
    assert "'a100_sxm4_80gb'" in error.value.hint
    with pytest.raises(ChipError, match="'referense'") as error:
        load_library("referense")
    assert "did you mean 'reference'?" in error.value.hint


def test_libraries_cross_to_worker_processes() -> None:
    library = load_library("chiplets")
    assert pickle.loads(pickle.dumps(library)).chips == library.chips


def test_what_ships() -> None:
    assert set(shipped_libraries()) == {"chiplets", "reference"}
    assert len(load_library("reference").chips) >= 24
    assert len(load_library("chiplets").chips) >= 12


@pytest.mark.parametrize("chip", SHIPPED_CHIPS)
def test_every_chip_has_sources_and_names_what_it_assumes(chip: ChipType) -> None:
    fields = {field.name for field in dataclasses.fields(chip)}
    for key, parts in (("pe_array", chip.pe_array), ("cycle_rules", chip.cycle_rules)):
        fields |= {f"{key}.{field.name}" for field in dataclasses.fields(parts)} if parts is not None else set()
    assert chip.source.get("*")
    assert set(chip.source) - {"*"} <= fields
    assert set(chip.assumed) <= fields
    assert all(rule.source for rule in (*chip.rules, *chip.network_rules))
    assert abs(chip.width_mm * chip.height_mm / chip.area_mm2 - 1) <= AREA_TOLERANCE
    assert chip.area_mm2 / chip.dies <= 858 or chip.kind == "wafer-scale"


@pytest.mark.parametrize("chip", [p for p in SHIPPED_CHIPS if str(p.id).startswith("chiplets")])
def test_chiplets_fit_a_slot_and_a_network(chip: ChipType) -> None:
    assert max(chip.width_mm, chip.height_mm) <= 33
    assert chip.mem_gb * 1e9 >= 2 * 100e6  # the weights of 100 million parameters in fp16


def test_chiplets_leave_a_real_choice() -> None:
    """No die is at least as good as another in peaks, bandwidth, memory, cost and power all at once."""
    chips = list(load_library("chiplets").chips.values())

    def merits(chip: ChipType) -> tuple[float, ...]:
        peaks = [
            chip.peak_flops.get(precision, 0.0) * chip.achievable for precision in (Precision.FP16, Precision.INT8)
        ]
        return *peaks, chip.peak_bw, chip.mem_gb, -chip_cost(chip).total_usd, -chip.tdp_w

    def beats(one: ChipType, other: ChipType) -> bool:
        return one is not other and all(a >= b for a, b in zip(merits(one), merits(other), strict=True))

    assert [chip.name for chip in chips if any(beats(other, chip) for other in chips)] == []


def test_reference_agrees_with_the_collected_datasheets(measured: Callable[[str], Path]) -> None:
    def slug(name: str) -> str:
        return re.sub(r"[^a-z0-9]+", "_", re.sub(r"\(.*?\)", "", name).strip().lower())

    with measured("chips/chips.csv").open(newline="") as file:
        collected = {slug(row["name"]): row for row in csv.DictReader(file)}
    columns = {
        "fp32_flops": Precision.FP32, "tf32_flops": Precision.TF32, "fp16_bf16_flops": Precision.FP16,
        "fp8_flops": Precision.FP8, "int8_ops": Precision.INT8,
    }  # fmt: skip
    compared = 0
    for chip in load_library("reference").chips.values():
        row = collected[chip.name]
        peaks = {precision: float(row[column]) for column, precision in columns.items() if row[column]}
        assert chip.peak_flops == pytest.approx(peaks), chip.name
        for column, value, field in [
            ("mem_bw_Bps", chip.peak_bw, "peak_bw"),
            ("mem_bytes", chip.mem_gb * 1e9, "mem_gb"),
            ("die_area_mm2", chip.area_mm2, "area_mm2"),
            ("tdp_w", chip.tdp_w, "tdp_w"),
            ("node_nm", chip.node_nm, "node_nm"),
            ("idle_w", chip.idle_w, "idle_w"),
            ("sram_bytes", (chip.sram_mb or 0) * 1e6, "sram_mb"),
        ]:
            on_die = column == "mem_bytes" and chip.memory_type == "SRAM"  # the column means memory beside the die
            if row[column] and not on_die:
                assert value == pytest.approx(float(row[column]), rel=0.02), (chip.name, field)
                compared += 1
    assert compared > 150


def test_technology_tables_have_sources() -> None:
    tables = technology()
    for rows in (tables.nodes, tables.operations, tables.sram, tables.memories, tables.carriers):
        assert rows and all(row.source for row in rows)
    assert all(set(row.pj_per_mac) == set(Precision) for row in tables.operations)
    assert {carrier.kind for carrier in tables.carriers} == {"substrate", "interposer", "wafer", "board"}


@pytest.mark.parametrize("kind", ["links", "packages"])
def test_links_and_packages_have_sources(kind: str) -> None:
    for entry in getattr(load_library("chiplets"), kind).values():
        assert entry.source
        assert set(entry.assumed) <= {field.name for field in dataclasses.fields(entry)}


def test_what_figures_rest_on_names_every_gap() -> None:
    library = load_library("chiplets")
    chips = [library.chip("big_core"), library.chip("sram_7nm")]
    rows = {row.subject: row for row in basis(chips, [library.package("interposer_2x2")])}
    assert all(row.statement and row.source for row in rows.values())
    assert rows["node"].statement == "7 nm where the datasheet names none: big_core."
    assert rows["achievable peak"].statement.endswith(": big_core.")
    assert {"memory HBM2e", "memory SRAM", "interposer cost"} <= rows.keys()
    assert "interposer of 1937 $ wafers" in rows["interposer cost"].statement
    assert rows["vector peak"].statement.endswith(": big_core, sram_7nm.")
    assert rows["one achievable fraction a chip"].statement.endswith(": sram_7nm.")
    assert "sram_7nm: width_mm, height_mm, achievable" in rows["datasheets"].statement
    assert "wafer-scale parts" not in rows
    wafer = load_library("reference").chip("cerebras_wse_3")
    assert "cerebras_wse_3" in {row.subject: row.statement for row in basis([wafer], [])}["wafer-scale parts"]


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, chiplib; print(sorted({'torch', 'pydantic', 'yaml', 'numpy', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_is_there() -> None:
    import chiplib

    assert all(getattr(chiplib, name) is not None for name in chiplib.__all__)
    with pytest.raises(AttributeError):
        _ = chiplib.nothing
