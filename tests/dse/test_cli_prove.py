"""`dse map --prove`: one more line, one more object, and exit code 1 where the proof fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dse.cli.app import cli

SYSTEM = ["--package", "interposer_2x2", "--chips", "big_core,small_core,big_core", "--objective", "throughput"]

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        y = x.exp()
        return torch.cat([y.sin(), y[:, :2].cos()], 1) @ x.new_ones(10, 3)

def net():
    return Net(), (torch.randn(32, 8),)

class Noisy(nn.Module):
    def forward(self, x):
        return x.exp() + torch.rand_like(x)

def noisy():
    return Noisy(), (torch.randn(32, 8),)
"""


@pytest.fixture(autouse=True)
def _models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proved_nets.py").write_text(NET)
    monkeypatch.chdir(tmp_path)


def prove(workload: str, *options: str) -> Result:
    arguments = ["map", workload, *SYSTEM, "--model", "roofline", "--prove", *options]
    return CliRunner().invoke(cli, arguments, prog_name="dse")


def test_a_line_says_that_outputs_and_bytes_are_equal() -> None:
    result = prove("proved_nets:net", "--segment-size", "1", "--batch", "32")
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("proof: ")]
    assert "outputs equal to the original's" in line
    assert "bytes sent and bytes charged equal" in line
    assert "at the traced 4 bytes a value" in line


def test_json_holds_the_proof_beside_the_design() -> None:
    result = prove("videovit-tiny", "--segments", "6", "--precision", "fp16", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    proof = answer["proof"]
    assert proof["outputs_equal"]
    assert proof["bytes_equal"]
    assert proof["max_rel_error"] <= proof["tolerance"]
    assert proof["processes"] == len(set(answer["assignment"]))
    assert sorted(set(answer["assignment"])) == proof["slots"]
    assert proof["sent_bytes"] == proof["charged_bytes"]
    assert "proof" not in json.loads(CliRunner().invoke(cli, ["map", "videovit-tiny", *SYSTEM, "--json"]).stdout)


def test_a_proof_that_fails_exits_with_1() -> None:
    result = prove("proved_nets:noisy", "--segment-size", "1", "--batch", "32", "--json")
    assert result.exit_code == 1
    assert not json.loads(result.stdout)["proof"]["outputs_equal"]
