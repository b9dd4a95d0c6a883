"""A training step through the whole of dse: segments of each phase, mapping, simulation, and a study."""

from __future__ import annotations

from pathlib import Path

import pytest

import workloads
from chiplib import System, load_library
from dse import DseError, Study, cost_table, simulate
from dse.objectives import Objectives, nondominated
from dse.resolve import resolve
from workloads import Training, WorkloadError, build_segments

NET = """
import torch
from torch import nn

def net():
    blocks = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(4)]
    head = nn.Flatten(), nn.Linear(8 * 30 * 30, 10)
    return nn.Sequential(nn.Conv2d(3, 8, 3), *blocks, *head), torch.zeros(2, 3, 32, 32)
"""

STUDY = """
name: step
workload: trained_net:net
mode: train
segments: {count: 12}
library: chiplets
objectives: [latency_ms, cost_usd]
model: roofline
space: {chips: [big_core, small_core], max_chips: 2, packages: [interposer_2x2], precisions: [fp16]}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "trained_net.py").write_text(NET)
    (tmp_path / "study.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CHIPFRONT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def study(**lines: str) -> Study:
    Path("study.yaml").write_text(STUDY + "".join(f"{key}: {value}\n" for key, value in lines.items()))
    return Study.load("study.yaml")


def step(training: Training) -> workloads.WorkloadGraph:
    return workloads.trace_factory("trained_net:net", mode=training)


def test_the_front_of_a_training_step_is_that_of_the_whole_space() -> None:
    ours = study()
    result = ours.run("run")
    resolved = resolve(ours, load_library(ours.library))
    assert (resolved.workload["mode"], resolved.workload["training"]) == ("train", "Adam")
    rows = [resolved.evaluator.row(resolved.designs[i]) for i in range(len(resolved.designs))]
    objectives = Objectives(ours.objectives, ours.regime)
    every = objectives.criteria([point["metrics"] for row in rows for point in row["points"]])
    front = objectives.criteria([point["metrics"] for point in result.front])
    assert {tuple(values) for values in front} == {tuple(values) for values in every[nondominated(every)]}
    assert result.summary["epsilon"] < 0.001


def test_segments_of_a_step_hold_one_phase_each_and_all_of_it() -> None:
    graph = step(Training())
    segments = build_segments(graph, count=12)
    phases = [{graph.layers[i].phase for i in segment.layer_indices} for segment in segments]
    assert [len(held) for held in phases] == [1] * 12
    assert set().union(*phases) == {"forward", "backward", "optimizer"}
    assert sum(segment.flops for segment in segments) == graph.flops


def test_one_chip_takes_as_long_as_its_segments_and_recomputation_costs_time() -> None:
    system = System.build(package="interposer_2x2", chips=["big_core"], library=load_library("chiplets"))
    latency = {}
    for training in (Training(), Training(optimizer="sgd"), Training(recompute=("1", "2", "3", "4"))):
        segments = build_segments(step(training), count=8)
        table = cost_table(segments, system)
        timeline = simulate(segments, [0] * 8, system, table=table)
        assert timeline.latency_ms == pytest.approx(float(table.latency_ms[:, 0].sum()))
        latency[training] = timeline.latency_ms
    adam, sgd, again = latency.values()
    assert sgd < adam < again


def test_a_study_says_how_its_step_is_run() -> None:
    sgd, adam = (study(training=line) for line in ("{optimizer: sgd, recompute: 1}", "{optimizer: adam}"))
    assert sgd.training == Training(optimizer="sgd", recompute=1)
    workload = resolve(sgd, load_library(sgd.library)).workload
    assert workload["training"] == "SGD, 7 modules recomputed"
    assert workload["peak_memory"]["optimizer_bytes"] == 0
    assert resolve(adam, load_library(adam.library)).workload["peak_memory"]["optimizer_bytes"] > 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{optimizer: adamm}", ("training", "no optimizer 'adamm'", "did you mean 'adam'?")),
        ("{recompute: 0}", ("training", "recompute is 0", "at least 1")),
        ("{recompute: [nope]}", ("no module is called 'nope'",)),
        ("{optimiser: sgd}", ("training.optimiser", "unknown key")),
    ],
)
def test_a_wrong_word_is_named(line: str, words: tuple[str, ...]) -> None:
    with pytest.raises((DseError, WorkloadError)) as error:
        wrong = study(training=line)
        resolve(wrong, load_library(wrong.library))
    assert all(word in str(error.value) for word in words)


def test_options_of_a_step_need_the_mode() -> None:
    text = STUDY.replace("mode: train", "mode: inference") + "training: {optimizer: sgd}\n"
    Path("study.yaml").write_text(text)
    with pytest.raises(DseError, match="mode: train"):
        Study.load("study.yaml")
