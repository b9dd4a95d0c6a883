"""`dse report`: write the report of a run folder again."""

from __future__ import annotations

from pathlib import Path

import click

from dse.cli.output import emit_json


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(directory: Path, as_json: bool) -> None:
    """Write the report of the run folder DIR again, from that folder alone.

    \b
    Example:
      dse report runs/htdemucs
    """
    import reports

    page = reports.write(directory)
    if as_json:
        emit_json({"report": str(page)})
    else:
        click.echo(f"Report: {page}")
