"""The model of a workload with weights and inputs, ready to run: as it is, and as calls layer by layer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from dse.errors import DseError
from workloads.files import is_model_file, is_own_model
from workloads.graph import WorkloadGraph
from workloads.layer_program import LayerProgram, layer_program, lowered
from workloads.trace import evaluation, plain_outputs
from workloads.workload_program import shape_texts, workload_module

ZEROS_STD = 0.02  # of what is drawn in place of zeros


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnableModel:
    """A model as calls, and the function that runs it whole and returns what it returns, flat."""

    program: LayerProgram
    original: Callable[[], list[Any]]
    modules: tuple[str, ...]  # that its code is in


def runnable(
    workload: str | nn.Module, graph: WorkloadGraph, inputs: Sequence[Any] | torch.Tensor | None, seed: int
) -> RunnableModel:
    """Return the model that `graph` is a trace of, on the CPU.

    Weights come from its own initialisation after `torch.manual_seed(seed)`, or from its file; those of a named model
    that it leaves at zero (the last layer of some networks, biases) are drawn as well, since nothing that is multiplied
    by them would show. Floating inputs are drawn from a normal distribution where none are given; others keep the
    values of the example.

    Raises WorkloadError where it cannot be built or traced, DseError where inputs are missing or of another shape.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(workload, str) and Path(workload).suffix.lower() == ".pt2":
            return _of_program(Path(workload), graph, inputs)
        module, traced, examples = (
            _modules(workload, graph) if isinstance(workload, str) else (workload, workload, inputs)
        )
        if examples is None:
            raise DseError("the inputs of the model are not known", "give them with the module")
        given = inputs if inputs is not None else drawn(examples)
    args = (given,) if isinstance(given, torch.Tensor) else tuple(given)
    program = _kept(layer_program(traced, args, name=graph.name, weights=module))
    return RunnableModel(
        program=program,
        original=lambda: _run(module, pytree.tree_map_only(torch.Tensor, torch.clone, args)),
        modules=tuple(sorted({type(child).__module__ for child in module.modules()} - {"__main__"})),
    )


def drawn(examples: Any) -> Any:
    """Return example inputs whose floating tensors are drawn from a normal distribution."""

    def random(tensor: torch.Tensor) -> torch.Tensor:
        floating = tensor.is_floating_point() or tensor.is_complex()
        dtype = tensor.dtype if tensor.itemsize > 1 else torch.float32  # none can be drawn of 8 bits
        return torch.randn(tensor.shape, dtype=dtype).to(tensor.dtype) if floating else tensor

    return pytree.tree_map_only(torch.Tensor, random, examples)


def _modules(name: str, graph: WorkloadGraph) -> tuple[nn.Module, nn.Module, Any]:
    """Return the module of a workload with weights, the same as it was traced, and inputs of its graph's shapes."""
    module, examples = workload_module(name, graph, weights=True)
    if not is_model_file(name):
        draw_zeros(module)
    if is_own_model(name) and not is_model_file(name):
        return module, module, examples
    return module, workload_module(name, graph)[0], examples


def draw_zeros(module: nn.Module) -> nn.Module:
    """Draw the parameters that are zero throughout from a narrow normal distribution, in place; return the module."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() and not parameter.any():
                parameter.normal_(std=ZEROS_STD)
    return module


def _of_program(path: Path, graph: WorkloadGraph, inputs: Sequence[Any] | torch.Tensor | None) -> RunnableModel:
    from workloads.programs import load_program, read_archive, with_values

    program = with_values(load_program(read_archive(path), str(path), shape_texts(graph)), path)
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    specs = program.graph_signature.input_specs
    examples = [
        torch.zeros(node.meta["val"].shape, dtype=node.meta["val"].dtype)
        for node, spec in zip(nodes, specs, strict=True)
        if spec.target is None and isinstance(node.meta["val"], torch.Tensor)
    ]
    given = drawn(examples) if inputs is None else [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
    tensors = iter(given)
    held = {**program.constants, **program.state_dict}
    arguments = [
        held[str(spec.target)]
        if spec.target is not None
        else next(tensors)
        if isinstance(node.meta["val"], torch.Tensor)
        else node.meta["val"]
        for node, spec in zip(nodes, specs, strict=True)
    ]
    lowered_program = _kept(lowered(program, given, graph.name))
    returned = [spec.kind.name == "USER_OUTPUT" for spec in program.graph_signature.output_specs]

    def original() -> list[Any]:
        with torch.no_grad():
            made = program.graph_module(*pytree.tree_map_only(torch.Tensor, torch.clone, arguments))
        return [leaf for leaf, kept in zip(made, returned, strict=True) if kept]

    return RunnableModel(program=lowered_program, original=original, modules=())


def _run(module: nn.Module, args: tuple[Any, ...]) -> list[Any]:
    """Return what a module returns, flat; buffers that it changes are copies."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with evaluation(module), plain_outputs(module), torch.no_grad(), redirect_stdout(sys.stderr):
        return pytree.tree_leaves(torch.func.functional_call(module, buffers, args))


def _kept(program: LayerProgram) -> LayerProgram:
    """Return the program with copies of what it writes to in place: a run of the model leaves them as they were."""
    written = {view.storage for call in program.calls for view in call.writes}
    given = {number: t.clone() if number in written else t for number, t in program.given.items()}
    return replace(program, given=given)
