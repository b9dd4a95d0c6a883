"""The command line `dse`: one file a command in `dse/cli/commands`, imported when it is used."""

from __future__ import annotations

from dse.cli.app import cli


def main() -> None:
    """Run the command line; never returns."""
    cli(prog_name="dse")
