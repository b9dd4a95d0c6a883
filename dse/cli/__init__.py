"""The command line `dse`: one file a command in `dse/cli/commands`, imported when it is used."""

from __future__ import annotations

import warnings

from dse.cli.app import cli


def main() -> None:
    """Run the command line; never returns."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    cli(prog_name="dse")
