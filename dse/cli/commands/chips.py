"""`dse chips`: the chips of a library, and the datasheet of one."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from dse.cli.app import InputError
from dse.cli.output import emit_json, number, print_table

if TYPE_CHECKING:
    from chiplib import ChipLibrary
    from chiplib.chip import ChipType

UNITS = {
    "vector_flops": "op/s",
    "peak_bw": "B/s",
    "mem_gb": "GB",
    "area_mm2": "mm2",
    "width_mm": "mm",
    "height_mm": "mm",
    "tdp_w": "W",
    "idle_w": "W",
    "node_nm": "nm",
    "sram_mb": "MB",
    "price_usd": "USD",
}
MEASURED = ("achievable", "achievable_bw")  # 1 where nobody measured
NOT_ROWS = ("name", "peak_flops", "source", "assumed", "rules", "network_rules")


@click.command()
@click.argument("name", required=False)
@click.option("--library", help="Name or YAML file of a chip library.  [default: all that ship]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(name: str | None, library: str | None, as_json: bool) -> None:
    """List the chips, or show the datasheet of chip NAME with the source of every number.

    \b
    Examples:
      dse chips
      dse chips big_core
      dse chips --library my_chips.yaml
    """
    from chiplib import load_library, shipped_libraries

    libraries = [load_library(each) for each in ([library] if library else shipped_libraries())]
    if name is None:
        _list(libraries, as_json)
        return
    chip, home = _find(name, libraries)
    if as_json:
        emit_json({"library": home.name} | asdict(chip))
    else:
        _datasheet(chip, home)


def _find(name: str, libraries: list[ChipLibrary]) -> tuple[ChipType, ChipLibrary]:
    from chiplib.validation import did_you_mean

    for library in libraries:
        for chip in library.chips.values():
            if chip.name.lower() == name.lower():
                return chip, library
    known = [chip for library in libraries for chip in library.chips]
    where = ", ".join(library.name for library in libraries)
    raise InputError(f"unknown chip {name!r} in {where}", did_you_mean(name, known))


def _list(libraries: list[ChipLibrary], as_json: bool) -> None:
    if as_json:
        emit_json(
            {"libraries": {library.name: [asdict(chip) for chip in library.chips.values()] for library in libraries}}
        )
        return
    for library in libraries:
        rows = [
            (
                chip.name,
                chip.kind,
                chip.vendor,
                None if chip.year is None else str(chip.year),
                None if chip.node_nm is None else f"{chip.node_nm:g}",
                ", ".join(chip.peak_flops),
                max(chip.peak_flops.values()) / 1e12,
                chip.peak_bw / 1e9,
                chip.mem_gb,
                chip.area_mm2,
                chip.tdp_w,
            )
            for chip in library.chips.values()
        ]
        columns = ("chip", "kind", "vendor", "year", "nm", "precisions", "most Top/s", "GB/s", "GB", "mm2", "W")
        print_table(columns, rows, title=f"Library {library.name}: {len(rows)} chips", left=6)


def _datasheet(chip: ChipType, library: ChipLibrary) -> None:
    everywhere = chip.source.get("*", "")
    rows: list[tuple[object, ...]] = []
    for precision, peak in chip.peak_flops.items():
        rows.append(_row(chip, "peak_flops", f"peak {precision}", peak, "op/s", everywhere))
    values: dict[str, Any] = asdict(chip)
    for field, value in values.items():
        if isinstance(value, dict) and field not in NOT_ROWS:  # a part of the datasheet with fields of its own
            rows += [
                _row(chip, f"{field}.{key}", f"{field}.{key}", each, "", everywhere) for key, each in value.items()
            ]
        elif field not in NOT_ROWS and value not in (None, "", ()):
            shown = ", ".join(value) if isinstance(value, tuple) else value
            rows.append(_row(chip, field, field, shown, UNITS.get(field, ""), everywhere))
    print_table(("field", "value", "unit", "basis", "source"), rows, title=f"{chip.name} ({library.name})", left=5)
    for rule in chip.rules:
        choices = ", ".join([*map(str, rule.allowed), *rule.names])
        limit = f"<= {number(rule.limit)}" if rule.limit is not None else f"in {choices}"
        when = "".join(f" where {name} is {value}" for name, value in rule.when.items())
        click.echo(f"rule: {rule.operator} needs {rule.parameter} {limit}{when}  {rule.source}")
    for whole in chip.network_rules:
        of = f" of {', '.join(whole.operators)}" if whole.operators else ""
        click.echo(
            f"rule: all layers on the chip together: {whole.measure}{of} <= {number(whole.limit)}  {whole.source}"
        )


def _row(chip: ChipType, field: str, label: str, value: object, unit: str, everywhere: str) -> tuple[object, ...]:
    """Return a line of the datasheet; what is assumed or not measured does not lean on the chip's general source."""
    source, basis = chip.source.get(field, chip.source.get(field.partition(".")[0], "")), "given"
    if field in chip.assumed or field.partition(".")[0] in chip.assumed:
        basis = "assumed"
    elif field in MEASURED and not source and value == 1.0:
        basis = "not measured"
    else:
        source = source or everywhere
    return label, str(value) if field == "year" else value, unit, basis, source
