"""What commands print: JSON that any parser reads, numbers that people read, progress that does not flood a log."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dse.cli.output import emit_json, number, print_table
from dse.cli.progress import describe, show_progress
from dse.study import Progress

PROGRESS = Progress(
    phase="search",
    done=1200,
    total=2000,
    infeasible=7,
    failed=3,
    open_unmapped=400,
    epsilon=0.125,
    hypervolume=0.75,
    wall_s=12.0,
    eta_s=4.0,
)


@given(st.floats(min_value=1e-3, max_value=1e8) | st.floats(min_value=-1e8, max_value=-1e-3))
def test_numbers_are_right_to_four_digits(value: float) -> None:
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=5.1e-4)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (float("inf"), "-"),
        (True, "yes"),
        (11_689_512, "11,689,512"),
        (0.0, "0"),
        (100.0, "100"),
        (1234.5678, "1,235"),
        (0.012347, "0.01235"),
        (6.24e14, "6.240e+14"),
        ("big_core", "big_core"),
    ],
)
def test_cells(value: object, shown: str) -> None:
    assert number(value) == shown


def test_json_holds_plain_finite_values(capsys: pytest.CaptureFixture[str]) -> None:
    answer = {
        "array": np.arange(3),
        "scalar": np.float64(2.5),
        "infinite": float("inf"),
        "nested": [{"nan": np.float64("nan")}, (1, True, None)],
        "units": {np.int64(3): "three"},
    }
    emit_json(answer)
    assert json.loads(capsys.readouterr().out) == {
        "array": [0, 1, 2],
        "scalar": 2.5,
        "infinite": None,
        "nested": [{"nan": None}, [1, True, None]],
        "units": {"3": "three"},
    }


def test_progress_names_what_matters() -> None:
    line = describe(PROGRESS)
    for text in ("1,200 of 2,000", "12 s", "3 failed", "4 s left", "12.5 %", "0.75", "400 open", "7 infeasible"):
        assert text in line


def test_progress_off_a_terminal_is_a_line_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress() as report:
        for _ in range(1000):
            report(PROGRESS)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize(("width", "shown"), [(80, "name long  short"), (24, "name short")])
def test_spare_columns_are_left_out_where_they_do_not_fit(
    width: int, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dse.cli.output.PIPE_WIDTH", width)
    print_table(("name", "long", "short"), [("a" * 9, 10**9, 1)], spare=("long",))
    assert capsys.readouterr().out.splitlines()[1].split() == shown.split()
