"""The cache: what is stored comes back exactly, what matters changes the key, bad files and folders do no harm."""

import copy
import importlib
import json
import os
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import workloads
from workloads import Layer, OperatorKind, WorkloadError, WorkloadGraph, cache
from workloads.fingerprint import fingerprint, identify


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CHIPFRONT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "graphs"


class Net(nn.Module):
    def __init__(self, width=4, stride=1, bias=True):
        super().__init__()
        self.scale, self.sizes = 2.0, [1, 2]
        self.conv = nn.Conv1d(3, width, 3, stride=stride, bias=bias)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.conv(x)) * self.scale


X = torch.randn(2, 3, 16)


def files(folder):
    return sorted(folder.glob("*"))


layers = st.builds(
    Layer,
    name=st.text(min_size=1, max_size=5),
    operator=st.text(max_size=8),
    kind=st.sampled_from(OperatorKind),
    shape=st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=3),
    output_shape=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    weights=st.dictionaries(st.text(max_size=3), st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=2),
    macs=st.integers(0, 10**18),
    mlp_ratio=st.floats(0, 10),
    counting=st.sampled_from(["fvcore", "estimated", "refused"]),
)


@given(st.lists(layers, max_size=4), st.integers(0, 3))
@settings(deadline=None, max_examples=50)
def test_json_round_trip_is_exact(rows, edge_count):
    graph = WorkloadGraph(
        name="g",
        layers=tuple(rows),
        edges=np.arange(2 * edge_count).reshape(-1, 2),
        edge_bytes=np.arange(edge_count),
        parameters=3,
        weight_bytes=12,
        input_shapes=((1, 2), ()),
        refused={"aten.x": 2},
    )
    back = WorkloadGraph.from_json(graph.to_json())
    assert back == graph
    assert back.edges.dtype == np.int64
    assert back.edges.shape == (edge_count, 2)
    assert back != replace(graph, batch=9)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema": 99}', '{"schema": 2, "layers": [{}]}', "nul\0"])
def test_what_is_no_graph_is_an_error_of_ours(text):
    with pytest.raises(WorkloadError, match="not a traced graph"):
        WorkloadGraph.from_json(text)


def test_a_second_trace_reads_the_file_of_the_first(folder, monkeypatch):
    first = workloads.trace(Net(), X)
    (file,) = files(folder)
    monkeypatch.setattr(torch.export, "export", None)
    assert workloads.trace(Net(), X) == first
    assert files(folder) == [file]


def test_without_the_cache_nothing_is_written(folder):
    workloads.trace(Net(), X, cache=False)
    assert not folder.exists()


@pytest.mark.parametrize("damage", ["", "{", "half"])
def test_a_damaged_file_is_made_again(folder, damage):
    first = workloads.trace(Net(), X)
    (file,) = files(folder)
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2] if damage == "half" else damage)
    assert workloads.trace(Net(), X) == first
    assert json.loads(file.read_text()) == json.loads(whole)


def test_an_unwritable_folder_is_a_warning(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("CHIPFRONT_CACHE", str(blocked))
    with pytest.warns(RuntimeWarning, match="CHIPFRONT_CACHE"):
        assert workloads.trace(Net(), X).layers


def test_a_failed_write_leaves_nothing(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        workloads.trace(Net(), X)
    assert files(folder) == []


def test_the_folder_is_found_by_the_usual_variables(monkeypatch, tmp_path):
    monkeypatch.delenv("CHIPFRONT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "chipfront"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "chipfront"


def key(module, *inputs, name="net", **kwargs):
    return fingerprint(module, inputs, kwargs, name)


def changed(change):
    module = Net()
    change(module)
    return module


def test_the_key_is_stable_and_changes_with_what_matters():
    base = key(Net(), X)
    assert key(Net(), torch.zeros_like(X)) == base  # values do not matter
    assert key(Net().eval(), X) == base
    others = [
        key(Net(width=5), X),
        key(Net(stride=2), X),
        key(Net(bias=False), X),
        key(changed(lambda m: setattr(m, "scale", 3.0)), X),
        key(changed(lambda m: m.sizes.append(3)), X),
        key(changed(lambda m: setattr(m, "act", nn.GELU())), X),
        key(changed(lambda m: m.register_buffer("extra", torch.zeros(1))), X),
        key(changed(lambda m: setattr(m, "hook", lambda x: x + 1)), X),
        key(changed(lambda m: setattr(m, "hook", lambda x: x - 1)), X),
        key(changed(lambda m: setattr(m, "hook", lambda x: x + 2)), X),
        key(Net().double(), X),
        key(Net(), X[:1]),
        key(Net(), X.double()),
        key(Net(), X, 3),
        key(Net(), X, times=3),
        key(Net(), X, name="other"),
    ]
    assert len({base, *others}) == len(others) + 1


def test_the_key_sees_tied_weights():
    def pair(tied):
        module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        if tied:
            module[1].weight = module[0].weight
        return module

    assert key(pair(True), X) != key(pair(False), X)


def test_the_key_sees_the_source_and_the_versions(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x * 2\n"
    (tmp_path / "cached_net_source.py").write_text(text)
    from cached_net_source import Net as Sourced

    base = key(Sourced(), X)
    (tmp_path / "cached_net_source.py").write_text(text.replace("* 2", "* 2 * 2"))
    assert key(Sourced(), X) != base
    from workloads import fingerprint as module

    before = key(Net(), X)
    monkeypatch.setattr(module, "tracer_version", lambda: ("torch 99",))
    assert key(Net(), X) != before


def test_the_key_sees_helpers_in_other_files(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "cached_net_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("def double(x):\n    return x * 2\n")
    (package / "unrelated.py").write_text("")
    (package / "net.py").write_text(
        "import torch\nfrom cached_net_package.helper import double\n\n"
        "class Net(torch.nn.Module):\n    def forward(self, x):\n        return double(x)\n"
    )
    from cached_net_package.net import Net as Packaged

    base = key(Packaged(), X)
    import cached_net_package.unrelated  # noqa: F401

    assert key(Packaged(), X) == base
    (package / "helper.py").write_text("def double(x):\n    return x + x\n")
    assert key(Packaged(), X) != base


def test_the_key_sees_code_that_has_no_file():
    def made(body):
        names = {"nn": nn, "__name__": "nowhere"}
        exec(f"class Net(nn.Module):\n    factor = 2\n    def forward(self, x):\n        return {body}\n", names)
        return names["Net"]()

    assert key(made("x * 2"), X) == key(made("x * 2"), X)
    assert len({key(made(body), X) for body in ("x * 2", "x * 3", "x + 2", "x.relu()")}) == 4


def test_the_key_is_the_same_in_another_process():
    script = """if True:
        import torch
        from workloads.fingerprint import fingerprint, identify
        from workloads.models.resnet import resnet18
        with torch.device("meta"):
            found = fingerprint(resnet18(), (torch.empty(1, 3, 64, 64),), {"a": {1, "b"}}, "net")
    """
    here: dict[str, str] = {}
    exec(script, here)
    there = subprocess.check_output([sys.executable, "-c", f"{script}\nprint(found)"], text=True)
    assert there.strip() == here["found"]


def test_parallel_writers_never_show_half_a_file(folder):
    graph = workloads.trace(Net(), X)
    (file,) = files(folder)
    with file.open() as reader:
        cache.write("Net", file.stem.removeprefix("Net-"), graph)
        assert not os.path.samestat(os.fstat(reader.fileno()), file.stat())  # a new file took the name
    assert files(folder) == [file]


@dataclass(frozen=True, slots=True)
class Slotted:
    steps: int


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (range(2), range(3)),
        (Slotted(2), Slotted(3)),
        (partial(torch.sum, dim=0), partial(torch.sum, dim=1)),
        (deque([2]), deque([3])),
        (slice(2), slice(3)),
        (torch.Size([2]), torch.Size([3])),
        (torch.relu, torch.tanh),
        (Slotted, Net),
        ({1: Slotted(2)}, {1: Slotted(3)}),
        (torch.float32, torch.float16),
    ],
)
def test_the_key_tells_settings_of_every_sort_apart(one, other):
    def key(setting):
        module = nn.ReLU()
        module.setting = setting
        return fingerprint(module, (X,), {}, "net")

    assert key(one) == key(copy.deepcopy(one))
    assert key(one) != key(other)


def test_a_function_may_have_a_name_that_is_not_bound():
    def outer():
        def inner(x):
            return x * later

        if False:
            later = 2
        return inner

    module = nn.Identity()
    module.scale = outer()
    assert fingerprint(module, (X,), {}, "net")


def test_a_function_that_holds_a_module_is_known_by_its_file(tmp_path, monkeypatch):
    """Not by all that the module imports in turn: torch.func.grad holds a part of torch."""

    def key(text):
        (tmp_path / "held_by_closure.py").write_text(text)
        monkeypatch.delitem(sys.modules, "held_by_closure", raising=False)
        held = importlib.import_module("held_by_closure")
        module = nn.Identity()
        module.scale = lambda x: held.scale(x)
        return fingerprint(module, (X,), {}, "net")

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first = key("import torch, numpy\ndef scale(x): return 2 * x\n")
    importlib.invalidate_caches()
    assert key("import torch, numpy\ndef scale(x): return 3 * x\n") != first
    importlib.invalidate_caches()
    assert key("import torch, numpy\ndef scale(x): return 2 * x\n") == first
    assert len(identify(torch.func.grad(torch.sum))) < 100
