"""The page of a workload: figures as described, nothing loaded, everything escaped, the same bytes twice."""

from __future__ import annotations

import copy
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import reports
import workloads
from dse.errors import DseError
from reports.records import Workload
from reports.run import parse_record
from reports.workload_blocks import growth_blocks
from reports.workload_page import render_workload
from workloads.describe import describe_entry
from workloads.growth import GrowthPoint

EVIL = "<img src=x onerror=alert(1)>"


class Elements(HTMLParser):
    """Counts of elements and ids, references, handlers, rows of each table, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.references: list[str] = []
        self.handlers: list[str] = []
        self.rows: list[int] = []
        self.words: list[str] = []
        self.in_script = self.in_body = False
        self.feed(html)
        self.close()
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.in_script = tag in ("script", "style")
        if tag == "tbody":
            self.rows.append(0)
            self.in_body = True
        if tag == "tr" and self.in_body:
            self.rows[-1] += 1
        for name, value in attributes:
            self.ids[value or ""] += name == "id"
            self.references += [value or ""] if name in ("src", "href", "xlink:href") else []
            self.handlers += [name] if name.startswith("on") else []

    def handle_endtag(self, tag: str) -> None:
        self.in_script = False
        self.in_body = self.in_body and tag != "tbody"

    def handle_data(self, data: str) -> None:
        if not self.in_script:
            self.words.append(data)


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    """The net of the owner's table: with a specification, references and advice."""
    return describe_entry(workloads.load("bcctn-table"), workloads.entry("bcctn-table"))


@pytest.fixture(scope="module")
def html(described: dict[str, Any]) -> str:
    return render_workload(described)


def test_everything_described_is_on_the_page(described: dict[str, Any], html: str) -> None:
    page = Elements(html)
    for key in (
        "summary",
        "advice",
        "modules",
        "intensity",
        "memory",
        "specification",
        "references",
        "layers",
        "ledger",
    ):
        assert page.ids[key] == 1, key
    assert page.ids["growth"] == 0  # nothing was measured over lengths
    assert "4,278,912" in page.text
    assert "The rows of the specification add up to 7.64 GFLOPs, its total says 4.60" in page.text
    for advice in described["advice"]:
        for part in ("evidence", "measure", "gain"):
            assert re.sub(r"\s+", " ", advice[part]) in page.text
    for figure in described["reference"]:
        assert figure["note"] in page.text
    assert len(described["layers"]) in page.rows  # one table holds them all
    assert f"{len(described['layers'])} layers in program order" in page.text
    assert page.tags["svg"] == 3


def test_nothing_is_loaded_and_nothing_runs(html: str) -> None:
    page = Elements(html)
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert not page.handlers
    assert "default-src &#39;none&#39;" in html
    assert max(count for name, count in page.ids.items() if name) == 1
    targets = set(re.findall(r'\bid="([^"]+)"', html))
    used = set(re.findall(r'xlink:href="#([^"]+)"', html)) | set(re.findall(r'clip-path="url\(#([^)]+)\)"', html))
    assert used <= targets


def test_two_writes_give_the_same_bytes_and_leave_nothing_behind(described: dict[str, Any], tmp_path: Path) -> None:
    first = reports.write_workload(described, tmp_path / "a.html").read_bytes()
    assert reports.write_workload(described, tmp_path / "b.html").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_text_is_shown_not_run(described: dict[str, Any]) -> None:
    hostile = copy.deepcopy(described)
    hostile["name"] = EVIL
    hostile["layers"][0] |= {"module": EVIL, "operator": EVIL, "size": EVIL}
    hostile["advice"][0] |= {"evidence": EVIL, "where": [EVIL]}
    hostile["totals"]["by_module"][0]["name"] = EVIL
    hostile["specification"]["rows"][0] |= {"part": EVIL, "note": EVIL}
    html = render_workload(hostile)
    assert "<img" not in html
    assert EVIL in Elements(html).text


@pytest.mark.parametrize(
    "key", ["totals", "advice", "peak_memory", "specification", "reference", "seconds", "coverage"]
)
@pytest.mark.parametrize("value", [None, "nonsense", 3])
def test_what_is_missing_or_damaged_leaves_the_rest(
    described: dict[str, Any], key: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda _, file, **options: file.write("<svg></svg>"))
    page = Elements(render_workload(described | {key: value}))
    assert page.ids["layers"] == page.ids["ledger"] == 1
    assert page.ids["summary"] == 1


def test_what_is_no_workload_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(DseError) as error:
        reports.write_workload({"name": "nothing"}, tmp_path / "page.html")
    assert "describe" in error.value.hint
    assert not list(tmp_path.iterdir())


def test_growth_states_the_power(described: dict[str, Any]) -> None:
    def point(name: str, seconds: float, flops: float, peak: float) -> dict[str, Any]:
        return {
            "name": name,
            "seconds": seconds,
            "flops": flops,
            "peak_bytes": peak,
            "peak_bytes_with_scores": 2 * peak,
        }

    assert {"name", "seconds", "flops", "peak_bytes", "peak_bytes_with_scores"} <= set(GrowthPoint.__slots__)
    growth = [point("line", s, 5e9 * s, 1e6 * s) for s in (1.0, 10.0, 100.0)]
    growth += [point("square", s, 1e9 * s**2, 1e5 * s**2) for s in (1.0, 10.0, 100.0)]
    page = Elements(render_workload(described | {"growth": growth}))
    assert page.ids["growth"] == 1 and page.tags["svg"] == 4
    assert (
        "line: from 10.0 to 100 s FLOPs grow as the length to the power 1.00, peak memory to the power 1.00"
        in page.text
    )
    assert "square: from 10.0 to 100 s FLOPs grow as the length to the power 2.00" in page.text


def test_one_length_is_no_growth() -> None:
    workload = parse_record(
        Workload, {"growth": [{"name": "a", "seconds": 1.0, "flops": 1.0, "peak_bytes": 1.0}]}, "workload", []
    )
    assert workload is not None and growth_blocks(workload) == []


def test_a_training_step_says_what_its_memory_holds() -> None:
    page = Elements(render_workload(workloads.describe(workloads.load("resnet18", mode="train"))))
    assert "One training step (forward, backward, Adam) of resnet18" in page.text
    for part in ("gradients", "optimiser state", "backward", "optimizer"):
        assert part in page.text


def test_growth_with_stored_scores_has_a_power_of_its_own(described: dict[str, Any]) -> None:
    def point(seconds: float, scores: float) -> dict[str, Any]:
        return {
            "name": "a",
            "seconds": seconds,
            "flops": seconds,
            "peak_bytes": seconds,
            "peak_bytes_with_scores": scores,
        }

    both = {}
    for name, power in (("linear", 1), ("square", 2)):
        growth = [point(s, s**power) for s in (1.0, 10.0, 100.0)]
        both[name] = Elements(render_workload(described | {"growth": growth})).text
    assert "to the power 2.00 where attention stores its scores" in both["square"]
    assert "stores its scores" not in both["linear"].split("Dashed")[0]


@pytest.mark.parametrize(
    ("traced", "words"),
    [
        ((100, 100), "It has the 2 published figures."),
        ((100, 90), "It has 1 of 2 published figures; why the other"),
        ((80, 90), "It differs from the 2 published figures; why stands beside them."),
    ],
)
def test_the_summary_says_how_many_figures_agree(
    described: dict[str, Any], traced: tuple[int, int], words: str
) -> None:
    figures = [{"quantity": "macs", "value": 100, "traced": value, "source": "a paper"} for value in traced]
    assert words in Elements(render_workload(described | {"reference": figures})).text


def test_a_specification_without_flops_by_part_has_no_rule_to_count_by(described: dict[str, Any]) -> None:
    assert "Built, by its rule" in Elements(render_workload(described)).text
    silent = copy.deepcopy(described)
    for row in silent["specification"]["rows"]:
        row["claimed"]["flops"] = None
    assert "Built, by its rule" not in Elements(render_workload(silent)).text
