"""Floorplan: package outline, sites and chips to one scale, with a scale bar in millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from reports.format import metric, shorten
from reports.plots.style import CARD, FAINT, INK, MUTED, fits, house_style, new_canvas, series, to_svg
from reports.records import DetailChip, DetailPackage

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Room for one chip: lower left corner and size."""

    number: int
    x_mm: float
    y_mm: float
    width_mm: float
    height_mm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Floorplan:
    """What the floorplan shows; `colours` are by chip type. `sites` is empty where the geometry is not known."""

    package: DetailPackage
    chips: Sequence[DetailChip]
    sites: Sequence[Site]
    colours: dict[str, int]


def draw_floorplan(info: Floorplan) -> Markup:
    """Draw everything to scale."""
    from matplotlib.patches import Circle, Patch, Rectangle

    package = info.package
    # The corner of a rectangle is the origin, the centre of a disc is.
    x0, y0 = (-package.width_mm / 2, -package.height_mm / 2) if package.shape == "disc" else (0.0, 0.0)
    left = min([x0, *(chip.x_mm for chip in info.chips)])
    bottom = min([y0, *(chip.y_mm for chip in info.chips)])
    right = max([x0 + package.width_mm, *(chip.x_mm + chip.width_mm for chip in info.chips)])
    top = max([y0 + package.height_mm, *(chip.y_mm + chip.height_mm for chip in info.chips)])
    scale = min(7.6 / (right - left), 5.6 / (top - bottom))  # inches a millimetre
    margin = 0.2 / scale
    foot = 0.45 / scale
    small = any(fits(chip.name, chip.width_mm * scale - 0.1) < len(chip.name) for chip in info.chips)
    head = 0.3 / scale if small else 0.0  # room for a legend where names do not fit into the chips
    tips: dict[str, str] = {}
    with house_style():
        figure, axes = new_canvas(right - left + 2 * margin, top - bottom + 2 * margin + foot + head, scale)
        axes.set_xlim(left - margin, right + margin)
        axes.set_ylim(bottom - margin - foot, top + margin + head)
        outline = (
            Circle((0, 0), package.width_mm / 2)
            if package.shape == "disc"
            else Rectangle((0, 0), package.width_mm, package.height_mm)
        )
        outline.set(facecolor=CARD, edgecolor=MUTED, linewidth=1.4)
        axes.add_patch(outline)
        for site in info.sites:
            place = Rectangle((site.x_mm, site.y_mm), site.width_mm, site.height_mm)
            place.set(facecolor="none", edgecolor=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.add_patch(place)
            taken = any(_overlap(site, chip) for chip in info.chips)
            if not taken and site.width_mm * scale > 0.5:
                middle = (site.x_mm + site.width_mm / 2, site.y_mm + site.height_mm / 2)
                axes.text(*middle, f"slot {site.number}", fontsize=8, ha="center", va="center", color=FAINT)
        for chip in info.chips:
            colour = series(info.colours.get(chip.name, 0))
            box = Rectangle((chip.x_mm, chip.y_mm), chip.width_mm, chip.height_mm)
            box.set(facecolor=colour, alpha=0.2, linewidth=0)
            frame = Rectangle((chip.x_mm, chip.y_mm), chip.width_mm, chip.height_mm)
            frame.set(facecolor="none", edgecolor=colour, linewidth=1.4)
            frame.set_gid(f"chip-{chip.slot}")
            power = metric("power_w", chip.power_w)
            size = f"{chip.width_mm:.4g} × {chip.height_mm:.4g} mm" + (", rotated" if chip.rotated else "")
            tips[f"chip-{chip.slot}"] = f"slot {chip.slot}: {chip.name}, {size}, {power}"
            axes.add_patch(box)
            axes.add_patch(frame)
            _label(axes, chip, f"slot {chip.slot}", power, size, scale)
        if small:
            names = {chip.name: info.colours.get(chip.name, 0) for chip in info.chips}
            handles = [Patch(facecolor=series(index), label=shorten(name, 30)) for name, index in names.items()]
            figure.legend(handles=handles, loc="upper left", ncols=4)
        length = _round_length((right - left) / 4)
        y = bottom - margin / 2 - foot / 2
        axes.plot([left, left + length], [y, y], color=INK, linewidth=2, solid_capstyle="butt")
        axes.text(left + length + 0.08 / scale, y, f"{length:g} mm", va="center", fontsize=8.5)
        outline_text = f"{package.kind} {package.width_mm:.4g} × {package.height_mm:.4g} mm".strip()
        if package.shape == "disc":
            outline_text = f"{package.kind}, diameter {package.width_mm:.4g} mm"
        axes.text(right, y, outline_text, va="center", ha="right", fontsize=8.5, color=MUTED)
        description = f"Floorplan of package {package.name} with {len(info.chips)} chips, to scale"
        return to_svg(figure, name="floorplan", description=description, tips=tips)


def _label(axes: Axes, chip: DetailChip, slot: str, power: str, size: str, scale: float) -> None:
    """Write name, slot with power, and size into a chip; into one too small for its name only the slot."""
    wide, high = chip.width_mm * scale, chip.height_mm * scale
    together = f"{slot} · {power}"
    places = [together] if fits(together, wide - 0.1, 8.0) >= len(together) else [slot, power]
    lines = [(chip.name, 9.0, INK), *((place, 8.0, MUTED) for place in places), (size, 8.0, MUTED)][
        : max(0, int((high - 0.08) / 0.17))
    ]
    if any(fits(line, wide - 0.1, points) < min(len(line), 12) for line, points, _ in lines):
        lines = [(str(chip.slot), 8.0, INK)] if wide > 0.25 and high > 0.2 else []
    for position, (line, points, shade) in enumerate(lines):
        x, y = chip.x_mm + chip.width_mm / 2, chip.y_mm + chip.height_mm / 2
        y += ((len(lines) - 1) / 2 - position) * 0.17 / scale
        text = shorten(line, fits(line, wide - 0.1, points))
        axes.text(x, y, text, fontsize=points, ha="center", va="center", color=shade)


def _overlap(site: Site, chip: DetailChip) -> bool:
    return (
        site.x_mm < chip.x_mm + chip.width_mm
        and chip.x_mm < site.x_mm + site.width_mm
        and site.y_mm < chip.y_mm + chip.height_mm
        and chip.y_mm < site.y_mm + site.height_mm
    )


def _round_length(about_mm: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is at most `about_mm`."""
    from math import floor, log10

    power = 10.0 ** floor(log10(about_mm))
    return next(step * power for step in (5.0, 2.0, 1.0) if step * power <= about_mm)
