"""`dse proxy ingest`: public sets of measured operators -> one checked tidy table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dse.cli.output import emit_json, print_table

if TYPE_CHECKING:
    from dse.proxy.ingest import Ingested


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Parquet file for the checked table.")
@click.option("--include-low-quality", is_flag=True, help="Take sets whose boards or units are assumed, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(folder: Path | None, out: Path | None, include_low_quality: bool, as_json: bool) -> None:
    """Read the public sets in FOLDER (tidy.parquet, devices.csv, llmcompass/, ...), check every row, and sum them up.

    Rows that are wrong are left out and counted by reason. FOLDER is `proxy` in the folder that CHIPFRONT_DATA names
    unless given.

    \b
    Examples:
      dse proxy ingest data/proxy
      dse proxy ingest data/proxy --out operators.parquet
    """
    from dse.proxy.dataset import write_rows
    from dse.proxy.ingest import ingest

    if out is not None and out.suffix != ".parquet":
        raise click.BadParameter(f"{out} does not end in .parquet", param_hint="--out")
    found = ingest(folder, include_low_quality=include_low_quality)
    if out is not None:
        write_rows(found.rows, out)
    if as_json:
        emit_json(_summary(found) | {"out": out})
        return
    _show(found)
    if out is not None:
        click.echo(f"Table: {out}")


def _summary(found: Ingested) -> dict[str, object]:
    too_fast = found.rows["source"][found.beyond_physics].value_counts()
    return {
        "rows": len(found.rows),
        "by_source": found.counts("source"),
        "by_device": found.counts("device"),
        "by_op_type": found.counts("op_type"),
        "refused": [
            {"source": source, "reason": reason, "rows": count} for (source, reason), count in found.refused.items()
        ],
        "beyond_physics": {str(source): int(count) for source, count in too_fast.items() if count},
        "licences": {
            name: {"repository": origin.repository, "commit": origin.commit, "licence": origin.licence}
            for name, origin in found.licences.items()
        },
    }


def _show(found: Ingested) -> None:
    too_fast = found.rows["source"][found.beyond_physics].value_counts()
    sources = []
    for name, count in found.counts("source").items():
        origin = found.licences.get(name)
        place = (origin.repository, origin.licence) if origin else ("", "")
        sources.append((name, *place, count, int(too_fast.get(name, 0))))
    columns = ("source", "repository", "licence", "rows", "beyond physics")
    print_table(columns, sources, title=f"{len(found.rows):,} rows", left=3)
    for column in ("device", "op_type"):
        print_table((column, "rows"), list(found.counts(column).items()))
    if found.refused:
        refused = [(source, reason, count) for (source, reason), count in found.refused.items()]
        print_table(("source", "refused because", "rows"), refused, left=2)
    if found.beyond_physics.any():
        click.echo(
            f"{int(found.beyond_physics.sum()):,} rows are faster than their device can be (0.45 FLOPs / peak, or "
            "bytes / bandwidth beyond its L2): kept, as data may have stayed in a cache."
        )
