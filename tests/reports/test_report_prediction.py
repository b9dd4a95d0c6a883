"""How far the latencies can be trusted, as the page and the tables beside it tell it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from reports.blocks import Fold, Table, Text
from reports.export import write_tables
from reports.run import read_run
from reports.section import NotApplicable
from reports.sections.bottlenecks import bottleneck_info, draw_bottlenecks
from reports.sections.front import draw_front_section, front_info
from reports.sections.prediction import draw_prediction, prediction_info
from reports.sections.summary import summary_info


def test_the_section_names_model_software_data_and_what_is_outside(shared_run: Path) -> None:
    run = read_run(shared_run)
    blocks = draw_prediction(prediction_info(run))
    text = " ".join(block.text for block in blocks if isinstance(block, Text))
    for said in ("model learned", "1,009,524", "90 %", "torch2.1.0", "cuda_event_min5of25", "0123456789abcdef"):
        assert said in text, said
    warnings = [block.text for block in blocks if isinstance(block, Text) and block.tone == "warning"]
    names = [row.chip for row in run.summary.prediction.outside]
    assert len(warnings) == 1 and names[0] in warnings[0] and names[1] not in warnings[0]
    chips, cases = (block for block in blocks if isinstance(block, Table))
    assert [row.cells[0].text for row in chips.rows] == names
    assert "was not measured on chips of its maker" in cases.rows[0].cells[-1].text
    (fold,) = (block for block in blocks if isinstance(block, Fold))
    assert [row.cells[0].text for row in fold.blocks[0].rows] == ["lab", "own"]


def test_figures_of_latency_come_with_their_interval(shared_run: Path) -> None:
    run = read_run(shared_run)
    (front,) = (block for block in draw_front_section(front_info(run)) if isinstance(block, Table))
    place = front.columns.index("Latency, interval [ms]")
    assert all(" to " in row.cells[place].text for row in front.rows)
    (segments,) = (block for block in draw_bottlenecks(bottleneck_info(run)) if isinstance(block, Table))
    assert all(" to " in row.cells[segments.columns.index("Interval [ms]")].text for row in segments.rows)
    info = summary_info(run)
    assert info.timed == "latency_ms"
    assert any("90 % interval" in sentence and "40 % of its layers' time" in sentence for sentence in info.sentences)


def test_the_tables_beside_the_page_hold_the_ends(make_run: Callable[..., Path]) -> None:
    folder = make_run(designs=40)
    write_tables(folder)
    for table in (pd.read_csv(folder / "front.csv"), pd.read_parquet(folder / "front.parquet")):
        assert table["latency_ms_low"].to_numpy() == pytest.approx(0.5 * table["latency_ms"].to_numpy())
        assert table["latency_ms_high"].to_numpy() == pytest.approx(3.0 * table["latency_ms"].to_numpy())


def test_a_model_that_was_not_fitted_has_nothing_to_tell(make_run: Callable[..., Path]) -> None:
    folder = make_run(designs=40)
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    del summary["prediction"]  # as older folders are
    for point in summary["front"]:
        del point["intervals"]
    path.write_text(json.dumps(summary | {"model": "roofline"}))
    run = read_run(folder)
    with pytest.raises(NotApplicable, match="roofline was not fitted"):
        prediction_info(run)
    (front,) = (block for block in draw_front_section(front_info(run)) if isinstance(block, Table))
    assert not any("interval" in column for column in front.columns)
    assert summary_info(run).timed == ""
