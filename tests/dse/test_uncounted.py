"""No figures of a model that is counted in part: every way into dse names its operators; a rule makes it whole."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

import chiplib
import workloads
from dse import DseError
from dse.cli.app import cli
from dse.cost_table import cost_table
from workloads import Call, Count, OperatorKind, operators

SOURCE = """
import torch
from torch import nn

library = torch.library.Library("chipfront_dse_test", "DEF")
library.define("scan(Tensor x) -> Tensor")
library.impl("scan", lambda x: x.clone(), "CompositeExplicitAutograd")
torch.library.register_fake("chipfront_dse_test::scan", torch.empty_like, lib=library)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 64)
    def forward(self, x):
        return torch.ops.chipfront_dse_test.scan(self.linear(x)).relu()

def net():
    return Net(), (torch.randn(8, 64),)
"""
MODEL = "model_with_a_kernel_of_its_own:net"
WHERE = ("--package", "interposer_2x2", "--chips", "big_core", "--segments", "2")
NAMED = ("chipfront_dse_test.scan.default", "model_with_a_kernel_of_its_own.py:15", "workloads.count_operator")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("uncounted")
    (folder / "model_with_a_kernel_of_its_own.py").write_text(SOURCE)
    yield folder
    sys.modules.pop("model_with_a_kernel_of_its_own", None)


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("CHIPFRONT_CACHE", str(home / "cache"))
    monkeypatch.setattr(operators, "_registered", {})


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="dse")


def test_run_map_and_simulate_refuse_before_anything_is_written(home: Path) -> None:
    study = {
        "name": "partly",
        "workload": MODEL,
        "segments": {"count": 2},
        "library": "chiplets",
        "objectives": ["latency_ms", "cost_usd"],
        "space": {"chips": ["big_core"], "max_chips": 1, "packages": ["interposer_2x2"]},
    }
    (home / "study.yaml").write_text(yaml.safe_dump(study))
    for command in (("map", MODEL, *WHERE), ("simulate", MODEL, *WHERE), ("run", "study.yaml", "--out", "run")):
        result = invoke(*command)
        assert result.exit_code == 1, result.output
        for text in NAMED:
            assert text in result.stderr, command
    assert "study partly, workload" in result.stderr
    assert not (home / "run" / "results").exists()


def test_python_callers_are_refused_as_well() -> None:
    segments = workloads.build_segments(workloads.trace_factory(MODEL), count=2)
    library = chiplib.load_library("chiplets")
    system = chiplib.System.build(package="interposer_2x2", chips=["big_core"], library=library)
    with pytest.raises(DseError, match=r"chipfront_dse_test\.scan") as caught:
        cost_table(segments, system)
    assert 'count_operator("chipfront_dse_test::scan", rule)' in caught.value.hint


def test_trace_shows_what_is_not_counted() -> None:
    result = invoke("trace", MODEL, "--json")
    assert result.exit_code == 0
    (row,) = json.loads(result.stdout)["uncounted_operators"]
    assert (row["name"], row["count"]) == (NAMED[0], 1)
    shown = invoke("trace", MODEL)
    assert shown.exit_code == 0
    for text in ("NOT COUNTED", *NAMED):
        assert text in shown.stderr + shown.stdout


def test_with_a_rule_the_model_is_whole() -> None:
    def scan(call: Call) -> Count:
        flops = 2 * call.output.numel
        return Count(kind=OperatorKind.OTHER, counting="estimated", flops=flops, formula="2 an element")

    workloads.count_operator("chipfront_dse_test::scan", scan)
    graph = workloads.trace_factory(MODEL)  # not the cached graph of before
    assert not graph.refused
    assert graph.flops == 2 * 8 * 64 * 64 + 2 * 8 * 64 + 8 * 64
    assert invoke("map", MODEL, *WHERE).exit_code == 0
