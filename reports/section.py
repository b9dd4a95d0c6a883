"""Section: one part of the page. A file under reports/sections/ that sets SECTION is found and shown."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, Literal, TypeVar
from warnings import warn

import reports.sections
from reports.blocks import Block
from reports.run import Run

Info = TypeVar("Info")


class NotApplicable(Exception):
    """Raised by a section's `info` with the reason why this run cannot show it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section(Generic[Info]):
    """One part of the page: `info` gathers the figures from the run, `draw` makes blocks of them."""

    key: str  # anchor on the page, unique
    title: str
    order: int  # place on the page
    info: Callable[[Run], Info]
    draw: Callable[[Info], Sequence[Block]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A section as drawn, or the reason why it is not."""

    key: str
    title: str
    state: Literal["drawn", "not_applicable", "failed"]
    blocks: Sequence[Block] = ()
    reason: str = ""


def all_sections() -> list[Section[Any]]:
    """Every section of reports/sections/ and of the entry points `chipfront.report_sections`, in the page's order."""
    modules = [
        import_module(f"reports.sections.{found.name}") for found in pkgutil.iter_modules(reports.sections.__path__)
    ]
    sections: list[Section[Any]] = [module.SECTION for module in modules if hasattr(module, "SECTION")]
    for point in entry_points(group="chipfront.report_sections"):
        try:
            sections.append(point.load())
        except Exception as error:
            warn(f"report section {point.name} of {point.value} does not load: {error}", stacklevel=2)
    return sorted(sections, key=lambda section: section.order)


def draw_section(section: Section[Any], run: Run) -> Card:
    """Draw one section. One that fails becomes a card that says so: the rest of the page is still worth having."""
    try:
        return Card(key=section.key, title=section.title, state="drawn", blocks=section.draw(section.info(run)))
    except NotApplicable as why:
        return Card(key=section.key, title=section.title, state="not_applicable", reason=str(why))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return Card(key=section.key, title=section.title, state="failed", reason=reason)
