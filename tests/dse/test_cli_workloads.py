"""`dse workloads` and `dse trace`: the machine-readable answer, and models that cannot be traced."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import takewhile
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
    for text in ("linear", "relu", "first", "By module", "By operator", "Coverage ledger", "208 parameters"):
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


NEW_KEYS = {"specification", "advice", "totals", "peak_memory", "mode"}


def test_the_object_holds_what_the_page_shows(folder: Path) -> None:
    answer = json.loads(invoke("workloads", "resnet18", "--segments", "4", "--html", "page.html", "--json").stdout)
    assert answer.keys() >= DESIGN_KEYS | NEW_KEYS
    assert (answer["mode"], answer["specification"]) == ("inference", None)
    for layer in answer["layers"]:
        assert layer["phase"] == "forward"
        assert layer["arithmetic_intensity"] * layer["bytes"] == pytest.approx(layer["flops"])
    for totals in answer["totals"].values():
        assert sum(row["flops"] for row in totals) == answer["flops"]
    peak = answer["peak_memory"]
    assert max(layer["live_bytes"] for layer in answer["layers"]) == peak["activation_bytes"]
    assert peak["bytes"] == peak["activation_bytes"] + peak["weight_bytes"]
    least, fixed = answer["segments"]["least_cut"], answer["segments"]["fixed_size"]
    assert len(least["segments"]) == 4
    assert sum(segment["flops_share"] for segment in least["segments"]) == pytest.approx(1)
    assert least["cut_bytes"] <= fixed["cut_bytes"]
    assert "11,689,512" in (folder / "page.html").read_text(encoding="utf-8")


def rows_of_layers(shown: str) -> list[list[str]]:
    """Cells of the first table, up to its first empty line."""
    body = shown.partition("───")[2].partition("\n")[2]
    return [line.split() for line in takewhile(str.strip, body.splitlines())]


def test_layers_are_chosen_and_sorted() -> None:
    layers = json.loads(invoke("workloads", "resnet18", "--json").stdout)["layers"]
    by_flops = sorted(range(len(layers)), key=lambda index: -layers[index]["flops"])
    shown = rows_of_layers(invoke("workloads", "resnet18", "--layers", "5").stdout)
    assert [int(row[0]) - 1 for row in shown] == sorted(by_flops[:5])  # in program order
    shown = rows_of_layers(invoke("workloads", "resnet18", "--layers", "all", "--sort", "parameters").stdout)
    sizes = [layers[int(row[0]) - 1]["parameters"] for row in shown]
    assert len(sizes) == len(layers) and sizes == sorted(sizes, reverse=True)


def test_batch_length_and_precision_are_options() -> None:
    plain = json.loads(invoke("workloads", "conv-tasnet", "--json").stdout)
    other = json.loads(invoke("workloads", "conv-tasnet", "--batch", "3", "--precision", "int8", "--json").stdout)
    assert other["batch"] == 3
    assert other["macs"] == 3 * plain["macs"]
    assert other["weight_bytes"] * 4 == pytest.approx(plain["weight_bytes"], rel=0.01)
    # published MACs hold at the published input alone; parameters everywhere
    assert {figure["quantity"] for figure in other["reference"]} == {"parameters"}
    longer = json.loads(invoke("workloads", "conv-tasnet", "--seconds", "2", "--json").stdout)
    assert longer["seconds"] == 2.0
    assert longer["macs"] == pytest.approx(2 * plain["macs"], rel=0.01)
    user = json.loads(invoke("trace", "my_cli_models:Tiny", "--input", "2x8", "--batch", "7", "--json").stdout)
    assert user["macs"] == 7 * (8 * 16 + 16 * 4)


def test_a_training_step_has_three_phases() -> None:
    answer = json.loads(invoke("trace", "my_cli_models:tiny", "--mode", "train", "--json").stdout)
    assert answer["mode"] == "train"
    assert {layer["phase"] for layer in answer["layers"]} == {"forward", "backward", "optimizer"}
    assert answer["parameters"] == 8 * 16 + 16 + 16 * 4
    assert "one training step" in invoke("trace", "my_cli_models:tiny", "--mode", "train").stdout


def test_a_training_step_has_the_optimiser_and_the_recomputation_that_are_asked_for() -> None:
    def step(*options: str) -> dict:
        return json.loads(invoke("trace", "my_cli_models:tiny", "--mode", "train", *options, "--json").stdout)

    adam, sgd, again = step(), step("--optimizer", "sgd"), step("--optimizer", "sgd", "--recompute", "first,last")
    assert [answer["training"] for answer in (adam, sgd, again)] == ["Adam", "SGD", "SGD, 2 modules recomputed"]
    assert adam["peak_memory"]["optimizer_bytes"] > 0 == sgd["peak_memory"]["optimizer_bytes"]
    assert again["macs"] == sgd["macs"]  # a linear layer keeps no more than its input: nothing is computed again
    for options, words in (
        (("--mode", "train", "--optimizer", "adm"), "did you mean 'adam'?"),
        (("--mode", "train", "--recompute", "0"), "a depth of at least 1"),
        (("--mode", "train", "--recompute", "-1"), "a depth of at least 1"),
        (("--mode", "train", "--recompute", "nope"), "no module is called 'nope'"),
        (("--recompute", "1"), "give --mode train"),
    ):
        refused = invoke("trace", "my_cli_models:tiny", *options)
        assert refused.exit_code != 0
        assert words in " ".join(refused.stderr.split())


def test_growth_holds_every_model_at_both_ends() -> None:
    arguments = ("workloads", "conv-tasnet", "--seconds", "1:4", "--against", "bcctn-table", "--json")
    points = json.loads(invoke(*arguments).stdout)["growth"]
    assert {(point["name"], point["seconds"]) for point in points} == {
        (name, seconds) for name in ("conv-tasnet", "bcctn-table") for seconds in (1.0, 2.0, 4.0)
    }


def test_a_specification_is_shown_part_by_part() -> None:
    shown = " ".join(invoke("workloads", "bcctn-table").stdout.split())
    for text in ("Specification part by part", "Enc-1", "iSTFT", "add up to 7.64 GFLOPs, its total says 4.60"):
        assert text in shown
    for text in ("Bottlenecks", "convolutions", "weight-stationary", "line buffers", "complex arithmetic", "FFT block"):
        assert text in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("--length", "100", "--seconds", "1"),
        ("--seconds", "5:1"),
        ("--seconds", "soon"),
        ("--layers", "0"),
        ("--layers", "some"),
        ("--sort", "beauty"),
        ("--batch", "0"),
        ("--against", "bcctn", "--mode", "train"),
        ("--seconds", "1:9", "--batch", "2"),
    ],
    ids=" ".join,
)
def test_options_that_mean_nothing_are_usage(arguments: tuple[str, ...]) -> None:
    result = invoke("workloads", "conv-tasnet", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""


@pytest.mark.parametrize("arguments", [("--seconds", "5"), ("--html", "page.html"), ("--layers", "3")])
def test_the_list_of_models_takes_no_options_of_one(arguments: tuple[str, ...], folder: Path) -> None:
    result = invoke("workloads", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"dse workloads NAME {arguments[0]}" in result.stderr
    assert not (folder / "page.html").exists()


def test_why_a_published_figure_is_not_reached_stands_below_it() -> None:
    shown = " ".join(invoke("workloads", "bcctn-table").stdout.split())
    assert "matrix_macs of 2,300,000,000: the table's own rows add up to 7.64 GFLOPs" in shown


def test_a_narrow_terminal_shows_whole_names_and_fewer_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dse.cli.output.PIPE_WIDTH", 80)
    *lines, summary = invoke("workloads", "bcctn-table", "--layers", "4").stdout.splitlines()
    assert summary.startswith("bcctn-table: 4,278,912 parameters")
    assert max(map(len, lines)) <= 80
    names = {line.split()[0] for line in lines if line.split()}
    assert {"decoder.0.activation", "scaled_dot_product_attention", "conv_transpose2d.input"} <= names


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("workloads", "resnet18", "--seconds", "3"), ("resnet18", "length")),
        (("workloads", "resnet18", "--precision", "fp61"), ("fp61", "fp16")),
        (("workloads", "resnet18", "--mode", "trian"), ("trian", "train")),
        (("workloads", "resnet18", "--segments", "5000"), ("5000", "segments")),
        (("workloads", "resnet18", "--html", "no/such/page.html"), ("no/such", "folder")),
        (("workloads", "conv-tasnet", "--against", "htdemuks"), ("htdemuks", "htdemucs")),
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
