"""A model as calls: one for each layer of its graph, which run one by one give what the model gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import workloads
from workloads.errors import WorkloadError
from workloads.factory import build
from workloads.layer_program import LayerProgram, Read, View, layer_program
from workloads.models.htdemucs import HTDemucs
from workloads.values import tensors_in


def run(program: LayerProgram) -> list[Any]:
    """Run the calls in order, in one process, on flat memory of one number each."""
    memory = [torch.zeros(extent, dtype=torch.uint8) for extent in program.extents]

    def tensor(view: View) -> torch.Tensor:
        flat = torch.empty(0, dtype=view.dtype)
        found = flat.set_(memory[view.storage].untyped_storage(), view.offset, view.shape, view.stride)
        found = found.conj() if view.conjugate else found
        return torch._neg_view(found) if view.negative else found

    def filled(argument: Any) -> Any:
        if isinstance(argument, View):
            return tensor(argument)
        return [filled(item) for item in argument] if isinstance(argument, list | tuple) else argument

    for number, given in program.given.items():
        tensor(program.base[number]).copy_(given)
    with torch.no_grad():
        for call in program.calls:
            namespace, _, name = call.operator.partition("::")
            packet, _, overload = name.partition(".")
            operator = getattr(getattr(getattr(torch.ops, namespace), packet), overload)
            made = operator(*filled(call.args), **{key: filled(value) for key, value in call.kwargs.items()})
            for view, result in zip(call.outputs, tensors_in(made), strict=bool(call.outputs)):
                tensor(view).copy_(result)
    return [tensor(out.view).clone() if isinstance(out, Read) else out for out in program.outputs]


@pytest.mark.parametrize("name", ["conv-tasnet", "resnet18", "videoaudioast-tiny"])
def test_the_calls_of_a_graph_of_the_catalogue_give_the_model_s_answer(name: str) -> None:
    """The graph was traced on the meta device; the values come from the module on a processor."""
    entry, graph = workloads.entry(name), workloads.load(name)
    torch.manual_seed(0)
    module, _ = build(entry.factory, entry.inputs, kwargs=entry.kwargs)
    on_meta, _ = build(entry.factory, entry.inputs, kwargs=entry.kwargs, device="meta")
    inputs = tuple(torch.randn(shape) for shape in graph.input_shapes)
    program = layer_program(on_meta, inputs, name=name, weights=module)
    assert program.graph == graph
    assert len(program.calls) == len(graph.layers)
    for layer, call in zip(graph.layers, program.calls, strict=True):
        assert call.operator == layer.operator.replace(".", "::", 1)
        assert sum(view.dtype.itemsize * torch.Size(view.shape).numel() for view in call.outputs) in (
            0,
            layer.output_bytes,
        )
    with torch.no_grad():
        expected = module.eval()(*inputs)
    torch.testing.assert_close(run(program), [expected], rtol=1e-4, atol=1e-5)


def test_reads_of_calls_are_the_edges_of_the_graph() -> None:
    module = HTDemucs(channels=8, nfft=2048, depth=2, t_layers=1, t_heads=2, samplerate=8000, segment_s=0.5).eval()
    program = layer_program(module, (torch.zeros(1, 2, 4000),))
    graph = program.graph
    reads = {(read.producer, layer) for layer, call in enumerate(program.calls) for read in call.reads if read.nbytes}
    assert {pair for pair in reads if pair[0] is not None} == set(map(tuple, graph.edges.tolist()))
    weights = {
        view.storage for call in program.calls for view in (read.view for read in call.reads if read.producer is None)
    }
    assert weights <= set(program.given)


def test_a_constant_without_a_value_is_refused() -> None:
    with torch.device("meta"):
        module = nn.Linear(3, 3).eval()
    with pytest.raises(WorkloadError, match="weight has no value"):
        layer_program(module, (torch.zeros(2, 3),))
