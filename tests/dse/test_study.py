"""A study end to end on a network that traces in a moment: its front, its proof, and what a kill leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import workloads
from chiplib import load_library
from dse import DesignSpace, DseError, Study
from dse.objectives import Objectives, nondominated
from dse.resolve import resolve
from dse.study import Progress
from dse.study_file import Segmentation

NET = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)
    def forward(self, x):
        return torch.relu(self.a(x)) + self.b(x)

def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 7, stride=4), Block(32), nn.Conv2d(32, 128, 3, stride=2), Block(128), Block(128)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)]
    return nn.Sequential(*layers, *head), (torch.zeros(1, 3, 128, 128),)
"""

FOLDED = """
import torch
from torch import nn

class Folded(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.inner = nn.Conv2d(2, 16, 3, padding=1), nn.Conv1d(16, 16, 3, padding=1)
        self.leave, self.positions = nn.Linear(64, 64), nn.Parameter(torch.zeros(64, 64))
    def forward(self, x):
        y = self.enter(x).permute(0, 2, 1, 3)
        y = self.inner(y.flatten(0, 1)).mean(1)  # a view where the batch is 1, else a copy
        return self.leave(y.unflatten(0, (x.shape[0], 64)) + self.positions.sin())

def net():
    return Folded(), (torch.zeros(1, 2, 64, 64),)
"""

STUDY = """
name: tiny
workload: tiny_net:net
segments: {count: 5}
library: chiplets
objectives: [latency_ms, energy_mj, cost_usd]
space:
  chips: [big_core, small_core, tensor_efficient, npu_int8_7nm, edge_npu_int8]
  max_chips: 3
  packages: [substrate_2x2, interposer_2x2]
  precisions: [fp16, int8]
seed: 3
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny_net.py").write_text(NET)
    (tmp_path / "tiny.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def points_of(folder: Path) -> dict[str, Any]:
    """Every row on disk by design, without the clock; a design that is there twice fails."""
    found: dict[str, Any] = {}
    for file in (folder / "results").glob("*.jsonl"):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            assert row["design"] not in found, "evaluated twice"
            found[row["design"]] = {key: value for key, value in row.items() if key != "wall_s"}
    return found


def front_of(summary: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(point["design"], *point["metrics"].values()) for point in summary["front"]]


def test_the_front_is_that_of_the_whole_space() -> None:
    study = Study.load("tiny.yaml")
    result = study.run("runs/tiny")
    resolved = resolve(study, load_library(study.library))
    rows = [resolved.evaluator.row(resolved.designs[i]) for i in range(len(resolved.designs))]
    every = [point["metrics"] for row in rows for point in row["points"]]
    criteria = Objectives(study.objectives, study.regime).criteria(every)
    whole = {tuple(values) for values in criteria[nondominated(criteria)]}
    ours = Objectives(study.objectives, study.regime).criteria([point["metrics"] for point in result.front])
    assert {tuple(values) for values in ours} == whole
    assert result.summary["evaluated"] < result.summary["designs"] == len(rows) == 2 * 2 * (5 + 15 + 35)
    assert result.summary["infeasible"] == sum(not row["points"] for row in rows)


def test_no_evaluated_point_beats_the_proof() -> None:
    study = Study.load("tiny.yaml")
    result = study.run("runs/tiny", budget=40)
    assert result.summary["evaluated"] == 40
    resolved = resolve(study, load_library(study.library))
    rows = [resolved.evaluator.row(resolved.designs[i]) for i in range(len(resolved.designs))]
    every = Objectives(study.objectives, study.regime).criteria([p["metrics"] for row in rows for p in row["points"]])
    front = Objectives(study.objectives, study.regime).criteria([point["metrics"] for point in result.front])
    factor = (front[None] / every[:, None]).max(2).min(1)  # how far each point is from being covered by the front
    assert result.summary["epsilon"] is not None
    assert factor.max() <= (1 + result.summary["epsilon"]) * (1 + 1e-9)


@pytest.mark.parametrize("regime", ["serial", "pipelined"])
def test_the_points_of_a_row_obey_its_bounds(regime: str) -> None:
    objectives = ("latency_ms" if regime == "serial" else "throughput_per_s", "energy_mj", "cost_usd")
    study = replace(Study.load("tiny.yaml"), regime=regime, objectives=objectives)
    study = replace(study, space=replace(study.space, batches=(1, 3)))
    resolved = resolve(study, load_library(study.library))
    checked = 0
    for index in range(0, len(resolved.designs), 7):
        row = resolved.evaluator.row(resolved.designs[index])
        plane = Objectives(objectives, regime).time_energy([point["metrics"] for point in row["points"]])
        before = resolved.bounds.a[index] * plane[:, :1] + resolved.bounds.b[index] * plane[:, 1:]
        assert (before >= resolved.bounds.least[index]).all()
        for a, b, least in row["bounds"]:
            assert (a * plane[:, 0] + b * plane[:, 1] >= least).all()
            checked += len(plane)
    assert checked > 100


def test_resuming_gives_what_an_uninterrupted_run_gives() -> None:
    study = Study.load("tiny.yaml")
    whole = study.run("runs/whole").summary
    for budget in (7, 30, None):
        parts = study.run("runs/parts", budget=budget).summary
    assert front_of(parts) == front_of(whole)
    assert [parts[key] for key in ("evaluated", "epsilon", "hypervolume", "open_unmapped")] == [
        whole[key] for key in ("evaluated", "epsilon", "hypervolume", "open_unmapped")
    ]
    assert points_of(Path("runs/parts")) == points_of(Path("runs/whole"))


def test_any_number_of_workers_gives_the_same_rows() -> None:
    study = Study.load("tiny.yaml")
    one, two = study.run("runs/one", budget=50).summary, study.run("runs/two", budget=50, workers=2).summary
    assert points_of(Path("runs/one")) == points_of(Path("runs/two"))
    assert front_of(one) == front_of(two)


def test_a_killed_run_loses_and_repeats_nothing(workplace: Path) -> None:
    code = "from dse import Study; Study.load('tiny.yaml').run('runs/killed')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(workplace), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    results = workplace / "runs/killed/results"
    deadline = time.monotonic() + 120
    while sum(len(file.read_bytes().splitlines()) for file in results.glob("*.jsonl")) < 10:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = points_of_lines(results)
    summary = Study.load("tiny.yaml").run("runs/killed").summary
    assert len(before) >= 10
    assert before <= points_of_lines(results)
    assert front_of(summary) == front_of(Study.load("tiny.yaml").run("runs/whole").summary)


def points_of_lines(results: Path) -> set[bytes]:
    lines = [line for file in results.glob("*.jsonl") for line in file.read_bytes().split(b"\n") if line.endswith(b"}")]
    assert len({json.loads(line)["design"] for line in lines}) == len(lines), "evaluated twice"
    return set(lines)


def test_progress_tells_where_the_run_stands() -> None:
    seen: list[Progress] = []
    summary = Study.load("tiny.yaml").run("runs/tiny", on_progress=seen.append).summary
    assert [item.done for item in seen] == sorted(item.done for item in seen)
    assert seen[-1].done == summary["evaluated"]
    assert seen[-1].open_unmapped == 0 == summary["open_unmapped"]
    proven = [item.epsilon for item in seen if item.epsilon is not None]
    assert proven == sorted(proven, reverse=True)


def test_a_folder_of_another_run_is_refused() -> None:
    study = Study.load("tiny.yaml")
    study.run("runs/tiny", budget=3)
    with pytest.raises(DseError, match=r"holds another run: .*seed.* changed"):
        study.run("runs/tiny", seed=4)


def test_a_pipelined_study_with_batches_proves_its_front() -> None:
    study = replace(
        Study.load("tiny.yaml"),
        regime="pipelined",
        objectives=("throughput_per_s", "energy_mj"),
        space=DesignSpace(chips=("big_core", "small_core", "npu_int8_7nm"), max_chips=2, batches=(1, 4)),
    )
    summary = study.run("runs/pipelined").summary
    assert summary["epsilon"] is not None
    assert summary["open_unmapped"] == 0
    batches = {point["params"]["batch"] for point in summary["front"]}
    assert batches <= {1, 4}


def test_what_a_batch_costs_is_that_of_a_trace_at_this_batch() -> None:
    """Also where work does not grow with the batch, and where a batch needs copies that one example does not."""
    Path("folded.py").write_text(FOLDED)
    study = replace(Study.load("tiny.yaml"), workload="folded:net", segments=Segmentation(count=3))
    study = replace(study, space=replace(study.space, batches=(1, 6)))
    resolved = resolve(study, load_library(study.library))
    layers = resolved.workload["layers"]
    for (precision, batch), costs in resolved.evaluator.costs.items():
        graph = workloads.trace_factory("folded:net", batch=batch)
        assert costs.segments.graph == graph
        assert [segment.name for segment in costs.segments] == [s["name"] for s in resolved.workload["segments"]]
        if precision == "fp16":
            assert sum(segment.bytes for segment in costs.segments) == sum(layer.bytes for layer in graph.layers) / 2
    assert len(layers) == len(resolved.evaluator.costs["fp16", 1].segments.graph.layers)
    assert len(layers) < len(resolved.evaluator.costs["fp16", 6].segments.graph.layers)
    result = replace(study, budget=30).run("runs/folded")
    for file in (result.folder / "timelines").glob("*.json"):
        detail = json.loads(file.read_text())
        assert sorted({layer["index"] for layer in detail["layers"]}) == list(range(len(layers)))


def test_a_batch_that_a_file_does_not_leave_open_is_refused() -> None:
    module = nn.Linear(4, 4)
    torch.export.save(torch.export.export(module, (torch.zeros(3, 4),)), "fixed.pt2")
    study = replace(Study.load("tiny.yaml"), workload="fixed.pt2", segments=Segmentation(count=1), budget=1)
    with pytest.raises(DseError, match=r"study tiny, space.batches: batch 1: fixed.pt2: input .* is 3x4") as caught:
        study.run("runs/fixed")
    assert caught.value.hint.startswith("batch 3; or")
    assert (
        replace(study, space=replace(study.space, batches=(3,)), budget=1).run("runs/fixed").summary["evaluated"] == 1
    )


def test_an_objective_without_a_bound_proves_nothing_and_says_so() -> None:
    study = replace(Study.load("tiny.yaml"), objectives=("latency_ms", "peak_memory_mb"), budget=30)
    summary = study.run("runs/unproven").summary
    assert summary["epsilon"] is None
    assert "peak_memory_mb" in summary["epsilon_basis"]
    assert np.isfinite(summary["hypervolume"])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("objectives", "objectivs", "did you mean 'objectives'|objectives"),
        ("max_chips: 3", "max_chip: 3", "max_chips"),
        ("library: chiplets", "library: chipletz", "chipletz"),
        ("big_core,", "big_cor,", "big_core"),
        ("substrate_2x2,", "substrate_2x, ", "substrate_2x2"),
        ("[fp16, int8]", "[fp17]", "fp16"),
        ("max_chips: 3", "max_chips: 0", "max_chips"),
        ("seed: 3", "mapping_deadline_s: -1", "mapping_deadline_s"),
        ("tiny_net:net", "tiny_net:nett", "nett"),
        ("name: tiny", "nam: tiny", "name"),
    ],
)
def test_a_wrong_study_is_refused_with_the_word_that_is_wrong(old: str, new: str, words: str) -> None:
    Path("wrong.yaml").write_text(STUDY.replace(old, new))
    with pytest.raises(ValueError, match=words) as caught:
        Study.load("wrong.yaml").run("runs/wrong")
    assert hasattr(caught.value, "hint")
    assert not Path("runs/wrong/summary.json").exists()


def test_a_library_is_found_beside_the_study(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workplace / "mine.yaml").write_text(
        "chip_types:\n  - {name: only, peak_flops: 1.0e+12, peak_bw: 1.0e+11, mem_gb: 1, area_mm2: 100, width_mm: 10, "
        "height_mm: 10, tdp_w: 20}\n"
    )
    (workplace / "mine_study.yaml").write_text(
        "name: mine\nworkload: tiny_net:net\nlibrary: mine.yaml\nobjectives: [latency_ms, cost_usd]\n"
        "space: {max_chips: 2, packages: [substrate_1x2]}\n"
    )
    study = Study.load(workplace / "mine_study.yaml")
    assert study.run(workplace / "runs/mine").summary["designs"] == 2


def test_memory_that_nothing_satisfies_says_how_much_is_missing(workplace: Path) -> None:
    (workplace / "small.yaml").write_text(
        "chip_types:\n  - {name: tiny, peak_flops: 1.0e+12, peak_bw: 1.0e+11, mem_gb: 0.0005, area_mm2: 100, "
        "width_mm: 10, height_mm: 10, tdp_w: 20}\n"
    )
    (workplace / "tight.yaml").write_text(STUDY.replace("library: chiplets", "library: small.yaml").split("space:")[0])
    summary = Study.load("tight.yaml").run("runs/tight").summary
    assert (summary["evaluated"], summary["front"], summary["epsilon"]) == (0, [], None)
    assert summary["infeasible"] == summary["designs"]
    assert summary["infeasible_reasons"]
    for reason in summary["infeasible_reasons"]:
        needs, has, short = (float(word) for word in re.findall(r"([\d.]+) MB", reason))
        assert reason.startswith("memory: ")
        assert "chips with more memory" in reason
        assert short == pytest.approx(needs - has, abs=0.11)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seed: 3", "seed: -1", "seed is -1"),
        ("name: tiny", "name: ../../elsewhere", "name is '../../elsewhere'"),
        ("name: tiny", "name: ''", "name is ''"),
        ("seed: 3", "epsilon: .nan", "epsilon is nan"),
        ("seed: 3", "epsilon: .inf", "epsilon is inf"),
        ("seed: 3", "mapping_deadline_s: .nan", "mapping_deadline_s is nan"),
        ("seed: 3", "inputs: 1000000000", "inputs is 1000000000"),
        ("{count: 5}", "{}", "no way to cut"),
        ("{count: 5}", "{count: 5, depth: 2}", "depth and count"),
        ("{count: 5}", "{count: 0}", "segments.count is 0"),
    ],
)
def test_values_that_mean_nothing_are_refused_when_the_study_is_read(old: str, new: str, words: str) -> None:
    Path("wrong.yaml").write_text(STUDY.replace(old, new))
    with pytest.raises(DseError, match=re.escape(words)) as caught:
        Study.load("wrong.yaml")
    assert "wrong.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("tiny_net:net", "tiny_net:nett", "workload"),
        ("library: chiplets", "library: chipletz", "library"),
        ("interposer_2x2", "interposer_2x22", "space"),
        ("{count: 5}", "{count: 500}", "segments"),
        ("seed: 3", "model: oracle", "model"),
    ],
)
def test_a_word_that_names_nothing_is_said_with_its_key_and_leaves_no_folder(old: str, new: str, key: str) -> None:
    Path("wrong.yaml").write_text(STUDY.replace(old, new))
    with pytest.raises(DseError, match=f"study tiny, {key}: "):
        Study.load("wrong.yaml").run("wrong")
    assert not Path("wrong").exists()
    Path("mine").mkdir()
    with pytest.raises(DseError):
        Study.load("wrong.yaml").run("mine")
    assert Path("mine").is_dir(), "a folder of the user's is not taken away"


def test_a_better_citation_is_the_same_run_and_a_better_datasheet_another(workplace: Path) -> None:
    sheet = {"peak_flops": 1e14, "peak_bw": 1e12, "mem_gb": 24, "area_mm2": 600, "width_mm": 25, "height_mm": 24}

    def write(**changes: Any) -> None:
        chip = {"name": "mine", **sheet, "tdp_w": 350, **changes}
        (workplace / "chips.yaml").write_text(json.dumps({"chip_types": [chip]}))

    text = re.sub(r"  chips: .*\n", "", STUDY).replace("library: chiplets", "library: chips.yaml")
    (workplace / "own.yaml").write_text(text)
    write()
    Study.load("own.yaml").run("runs/own", budget=1)
    write(source="a better book")
    Study.load("own.yaml").run("runs/own", budget=2)
    write(peak_bw=2e12)
    with pytest.raises(DseError, match="library_fingerprint changed"):
        Study.load("own.yaml").run("runs/own", budget=2)


def test_a_smaller_budget_takes_nothing_back() -> None:
    study = Study.load("tiny.yaml")
    before = study.run("runs/tiny", budget=30).summary
    after = study.run("runs/tiny", budget=7).summary
    assert after["evaluated"] == before["evaluated"] == 30
    assert front_of(after) == front_of(before)
