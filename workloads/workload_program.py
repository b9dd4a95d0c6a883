"""Workloads as modules, and as exported programs whose layers are those of their graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from workloads.catalog import entry
from workloads.errors import WorkloadError
from workloads.factory import build, current_folder_importable
from workloads.files import is_model_file, is_own_model
from workloads.graph import WorkloadGraph
from workloads.trace import check_arguments, export


def exported(
    workload: str | nn.Module, graph: WorkloadGraph, inputs: Sequence[Any] | torch.Tensor | None = None
) -> ExportedProgram:
    """Return the exported program that `graph` is a trace of: what `workloads.sharding` splits. Nothing is computed.

    Parameters
    ----------
    workload
        Name in the catalogue, `package.module:factory`, a model file, or the module itself.
    graph
        The inference graph of it; its inputs' shapes are those of the program.
    inputs
        Arguments of forward, of a module.

    Raises
    ------
    WorkloadError
        If the model cannot be built or exported, the inputs of a module are missing, or the graph is a training step.
    """
    if graph.mode != "inference":
        raise WorkloadError(f"{graph.name} is a training step, which has no exported program", "the inference graph")
    if isinstance(workload, nn.Module):
        if inputs is None:
            raise WorkloadError("the inputs of the model are not known", "give them with the module")
        args, kwargs = check_arguments(workload, inputs, None)
        return export(workload, args, kwargs, graph.name)
    if Path(workload).suffix.lower() == ".pt2":
        from workloads.programs import load_program, read_archive

        return load_program(read_archive(Path(workload)), workload, shape_texts(graph))
    module, examples = workload_module(workload, graph)
    return export(module, examples, {}, graph.name)


def workload_module(name: str, graph: WorkloadGraph, *, weights: bool = False) -> tuple[nn.Module, tuple[Any, ...]]:
    """Return the module of a workload (no .pt2 file) and example inputs of the shapes of its graph.

    With `weights` it has values; else what ships and what is in files is as it was traced: on the meta device, where
    some tensors lie in memory in another order.
    """
    if is_model_file(name):
        from workloads.onnx_route import load_onnx

        return load_onnx(name, shape_texts(graph), weights=True) if weights else load_onnx(name, shape_texts(graph))
    with current_folder_importable():
        if is_own_model(name):
            module, examples = build(name, batch=graph.batch)
        else:
            known = entry(name)
            device = "cpu" if weights else "meta"
            module, examples = build(known.factory, known.inputs, kwargs=known.kwargs, device=device)
    shapes = iter(graph.input_shapes)

    def sized(tensor: torch.Tensor) -> torch.Tensor:
        shape = next(shapes, tuple(tensor.shape))
        return tensor if tuple(tensor.shape) == shape else tensor.new_zeros(shape)

    return module, pytree.tree_map_only(torch.Tensor, sized, examples)


def shape_texts(graph: WorkloadGraph) -> list[str]:
    """Return the shapes of a graph's inputs as texts: "1x3x224x224"."""
    return ["x".join(map(str, shape)) for shape in graph.input_shapes]
