"""The fifteen one-block probes against hand-computed MACs, by the PyTorch route and through ONNX files."""

import pytest
import torch
from torch import nn

import workloads
from tests.peers.probes import OPSET, PROBES
from tests.workloads.tracing_help import matrix_macs
from workloads.graph import MATRIX_KINDS

pytest.importorskip("onnx")
pytestmark = pytest.mark.filterwarnings("ignore")
each_probe = pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)


def check(graph, probe):
    assert matrix_macs(graph) == probe.macs
    if not probe.macs:
        assert (graph.macs, graph.flops) in ((0, probe.flops), (probe.flops // 2, probe.flops))
    assert graph.parameters == sum(p.numel() for p in probe.module().parameters())
    assert not graph.refused


def test_there_are_fifteen():
    assert len({probe.name for probe in PROBES}) == 15


@each_probe
def test_pytorch_route(probe):
    check(workloads.trace(probe.module(), torch.rand(probe.shape), cache=False), probe)


@each_probe
def test_onnx_route(probe, tmp_path):
    check(workloads.trace_file(probe.export(tmp_path), cache=False), probe)


class Fifteen(nn.Module):
    """All probes side by side, because the newer exporter takes its time for each file."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(probe.module() for probe in PROBES)
        for parameter in self.parameters():  # no two blocks alike, or the exporter stores their weights once
            nn.init.uniform_(parameter, 0.1, 0.9)

    def forward(self, *inputs):
        return tuple(block(x) for block, x in zip(self.blocks, inputs, strict=True))


def test_onnx_route_by_the_newer_exporter(tmp_path):
    module, inputs = Fifteen().eval(), tuple(torch.rand(probe.shape) for probe in PROBES)
    torch.onnx.export(module, inputs, tmp_path / "m.onnx", opset_version=OPSET, dynamo=True, verbose=False)
    graph = workloads.trace_file(tmp_path / "m.onnx", cache=False)
    counted = dict.fromkeys(range(15), 0)
    for layer in graph.layers:
        if layer.macs and layer.kind in MATRIX_KINDS:
            counted[int(layer.module.split(".")[1])] += layer.macs
    assert list(counted.values()) == [probe.macs for probe in PROBES]
    assert graph.parameters == sum(p.numel() for p in module.parameters())
    assert not graph.refused
