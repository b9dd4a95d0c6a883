"""The page of a comparison: figures as compared, nothing loaded, everything escaped, the same bytes twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import reports
from dse.compare import Answer, Comparison
from dse.compared import Case, short_names
from reports.compare_page import render_comparison
from solvers.mapping.problem import Incumbent, MappingProblem

EVIL = "<img src=x onerror=alert(1)>"


def problem() -> MappingProblem:
    none = np.zeros((2, 2))
    return MappingProblem(
        compute_ms=np.ones((3, 2)), energy_mj=np.zeros((3, 2)), edges=np.array([[0, 1], [1, 2]]),
        edge_bytes=np.ones(2), route_latency_ms=none, route_ms_per_byte=none, route_mj_per_byte=none,
        route_links=np.zeros((2, 2, 0)), resident_bytes=np.ones(3), workspace_bytes=np.zeros(3),
        capacity_bytes=np.full(2, 9.0), allowed=np.ones((3, 2), dtype=bool), regime="pipelined",
    )  # fmt: skip


def answer(instance: str, solver: str, objective: float | None, bound: float, **more: Any) -> Answer:
    line = Incumbent(wall_s=0.5, objective=objective or np.inf, lower_bound=bound)
    fields: dict[str, Any] = {"seed": 0, "status": "feasible" if objective else "error", "wall_s": 1.5} | more
    gap = None if objective is None else (objective - bound) / objective
    return Answer(
        instance=instance, solver=solver, objective=objective, lower_bound=bound, gap=gap, history=(line,), **fields
    )


def comparison(*instances: str) -> tuple[Comparison, list[Case]]:
    cases = [
        Case(name=name, problem=problem(), unit="ms", source="workload", tell=lambda modes: {}) for name in instances
    ]
    answers = [
        a
        for number, name in enumerate(instances)
        for a in (
            answer(name, "quick", 12.5 + number, 10.0),
            answer(name, "exact", 12.0 + number, 11.25),
            answer(name, "broken", None, 0.0, reason=f"it failed {EVIL}"),
        )
    ]
    found = Comparison(
        answers=tuple(answers), problems={case.name: case.problem for case in cases}, best_known={instances[0]: 11.5},
        solvers=("quick", "exact", "broken"), seeds=(0,), deadline_s=10.0,
    )  # fmt: skip
    return found, cases


def test_the_page_loads_nothing_and_escapes_everything(tmp_path: Path) -> None:
    found, cases = comparison(f"folder/{EVIL.replace('/', '')}.json", "folder/b.json")
    path = reports.write_comparison(found, cases, tmp_path / "new" / "folder")
    page = path.read_text()
    assert page == render_comparison(found, cases)
    assert "<img" not in page
    assert page.count("&lt;img") >= 4
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", page)
    for text in ("quick", "exact", "it failed", "12.5", "11.25", "Anytime curves"):
        assert text in page
    assert page.count("<svg") == 3 + 2  # strips of objective, gap and time; curves of two problems
    frame = pd.read_parquet(path.with_name("rows.parquet"))
    assert frame["objective"].tolist()[:2] == [12.5, 12.0]
    assert np.isnan(frame["objective"][2])
    assert frame["to_best"][0] == pytest.approx(12.5 / 11.5 - 1)
    assert len(pd.read_csv(path.with_name("rows.csv"))) == 6


def test_the_best_is_marked_and_who_has_it_is_said() -> None:
    page = render_comparison(*comparison("a", "b", "c"))
    assert "exact has the best objective that any solver reached on 3 of 3 problems." in page
    assert page.count('class="badge">best') == 3


def test_a_bound_that_another_mapping_refutes_is_a_warning() -> None:
    found, cases = comparison("a")
    proud = answer("a", "proud", 13.0, 12.5)
    page = render_comparison(
        Comparison(
            answers=(*found.answers, proud), problems=found.problems, best_known={}, solvers=(*found.solvers, "proud"),
            seeds=(0,), deadline_s=1.0, interrupted=True,
        ),
        cases,
    )  # fmt: skip
    assert "proud claims a lower bound of 12.5 of a, and exact has a mapping of 12" in page
    assert "The comparison was interrupted" in page


def test_no_answer_at_all_is_still_a_page() -> None:
    found, cases = comparison("a")
    none = Comparison(
        answers=found.answers[2:], problems=found.problems, best_known={}, solvers=("broken",), seeds=(0,),
        deadline_s=1.0,
    )  # fmt: skip
    page = render_comparison(none, cases)
    assert "No solver found a mapping." in page
    assert "Solvers that gave no answer" in page


def test_names_are_the_shortest_ends_that_differ() -> None:
    assert short_names(["x/y/a.json", "x/z/b.txt"]) == {"x/y/a.json": "a", "x/z/b.txt": "b"}
    assert short_names(["x/y/a.json", "x/z/a.json"]) == {"x/y/a.json": "y/a", "x/z/a.json": "z/a"}
    assert short_names(["a.json", "a.txt"]) == {"a.json": "a.json", "a.txt": "a.txt"}  # not told apart without
    assert short_names(["resnet18 on p:a,b"]) == {"resnet18 on p:a,b": "resnet18 on p:a,b"}
