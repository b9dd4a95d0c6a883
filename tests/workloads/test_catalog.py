"""The catalogue: every entry traces to its published figures; loading from the cache needs no torch; errors help."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib import metadata

import pytest

import workloads
from workloads import WorkloadError, catalog
from workloads.describe import compare, coverage

UNPUBLISHED = {f"{model}-{size}" for model in ("videovit", "videoaudioast") for size in ("tiny", "small", "base")}
"""Models whose specification states no sizes: ours are checked by a formula in test_video_models.py."""


@pytest.mark.parametrize("name", workloads.names())
def test_every_entry_traces_completely_and_to_its_figures(name):
    graph, entry = workloads.load(name), workloads.entry(name)
    assert graph.name == name
    assert graph.input_shapes == tuple(shape for shape, _ in entry.inputs)
    assert not graph.refused
    assert bool(entry.references) is not bool(entry.unpublished)
    assert not entry.unpublished or name in UNPUBLISHED
    for figure in entry.references:  # a figure that we do not reach says why
        assert compare(graph, figure)["agrees"] is not bool(figure.note), figure


def test_a_description_is_whole_and_is_json():
    graph, entry = workloads.load("htdemucs"), workloads.entry("htdemucs")
    answer = json.loads(json.dumps(workloads.describe(graph, reference=entry.references)))
    assert answer["parameters"] == 26_899_536
    assert answer["uncounted_operators"] == []
    assert len(answer["layers"]) == len(graph.layers)
    assert {"name", "operator", "module", "output_shape", "parameters", "macs", "flops", "bytes"} <= set(
        answer["layers"][0]
    )
    assert sum(row["flops"] for row in answer["layers"]) == answer["flops"]
    estimated = [row for row in answer["layers"] if row["counting"] == "estimated"]
    assert sum(row["count"] for row in answer["estimated_operators"]) == len(estimated)
    assert sum(row["flops"] for row in answer["estimated_operators"]) == sum(row["flops"] for row in estimated)
    assert sum(sum(calls.values()) for calls in coverage(graph).values()) == len(graph.layers) + sum(
        graph.aliases.values()
    )
    thop = [row for row in answer["reference"] if row["value"] == 137.52e9]
    assert thop[0]["traced"] == pytest.approx(171.265e9, rel=1e-4)
    assert "transposed" in thop[0]["note"]


def test_every_edge_points_forward_and_features_match_the_layers():
    graph = workloads.load("htdemucs")
    assert (graph.edges[:, 0] < graph.edges[:, 1]).all()
    assert (graph.edge_bytes > 0).all()
    assert graph.features["flops"].sum() == graph.flops
    assert sum(layer.parameters for layer in graph.layers) == graph.parameters


CACHED = """
import sys, workloads
graph = workloads.load("resnet18")
assert len(graph.layers) == 68 and "torch" not in sys.modules and "fvcore" not in sys.modules
print(workloads.describe(graph)["macs"])
"""


def test_a_cached_graph_loads_without_torch():
    macs = workloads.load("resnet18").macs
    done = subprocess.run([sys.executable, "-c", CACHED], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert int(done.stdout) == macs == 1_819_065_856


def test_the_public_names_stand_also_beside_files_of_the_same_name():
    import workloads.describe
    import workloads.trace  # binds the file to the package

    assert callable(workloads.trace)
    assert callable(workloads.describe)
    assert {getattr(workloads, name) is not None for name in workloads.__all__} == {True}
    with pytest.raises(AttributeError, match="no_such_name"):
        workloads.no_such_name  # noqa: B018


def test_an_unknown_name_is_answered_with_a_near_one():
    with pytest.raises(WorkloadError) as caught:
        workloads.load("htdemux")
    assert "'htdemux'" in caught.value.message
    assert caught.value.hint == "did you mean 'htdemucs'?"
    with pytest.raises(WorkloadError, match="resnet18"):
        workloads.entry("zzz")


@pytest.fixture
def plugins(monkeypatch):
    """Let the installed distributions offer these models."""

    def offer(**factories):
        points = [metadata.EntryPoint(n, v, catalog.ENTRY_POINTS) for n, v in factories.items()]
        monkeypatch.setattr(metadata, "entry_points", lambda group: points if group == catalog.ENTRY_POINTS else [])
        catalog._entries.cache_clear()

    yield offer
    catalog._entries.cache_clear()


def test_other_distributions_add_models(tmp_path, monkeypatch, plugins):
    source = "import torch\n\ndef tiny():\n    return torch.nn.Linear(3, {}), (torch.empty(2, 3),)\n"
    (tmp_path / "outside_models.py").write_text(source.format(4))
    (tmp_path / "outside_models_2.py").write_text(source.format(5))
    monkeypatch.syspath_prepend(tmp_path)
    plugins(tiny="outside_models:tiny", resnet18="outside_models:tiny")
    with pytest.warns(RuntimeWarning, match="'resnet18'.*the name is taken"):
        assert "tiny" in workloads.names()
    assert workloads.load("tiny").macs == workloads.load("tiny").macs == 24
    assert workloads.entry("resnet18").factory.startswith("workloads.")  # what ships keeps its name
    plugins(tiny="outside_models_2:tiny")
    assert workloads.load("tiny").macs == 30


def test_a_plugin_whose_package_is_gone_hurts_only_when_it_is_loaded(plugins):
    plugins(lost="not_installed_anywhere:make")
    assert "resnet18" in workloads.names()
    with pytest.raises(WorkloadError, match="not_installed_anywhere"):
        workloads.load("lost")


def test_the_key_of_what_ships_follows_entry_and_tracer(monkeypatch):
    base = catalog.key(workloads.entry("resnet18"))
    assert catalog.key(workloads.entry("resnet50")) != base
    assert catalog.key(replace(workloads.entry("resnet18"), kwargs={"classes": 10})) != base
    monkeypatch.setattr(catalog, "tracer_version", lambda: ("torch 99",))
    assert catalog.key(workloads.entry("resnet18")) != base
