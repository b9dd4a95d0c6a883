"""The fifteen one-block probes against hand-computed MACs, by the PyTorch route and through ONNX files."""

import pytest
import torch

import workloads
from tests.peers.probes import PROBES
from tests.workloads.tracing_help import matrix_macs

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


@pytest.mark.parametrize("name", ["conv3d", "group_norm", "lstm_bidirectional", "multi_head_attention", "tasnet_block"])
def test_onnx_route_by_the_newer_exporter(name, tmp_path):
    (probe,) = [probe for probe in PROBES if probe.name == name]
    check(workloads.trace_file(probe.export(tmp_path, dynamo=True), cache=False), probe)
