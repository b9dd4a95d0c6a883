"""What commands print: one JSON object for machines, tables and sentences for people."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 160  # columns of a table that goes to a file or a pipe
GAP = 3  # characters between two columns of a table
WRAPPED = 40  # columns of text wider than this are wrapped before another column is left out


def emit_json(answer: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout. Infinite and undefined numbers become null, which is what JSON has for them."""
    click.echo(json.dumps(plain(answer), indent=2, allow_nan=False))


def plain(value: Any) -> Any:
    """Return `value` as dicts, lists, strings, finite numbers and None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return plain(value.tolist())
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item) for item in value]
    return str(value)


def console() -> Console:
    """Return the console of stdout; tables that go to a file or a pipe are wide and without colour."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    left: int = 1,
    spare: Sequence[str] = (),
) -> None:
    """Print a table; the first `left` columns are text, the others numbers aligned to the right.

    Where the terminal is too narrow, the columns of `spare` are left out one by one, as far as needed.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    cells = [[number(cell) for cell in row] for row in rows]
    widths = [max([len(column), *(len(row[index]) for row in cells)]) + GAP for index, column in enumerate(columns)]
    widths[:left] = [min(width, WRAPPED) for width in widths[:left]]
    shown = list(range(len(columns)))
    for name in spare:
        if sum(widths[index] for index in shown) <= console().width:
            break
        shown = [index for index in shown if columns[index] != name]
    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for index in shown:
        table.add_column(columns[index], justify="left" if index < left else "right", overflow="fold")
    for row in cells:
        table.add_row(*(Text(row[index]) for index in shown))  # Text: names are never markup
    console().print(table)


def number(value: object) -> str:
    """Format a cell: four significant digits, all digits before the point, thousands separated; a dash for unknown."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "-"
        if value == 0 or 1e-3 <= abs(value) < 1e9:
            digits = 3 if value == 0 else max(0, 3 - math.floor(math.log10(abs(value))))
            text = f"{value:,.{digits}f}"
            return text.rstrip("0").rstrip(".") if "." in text else text
        return f"{value:.3e}"
    return str(value)
