"""The knee's floorplan, to scale."""

from __future__ import annotations

from dataclasses import dataclass

from reports.analysis import chip_colours
from reports.blocks import Block, Figure, Row, Table, number_cell, text_cell
from reports.format import metric, number, percent
from reports.plots.floorplan import Floorplan, draw_floorplan
from reports.records import Detail, DetailChip
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
    plan = Floorplan(package=detail.package, chips=detail.chips, sites=(), colours=chip_colours(detail))
    return FloorplanInfo(plan=plan, detail=detail)


def draw_floorplan_section(info: FloorplanInfo) -> list[Block]:
    """The drawing and the chips as a table."""
    package, chips = info.plan.package, info.detail.chips
    silicon = sum(chip.width_mm * chip.height_mm for chip in chips)
    outline = package.width_mm * package.height_mm * (0.7854 if package.shape == "disc" else 1.0)
    caption = f"Package {package.name} to scale: outline and chips with slot, mean power and size in millimetres."
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
