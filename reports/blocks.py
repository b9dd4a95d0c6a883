"""What a section is made of: paragraphs, facts, figures, tables, the interactive chart, cases, folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from markupsafe import Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str
    tone: Literal["plain", "lead", "note", "warning"] = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One figure with its name."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A row of figures."""

    kind: ClassVar[str] = "facts"
    facts: Sequence[Fact]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A drawing, and a caption that states its units."""

    kind: ClassVar[str] = "figure"
    svg: Markup
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """An interactive plotly figure (as its JSON), and the drawing that stands in for it in print and without script."""

    kind: ClassVar[str] = "chart"
    figure: Mapping[str, Any]
    svg: Markup
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One table cell. `sort` is the number to sort by, for cells that are numbers."""

    text: str
    sort: float | None = None
    numeric: bool = False
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One table row; a `mark` sets it off and is shown as a badge in its first cell."""

    cells: Sequence[Cell]
    mark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table; where `sortable`, its headings are buttons. `tall` tables scroll on the screen and run on in print."""

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Row]
    caption: str
    sortable: bool = False
    tall: bool = False

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        return [any(row.cells[i].numeric for row in self.rows) for i in range(len(self.columns))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One entry of a list that is read, not compared: a heading, what it is worth, and labelled lines."""

    title: str
    tag: str
    lines: Sequence[tuple[str, str]]  # label, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """Entries from top to bottom."""

    kind: ClassVar[str] = "cases"
    cases: Sequence[Case]
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Blocks under a line that opens and closes; open in print."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: Sequence[Any] = field(default_factory=tuple)


Block = Text | Facts | Figure | Chart | Table | Cases | Fold


def text_cell(text: Any, title: str = "") -> Cell:
    """A cell of text."""
    return Cell(text=str(text), title=title)


def number_cell(text: str, value: float | None) -> Cell:
    """A cell that shows `text` and sorts by `value`."""
    return Cell(text=text, sort=value, numeric=True)
