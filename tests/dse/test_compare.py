"""Solvers side by side: answers are checked again, and a solver that fails is a row while the others' answers stand.

The solvers that fail are a package of its own, found by its entry point. They run in a fresh interpreter: a solver that
is loaded stays known to this one, and to its other tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dse
from dse.compare import Answer, Comparison, compare, excess
from dse.errors import DseError
from solvers.errors import SolverError
from solvers.mapping.problem import MappingProblem

ROOT = Path(__file__).parents[2]
SOLVERS = """
import os, time
from dataclasses import replace
import numpy as np
from solvers.formats.device_placement import DevicePlacement
from solvers.formats.instance import InstanceFormat
from solvers.mapping.evaluate import finish
from solvers.mapping.problem import Mapping
from solvers.mapping.solver import MappingSolver, mapping_solver

class Fake(MappingSolver):
    def search(self, problem, request):
        self.act(problem)
        return finish(problem, np.zeros(problem.segments, dtype=np.int64), lower_bound=0.0, solver="x",
                      started=request.started)
    def act(self, problem): pass

class Upside(InstanceFormat):
    name = "upside"
    layout = "a placement file in capitals"
    def recognises(self, source): return source.text.startswith("UPSIDE")
    def read(self, source, reading):
        text = source.text.removeprefix("UPSIDE")
        return DevicePlacement().read(replace(source, text=text), reading)

class Good(Fake):
    name = "fake_good"
class Prints(Fake):
    name = "fake_prints"
    def act(self, problem): os.write(1, b"not JSON")
class Dies(Fake):
    name = "fake_dies"
    def act(self, problem): os.abort()
class Leaves(Fake):
    name = "fake_leaves"
    def act(self, problem): os._exit(3)
class Raises(Fake):
    name = "fake_raises"
    def act(self, problem): raise KeyError("what now")
class Hangs(Fake):
    name = "fake_hangs"
    def act(self, problem): time.sleep(600 if problem.segments == 2 else 0)
class Stalls(Fake):
    name = "fake_stalls"
    def act(self, problem): time.sleep(600)
class Lacks(Fake):
    name = "fake_lacks"
    required_modules = ("no_such_module",)
class Serial(Fake):
    name = "fake_serial"
    regimes = ("serial",)
class Liar(Fake):
    name = "fake_liar"
    def search(self, problem, request):
        return replace(super().search(problem, request), objective=0.5)
class Breaker(Fake):
    name = "fake_breaker"
    def search(self, problem, request):
        return replace(super().search(problem, request), assignment=np.full(problem.segments, 1))
class Proud(Fake):
    name = "fake_proud"
    def search(self, problem, request):
        return replace(super().search(problem, request), lower_bound=99.0, status="optimal")
class Hopeless(Fake):
    name = "fake_hopeless"
    def search(self, problem, request):
        return Mapping(
            assignment=np.zeros(0, dtype=np.int64), objective=np.inf, latency_ms=np.inf, energy_mj=np.inf,
            lower_bound=np.inf, status="infeasible", solver="x", wall_s=0.0,
        )
"""
SCRIPT = """
import sys
import dse.solver_processes
dse.solver_processes.OVERRUN_S = 3.0
dse.solver_processes.LOAD_S = 10.0
from dse.cli import main
if __name__ == "__main__":
    main()
"""
PLACEMENT = {
    "maxSizePerFPGA": 100, "maxFPGAs": 1, "maxCPUs": 1, "edges": [{"sourceId": 0, "destId": 1, "cost": 1}],
    "nodes": [{"id": n, "supportedOnFpga": n == 0, "cpuLatency": 5, "fpgaLatency": 2, "isBackwardNode": 0, "size": 60}
              for n in range(2)],
}  # fmt: skip
FREE = PLACEMENT | {"nodes": [node | {"supportedOnFpga": 1, "size": 1} for node in PLACEMENT["nodes"]]}  # type: ignore[attr-defined]


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run dse in a fresh interpreter with the fake solvers installed, and return its JSON object."""
    site = folder / "site"
    (site / "fake-1.dist-info").mkdir(parents=True, exist_ok=True)
    (site / "fake_solvers.py").write_text(SOLVERS)
    (site / "fake-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: fake\nVersion: 1\n")
    (site / "fake-1.dist-info" / "entry_points.txt").write_text("[chipfront.solvers]\nfake = fake_solvers\n")
    (folder / "run.py").write_text(SCRIPT)
    (folder / "one.json").write_text(json.dumps(FREE))
    paths = os.pathsep.join([str(site), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "run.py", "compare", "--instances", "one.json", *arguments],
        capture_output=True, text=True, check=False, cwd=folder, env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer | {"stderr": done.stderr}


def test_a_solver_that_fails_is_a_row_with_its_reason_and_the_others_stand(tmp_path: Path) -> None:
    expected = {
        "fake_dies": ("error", "SIGABRT"),
        "fake_good": ("feasible", ""),
        "fake_leaves": ("error", "exit code 3"),
        "fake_raises": ("error", "KeyError: 'what now'"),
        "fake_hangs": ("error", "its deadline was 0.5 s"),
        "fake_stalls": ("error", "it could not be tried on three segments"),
        "fake_lacks": ("missing", "no_such_module"),
        "fake_nowhere": ("missing", "no mapping solver is called 'fake_nowhere'"),
        "fake_serial": ("refused", "it does not do the pipelined regime"),
        "fake_liar": ("error", "claims objective 0.5"),
        "fake_prints": ("feasible", ""),
        "fake_hopeless": ("infeasible", ""),
    }
    named = [word for name in expected for word in ("--solver", name)]
    answer = run(tmp_path, *named, "--deadline", "0.5", "--json", "--assignments")
    rows = {row["solver"]: row for row in answer["rows"]}
    assert list(rows) == list(expected)
    for name, (status, reason) in expected.items():
        assert (rows[name]["status"], reason in rows[name]["reason"]) == (status, True), rows[name]
    for name in ("fake_good", "fake_prints"):
        assert rows[name]["objective"] == 4  # both on the accelerator
        assert rows[name]["assignment"] == {"0": 0, "1": 0}
    for name in set(expected) - {"fake_good", "fake_prints"}:
        assert (rows[name]["objective"], rows[name]["assignment"]) == (None, None)
    assert "not JSON" in answer["stderr"]
    assert ["fake_hopeless claims that there is no mapping" in said for said in answer["contradictions"]] == [True]
    summaries = {row["solver"]: row for row in answer["summaries"]}
    assert summaries["fake_good"]["to_best_met"] == 0


def test_a_mapping_that_breaks_a_rule_is_found_out_and_a_false_bound_is_told(tmp_path: Path) -> None:
    names = ("fake_breaker", "fake_good", "fake_proud")
    two = json.dumps(PLACEMENT | {"maxCPUs": 0, "maxFPGAs": 2})
    (tmp_path / "two.up").write_text("UPSIDE" + two)  # of a format that comes by an entry point as well
    named = [word for name in names for word in ("--solver", name)]
    answer = run(tmp_path, *named, "two.up", "--deadline", "1", "--json", "--workers", "2")
    rows = {(row["instance"], row["solver"]): row for row in answer["rows"]}
    assert list(rows) == [(instance, name) for instance in ("one.json", "two.up") for name in names]
    # one.json: all on the CPU is legal but of another value than claimed; two.up: not allowed at all
    assert "claims objective 4.0" in rows["one.json", "fake_breaker"]["reason"]
    assert rows["two.up", "fake_good"]["status"] == "error"
    assert "lower bound of 99" in "".join(answer["contradictions"])
    assert answer["instances"][0]["lower_bound"] == 0  # the refuted bound does not count


def small(**changes: Any) -> MappingProblem:
    none = np.zeros((2, 2))
    fields: dict[str, Any] = {
        "compute_ms": np.array([[1.0, 3.0], [2.0, 1.0], [2.0, 2.0]]), "energy_mj": np.zeros((3, 2)),
        "edges": np.array([[0, 1], [1, 2]]), "edge_bytes": np.ones(2), "route_latency_ms": none,
        "route_ms_per_byte": none, "route_mj_per_byte": none, "route_links": np.zeros((2, 2, 0)),
        "resident_bytes": np.ones(3), "workspace_bytes": np.zeros(3), "capacity_bytes": np.full(2, 9.0),
        "allowed": np.ones((3, 2), dtype=bool), "regime": "pipelined",
    }  # fmt: skip
    return MappingProblem(**(fields | changes))


def test_the_answers_are_in_order_checked_and_summed_up_over_seeds() -> None:
    told: list[tuple[int, str]] = []
    found = dse.compare(
        {"a": small(), "b": small(regime="serial")},
        ["greedy", "cp_sat"],
        deadline_s=5,
        seeds=(3, 4),
        best_known={"a": 3.0},
        report=lambda done, doing: told.append((done, doing)),
    )
    assert [(a.instance, a.solver, a.seed) for a in found.answers] == [
        (instance, solver, seed) for instance in "ab" for solver in ("greedy", "cp_sat") for seed in (3, 4)
    ]
    for a in found.answers:
        assert a.objective is not None and a.assignment is not None and a.history
        assert a.history[-1].objective == a.objective
    assert (found.best("a"), found.best("b")) == (3.0, 4.0)  # 1 + 2 beside 1 (or 1 beside 3); 1 + 1 + 2
    assert (found.bound("a"), found.contradictions()) == (pytest.approx(3.0), [])
    summary = found.summaries()[1]
    assert (summary.solver, summary.runs, summary.spread, summary.status) == ("cp_sat", 2, 0.0, "optimal")
    assert (summary.to_best_known, summary.to_best_met, summary.gap) == (0.0, 0.0, pytest.approx(0.0, abs=1e-9))
    assert told[-1][0] == 8


def test_statistics_over_seeds() -> None:
    def answer(seed: int, objective: float | None, bound: float, solver: str = "x") -> Answer:
        status: Any = "error" if objective is None else "feasible"
        figures = {"objective": objective, "lower_bound": bound, "wall_s": float(seed)}
        return Answer(instance="p", solver=solver, seed=seed, status=status, **figures)

    answers = (answer(1, 12.0, 5.0), answer(2, 10.0, 8.0), answer(9, None, 7.0), answer(4, 16.0, 6.0))
    found = Comparison(
        answers=(*answers, answer(1, 9.6, 11.0, "y")), problems={"p": small()}, best_known={"p": 8.0},
        solvers=("x", "y"), seeds=(1, 2, 9, 4), deadline_s=1.0,
    )  # fmt: skip
    x, _ = found.summaries()
    assert (x.runs, x.solved, x.best, x.median, x.worst) == (4, 3, 10.0, 12.0, 16.0)
    assert x.spread == pytest.approx(0.6)
    assert (x.lower_bound, x.gap, x.to_best_known, x.wall_s) == (8.0, pytest.approx(0.2), 0.25, 3.0)
    assert x.to_best_met == pytest.approx(10 / 9.6 - 1)
    assert found.bound("p") == 8.0  # 11 is above what was reached
    assert len(found.contradictions()) == 1
    assert (excess(0.0, 0.0), excess(1.0, 0.0), excess(None, 1.0)) == (0.0, None, None)


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(DseError, match="0 problems"):
        compare({}, ["greedy"])
    with pytest.raises(SolverError, match="deadline_s"):
        compare({"a": small()}, ["greedy"], deadline_s=0)
