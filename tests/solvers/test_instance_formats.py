"""Public instances mean what their publishers say: published values, by the independent checker."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from solvers.formats import Reading, read_instance, read_instances
from solvers.mapping.check import check, checked

Measured = Callable[[str], Path]
PLACEMENT = "solvers/dnn-partitioning"
LAYERS = ("bert24_inference", "bert24_training", "gnmt_inference", "gnmt_training", "inceptionv3_inference")
OPERATORS = ("bert_l-3_inference", "bert_l-6_inference", "bert_l-6_training", "resnet50_inference")


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def reference(path: Path, instance: str, algorithm: str) -> float:
    """A value that the released programs of the paper gave for an instance."""
    (row,) = [row for row in table(path) if row["instance"] == instance and row["algorithm"] == algorithm]
    return float(row["value"])


@pytest.mark.parametrize("name", [*(f"LayerGraphs/{n}" for n in LAYERS), *(f"OperatorGraphs/{n}" for n in OPERATORS)])
def test_everything_on_one_accelerator_takes_what_the_authors_program_says(name: str, measured: Measured) -> None:
    instance = read_instance(measured(f"{PLACEMENT}/throughput-inputs/{name}.json"))
    expected = reference(
        measured(f"{PLACEMENT}/reference_results.csv"), f"throughput-inputs/{name}", "single accelerator"
    )
    value = checked(instance.problem, np.zeros(instance.problem.segments, dtype=np.int64)).objective
    assert value == pytest.approx(expected, rel=1e-5)  # printed with six digits


@pytest.mark.parametrize(
    "name",
    [
        "bert24_inference",
        "bert24_training",
        "gnmt_inference",
        "gnmt_training",
        "inceptionv3_inference",
        "resnet50_training",
    ],
)
def test_splits_of_human_experts_have_the_loads_that_the_authors_program_gives(name: str, measured: Measured) -> None:
    """The value holds transfers in and out, paid once a producer, and colours that join forward and backward."""
    path = measured(f"{PLACEMENT}/throughput-inputs/LayerGraphs/{name}.json")
    split = measured(f"{PLACEMENT}/human-experts/{name.replace('resnet50_training', 'resnet50_inference')}_expert.json")
    instance = read_instance(path, Reading(contiguous=False))
    devices = json.loads(split.read_text())
    home = {n: s for s, device in enumerate([*devices["fpgas"], *devices["cpus"]]) for n in device["nodes"]}
    problem = instance.problem
    by_group = {g: home[i] for i, g in zip(instance.ids, problem.group.tolist(), strict=True) if i in home}
    assignment = np.array([by_group[g] for g in problem.group.tolist()])
    assert not check(problem, assignment)
    expected = reference(
        measured(f"{PLACEMENT}/reference_results.csv"), f"throughput-inputs/LayerGraphs/{name}", "human expert split"
    )
    assert checked(problem, assignment).objective == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["LayerGraphs/bert24_inference", "LayerGraphs/gnmt_inference", *(
    f"OperatorGraphs/{n}" for n in ("bert_l-3_inference", "bert_l-12_inference")
)])  # fmt: skip
def test_one_sample_on_cpus_alone_takes_the_critical_path(name: str, measured: Measured) -> None:
    instance = read_instance(measured(f"{PLACEMENT}/latency-inputs/{name}.json"))
    problem = instance.problem
    assert (problem.regime, instance.devices[-1]) == ("offload", "CPU 0")
    (row,) = [
        r for r in table(measured(f"{PLACEMENT}/latency_results.csv")) if r["instance"] == f"latency-inputs/{name}"
    ]
    cpu = np.full(problem.segments, problem.slots - 1)
    assert checked(problem, cpu).objective == pytest.approx(float(row["cpu_only"]), abs=1e-3)


def test_the_published_sizes_of_the_placement_files(measured: Measured) -> None:
    training = read_instance(measured(f"{PLACEMENT}/throughput-inputs/OperatorGraphs/bert_L-12_training.json"))
    assert (training.problem.segments, len(training.problem.edges), training.problem.slots) == (2012, 2751, 7)
    assert training.problem.backward.sum() == 1229
    assert (training.problem.group == -1).sum() == 39
    assert np.isinf(training.problem.capacity_bytes[-1])


PERMUTATIONS = ("chr25a", "esc32e", "nug12", "nug30", "sko64", "tai40a", "tai64c", "tai80b", "tho150", "tai256c")


@pytest.mark.parametrize("name", PERMUTATIONS)
def test_published_permutations_have_their_published_values(name: str, measured: Measured) -> None:
    """Exactly, and in the file's own convention or with the roles of the two matrices swapped."""
    instance = read_instance(measured(f"solvers/qaplib/{name}/{name}.txt"))
    _, value, *numbers = measured(f"solvers/qaplib/{name}/solution.txt").read_text().split()
    published = np.array(numbers, dtype=np.int64)
    published -= published.min()  # some are numbered from 1
    values = [checked(instance.problem, p).objective for p in (published, np.argsort(published))]
    assert float(value) in values
    assert instance.best_known == float(value)
    # the assignment that is reported is in the file's terms: sum A[i, j] B[p(i), p(j)]
    file = np.array(instance.path.read_text().split(), dtype=float)
    a, b = file[1:].reshape(2, int(file[0]), -1)
    for modes, expected in zip((published, np.argsort(published)), values, strict=True):
        p = [home for _, home in sorted((int(i), home) for i, home in instance.assignment_of(modes).items())]
        assert (a * b[np.ix_(p, p)]).sum() == expected


def test_generalised_assignment_has_the_published_sizes_and_values(measured: Measured) -> None:
    rows = {row["Path"]: row for row in table(measured("solvers/gap/best_known.csv"))}
    folder = measured("solvers/gap/best_known.csv").parent / "instances"
    for path in ("cattrysse1994/gap1-0", "chu1997/c10100", "chu1997/d20200", "yagiura2004/e401600"):
        instance = read_instance(folder / path)
        row = rows[path]
        assert instance.problem.segments == int(row["Item number"])
        assert instance.problem.slots == int(row["Agent number"])
        assert instance.best_known == float(row["Best known solution value"])


def test_list_scheduling_reaches_80_on_the_canonical_graph(measured: Measured) -> None:
    """Upward ranks and earliest finish with insertion, as the paper states them, on the arrays that were read."""
    problem = read_instance(measured("solvers/heft_canonical/topcuoglu10.json")).problem
    assert (problem.regime, problem.free_order, problem.segments, problem.slots) == ("serial", True, 10, 3)
    compute = problem.compute_ms
    edges = [(i, j, size) for (i, j), size in zip(problem.edges.tolist(), problem.edge_bytes.tolist(), strict=True)]
    rank = np.zeros(10)
    for k in reversed(range(10)):
        rank[k] = compute[k].mean() + max((size + rank[j] for i, j, size in edges if i == k), default=0.0)
    assert rank[0] == pytest.approx(108.0, abs=1e-3)  # of the paper's Table 3
    finish: dict[int, float] = {}
    home: dict[int, int] = {}
    busy: list[list[tuple[float, float]]] = [[] for _ in range(3)]
    for k in np.argsort(-rank, kind="stable").tolist():
        ends = []
        for p in range(3):
            start = max((finish[i] + size * (home[i] != p) for i, j, size in edges if j == k), default=0.0)
            for begin, end in sorted(busy[p]):
                if start + compute[k, p] <= begin:
                    break
                start = max(start, end)
            ends.append(start + compute[k, p])
        home[k] = int(np.argmin(ends))
        finish[k] = min(ends)
        busy[home[k]].append((finish[k] - compute[k, home[k]], finish[k]))
    order = np.array(sorted(finish, key=lambda k: (finish[k] - compute[k, home[k]], k)))
    assert max(finish.values()) == 80
    assert checked(problem, np.array([home[k] for k in range(10)]), order=order).objective == 80


def test_every_published_file_is_read(measured: Measured) -> None:
    counts = {}
    for folder, known in (("dnn-partitioning", "SOURCE.txt"), ("gap", "best_known.csv"), ("qaplib", "best_known.csv")):
        found = read_instances([measured(f"solvers/{folder}/{known}").parent])
        counts[folder] = len(found.instances)
        assert not [path for path in found.others if path.suffix == ".json" and "expert" not in path.name]
    assert counts == {"dnn-partitioning": 22, "gap": 103, "qaplib": 21}


@pytest.mark.parametrize("model", ["vgg16", "gnmt", "densenet121"])
def test_training_profiles_are_pipelines_of_workers(model: str, measured: Measured) -> None:
    kind = "translation" if model == "gnmt" else "image_classification"
    path = measured(f"solvers/pipedream/profiler/{kind}/profiles/{model}/graph.txt")
    instance = read_instance(path, Reading(devices=3, bandwidth_gb_s=2.0, memory_gb=32.0))
    problem = instance.problem
    assert (instance.name, problem.slots, problem.contiguous, problem.regime) == (model, 3, True, "pipelined")
    lines = [line for line in path.read_text().splitlines() if "forward_compute_time" in line]
    times = [
        float(part.split("=")[1].split(",")[0]) for line in lines for part in line.split(" -- ")[2].split(", ")[:2]
    ]
    assert problem.segments == len(lines)
    assert checked(problem, np.zeros(len(lines), dtype=np.int64)).objective == pytest.approx(sum(times))
