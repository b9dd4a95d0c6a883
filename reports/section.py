"""Section: one part of the page. A file under reports/sections/ that sets SECTION is found and shown."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, Literal, TypeVar

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
    """Every section found in reports/sections/, in the order of the page."""
    modules = [
        import_module(f"reports.sections.{found.name}") for found in pkgutil.iter_modules(reports.sections.__path__)
    ]
    return sorted(
        (module.SECTION for module in modules if hasattr(module, "SECTION")), key=lambda section: section.order
    )


def draw_section(section: Section[Any], run: Run) -> Card:
    """Draw one section. One that fails becomes a card that says so: the rest of the page is still worth having."""
    try:
        return Card(key=section.key, title=section.title, state="drawn", blocks=section.draw(section.info(run)))
    except NotApplicable as why:
        return Card(key=section.key, title=section.title, state="not_applicable", reason=str(why))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return Card(key=section.key, title=section.title, state="failed", reason=reason)
