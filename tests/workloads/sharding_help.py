"""Models cut into segments, with the value of every tensor, and splits that run on a team of threads."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.testing import assert_close

from workloads import SegmentGraph, build_segments
from workloads.dataflow import build_graph
from workloads.sharding import SegmentSplit, Splitter, run_together

SMALLEST = 1e-13
"""What is left of values of about 1 that cancel in float64."""


@dataclass
class Cut:
    """A model's program and segments; `values` are what its calls return, by their names."""

    program: ExportedProgram
    segments: SegmentGraph
    splitter: Splitter
    values: dict[str, Tensor]
    tensors: dict[str, Tensor]


def cut(module: nn.Module, *inputs: Tensor, **how: Any) -> Cut:
    program = torch.export.export(module.eval(), inputs, strict=False)
    segments = build_segments(build_graph(program, type(module).__name__), **how)
    tensors = {**program.constants, **program.state_dict}
    given = iter(inputs)
    arguments = [
        next(given) if spec.kind.name == "USER_INPUT" else tensors[str(spec.target)]
        for spec in program.graph_signature.input_specs
    ]
    values: dict[str, Tensor] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            values[n.name] = super().run_node(n)
            return values[n.name]

    with torch.no_grad():
        Recorder(program.graph_module).run(*arguments)
    return Cut(program, segments, Splitter(program, segments), values, tensors)


def run_split(model: Cut, split: SegmentSplit) -> list[tuple[Tensor, ...]]:
    """Outputs of each member; the bytes that they send have to be those that the split declares."""

    def work(team: Any) -> tuple[Tensor, ...]:
        inputs = [layout.piece(model.values[layout.tensor], team.member) for layout in split.inputs]
        return split.members[team.member].run(team, inputs, model.tensors)

    made, sent = run_together(split.groups, work)
    for member, calls in enumerate(sent):
        assert calls == [(c.kind, c.sent_bytes[member]) for c in split.collectives]
    return made


def check(model: Cut, split: SegmentSplit, tolerance: float = 1e-10) -> None:
    """The members' outputs joined are the segment's, evenly held; their work is the segment's, and what is repeated."""
    made = run_split(model, split)
    for number, layout in enumerate(split.outputs):
        pieces = [outputs[number] for outputs in made]
        assert len({tuple(piece.shape) for piece in pieces}) == 1
        assert sum(piece.nbytes for piece in pieces) == layout.nbytes
        whole = model.values[layout.tensor]
        assert_close(
            layout.join(pieces),
            whole,
            rtol=tolerance,
            atol=tolerance * float(whole.double().abs().max() if not whole.is_complex() else whole.abs().max()),
        )
    layers = model.segments.graph.layers
    repeated = {entry.layer for entry in split.replicated}
    for index, layer in enumerate(split.layers):
        if layers[layer].flops:
            total = float(split.flops_share[:, index].sum())
            assert total > 1 - 1e-9, layers[layer].name
            assert (total > 1 + 1e-9) == (layer in repeated), layers[layer].name
    assert split.largest_share < 1
