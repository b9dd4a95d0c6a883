"""`dse compare`: problems from files and workloads, JSON that scripts may rely on, a table, a page."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dse.cli import cli

SYSTEM = ("--package", "interposer_2x2", "--chips", "big_core,big_core")
CONTRACT = {"instance", "solver", "objective", "lower_bound", "gap", "status", "wall_s", "contiguous"}
NET = """
import torch
from torch import nn

def factory():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()), (torch.zeros(1, 64),)
"""


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["compare", *arguments])


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    """Two instances of 3 operators (ids 7, 8, 9) and one of 3 jobs, below one folder."""
    folder = tmp_path / "instances"
    for goal in ("throughput-inputs", "latency-inputs"):
        nodes = [
            {"id": n, "supportedOnFpga": 1, "cpuLatency": 30, "fpgaLatency": 3, "isBackwardNode": 0, "size": 10}
            for n in (7, 8, 9)
        ]
        edges = [{"sourceId": i, "destId": i + 1, "cost": 0.5} for i in (7, 8)]
        stated = {"maxSizePerFPGA": 100, "maxFPGAs": 2, "maxCPUs": 1, "nodes": nodes, "edges": edges}
        (folder / goal).mkdir(parents=True)
        (folder / goal / "chain.json").write_text(json.dumps(stated))
    (folder / "gap").mkdir()
    (folder / "gap" / "jobs").write_text("2 3\n5 6 7 8 4 9\n1 2 3 3 2 1\n4 5\n")
    (folder / "best_known.csv").write_text("instance,best_known\ngap/jobs,16\nthroughput-inputs/chain,5\n")
    return folder


def rows_of(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout)["rows"]
    return rows


def test_instances_give_rows_with_the_keys_that_scripts_rely_on(instances: Path) -> None:
    path = str(instances / "throughput-inputs" / "chain.json")
    options = ("--solver", "greedy", "--solver", "cp_sat", "--deadline", "5", "--json", "--assignments")
    for flag, contiguous in (("--contiguous", True), ("--free", False)):
        rows = rows_of(invoke("--instances", path, *options, flag))
        assert [row["solver"] for row in rows] == ["greedy", "cp_sat"]
        for row in rows:
            assert row.keys() >= CONTRACT
            assert (row["instance"], row["contiguous"]) == (path, contiguous)
            assert row["assignment"].keys() == {"7", "8", "9"}
            assert set(row["assignment"].values()) <= {0, 1, 2}
        best = rows[1]
        # two operators on one accelerator: 3 + 3 + 0.5 out (or in); the cut in the middle of three is no better
        assert best["objective"] == 6.5
        assert 0 < best["lower_bound"] <= 6.5
        assert best["to_best"] == pytest.approx(0.3)
        values = list(best["assignment"].values())
        assert values.count(0) in (1, 2) and 2 not in values


def test_paths_after_the_first_folders_and_the_goal_of_a_folder(instances: Path) -> None:
    chain = "chain.json"
    paths = [str(instances / goal / chain) for goal in ("throughput-inputs", "latency-inputs")]
    rows = rows_of(invoke("--instances", *paths, "--solver", "greedy", "--json"))
    assert [(row["instance"], row["regime"]) for row in rows] == list(zip(paths, ("pipelined", "offload"), strict=True))
    assert "assignment" not in rows[0]
    told = invoke("--instances", str(instances), "--solver", "greedy", "--seeds", "2", "--seed", "5", "--json")
    rows = rows_of(told)
    assert [row["seed"] for row in rows] == [5, 6] * 3
    assert {row["to_best"] for row in rows if row["instance"].endswith("jobs")} == {0.0}
    assert "left aside, of no known format: 1 file of the folders: best_known.csv" in told.stderr


def test_a_deadline_of_work_gives_the_same_answers_again(instances: Path) -> None:
    options = ("--solver", "local_search", "--deterministic", "--assignments", "--json")
    first, second = (rows_of(invoke("--instances", str(instances), *options)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        for key in ("objective", "lower_bound", "assignment"):
            assert a[key] == b[key]


def test_a_workload_on_a_system_is_a_problem_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "compared_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    common = ("--workload", "compared_net:factory", "--segments", "2", "--solver", "greedy", "--json")
    rows = rows_of(invoke("--system", "interposer_2x2:big_core,small_core", *common, "--assignments"))
    again = rows_of(invoke("--package", "interposer_2x2", "--chips", "big_core,small_core", *common))
    energy = rows_of(invoke("--system", "interposer_2x2:big_core", *common, "--objective", "energy"))
    assert rows[0].keys() >= CONTRACT | {"assignment"}
    assert rows[0]["objective"] == again[0]["objective"] > 0
    assert rows[0]["assignment"].keys() == {"0", "1"}
    assert energy[0]["objective"] == energy[0]["energy_mj"]
    least = energy[0]["energy_mj"]
    bounded = rows_of(invoke("--system", "interposer_2x2:big_core", *common, "--max-energy", str(least / 2)))
    assert (bounded[0]["objective"], bounded[0]["status"]) == (None, "infeasible")


def test_solvers_are_compared_on_a_training_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "compared_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    words = ("--objective", "throughput", "--segments", "5", "--contiguous", "--model", "roofline")
    step = ("--mode", "train", "--optimizer", "sgd", *words, "--micro-batches", "2")
    compared = ("--workload", "compared_net:factory", "--system", "interposer_2x2:big_core,big_core", "--assignments")
    solvers = ("--solver", "greedy", "--solver", "cp_sat", "--deadline", "60", "--json")
    greedy, exact = rows_of(invoke(*compared, *solvers, *step))
    assert exact["status"] == "optimal"
    assert (greedy["regime"], exact["lower_bound"] <= greedy["objective"]) == ("pipelined", True)
    (forward,) = rows_of(invoke(*compared, "--objective", "throughput", "--solver", "cp_sat", *words[4:], "--json"))
    assert len(exact["assignment"]) == 5 > len(forward["assignment"])
    assert exact["objective"] > forward["objective"]
    mapped = CliRunner().invoke(
        cli,
        ["map", "compared_net:factory", *SYSTEM, *step, "--solver", "cp_sat", "--json"],
    )
    assert mapped.exit_code == 0, mapped.output
    told = json.loads(mapped.stdout)
    assert told["objective"] == pytest.approx(exact["objective"], rel=1e-9)
    assert told["simulation"]["period_ms"] >= told["objective"] * (1 - 1e-9)


def test_the_table_marks_the_best_and_says_why_a_solver_has_none(instances: Path) -> None:
    names = ("--solver", "greedy", "--solver", "nope")
    shown = invoke("--instances", str(instances / "gap"), str(instances / "throughput-inputs"), *names)
    assert shown.exit_code == 0, shown.output
    for text in ("jobs", "chain", "greedy", "*", "feasible", "Over all problems", "to best known %"):
        assert text in shown.stdout
    assert "nope on jobs, chain: missing: no mapping solver is called 'nope'" in shown.stdout


def test_a_page_and_tables_are_written(instances: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "deep"
    done = invoke("--instances", str(instances / "gap"), "--solver", "greedy", "--out", str(out), "--json")
    (row,) = rows_of(done)
    assert json.loads(done.stdout)["page"] == str(out / "compare.html")
    (written,) = csv.DictReader((out / "rows.csv").read_text().splitlines())
    assert float(written["objective"]) == row["objective"]
    assert "jobs" in (out / "compare.html").read_text()
    assert {path.name for path in out.iterdir()} == {"compare.html", "rows.csv", "rows.parquet"}


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ((), 2, "--instances PATH..."),
        (("--workload", "resnet18"), 2, "--system PACKAGE:CHIPS"),
        (("--workload", "resnet18", "--system", "interposer_2x2"), 1, "names no chips"),
        (("--workload", "resnet18", "--instances", "{here}"), 2, "either"),
        (("--instances", "{here}", "--precision", "fp8"), 2, "--precision goes with --workload"),
        (("--instances", "{here}", "--max-energy", "3"), 2, "--max-energy goes with --workload"),
        (("--instances", "{here}", "--mode", "train"), 2, "--mode goes with --workload"),
        (("--workload", "resnet18", "--system", "a:b", "--optimizer", "sgd"), 2, "give --mode train"),
        (("--workload", "resnet18", "--system", "a:b", "--devices", "3"), 2, "--devices goes with --instances"),
        (("{here}",), 2, "files are given by --instances"),
        (("--instances", "{here}", "--solver", "greedi"), 1, "did you mean 'greedy'"),
        (("--instances", "{here}/best_known.csv"), 1, "of no known instance format"),
        (("--instances", "{here}/gap", "--replicas", "2"), 1, "replicas 2 means nothing"),
        (("--instances", "{here}", "--objective", "energy"), 2, "--objective energy is of a workload"),
    ],
)
def test_wrong_words_are_answered_with_what_would_be_right(
    arguments: tuple[str, ...], code: int, named: str, instances: Path
) -> None:
    result = invoke(*(word.replace("{here}", str(instances)) for word in arguments))
    assert (result.exit_code, named in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.output
