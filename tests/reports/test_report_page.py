"""The page: self-contained, complete, escaped, the same bytes twice, and written whatever is missing."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import reports
from dse.errors import DseError
from reports.page import render
from reports.plots.block_diagram import draw_block_diagram
from reports.plots.style import house_style
from reports.records import Detail, Summary
from reports.run import Run, parse_record, read_run
from reports.section import Section, all_sections, draw_section
from reports.sections.summary import summary_info
from reports.sections.system import system_info

VOID = {"meta", "link", "br", "img", "input", "hr", "path", "use"}
EVIL = "<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Elements, ids, text and references of a page; unbalanced tags are an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.references: list[str] = []
        self.handlers: list[str] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attributes:
            if name == "id":
                self.ids[value or ""] += 1
            if name in ("src", "href", "xlink:href", "action", "poster", "data", "srcset"):
                self.references.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open and self.open[-1] == "script" else self.text).append(data)


def written(folder: Path) -> tuple[str, Page]:
    html = reports.write(folder).read_text(encoding="utf-8")
    return html, Page(html)


@pytest.fixture(scope="module")
def page(shared_run: Path) -> Page:
    return Page(render(read_run(shared_run)))


@pytest.fixture
def without_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw figures but do not render them: that costs most, and knows nothing of what a file holds."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda _, file, **options: file.write("<svg></svg>"))


def test_everything_is_drawn_and_nothing_is_loaded(page: Page) -> None:
    for section in all_sections():
        assert page.ids[section.key] == 1
    text = " ".join(page.text)
    assert "could not be drawn" not in text
    assert "Not shown for this run" not in text
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert not page.handlers
    assert page.tags["iframe"] == page.tags["object"] == page.tags["embed"] == 0
    assert max(page.ids.values()) == 1, "ids are unique"
    style = re.findall(r"url\(([^)]*)\)", "".join(page.text))
    assert all(target.startswith(("#", "data:")) for target in style)


def test_every_drawing_reference_has_its_target(shared_run: Path) -> None:
    html = render(read_run(shared_run))
    targets = set(re.findall(r'\bid="([^"]+)"', html))
    used = set(re.findall(r'xlink:href="#([^"]+)"', html)) | set(re.findall(r'clip-path="url\(#([^)]+)\)"', html))
    assert used
    assert used <= targets


def test_summary_says_what_the_files_say(page: Page) -> None:
    text = re.sub(r"\s+", " ", " ".join(page.text))
    assert "swept 2,340 designs" in text
    assert "570 designs were mapped and simulated, 30 cannot be mapped, and 1,110 are still open" in text
    assert "lower bounds alone ruled out the other 630" in text  # 2340 - 570 - 30 - 1110
    assert "within 6.20 % of it in every objective" in text
    assert "results/worker-0.jsonl" in text and "line 17" in text
    assert "Known good die <wafer / yield>." in text and "Chiplet Actuary" in text


def test_nothing_proven_is_said_plainly(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    summary = json.loads((folder / "summary.json").read_text())
    summary["epsilon"] = None
    (folder / "summary.json").write_text(json.dumps(summary))
    text = " ".join(Page(render(read_run(folder))).text)
    assert "Nothing is proven" in text
    assert "Proven:" not in text


@pytest.mark.parametrize("options", [{}, {"inputs": 24, "objectives": ("latency_ms", "energy_mj")}])
def test_two_writes_give_the_same_bytes(make_run: Callable[..., Path], options: dict[str, object]) -> None:
    folder = make_run(**options)
    first = reports.write(folder).read_bytes()
    traces = {path: path.read_bytes() for path in folder.glob("timelines/*.perfetto.json")}
    assert reports.write(folder).read_bytes() == first
    assert traces and all(path.read_bytes() == held for path, held in traces.items())
    assert not list(folder.rglob("*.tmp"))


def test_the_page_can_be_written_elsewhere(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_run()
    assert reports.write(folder, tmp_path / "elsewhere.html") == tmp_path / "elsewhere.html"
    assert not (folder / "report.html").exists()


def test_text_of_files_is_shown_not_run(make_run: Callable[..., Path]) -> None:
    folder = make_run(chip_names=[EVIL, "$x_1$", "</script><script>alert(2)</script>", '"&quot;'])
    for name in ("summary.json", "workload.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace('"htdemucs"', json.dumps(EVIL)).replace("encoder.", "<b>&amp;."))
    html, page = written(folder)
    assert page.tags["img"] == 0
    assert page.tags["b"] == 0
    assert not page.handlers
    assert EVIL in " ".join(page.text)
    assert "<img" not in html.replace(_plotly_source(), "")
    chart = json.loads(next(script for script in page.scripts if script.startswith('{"data"')))
    hover = [text for trace in chart["data"] for text in trace.get("hovertext", [])]
    assert any("&lt;img src=x" in text for text in hover)  # plotly reads hover text as HTML
    assert not any("<img" in text or "<script" in text for text in hover)


def _plotly_source() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def test_the_policy_admits_exactly_the_scripts_of_the_page(shared_run: Path) -> None:
    import base64
    import hashlib

    html = render(read_run(shared_run))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    scripts = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    hashes = {f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}" for script in scripts}
    import html as escapes

    assert set(re.findall(r"'(sha256-[^']+)'", escapes.unescape(policy[1]))) == hashes
    assert "default-src 'none'" in escapes.unescape(policy[1])


def test_sections_come_from_outside_and_a_broken_one_only_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = Section(key="theirs", title="Theirs", order=55, info=lambda run: None, draw=lambda info: [])

    class Point:
        def __init__(self, name: str, value: object) -> None:
            self.name, self.value = name, value

        def load(self) -> object:
            if isinstance(self.value, Exception):
                raise self.value
            return self.value

    points = [Point("broken", ImportError("no such module")), Point("theirs", theirs)]
    monkeypatch.setattr("reports.section.entry_points", lambda group: points)
    with pytest.warns(UserWarning, match="report section broken .* does not load: no such module"):
        sections = all_sections()
    assert theirs in sections
    assert [section.order for section in sections] == sorted(section.order for section in sections)


def test_a_section_that_raises_becomes_a_card(shared_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> list[object]:
        raise ZeroDivisionError(EVIL)

    broken = Section(key="front", title="The front", order=20, info=lambda run: run, draw=fail)
    others = [section for section in all_sections() if section.key != "front"]
    monkeypatch.setattr("reports.page.all_sections", lambda: [*others, broken])
    page = Page(render(read_run(shared_run)))
    text = " ".join(page.text)
    assert "could not be drawn" in text
    assert f"ZeroDivisionError: {EVIL}" in text
    assert page.ids["summary"] == page.ids["basis"] == page.ids["front"] == 1


MISSING = ["summary.json", "environment.json", "workload.json", "library.json", "study.yaml", "timelines", "results"]


@pytest.mark.usefixtures("without_rendering")
@pytest.mark.parametrize("part", MISSING)
def test_a_missing_part_is_named_and_the_rest_is_shown(make_run: Callable[..., Path], part: str) -> None:
    folder = make_run(designs=80)
    for path in sorted((folder / part).glob("*")) if (folder / part).is_dir() else [folder / part]:
        path.unlink()
    _, page = written(folder)
    text = " ".join(page.text)
    assert part in text
    assert "missing" in text
    assert "could not be drawn" not in text
    assert all(page.ids[section.key] == 1 for section in all_sections())


@pytest.mark.usefixtures("without_rendering")
@pytest.mark.parametrize("name", ["summary.json", "environment.json", "workload.json", "library.json", "study.yaml"])
@pytest.mark.parametrize("content", ["", "[1, 2", "[]", '{"front": 3, "layers": {}, "chips": "x", "versions": []}'])
def test_a_damaged_file_is_named_and_the_page_is_written(
    make_run: Callable[..., Path], name: str, content: str
) -> None:
    folder = make_run(designs=80)
    (folder / name).write_text(content)
    text = " ".join(Page(render(read_run(folder))).text)
    assert "could not be drawn" not in text
    if not (name == "study.yaml" and content.startswith("{")):  # that one is a mapping, as it should be
        assert name in text


@pytest.mark.usefixtures("without_rendering")
def test_every_missing_or_null_key_still_gives_a_page(shared_run: Path) -> None:
    run = read_run(shared_run)
    knee = run.knee_detail
    assert knee is not None
    name = f"{knee.design}-{knee.point}"
    summary = json.loads((shared_run / "summary.json").read_text())
    detail = json.loads((shared_run / "timelines" / f"{name}.json").read_text())
    sections = all_sections()
    with house_style():
        for key in summary:
            broken = replace(run, summary=parse_record(Summary, summary | {key: None}, "summary.json", []))
            check_drawn([s for s in sections if s.key in ("summary", "front", "search", "basis")], broken, key)
        for key in detail:
            left = {k: v for k, v in detail.items() if k != key}
            read = parse_record(Detail, left, f"{name}.json", [])
            broken = replace(run, details={} if read is None else {name: read})
            check_drawn([s for s in sections if s.key not in ("front", "search", "basis")], broken, key)


def check_drawn(sections: list[Section], run: Run, key: str) -> None:
    for section in sections:
        card = draw_section(section, run)
        assert card.state != "failed", (key, section.key, card.reason)


def test_an_empty_front_is_said(make_run: Callable[..., Path]) -> None:
    folder = make_run(designs=40)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"front": [], "knee": None}))
    _, page = written(folder)
    assert "The front is empty" in " ".join(page.text)
    assert "Plotly" not in "".join(page.scripts).replace("Plotly !==", "").replace("Plotly.react", "")


@pytest.mark.parametrize("make", [lambda path: path, lambda path: path.mkdir() or path])
def test_a_folder_that_is_no_run_is_an_error_with_a_hint(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(DseError) as error:
        reports.write(make(tmp_path / "nothing"))
    assert "nothing" in error.value.message
    assert "dse run" in error.value.hint


def test_a_page_that_cannot_be_written_is_an_error_with_a_hint(make_run: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DseError, match="cannot be written"):
        reports.write(make_run(designs=40), tmp_path / "no" / "such" / "folder.html")


def test_importing_the_package_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, reports, reports.page, reports.section; reports.section.all_sections(); "
        "print([m for m in ('pandas', 'matplotlib', 'plotly', 'pyarrow', 'torch') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_fastest_of_a_stream_is_the_one_of_highest_throughput(make_run: Callable[..., Path]) -> None:
    run = read_run(make_run(designs=80, inputs=8))
    assert run.summary is not None
    info = summary_info(run)
    highest = max(point.metrics["throughput_per_s"] for point in run.summary.front)
    fastest = next(point for role, point in info.compared if "fastest" in role.lower())
    assert fastest.metrics["throughput_per_s"] == highest
    assert any("throughput" in sentence for sentence in info.sentences if sentence.startswith("Against"))


@pytest.mark.parametrize(("with_ms", "words"), [(2.0, "costs 1.00 ms (100 %)"), (0.5, "to a gain of 500")])
def test_contention_that_helps_is_no_cost(shared_run: Path, with_ms: float, words: str) -> None:
    run = read_run(shared_run)
    detail = run.knee_detail
    assert detail is not None
    changed = replace(detail, contention=replace(detail.contention, with_ms=with_ms, without_ms=1.0))
    run = replace(run, details={f"{detail.design}-{detail.point}": changed})
    (section,) = [each for each in all_sections() if each.key == "timeline"]
    assert words in str(draw_section(section, run))


def test_an_empty_slot_that_traffic_passes_is_drawn(shared_run: Path) -> None:
    run = read_run(shared_run)
    detail = run.knee_detail
    assert detail is not None and run.library is not None
    free = detail.chips[-1].slot
    link = replace(detail.links[0], source=detail.chips[0].slot, target=free)
    changed = replace(detail, chips=detail.chips[:-1], segments=[], links=[link])
    run = replace(run, details={f"{detail.design}-{detail.point}": changed})
    grid = {"rows": 2, "columns": 2, "slot_width_mm": 12.5, "slot_height_mm": 12.5, "spacing_mm": 0.5, "edge_mm": 0.0}
    run = replace(run, library=replace(run.library, packages=[{"name": "interposer_2x2", **grid}]))
    diagram = system_info(run).diagram
    assert [slot.slot for slot in diagram.empty] == [free]
    assert (diagram.empty[0].column, diagram.empty[0].row) not in {(chip.column, chip.row) for chip in diagram.chips}
    assert f"slot {free}, empty" in draw_block_diagram(diagram)
