"""Block diagram: chips in their slots, what runs on them, and the traffic between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from reports.format import clip, percent, prefixed, shorten
from reports.plots.style import ACCENT, CARD, FAINT, INK, MUTED, fits, house_style, new_canvas, series, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockChip:
    """A chip at a column and row of the diagram; rows count from the bottom."""

    slot: int
    name: str
    column: float
    row: float
    lines: Sequence[str]  # what is written under its name
    utilisation: float
    colour: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSlot:
    """A slot without a chip, at a column and row of the diagram."""

    slot: int
    column: float
    row: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLink:
    """A directed link with traffic."""

    source: int
    target: int
    bytes: float
    utilisation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDiagram:
    """What the diagram shows. Columns and rows are ranks of the chips' positions, not millimetres."""

    chips: Sequence[BlockChip]
    links: Sequence[BlockLink]
    empty: Sequence[BlockSlot] = ()  # that links lead through
    columns: int
    rows: int


def draw_block_diagram(info: BlockDiagram) -> Markup:
    """Draw the chips as boxes, filled from below by their utilisation, with an arrow a directed link."""
    from matplotlib.patches import FancyArrowPatch, Rectangle

    dense = len(info.chips) > 16
    box_w, box_h = (1.3, 0.75) if dense else (2.45, 1.55)
    gap_x, gap_y = (0.7, 0.55) if dense else (1.45, 0.95)
    width = info.columns * box_w + (info.columns - 1) * gap_x + 0.3
    height = info.rows * box_h + (info.rows - 1) * gap_y + 0.3
    tips: dict[str, str] = {}
    with house_style():
        figure, axes = new_canvas(width, height)
        places: list[BlockChip | BlockSlot] = [*info.chips, *info.empty]
        corner = {
            place.slot: (0.15 + place.column * (box_w + gap_x), 0.15 + place.row * (box_h + gap_y)) for place in places
        }
        label_box = {"facecolor": CARD, "edgecolor": "none", "pad": 0.5}
        largest = max((link.bytes for link in info.links), default=1.0) or 1.0
        pairs = {(link.source, link.target) for link in info.links}
        for link in info.links:
            if link.source not in corner or link.target not in corner:
                continue
            both = (link.target, link.source) in pairs
            start, end, label, align, bend = _arrow(corner[link.source], corner[link.target], box_w, box_h, both)
            arrow = FancyArrowPatch(
                start,
                end,
                arrowstyle="-|>",
                connectionstyle=f"arc3,rad={bend}",
                mutation_scale=11,
                shrinkA=1,
                shrinkB=1,
                linewidth=0.9 + 2.4 * (link.bytes / largest) ** 0.5,
                color=ACCENT if link.utilisation > 0.5 else MUTED,
            )
            arrow.set_gid(f"link-{link.source}-{link.target}")
            tips[f"link-{link.source}-{link.target}"] = (
                f"slot {link.source} to slot {link.target}: {prefixed(link.bytes, 'B')}, "
                f"busy {percent(link.utilisation)} of the time"
            )
            axes.add_patch(arrow)
            if not dense:
                text = f"{prefixed(link.bytes, 'B')}\n{percent(link.utilisation)} busy"
                axes.text(*label, text, fontsize=7.5, color=MUTED, zorder=4, bbox=label_box, **align)
        for slot in info.empty:
            x, y = corner[slot.slot]
            frame = Rectangle((x, y), box_w, box_h, facecolor=CARD, edgecolor=FAINT, linestyle=(0, (4, 3)))
            axes.add_patch(frame)
            text = f"slot {slot.slot}, empty"
            axes.text(x + box_w / 2, y + box_h / 2, text, fontsize=7.5, ha="center", va="center", color=MUTED)
        for chip in info.chips:
            x, y = corner[chip.slot]
            axes.add_patch(Rectangle((x, y), box_w, box_h, facecolor=CARD, edgecolor="none"))
            fill = min(max(chip.utilisation, 0.0), 1.0) * box_h
            axes.add_patch(Rectangle((x, y), box_w, fill, facecolor=series(chip.colour), alpha=0.14, linewidth=0))
            axes.add_patch(
                Rectangle((x, y), box_w, box_h, facecolor="none", edgecolor=series(chip.colour), linewidth=1.4)
            )
            _label(axes, chip, (x, y + box_h), box_w, dense)
        description = f"Block diagram of {len(info.chips)} chips and {len(info.links)} links with traffic"
        return to_svg(figure, name="blocks", description=description, tips=tips)


def _label(axes: Axes, chip: BlockChip, top_left: tuple[float, float], width: float, dense: bool) -> None:
    """Write name, slot and lines into a box, cut to its width; in a small box only name, slot and first line."""
    x, y = top_left
    if dense:
        rows = [
            (chip.name, 8.0, INK),
            (f"slot {chip.slot}", 7.0, MUTED),
            *((line, 7.0, MUTED) for line in chip.lines[:1]),
        ]
        for position, (line, points, colour) in enumerate(rows):
            text = (clip if position else shorten)(line, fits(line, width - 0.16, points))
            axes.text(x + 0.08, y - 0.09 - 0.2 * position, text, fontsize=points, va="top", color=colour)
        return
    room = width - 0.24
    name = shorten(chip.name, fits(chip.name, room - 0.55, 10))
    axes.text(x + 0.12, y - 0.12, name, fontsize=10, fontweight="bold", va="top", color=INK)
    axes.text(x + width - 0.1, y - 0.13, f"slot {chip.slot}", fontsize=7.5, va="top", ha="right", color=MUTED)
    for position, line in enumerate(chip.lines[:6]):
        text = clip(line, fits(line, room, 8))
        colour = INK if position == 0 else MUTED
        axes.text(x + 0.12, y - 0.42 - 0.18 * position, text, fontsize=8, va="top", color=colour)


def _arrow(
    source: tuple[float, float], target: tuple[float, float], box_w: float, box_h: float, both: bool
) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float], dict[str, Any], float]:
    """Start, end, place of the label, its alignment, and the bend of an arrow from box to box.

    Two directions run side by side; an arrow that would pass behind a third box bends around it; the labels of
    slanted ones stand away from the middle, so that crossing arrows keep theirs apart.
    """
    dx, dy = target[0] - source[0], target[1] - source[1]
    side = 0.24 if both else 0.0
    slanted = abs(dx) > 1e-9 and abs(dy) > 1e-9
    along = (0.3 if dx * dy > 0 else 0.7) if slanted else 0.5
    if abs(dx) >= abs(dy):
        forward = 1 if dx > 0 else -1
        start = (source[0] + (box_w if forward > 0 else 0), source[1] + box_h / 2 + forward * side)
        end = (target[0] + (0 if forward > 0 else box_w), target[1] + box_h / 2 + forward * side)
        below = both and forward < 0
        offset, align = (0.0, -0.06 if below else 0.06), {"ha": "center", "va": "top" if below else "bottom"}
        far = abs(dx) > 2.5 * box_w
    else:
        upward = 1 if dy > 0 else -1
        start = (source[0] + box_w / 2 + upward * side, source[1] + (box_h if upward > 0 else 0))
        end = (target[0] + box_w / 2 + upward * side, target[1] + (0 if upward > 0 else box_h))
        left = both and upward < 0
        offset, align = (-0.08 if left else 0.08, 0.0), {"ha": "right" if left else "left", "va": "center"}
        far = abs(dy) > 2.5 * box_h
    place = (start[0] + along * (end[0] - start[0]) + offset[0], start[1] + along * (end[1] - start[1]) + offset[1])
    if slanted:
        align = {"ha": "center", "va": "center"}
    return start, end, place, align, 0.25 if far and not slanted else 0.0
