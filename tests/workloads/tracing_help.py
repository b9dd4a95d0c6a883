"""Tracing without the cache, and what independent counters say of the same module."""

import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import workloads
from workloads import WorkloadGraph
from workloads.graph import MATRIX_KINDS


def trace(module, *inputs, **options) -> WorkloadGraph:
    return workloads.trace(module, inputs, cache=False, **options)


def on_meta(factory, *shapes):
    with torch.device("meta"):
        return factory().eval(), tuple(torch.empty(shape) for shape in shapes)


def matrix_macs(graph, *kinds):
    return sum(layer.macs for layer in graph.layers if layer.kind in (kinds or MATRIX_KINDS))


def fvcore_total(module, inputs):
    analysis = FlopCountAnalysis(module, inputs).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return analysis.total()


def torch_total(module, inputs):
    """MACs of matrix products and convolutions by torch's own counter; on meta it also sees attention."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return counter.get_total_flops() // 2


def producers(graph, consumer):
    """Bytes by name of the layers that the one called `consumer` reads."""
    index = [layer.name for layer in graph.layers].index(consumer)
    rows = zip(graph.edges.tolist(), graph.edge_bytes.tolist(), strict=True)
    return {graph.layers[p].name: size for (p, c), size in rows if c == index}


def only(graph, operator):
    (layer,) = [layer for layer in graph.layers if layer.operator.startswith(operator)]
    return layer


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs, **keywords):
        return self.function(*inputs, **keywords)
