"""`package.module:factory` of a user: found in the current folder, with errors that say what would be right."""

import sys

import pytest

import workloads
from workloads import WorkloadError
from workloads.inputs import parse_input

SOURCE = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 4)
    def forward(self, x):
        return self.linear(x)

def tiny_net():
    return Tiny(), (torch.randn(2, 8),)

def embedding():
    return nn.Embedding(10, 4)

def broken():
    raise RuntimeError("no weights here")

def leaving():
    raise SystemExit(3)

def nothing():
    return 3

class Named(Tiny):
    def forward(self, x, mask=None, scale=2.0, shift=None, *, only=1, **rest):
        return self.linear(x) * scale + shift

def mapping():
    return Named(), {"shift": torch.ones(4), "x": torch.ones(2, 8)}

def misspelt():
    return Tiny(), {"y": torch.ones(2, 8)}

def by_name_only():
    return Named(), {"x": torch.ones(2, 8), "only": 3}

def a_set():
    return Tiny(), {1, 2}

def talkative():
    print("building")
    return tiny_net()

ready = Tiny()
number = 5
"""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHIPFRONT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    (tmp_path / "my_models_of_a_user.py").write_text(SOURCE)
    (tmp_path / "my_broken_module.py").write_text("import no_such_dependency\n")
    (tmp_path / "my_failing_module.py").write_text("1 / 0\n")
    (tmp_path / "my_script.py").write_text("import sys\nsys.exit(2)\n")
    (tmp_path / "weights.pth").write_bytes(b"PK")
    yield
    for name in ("my_models_of_a_user", "my_broken_module", "my_failing_module"):
        sys.modules.pop(name, None)


def test_a_factory_in_the_current_folder():
    before = list(sys.path)
    graph = workloads.trace_factory("my_models_of_a_user:tiny_net")
    assert (graph.name, graph.macs, graph.parameters) == ("tiny_net", 64, 36)
    assert sys.path == before


def test_what_a_factory_prints_stays_off_stdout(capsys):
    workloads.trace_factory("my_models_of_a_user:talkative")
    assert capsys.readouterr() == ("", "building\n")


@pytest.mark.parametrize(("factory", "shape"), [("Tiny", "3x8"), ("ready", "3X8"), ("tiny_net", "3x8:float32")])
def test_input_shapes_for_modules_classes_and_factories(factory, shape):
    graph = workloads.trace_factory(f"my_models_of_a_user:{factory}", [shape])
    assert (graph.macs, graph.input_shapes) == (96, ((3, 8),))


def test_inputs_of_another_dtype():
    graph = workloads.trace_factory("my_models_of_a_user:embedding", ["2x3:int64"])
    assert graph.layers[0].output_shape == (2, 3, 4)


def test_example_inputs_may_have_names():
    graph = workloads.trace_factory("my_models_of_a_user:mapping")
    assert graph.input_shapes == ((2, 8), (4,))
    assert [layer.operator.split(".")[1] for layer in graph.layers] == ["linear", "mul", "add"]
    assert workloads.trace_factory("my_models_of_a_user:mapping", batch=5).macs == 5 * 8 * 4


@pytest.mark.parametrize(
    ("factory", "inputs", "message", "hint"),
    [
        ("my_models_of_a_user", [], "does not name a factory", "package.module:factory"),
        ("no_such_module_here:f", [], "no module 'no_such_module_here'", "current folder"),
        ("my_broken_module:f", [], "needs the module 'no_such_dependency'", "install"),
        ("my_failing_module:f", [], "ZeroDivisionError", ""),
        ("my_models_of_a_user:tiny_met", [], "has no 'tiny_met'", "did you mean 'tiny_net'?"),
        ("my_models_of_a_user:nothing", [], "returned a int", "torch.nn.Module"),
        ("my_models_of_a_user:number", [], "is a int", "factory"),
        ("my_models_of_a_user:a_set", [], "example inputs that are a set", "a mapping"),
        ("my_models_of_a_user:misspelt", [], "forward does not take: missing a required argument: 'x'", "names"),
        ("my_models_of_a_user:by_name_only", [], "forward has no place for: only", "example_kwargs"),
        ("my_models_of_a_user:broken", [], "no weights here", "without arguments"),
        ("my_models_of_a_user:leaving", [], "SystemExit: 3", "without arguments"),
        ("my_script:f", [], "cannot be imported: SystemExit", "not run as a script"),
        ("my_models_of_a_user.py:Tiny", [], "is a path, not a module", "my_models_of_a_user:Tiny"),
        ("./nets/of_mine:Tiny", [], "is a path, not a module", "of_mine:Tiny"),
        ("weights.pth", [], "weights.pth is not a model file that can be read", ".onnx, .pt2"),
        ("my_models_of_a_user:Tiny", [], "no example inputs", "--input 1x3x224x224"),
        ("my_models_of_a_user:Tiny", ["2,8"], "'2,8' is not an input shape", "1x3x224x224"),
        ("my_models_of_a_user:Tiny", ["0x8"], "'0x8' is not an input shape", "1x3x224x224"),
        ("my_models_of_a_user:Tiny", ["99999999999x9999999999"], "cannot be made", "a smaller shape"),
        ("my_models_of_a_user:Tiny", ["2x8:flaot32"], "'flaot32' is not a dtype", "float32"),
        ("my_models_of_a_user:Tiny", ["2x9"], "cannot be traced", "shapes"),
    ],
)
def test_mistakes_are_explained(factory, inputs, message, hint):
    with pytest.raises(WorkloadError) as caught:
        workloads.trace_factory(factory, inputs)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_input_shapes_are_read():
    assert parse_input(" 1x3x224x224 ") == ((1, 3, 224, 224), "float32")
    assert parse_input("7:int32") == ((7,), "int32")
