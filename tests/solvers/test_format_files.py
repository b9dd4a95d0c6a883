"""Readers on small files written here: what they mean, and what they say of files that are wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from solvers.errors import SolverError
from solvers.formats import Reading, instance_formats, read_best_known, read_instance, read_instances
from solvers.mapping.check import check, checked


def node(number: int, cpu: float, fpga: float, **more: Any) -> dict[str, Any]:
    return {
        "id": number, "supportedOnFpga": 1, "cpuLatency": cpu, "fpgaLatency": fpga, "isBackwardNode": 0,
        "size": 10.0, "name": f"n{number}",
    } | more  # fmt: skip


def placement(**changes: Any) -> dict[str, Any]:
    """7 feeds 3 and 5, which feed 9; the file lists them out of order."""
    return {
        "maxSizePerFPGA": 25.0,
        "maxFPGAs": 2,
        "maxCPUs": 1,
        "nodes": [node(9, 40, 4), node(3, 20, 2), node(5, 30, 3), node(7, 10, 1)],
        "edges": [
            {"sourceId": i, "destId": j, "cost": cost, "size": 999.0}
            for i, j, cost in ((7, 3, 0.5), (7, 5, 0.5), (3, 9, 0.25), (5, 9, 0.125))
        ],
    } | changes


def write(folder: Path, content: Any, name: str = "one.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def homes(ids: tuple[int | str, ...], home: dict[int, int]) -> np.ndarray:
    return np.array([home[int(i)] for i in ids])


def test_an_accelerator_pays_a_producer_once_in_and_once_out(tmp_path: Path) -> None:
    instance = read_instance(write(tmp_path, placement()))
    problem = instance.problem
    assert instance.ids == (7, 3, 5, 9)  # topological
    assert (problem.regime, problem.contiguous, problem.slots) == ("pipelined", False, 3)
    assert instance.devices == ("accelerator 0", "accelerator 1", "CPU 0")
    on_two = homes(instance.ids, {7: 0, 3: 1, 5: 1, 9: 2})
    # 0: 1 + out 0.5; 1: 2 + 3 + in 0.5 (once, two consumers) + out 0.25 + 0.125; the CPU pays nothing
    assert checked(problem, on_two).latency_ms == 40
    on_one = homes(instance.ids, {7: 0, 3: 1, 5: 1, 9: 0})
    assert checked(problem, on_one).latency_ms == max(1 + 4 + 0.5 + 0.25 + 0.125, 2 + 3 + 0.5 + 0.25 + 0.125)
    assert instance.assignment_of(on_one) == {"7": 0, "3": 1, "5": 1, "9": 0}
    (broken,) = check(problem, np.zeros(4, dtype=np.int64))  # 40 bytes of 25; the CPU has no limit
    assert (broken.constraint, broken.demand, broken.bound) == ("memory", 40, 25)
    assert not check(problem, np.full(4, 2))


def test_latency_is_one_call_an_accelerator_beside_threads_without_number(tmp_path: Path) -> None:
    instance = read_instance(write(tmp_path, placement(maxCPUs=8)), Reading(goal="latency"))
    problem = instance.problem
    assert (problem.regime, instance.devices) == ("offload", ("accelerator 0", "accelerator 1", "CPU 0"))
    assert checked(problem, np.full(4, 2)).latency_ms == 10 + 30 + 40  # 3 and 5 side by side
    mixed = homes(instance.ids, {7: 2, 3: 0, 5: 0, 9: 2})
    assert checked(problem, mixed).latency_ms == 10 + (0.5 + 2 + 3 + 0.25 + 0.125) + 40
    back = check(problem, homes(instance.ids, {7: 0, 3: 1, 5: 2, 9: 0}))
    assert [broken.constraint for broken in back] == ["one call"]


@pytest.mark.parametrize(
    ("folder", "goal", "regime"),
    [
        ("latency-inputs/LayerGraphs", None, "offload"),
        ("throughput-inputs", None, "pipelined"),
        ("mine", None, "pipelined"),
        ("latency-inputs", "throughput", "pipelined"),
        ("throughput-inputs", "latency", "offload"),
    ],
)
def test_the_goal_is_what_the_caller_says_else_what_the_folder_says(
    folder: str, goal: Any, regime: str, tmp_path: Path
) -> None:
    assert read_instance(write(tmp_path, placement(), f"{folder}/a.json"), Reading(goal=goal)).problem.regime == regime


def test_colours_join_backward_nodes_and_unsupported_ones_stay_on_cpus(tmp_path: Path) -> None:
    nodes = [
        node(1, 1, 1, colorClass=4),
        node(2, 1, 1, colorClass=4, isBackwardNode=True),
        node(3, 1, 1, supportedOnFpga=False, colorClass=None),
        node(4, 1, 1),
    ]
    instance = read_instance(write(tmp_path, placement(nodes=nodes, edges=[])), Reading(contiguous=True))
    problem = instance.problem
    assert problem.contiguous
    assert problem.group.tolist() == [0, 0, -1, -1]
    assert problem.backward.tolist() == [False, True, False, False]
    assert problem.allowed.tolist() == [[True] * 3, [True] * 3, [False, False, True], [True] * 3]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"maxFPGAs": -1}, ("maxFPGAs is -1", "greater than or equal to 0")),
        ({"nodes": [node(1, 1, 1) | {"size": "big"}]}, ("nodes[0].size is 'big'", "number")),
        ({"nodes": [{"id": 1, "cpuLatancy": 1.0}]}, ("nodes[0].cpuLatency is missing", "'cpuLatancy'")),
        ({"nodes": [node(1, 1, 1), node(1, 1, 1)], "edges": []}, ("nodes[1].id 1", "nodes[0]")),
        ({"edges": [{"sourceId": 7, "destId": 8, "cost": 1}]}, ("edges[0].destId is 8", "no node has that id")),
        (
            {"edges": [{"sourceId": 7, "destId": 3, "cost": 1}, {"sourceId": 7, "destId": 5, "cost": 2}]},
            ("edges[1].cost is 2", "node 7 has 1"),
        ),
        (
            {"edges": [{"sourceId": 7, "destId": 3, "cost": 1}, {"sourceId": 3, "destId": 7, "cost": 1}]},
            ("7", "3", "circle"),
        ),
        ({"nodes": []}, ("nodes is empty",)),
        ({"maxFPGAs": 0, "maxCPUs": 0}, ("maxFPGAs and maxCPUs are both 0",)),
    ],
)
def test_a_wrong_placement_file_is_named_with_key_and_value(
    change: dict[str, Any], named: tuple[str, ...], tmp_path: Path
) -> None:
    path = write(tmp_path, placement(**change))
    with pytest.raises(SolverError) as error:
        read_instance(path)
    for text in (str(path), *named):
        assert text in str(error.value)


ASSIGNMENT = "2 3\n 5 6 7\n 8 4 9\n 1 2 3\n 3 2 1\n 4 5\n"


def test_generalised_assignment_by_brute_force(tmp_path: Path) -> None:
    """Costs and resources as the layout has them: a row an agent."""
    instance = read_instance(write(tmp_path, ASSIGNMENT, "gap"))
    cost, use, capacity = np.array([[5, 6, 7], [8, 4, 9]]), np.array([[1, 2, 3], [3, 2, 1]]), (4, 5)
    for agents in product(range(2), repeat=3):
        used = [sum(use[a, j] for j, a in enumerate(agents) if a == agent) for agent in range(2)]
        legal = all(u <= c for u, c in zip(used, capacity, strict=True))
        assert (not check(instance.problem, np.array(agents))) == legal
        if legal:
            value = sum(cost[a, j] for j, a in enumerate(agents))
            assert checked(instance.problem, np.array(agents)).objective == value
    assert (instance.unit, instance.ids) == ("", (0, 1, 2))


@pytest.mark.parametrize("symmetric", ["first", "second", "both"])
@pytest.mark.parametrize("sparse", ["first", "second"])
def test_quadratic_assignment_is_the_double_sum_for_every_permutation(
    symmetric: str, sparse: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(len(symmetric) + len(sparse))
    a, b = rng.integers(0, 9, (2, 4, 4))  # diagonals as well
    if symmetric in ("first", "both"):
        a = a + a.T
    if symmetric in ("second", "both"):
        b = b + b.T
    thin = a if sparse == "first" else b
    thin[0, 1:3] = thin[1:3, 0] = 0
    text = "4\n" + "\n".join(" ".join(map(str, row)) for row in (*a, *b))
    instance = read_instance(write(tmp_path, text, "mine.dat"))
    assert instance.inverted == (sparse == "second")
    for modes in permutations(range(4)):
        told = instance.assignment_of(np.array(modes))
        p = [told[str(i)] for i in range(4)]
        assert checked(instance.problem, np.array(modes)).objective == (a * b[np.ix_(p, p)]).sum()
    (broken,) = check(instance.problem, np.array([0, 0, 1, 2]))  # two facilities on one location
    assert broken.constraint == "memory"


def test_quadratic_assignment_without_symmetry_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "2  0 1 2 0  0 3 4 0", "q.dat")
    with pytest.raises(SolverError, match="neither A nor B is symmetric"):
        read_instance(path)


def test_a_task_graph_keeps_its_numbers_and_its_order_is_free(tmp_path: Path) -> None:
    graph = {"W": [[3, 1], [2, 5], [4, 4]], "edges": [[2, 0, 7], [2, 1, 1.5]]}
    instance = read_instance(write(tmp_path, graph))
    assert instance.ids == (2, 0, 1)
    problem = instance.problem
    assert (problem.regime, problem.free_order) == ("serial", True)
    assert checked(problem, homes(instance.ids, {2: 0, 0: 1, 1: 0})).latency_ms == 4 + 7 + 1
    assert checked(problem, homes(instance.ids, {2: 0, 0: 0, 1: 1})).latency_ms == max(4 + 3, 4 + 1.5 + 5)


PROFILE = (
    "node1 -- Input0 -- forward_compute_time=0.000, backward_compute_time=0.000, activation_size=4e6, "
    "parameter_size=0.000\n"
    "node2 -- LSTM(2, 3) -- forward_compute_time=2.000, backward_compute_time=4.000, "
    "activation_size=[1e6; 1e6], parameter_size=8e6 -- stage_id=0\n"
    "node3 -- Linear(a=1) -- forward_compute_time=1.0, backward_compute_time=2.0, activation_size=1e6, "
    "parameter_size=16e6\n"
    "\tnode1 -- node2\n\tnode2 -- node3\n"
)


def test_a_training_profile_is_a_pipeline_with_stashes_and_replicas(tmp_path: Path) -> None:
    """At 1 GB/s: 2 MB of activations forward and as many of gradients back at the same time take 2 ms of a port."""
    path = write(tmp_path, PROFILE, "net/graph.txt")
    instance = read_instance(path, Reading(devices=3, memory_gb=0.060, replicas=2))
    problem = instance.problem
    assert (instance.name, instance.ids, problem.contiguous) == ("net", ("node1", "node2", "node3"), True)
    assert problem.teams.tolist() == [[True, True, False], [False, True, True]]
    assert checked(problem, np.array([0, 0, 1])).latency_ms == 6
    # replicas halve the 3 ms, and exchange 2 (2 - 1) / 2 of 16 MB of gradients, of two mini-batches: 16 ms / 2
    assert checked(problem, np.array([0, 0, 4])).latency_ms == pytest.approx((3 + 16) / 2)
    # alone: gradients of 24 MB, and one input in flight: 7 MB of activations and 24 MB of weights
    assert not check(problem, np.zeros(3, dtype=np.int64))
    # the first of two stages holds two inputs: 8 + 2 (6 + 8) MB
    (broken,) = check(
        read_instance(path, Reading(devices=2, memory_gb=0.0359)).problem, np.array([0, 0, 1])
    )  # fmt: skip
    assert (broken.subject, broken.demand) == ("slot 0", pytest.approx(36e6))
    assert instance.assignment_of(np.array([0, 0, 4])) == {"node1": 0, "node2": 0, "node3": [1, 2]}
    assert not read_instance(path, Reading(contiguous=False)).problem.contiguous


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (PROFILE.replace("forward_compute_time=2.000", "forward_compute_time=fast"), ("line 2", "'fast'")),
        (PROFILE.replace("activation_size=4e6", "activation=4e6"), ("line 1", "activation_size is missing")),
        (PROFILE.replace("node2 -- node3", "node2 -- node9"), ("line 5", "'node9'")),
        (PROFILE + "stray\n", ("line 6", "'stray'")),
        (PROFILE + "\tnode3 -- node1\n", ("circle", "node1")),
    ],
)
def test_a_wrong_profile_is_named_with_its_line(text: str, named: tuple[str, ...], tmp_path: Path) -> None:
    path = write(tmp_path, text, "graph.txt")
    with pytest.raises(SolverError) as error:
        read_instance(path)
    for part in (str(path), *named):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{ 'a': 1 }", ("is no JSON", "line 1")),
        ("once upon a time", ("of no known instance format", "quadratic_assignment")),
        ("3 1 2 3", ("holds 4 numbers", "n, matrix A")),
        ('{"a": 1}', ("of no known instance format",)),
    ],
)
def test_a_file_of_no_format_says_which_there_are(content: str, named: tuple[str, ...], tmp_path: Path) -> None:
    path = write(tmp_path, content, "x")
    with pytest.raises(SolverError) as error:
        read_instance(path)
    for part in (str(path), *named):
        assert part in str(error.value)


def test_a_format_that_is_named_says_what_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path, "3 1 2 3", "x")
    with pytest.raises(SolverError, match="holds 4 numbers, expected 19"):
        read_instance(path, format="quadratic_assignment")
    with pytest.raises(SolverError, match="did you mean 'quadratic_assignment'"):
        read_instance(path, format="quadratic_asignment")
    with pytest.raises(SolverError, match="no UTF-8"):
        (tmp_path / "y").write_bytes(b"\xff\xfe\x00")
        read_instance(tmp_path / "y")


def test_folders_are_searched_and_their_best_known_values_found(tmp_path: Path) -> None:
    write(tmp_path, ASSIGNMENT, "all/instances/set/g1")
    write(tmp_path, ASSIGNMENT, "all/instances/set/g2")
    write(tmp_path, "read me", "all/README")
    table = write(tmp_path, "Path,Best known solution value\nset/g1,18\n", "all/best_known.csv")
    found = read_instances([tmp_path / "all"])
    assert [(i.name, i.best_known) for i in found.instances] == [("g1", 18.0), ("g2", None)]
    assert {path.name for path in found.others} == {"README", "best_known.csv"}
    other = write(tmp_path, "instance,best_known\ng2,3\n", "mine.csv")
    assert [i.best_known for i in read_instances([tmp_path / "all"], best_known=other).instances] == [None, 3.0]
    assert read_best_known(table) == {"set/g1": 18.0}
    with pytest.raises(SolverError, match="columns instance and best_known"):
        read_best_known(write(tmp_path, "a,b\n1,2\n", "bad.csv"))
    with pytest.raises(SolverError, match="'much'"):
        read_best_known(write(tmp_path, "instance,best_known\na,much\n", "worse.csv"))
    with pytest.raises(SolverError, match="none of its 0 files"):
        (tmp_path / "empty").mkdir()
        read_instances([tmp_path / "empty"])


def test_an_option_that_no_instance_heeds_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, ASSIGNMENT, "g")
    with pytest.raises(SolverError, match=r"devices 3 means nothing .*it is for pipedream"):
        read_instance(path, Reading(devices=3))
    assert read_instance(path, Reading(contiguous=True)).problem.contiguous


def test_every_format_is_found_by_its_name_and_says_its_layout() -> None:
    formats = instance_formats()
    assert {"device_placement", "generalised_assignment", "pipedream", "quadratic_assignment", "task_graph"} <= set(
        formats
    )
    for name, kind in formats.items():
        assert (kind.name, bool(kind.layout)) == (name, True)
        assert set(kind.takes) <= set(Reading.__dataclass_fields__)


def test_finding_the_formats_loads_nothing_heavy() -> None:
    code = (
        "import sys; from solvers.formats import instance_formats; instance_formats();"
        "print([m for m in ('pydantic', 'numba', 'ortools', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
