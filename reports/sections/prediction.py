"""How far the latencies can be trusted: model, software, data, intervals, and what lies outside of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dse.proxy.model import REASONS
from reports.analysis import trust
from reports.blocks import Block, Fold, Row, Table, Text, number_cell, text_cell
from reports.format import count, kind_label, number, percent
from reports.records import DesignPrediction, OutsideChip, StudyPrediction
from reports.run import Run
from reports.section import NotApplicable, Section

SHORT = {
    "chip": "new maker",
    "operator": "new operator",
    "numbers": "new number type",
    "size": "larger",
    "rates": "other rates",
}
"""Labels of dse.proxy.model.Outside as headings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionInfo:
    """The study's prediction, and that of the knee."""

    study: StudyPrediction
    knee: DesignPrediction | None


def prediction_info(run: Run) -> PredictionInfo:
    """Gather both; a model that was not fitted has nothing to show."""
    if run.summary is None:
        raise NotApplicable("summary.json is missing or damaged.")
    study = run.summary.prediction
    if not study.data:
        model = f"The layer cost model {run.summary.model}" if run.summary.model else "The layer cost model"
        raise NotApplicable(f"{model} was not fitted to measurements: it gives no interval, and no software is named.")
    return PredictionInfo(study=study, knee=run.knee_detail.prediction if run.knee_detail else None)


def draw_prediction(info: PredictionInfo) -> list[Block]:
    """What it rests on, what it speaks for, what is outside of it."""
    study = info.study
    coverage = percent(study.coverage)
    text = (
        f"Latencies are predicted by the model {study.model}, fitted to {number(sum(study.data.values()))} measured "
        f"operators (weights {study.fingerprint}). An interval should hold {coverage} of what is measured. That of a "
        "segment or a design takes all of its layers at the same end of theirs: predictions for a chip are mostly off "
        "to the same side, and where they are not the interval is wider than it need be. What links do, and energy, "
        "have no interval."
    )
    blocks: list[Block] = [Text(text=text), Text(text=f"They speak for {_software(study)}.")]
    if study.calibrated:
        blocks.append(Text(text=f"Calibrated to measurements of {', '.join(study.calibrated)}."))
    strange = list(dict.fromkeys(row.chip for row in study.outside if "chip" in row.reasons))
    if strange:
        said = f"{count(len(strange), 'chip')} of the space: {', '.join(strange)}"
        text = f"Outside of the data, because nothing of their maker and kind was measured: {said}. "
        text += "They are predicted from their datasheets alone, and the intervals are guesses."
        blocks.append(Text(text=text, tone="warning"))
    if study.outside:
        blocks.append(_chips(study.outside))
    if info.knee is not None:
        blocks.append(Text(text=trust(info.knee).replace("Its", "Of the recommended design: its", 1)))
        if info.knee.outside.cases:
            blocks.append(_cases(info.knee))
    rows = [Row(cells=[text_cell(name), number_cell(number(rows), rows)]) for name, rows in study.data.items()]
    caption = "Measured operators by source. The model card beside the weights names repositories, licences and errors."
    blocks.append(Fold(title="The data", blocks=(Table(columns=["Source", "Operators"], rows=rows, caption=caption),)))
    return blocks


def _software(study: StudyPrediction) -> str:
    """The software of each chip, chips of one software together."""
    chips: dict[str, list[str]] = {}
    for chip, software in study.software.items():
        chips.setdefault(f"{software.framework}, timed by {software.timer}", []).append(chip)
    return "; ".join(text if len(chips) == 1 else f"{text} ({', '.join(names)})" for text, names in chips.items())


def _chips(outside: Sequence[OutsideChip]) -> Table:
    reasons = [name for name in REASONS if any(name in row.reasons for row in outside)]
    rows = [
        Row(
            cells=[
                text_cell(row.chip),
                text_cell(row.precision),
                number_cell(number(row.batch), row.batch),
                number_cell(percent(row.share), row.share),
                *(number_cell(percent(row.reasons.get(name, 0.0)), row.reasons.get(name, 0.0)) for name in reasons),
            ]
        )
        for row in outside
    ]
    columns = ["Chip", "Precision", "Batch", "Outside of the data", *(SHORT.get(name, name) for name in reasons)]
    caption = f"Share of the workload's time on each chip that lies outside of the data, and why. {_legend(reasons)}"
    return Table(columns=columns, rows=rows, caption=caption, sortable=True, tall=len(rows) > 12)


def _cases(knee: DesignPrediction) -> Table:
    rows = [
        Row(
            cells=[
                text_cell(case.chip),
                text_cell(kind_label(case.kind)),
                number_cell(number(case.layers), case.layers),
                number_cell(percent(case.share), case.share),
                text_cell("; ".join(REASONS.get(name, name) for name in case.reasons)),
            ]
        )
        for case in knee.outside.cases
    ]
    caption = "Layers of the recommended design that lie outside of the data, by chip and kind."
    columns = ["Chip", "Layers of", "Layers", "Share of time", "Why"]
    return Table(columns=columns, rows=rows, caption=caption, sortable=True, tall=len(rows) > 12)


def _legend(reasons: Sequence[str], words: Mapping[str, str] = REASONS) -> str:
    return "; ".join(f"{SHORT.get(name, name)}: {words[name]}" for name in reasons) + "."


SECTION = Section(
    key="prediction", title="How far to trust the latencies", order=25, info=prediction_info, draw=draw_prediction
)
