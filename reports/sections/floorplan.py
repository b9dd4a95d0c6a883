"""The knee's floorplan, to scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot
from typing import Any

from reports.analysis import chip_colours
from reports.blocks import Block, Figure, Row, Table, number_cell, text_cell
from reports.format import count, metric, number, percent
from reports.plots.floorplan import Floorplan, Site, draw_floorplan
from reports.records import Detail, DetailChip, DetailPackage
from reports.run import Run
from reports.section import NotApplicable, Section
from reports.sections import knee_detail


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorplanInfo:
    """The drawing, and the point it is of."""

    plan: Floorplan
    detail: Detail


def floorplan_info(run: Run) -> FloorplanInfo:
    """Gather outline, chips and, where the library gives the grid of slots, the sites."""
    detail = knee_detail(run)
    if detail.package is None:
        raise NotApplicable("The timeline file of the knee describes no package.")
    if not detail.chips:
        raise NotApplicable("The timeline file of the knee lists no chips.")
    sites = package_sites(run, detail.package)
    plan = Floorplan(package=detail.package, chips=detail.chips, sites=sites, colours=chip_colours(detail))
    return FloorplanInfo(plan=plan, detail=detail)


def package_sites(run: Run, package: DetailPackage) -> list[Site]:
    """The slots of a package; empty where the library does not give their grid."""
    sheets = run.library.packages if run.library else []
    return _sites(next((sheet for sheet in sheets if sheet.get("name") == package.name), {}), package)


def _sites(sheet: Mapping[str, Any], package: DetailPackage) -> list[Site]:
    """The slots of the package's datasheet: a grid about its middle, row by row from the lower left.

    On a disc only those count whose corners lie inside the edge exclusion. Empty where a figure is missing.
    """
    keys = ("rows", "columns", "slot_width_mm", "slot_height_mm", "spacing_mm", "edge_mm")
    values = [sheet.get(key) for key in keys]
    if not all(isinstance(value, int | float) for value in values):
        return []
    rows, columns, width, height, spacing, edge = (float(value) for value in values if value is not None)
    disc = package.shape == "disc"
    middle_x, middle_y = (0.0, 0.0) if disc else (package.width_mm / 2, package.height_mm / 2)
    sites: list[Site] = []
    for row in range(int(rows)):
        for column in range(int(columns)):
            x, y = (column - (columns - 1) / 2) * (width + spacing), (row - (rows - 1) / 2) * (height + spacing)
            if not disc or hypot(abs(x) + width / 2, abs(y) + height / 2) <= package.width_mm / 2 - edge:
                left, bottom = middle_x + x - width / 2, middle_y + y - height / 2
                sites.append(Site(number=len(sites), x_mm=left, y_mm=bottom, width_mm=width, height_mm=height))
    return sites


def draw_floorplan_section(info: FloorplanInfo) -> list[Block]:
    """The drawing and the chips as a table."""
    package, chips = info.plan.package, info.detail.chips
    silicon = sum(chip.width_mm * chip.height_mm for chip in chips)
    outline = package.width_mm * package.height_mm * (0.7854 if package.shape == "disc" else 1.0)
    caption = f"Package {package.name} to scale: outline and chips with slot, mean power and size in millimetres."
    if info.plan.sites:
        caption += f" Dashed: its {count(len(info.plan.sites), 'slot')}."
    if outline > 0:
        caption += f" Chips cover {percent(silicon / outline)} of it."
    placement = info.detail.placement
    if placement is not None and placement.wirelength_byte_mm is not None:
        caption += (
            f" Placed by {placement.solver or 'an unnamed solver'}, traffic-weighted wire length "
            f"{number(placement.wirelength_byte_mm / 1e6)} MB·mm"
        )
        if placement.lower_bound is not None:
            caption += f" (lower bound {number(placement.lower_bound / 1e6)})"
        caption += "."
    rows = [_row(chip) for chip in chips]
    columns = ["Slot", "Chip", "x [mm]", "y [mm]", "Width [mm]", "Height [mm]", "Rotated", "Mean power [W]"]
    table = Table(columns=columns, rows=rows, caption="Lower left corners, after rotation.", tall=len(rows) > 12)
    return [Figure(svg=draw_floorplan(info.plan), caption=caption), table]


def _row(chip: DetailChip) -> Row:
    return Row(
        cells=[
            number_cell(str(chip.slot), chip.slot),
            text_cell(chip.name),
            number_cell(number(chip.x_mm), chip.x_mm),
            number_cell(number(chip.y_mm), chip.y_mm),
            number_cell(number(chip.width_mm), chip.width_mm),
            number_cell(number(chip.height_mm), chip.height_mm),
            text_cell("yes" if chip.rotated else "no"),
            number_cell(metric("power_w", chip.power_w, unit=False), chip.power_w),
        ]
    )


SECTION = Section(key="floorplan", title="Floorplan", order=40, info=floorplan_info, draw=draw_floorplan_section)
