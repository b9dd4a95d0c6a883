"""Rules for operators of the user's own: given by hand or by another distribution, checked, and part of the cache."""

from importlib import metadata

import pytest
import torch
from torch import nn

import workloads
from tests.workloads.tracing_help import trace
from workloads import Call, Count, OperatorKind, WorkloadError, operators

NAME = "chipfront_custom::mix"


@pytest.fixture(autouse=True, scope="module")
def library():
    held = torch.library.Library("chipfront_custom", "DEF")
    held.define("mix(Tensor x, Tensor weight, int times=3) -> Tensor")
    held.impl("mix", lambda x, weight, times=3: x @ weight * times, "CompositeExplicitAutograd")
    fake = lambda x, weight, times=3: x.new_empty(x.shape[0], weight.shape[1])  # noqa: E731
    torch.library.register_fake(NAME, fake, lib=held)
    yield held


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(operators, "_registered", {})
    operators._of_entry_points.cache_clear()
    yield
    operators._of_entry_points.cache_clear()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))

    def forward(self, x):
        return torch.ops.chipfront_custom.mix(x, self.weight).relu()


def products(call: Call) -> Count:
    macs = call.arguments["times"] * call.tensor("x").numel * call.tensor("weight").shape[-1]
    return Count(kind=OperatorKind.LINEAR, counting="handle", macs=macs, flops=2 * macs, formula="times m n k")


def test_a_rule_counts_each_call_with_defaults_filled_in():
    assert trace(Net(), torch.randn(2, 4)).refused == {"chipfront_custom.mix.default": 1}
    workloads.count_operator(NAME, products)
    graph = trace(Net(), torch.randn(2, 4))
    layer = graph.layers[0]
    assert (layer.macs, layer.kind, layer.counting, layer.formula) == (
        144,
        OperatorKind.LINEAR,
        "handle",
        "times m n k",
    )
    assert (graph.refused, layer.parameters, layer.weight_bytes) == ({}, 24, 96)
    assert workloads.describe(graph)["coverage"]["handle"] == {"chipfront_custom.mix.default": 1}


@pytest.mark.parametrize("kind", OperatorKind)
def test_a_rule_may_name_any_kind(kind):
    workloads.count_operator(NAME, lambda call: Count(kind=kind, counting="moved"))
    assert trace(Net(), torch.randn(2, 4)).layers[0].kind == kind


def test_another_rule_is_another_key_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CHIPFRONT_CACHE", str(tmp_path))
    net = Net()
    assert workloads.trace(net, torch.randn(2, 4)).refused
    for macs in (5, 7):
        said = Count(kind=OperatorKind.MATMUL, counting="handle", macs=macs, flops=2 * macs)
        workloads.count_operator(NAME, lambda call, said=said: said)
        assert workloads.trace(net, torch.randn(2, 4)).macs == macs
    assert len(list(tmp_path.rglob("*.json"))) == 3


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (7, "returned a int"),
        (Count(kind=OperatorKind.MATMUL, counting="handle", macs=5, flops=5), "flops=5"),
        (Count(kind=OperatorKind.MATMUL, counting="estimated", macs=5, flops=10), "estimated"),
        (Count(kind=OperatorKind.COPY, counting="moved", flops=1), "moved"),
        (Count(kind=OperatorKind.OTHER, counting="estimated", flops=-1), "flops=-1"),
        (Count(kind=OperatorKind.OTHER, counting="refused"), "refused"),
    ],
)
def test_what_a_rule_returns_is_checked(said, message):
    workloads.count_operator(NAME, lambda call: said)
    with pytest.raises(WorkloadError, match=rf"the rule of {NAME} .*{message}") as caught:
        trace(Net(), torch.randn(2, 4))
    assert "workloads.Count" in caught.value.hint


def test_a_rule_that_fails_is_named():
    workloads.count_operator(NAME, lambda call: call.tensor("y"))
    with pytest.raises(WorkloadError, match=rf"the rule of {NAME} failed: KeyError"):
        trace(Net(), torch.randn(2, 4))


@pytest.mark.parametrize(
    ("name", "rule", "message"),
    [
        ("chipfront_custom.mix.default", products, "is not the name"),
        ("aten::linear", products, "counted already"),
        (NAME, None, "rule of .* is a NoneType"),
    ],
)
def test_wrong_registrations_are_refused(name, rule, message):
    with pytest.raises(WorkloadError, match=message):
        workloads.count_operator(name, rule)


def test_other_distributions_bring_rules(monkeypatch):
    point = metadata.EntryPoint(NAME, f"{__name__}:products", operators.ENTRY_POINTS)
    monkeypatch.setattr(metadata.EntryPoint, "load", lambda self: products)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point] if group == operators.ENTRY_POINTS else [])
    assert trace(Net(), torch.randn(2, 4)).layers[0].macs == 144


def test_a_distribution_that_cannot_be_loaded_is_named(monkeypatch):
    point = metadata.EntryPoint(NAME, "no_such_package_here:rule", operators.ENTRY_POINTS)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point] if group == operators.ENTRY_POINTS else [])
    with pytest.raises(WorkloadError, match=rf"operator '{NAME}'.*no_such_package_here"):
        trace(Net(), torch.randn(2, 4))
