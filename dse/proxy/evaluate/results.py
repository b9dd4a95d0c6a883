"""Results of an evaluation: frames of scores, one object for machines, CSV, and markdown for the model card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dse.proxy.evaluate.llmcompass import beside_llmcompass
from dse.proxy.evaluate.predictor import REFERENCE
from dse.proxy.evaluate.run import Outcome
from dse.proxy.evaluate.scores import ALL, SCORES, pooled, worse_cells
from dse.store import to_json, write_atomically

RANKS = {
    "rank_correlation": "mean over bags of operators of Spearman's correlation of devices, predicted and measured",
    "pairs_right": "pairs of a judged and another device, within a factor of 2, ordered as measured, %",
}

JSON_FILE, CSV_FILE, MARKDOWN_FILE = "evaluation.json", "scores.csv", "evaluation.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything that outcomes say, as frames; columns in percent are named *_ape, bias, coverage, pairs_right."""

    scores: pd.DataFrame  # split, predictor, device, op_type, then SCORES
    fits: pd.DataFrame  # split, predictor: rows and seconds of the fit, ranks of designs
    pooled: pd.DataFrame  # device:* and family:*, see dse.proxy.evaluate.scores.pooled
    worse: pd.DataFrame  # cells on which a predictor is worse than the fitted roofline
    llmcompass: pd.DataFrame

    @property
    def summary(self) -> pd.DataFrame:
        """A row a split and predictor: the scores over all rows, and the ranks."""
        whole = self.scores[(self.scores["device"] == ALL) & (self.scores["op_type"] == ALL)]
        return whole.drop(columns=["device", "op_type"]).merge(self.fits, on=["split", "predictor"])

    def to_dict(self) -> dict[str, Any]:
        """Return lists of plain records; numbers that are not known are None."""
        frames = {"summary": self.summary, "pooled": self.pooled, "worse_than_reference": self.worse}
        frames |= {"llmcompass": self.llmcompass, "scores": self.scores}
        return {"reference": REFERENCE} | {name: _records(frame) for name, frame in frames.items()}


def gather(outcomes: Sequence[Outcome]) -> Evaluation:
    """Join the frames of outcomes."""
    scores = pd.concat([outcome.scores for outcome in outcomes], ignore_index=True)
    fits = [
        {
            "split": outcome.split,
            "predictor": outcome.predictor,
            "fitted_rows": outcome.fitted_rows,
            "judged_rows": outcome.judged_rows,
            "fit_s": outcome.fit_s,
            "predict_s": outcome.predict_s,
            "bags": outcome.ranks.bags,
            "rank_correlation": outcome.ranks.spearman,
            "pairs": outcome.ranks.pairs,
            "pairs_right": outcome.ranks.pairs_right,
        }
        for outcome in outcomes
    ]
    return Evaluation(
        scores=scores,
        fits=pd.DataFrame(fits),
        pooled=pooled([(outcome.split, outcome.predictor, outcome.errors) for outcome in outcomes]),
        worse=worse_cells(scores),
        llmcompass=beside_llmcompass(scores),
    )


def write(evaluation: Evaluation, folder: Path, about: dict[str, Any]) -> list[Path]:
    """Write evaluation.json (with what `about` says of the run), scores.csv and evaluation.md; returns their paths.

    Each file is whole or not there. Raises DseError where one cannot be written.
    """
    texts = {
        JSON_FILE: to_json(about | evaluation.to_dict()),
        CSV_FILE: evaluation.scores.to_csv(index=False, lineterminator="\n"),
        MARKDOWN_FILE: markdown(evaluation),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_atomically(path, text)
    return paths


def markdown(evaluation: Evaluation) -> str:
    """Return the tables of a model card: median errors by split, then by operator and device for each split."""
    summary = evaluation.summary
    parts = ["## Median absolute error of latency, %", _pivot(summary, "split", "median_ape")]
    if len(evaluation.pooled):
        parts += ["## Each left out in turn", _frame(evaluation.pooled)]
    columns = ["split", "predictor", *SCORES, "rank_correlation", "pairs_right"]
    parts += ["## All scores", _frame(summary[columns])]
    parts += ["\n".join(f"- {name}: {meaning}." for name, meaning in (SCORES | RANKS).items())]
    for split in dict.fromkeys(evaluation.scores["split"]):
        of_split = evaluation.scores[evaluation.scores["split"] == split]
        for by, other in (("op_type", "device"), ("device", "op_type")):
            cells = of_split[(of_split[other] == ALL) & (of_split[by] != ALL)]
            if cells[by].nunique() > 1:
                parts += [f"## {split}: median error by {by}, %", _pivot(cells, by, "median_ape")]
    if len(evaluation.llmcompass):
        parts += ["## LLMCompass's A100 operators: mean error, %", _frame(evaluation.llmcompass)]
    if (evaluation.scores["predictor"] == REFERENCE).any():
        parts += [f"## Cells of 100 rows or more that are worse than {REFERENCE}"]
        counts = evaluation.worse.groupby(["split", "predictor"]).size().reset_index(name="cells")
        parts += [_frame(counts) if len(counts) else "None."]
    return "\n\n".join(part for part in parts if part) + "\n"


def _pivot(scores: pd.DataFrame, by: str, value: str) -> str:
    """One row a `by`, its rows, and a column a predictor, in the order of their first appearance."""
    predictors = list(dict.fromkeys(scores["predictor"]))
    found = []
    for name, part in scores.groupby(by, sort=False):
        values = part.set_index("predictor")[value].reindex(predictors)
        found.append((name, int(part["rows"].max()), *values))
    return markdown_table([by, "rows", *predictors], found)


def _frame(frame: pd.DataFrame) -> str:
    return markdown_table([str(name) for name in frame.columns], frame.itertuples(index=False))


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown; numbers with one decimal, or three digits below one."""
    lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.3g}" if abs(value) < 1 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    plain = frame.astype(object).where(frame.notna(), None)
    return [dict(zip(map(str, plain.columns), row, strict=True)) for row in plain.itertuples(index=False)]
