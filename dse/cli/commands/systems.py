"""`dse systems`: the packages that hold the chips, and the links between their slots."""

from __future__ import annotations

from dataclasses import asdict

import click

from dse.cli.output import emit_json, print_table


@click.command()
@click.argument("name", required=False)
@click.option("--library", default="chiplets", show_default=True, help="Name or YAML file of a chip library.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(name: str | None, library: str, as_json: bool) -> None:
    """List the packages of a library, or show package NAME with the source of its numbers.

    \b
    Examples:
      dse systems
      dse systems interposer_2x2
    """
    from chiplib import load_library

    loaded = load_library(library)
    packages = [loaded.package(name)] if name else list(loaded.packages.values())
    if as_json:
        objects = [asdict(package) | {"slots": package.slots} for package in packages]
        emit_json(objects[0] if name else {"library": loaded.name, "packages": objects})
        return
    columns = ("package", "kind", "topology", "link", "slots", "outline mm", "slot mm", "GB/s", "ns", "pJ/bit")
    rows = [
        (
            package.name,
            package.kind,
            package.topology,
            package.link.name,
            package.slots,
            f"{package.width_mm:g} x {package.height_mm:g}"
            if package.shape == "rectangle"
            else f"{package.width_mm:g} disc",
            f"{package.slot_width_mm:g} x {package.slot_height_mm:g}",
            package.link.bandwidth_gb_s,
            package.link.latency_ns,
            package.link.pj_per_bit,
        )
        for package in packages
    ]
    print_table(columns, rows, title=f"Packages of {loaded.name}; bandwidth of one link in one direction", left=4)
    if name:
        (package,) = packages
        click.echo(f"Package: {package.source or 'no source'}; assumed: {', '.join(package.assumed) or 'nothing'}")
        link = package.link
        click.echo(f"Link {link.name}: {link.source or 'no source'}; assumed: {', '.join(link.assumed) or 'nothing'}")
