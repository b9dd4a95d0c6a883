"""`dse run`, `map`, `simulate` and `report` on a small study: answers, resuming, and every bad input of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from dse.cli.app import cli

STUDY: dict[str, Any] = {
    "name": "tiny",
    "workload": "resnet18",
    "segments": {"count": 5},
    "library": "chiplets",
    "objectives": ["latency_ms", "energy_mj", "cost_usd"],
    "space": {"chips": ["big_core", "small_core", "tensor_7nm"], "max_chips": 2, "packages": ["interposer_2x2"]},
    "seed": 3,
}
DESIGNS = 3 + 6  # one chip of three, or two with repetition
SMALL_CHIP = {
    "name": "tight",
    "peak_flops": 1e13,
    "peak_bw": 1e11,
    "mem_gb": 0.004,
    "area_mm2": 100,
    "width_mm": 10,
    "height_mm": 10,
    "tdp_w": 10,
}
WHERE = ("--package", "interposer_2x2", "--chips", "big_core,small_core", "--segments", "5")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="dse")


def study(folder: Path, **changes: Any) -> str:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in {**STUDY, **changes}.items() if value is not None}))
    return str(path)


def assert_message(result: Result, *named: str) -> None:
    """An error of the input: exit code 1, no traceback, and the things that it names."""
    assert result.exit_code == 1, result.output
    assert "error: " in result.stderr
    assert "Traceback" not in result.output
    for text in named:
        assert text in result.stderr, result.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    result = invoke("run", study(folder), "--out", str(folder / "out"), "--workers", "1", "--json")
    assert result.exit_code == 0, result.output
    return folder / "out", json.loads(result.stdout)


def test_run_prints_one_object_with_the_promised_keys(finished: tuple[Path, dict[str, Any]]) -> None:
    out, answer = finished
    assert answer.keys() >= {
        "study", "designs", "evaluated", "front", "hypervolume", "epsilon", "wall_s", "report",
        "open_unmapped", "infeasible", "failed",
    }  # fmt: skip
    assert answer["study"] == "tiny"
    assert answer["designs"] == DESIGNS
    assert answer["failed"] == 0
    assert answer["front"]
    assert Path(answer["report"]) == out / "report.html"
    assert (out / "report.html").stat().st_size > 10_000


def test_no_point_of_the_front_dominates_another(finished: tuple[Path, dict[str, Any]]) -> None:
    _, answer = finished
    points = [[point["metrics"][name] for name in STUDY["objectives"]] for point in answer["front"]]
    for i, mine in enumerate(points):
        for j, other in enumerate(points):
            assert i == j or any(a < b for a, b in zip(mine, other, strict=True)), (mine, other)


def test_a_second_run_evaluates_nothing_again(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, answer = finished
    shutil.copytree(out, tmp_path / "out")
    rows = {path: path.read_bytes() for path in (tmp_path / "out" / "results").glob("*.jsonl")}
    again = invoke("run", study(tmp_path), "--out", str(tmp_path / "out"), "--workers", "1", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["front"] == answer["front"]
    assert {path: path.read_bytes() for path in (tmp_path / "out" / "results").glob("*.jsonl")} == rows


def test_the_budget_is_a_total_and_a_continued_run_reaches_the_same_front(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, answer = finished
    command = ("run", study(tmp_path), "--out", str(tmp_path / "out"), "--workers", "1", "--json")
    assert json.loads(invoke(*command, "--budget", "2").stdout)["evaluated"] == 2
    assert json.loads(invoke(*command, "--budget", "2").stdout)["evaluated"] == 2
    whole = json.loads(invoke(*command).stdout)
    assert whole["evaluated"] == answer["evaluated"]
    assert whole["front"] == answer["front"]


def test_run_shows_the_front_and_where_the_report_is(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, answer = finished
    shutil.copytree(out, tmp_path / "out")
    result = invoke("run", study(tmp_path), "--out", str(tmp_path / "out"), "--workers", "1")
    assert result.exit_code == 0, result.output
    assert "Pareto front of tiny" in result.stdout
    assert "knee" in result.stdout
    assert f"{tmp_path / 'out' / 'report.html'}" in result.stdout
    assert f"{answer['evaluated']} of {DESIGNS} designs" in result.stdout


def test_report_is_written_again_from_the_folder_alone(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, _ = finished
    shutil.copytree(out, tmp_path / "moved")
    (tmp_path / "moved" / "report.html").unlink()
    answer = json.loads(invoke("report", str(tmp_path / "moved"), "--json").stdout)
    assert Path(answer["report"]).exists()


def test_a_damaged_row_is_named_and_the_good_ones_are_kept(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, answer = finished
    shutil.copytree(out, tmp_path / "out")
    path = min((tmp_path / "out" / "results").glob("*.jsonl"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])
    result = invoke("run", study(tmp_path), "--out", str(tmp_path / "out"), "--workers", "1", "--json")
    assert result.exit_code == 0, result.output
    assert "Traceback" not in result.output
    assert path.name in result.stderr
    assert f"line {len(lines)}" in result.stderr
    assert json.loads(result.stdout)["front"] == answer["front"]
    assert path.read_bytes().startswith(b"".join(lines[:-1]))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"objectives": None}, ("study.yaml", "objectives")),
        ({"objctives": ["latency_ms"]}, ("study.yaml", "objctives", "objectives")),
        ({"objectives": ["latency_ms", "enrgy_mj"]}, ("enrgy_mj", "energy_mj")),
        ({"workload": "resnet81"}, ("resnet81", "resnet18")),
        ({"library": "chiplet"}, ("chiplet", "chiplets")),
        ({"space": {"chips": ["big_cor"]}}, ("big_cor", "big_core")),
        ({"space": {"chips": ["big_core", "big_core"]}}, ("big_core", "twice")),
        ({"space": {"packages": ["interpser_2x2"]}}, ("interpser_2x2", "interposer_2x2")),
        ({"space": {"precisions": ["fp61"]}}, ("fp61", "fp16")),
        ({"space": {"max_chip": 2}}, ("max_chip", "max_chips")),
        ({"space": {"batches": [-1]}}, ("batches", "-1")),
        ({"space": {"mappers": ["local_serach"]}}, ("local_serach", "local_search")),
        ({"seed": "three"}, ("seed", "three")),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_study_is_named_with_key_and_remedy(
    tmp_path: Path, changes: dict[str, Any], named: tuple[str, ...]
) -> None:
    result = invoke("run", study(tmp_path, **changes), "--out", str(tmp_path / "out"), "--workers", "1")
    assert_message(result, *named)
    assert not (tmp_path / "out" / "report.html").exists()


def test_an_unknown_study_is_answered_with_what_ships() -> None:
    assert_message(invoke("run", "smok"), "'smok'", "smoke")


def test_memory_that_no_mapping_can_satisfy_says_by_how_much(tmp_path: Path) -> None:
    """ResNet-18 in fp16 is 23 MB of weights; two chips of 4 MB cannot hold them."""
    library = tmp_path / "tight.yaml"
    library.write_text(yaml.safe_dump({"chip_types": [SMALL_CHIP]}))
    words = ("resnet18", "--library", str(library), "--package", "interposer_2x2", "--chips", "tight,tight")
    assert_message(invoke("map", *words), "memory", "needs", "has", "too little", "hint: ")
    space = {"max_chips": 2, "packages": ["interposer_2x2"]}
    swept = invoke("run", study(tmp_path, library=str(library), space=space), "--out", str(tmp_path / "out"))
    assert_message(swept, "no design can be mapped", "memory")


def test_a_folder_that_cannot_be_written_is_a_message(tmp_path: Path) -> None:
    """Tests may run as root, who may write anywhere; a file in place of a folder stops even root."""
    (tmp_path / "file").write_text("not a folder")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert_message(invoke("run", study(tmp_path), "--out", str(out)), str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_folder_of_another_run_is_refused(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, _ = finished
    result = invoke("run", study(tmp_path, seed=4), "--out", str(out), "--workers", "1")
    assert_message(result, "seed", str(out))


def test_report_of_no_run_folder_is_a_message(tmp_path: Path) -> None:
    assert_message(invoke("report", str(tmp_path / "nowhere")), "nowhere")
    assert_message(invoke("report", str(tmp_path)), str(tmp_path))


def test_map_prints_the_mapping_with_its_bound() -> None:
    answer = json.loads(invoke("map", "resnet18", *WHERE, "--solver", "cp_sat", "--json").stdout)
    assert len(answer["assignment"]) == len(answer["segments"]) == 5
    assert set(answer["assignment"]) <= {0, 1}
    assert answer["lower_bound"] <= answer["objective"] * (1 + 1e-9)
    assert 0 <= answer["gap"] <= 1
    shown = invoke("map", "resnet18", *WHERE).stdout
    assert "lower bound" in shown
    assert "big_core" in shown


def test_simulate_without_contention_is_the_mapping_s_own_time() -> None:
    """One input at a time and links without contention: the simulation equals the closed form of the mapping."""
    answer = json.loads(invoke("simulate", "resnet18", *WHERE, "--no-contention", "--json").stdout)
    assert answer["metrics"]["latency_ms"] == pytest.approx(answer["latency_ms"], rel=1e-9)
    assert answer["metrics"]["contention_ms"] == 0


def test_simulate_shows_metrics_of_a_stream() -> None:
    words = ("simulate", "resnet18", *WHERE, "--objective", "throughput", "--inputs", "16")
    answer = json.loads(invoke(*words, "--json").stdout)
    assert answer["regime"] == "pipelined"
    assert answer["inputs"] == 16
    busiest_ms = max(slot["busy_ms"] for slot in answer["slots"])
    assert answer["metrics"]["throughput_per_s"] <= 16e3 / busiest_ms * (1 + 1e-9)
    assert "throughput_per_s" in invoke(*words).stdout


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("--solver", "cp_sta"), 1, "cp_sat"),
        (("--precision", "fp61"), 1, "fp16"),
        (("--model", "rooflin"), 1, "roofline"),
        (("--depth", "1"), 2, "exclude each other"),
        (("--deadline", "0"), 2, "--deadline"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_words_of_a_mapping(words: tuple[str, ...], code: int, named: str) -> None:
    result = invoke("map", "resnet18", *WHERE, *words)
    assert result.exit_code == code
    assert named in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("--chips", "big_core,,small_core"), 1, "place 2"),
        (("--seed", "-1"), 2, "--seed"),
        (("--inputs", "1000000000"), 1, "--inputs"),
    ],
)
def test_simulate_refuses_what_it_would_have_to_guess(words: tuple[str, ...], code: int, named: str) -> None:
    design = ("resnet18", "--package", "interposer_2x2", "--chips", "big_core", "--segments", "4")
    result = invoke("simulate", *design, *words)
    assert result.exit_code == code
    assert named in result.stderr and "Traceback" not in result.output
