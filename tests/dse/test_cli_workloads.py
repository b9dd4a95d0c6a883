"""`dse workloads` and `dse trace`: the machine-readable answer, and models that cannot be traced."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dse.cli.app import cli

MODELS = """
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.last = nn.Linear(16, 4, bias=False)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))


class Branching(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x + 1
        return x


def tiny():
    return Tiny(), (torch.zeros(2, 8),)


def branching():
    return Branching(), (torch.zeros(2, 8),)


def broken():
    raise RuntimeError("weights.bin is gone")


NUMBER = 3
"""
DESIGN_KEYS = {
    "name", "parameters", "macs", "flops", "layers", "estimated_operators", "uncounted_operators", "reference",
}  # fmt: skip
LAYER_KEYS = {"name", "operator", "module", "output_shape", "parameters", "macs", "flops", "bytes"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module of the user's, and caches of its own."""
    (tmp_path / "my_cli_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHIPFRONT_CACHE", str(tmp_path / "cache"))
    yield tmp_path


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="dse")


def test_trace_prints_one_object_with_the_promised_keys() -> None:
    answer = json.loads(invoke("trace", "my_cli_models:tiny", "--json").stdout)
    assert answer.keys() >= DESIGN_KEYS
    assert all(layer.keys() >= LAYER_KEYS for layer in answer["layers"])
    assert answer["parameters"] == 8 * 16 + 16 + 16 * 4
    assert answer["macs"] == 2 * (8 * 16 + 16 * 4)  # a batch of 2 rows through both matrices
    assert answer["uncounted_operators"] == []


def test_trace_takes_input_shapes_and_a_bare_module() -> None:
    answer = json.loads(invoke("trace", "my_cli_models:Tiny", "--input", "5x8", "--json").stdout)
    assert answer["macs"] == 5 * (8 * 16 + 16 * 4)


def test_trace_shows_layers_totals_and_ledger() -> None:
    shown = invoke("trace", "my_cli_models:tiny").stdout
    for text in ("aten.linear.default", "first", "By module", "By operator", "Coverage ledger", "208 parameters"):
        assert text in shown


def test_the_catalogue_is_listed_and_described() -> None:
    names = {entry["name"] for entry in json.loads(invoke("workloads", "--json").stdout)["workloads"]}
    assert names >= {"htdemucs", "resnet18"}
    listed = invoke("workloads").stdout
    assert all(name in listed for name in names)
    answer = json.loads(invoke("workloads", "resnet18", "--json").stdout)
    assert answer.keys() >= DESIGN_KEYS
    assert answer["parameters"] == 11_689_512  # torchvision's weight metadata
    assert sum(layer["macs"] for layer in answer["layers"]) == answer["macs"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("workloads", "resnet81"), ("'resnet81'", "did you mean 'resnet18'?")),
        (("trace", "my_cli_models"), ("my_cli_models", "module:factory")),
        (("trace", "my_cli_model:tiny"), ("my_cli_model",)),
        (("trace", "my_cli_models:tinny"), ("tinny", "did you mean 'tiny'?")),
        (("trace", "my_cli_models:NUMBER"), ("NUMBER", "int")),
        (("trace", "my_cli_models:broken"), ("broken", "weights.bin is gone")),
        (("trace", "my_cli_models:Tiny"), ("--input",)),
        (("trace", "my_cli_models:Tiny", "--input", "5xx8"), ("5xx8",)),
        (("trace", "my_cli_models:Tiny", "--input", "5x8:flaot32"), ("flaot32", "float32")),
        (("trace", "my_cli_models:Tiny", "--input", "5x9"), ("tiny",)),
        (("trace", "my_cli_models:branching"), ("my_cli_models.py", "Branching", "x.sum() > 0")),
    ],
    ids=lambda value: " ".join(value[1:]) if value and value[0] in ("workloads", "trace") else "",
)
def test_a_model_that_cannot_be_traced_is_a_message(arguments: tuple[str, ...], named: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    for text in named:
        assert text.lower() in result.stderr.lower(), result.stderr


def test_a_streaming_model_says_its_latency() -> None:
    answer = json.loads(invoke("workloads", "conv-tasnet", "--json").stdout)
    assert answer["streaming"]["algorithmic_latency_ms"] == 2.0  # a kernel of 32 samples at 16 kHz
    assert "algorithmic latency 2 ms" in invoke("workloads", "conv-tasnet").stdout
