"""`dse proxy`: the learned layer proxy, from measured rows to weights."""

from __future__ import annotations

import click

from dse.cli.app import CommandFolder


@click.group(cls=CommandFolder, package=__name__)
def command() -> None:
    """Measure layers, fit the learned layer proxy, evaluate it, and calibrate it to a chip."""
