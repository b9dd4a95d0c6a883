"""Trace a PyTorch model into a workload graph; nothing is computed, so a model on the meta device will do."""

from __future__ import annotations

import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import nn

from workloads import cache as graph_cache
from workloads.dataflow import build_graph
from workloads.errors import WorkloadError
from workloads.fingerprint import fingerprint
from workloads.graph import WorkloadGraph
from workloads.sources import source_of_error

DATA_DEPENDENT = (
    *("data-dependent", "GuardOnDataDependent", "_local_scalar_dense", "Could not extract specialized"),
    *("DynamicOutputShape", "DataDependentOutput"),  # on fake tensors
)
DATA_DEPENDENT_HINT = (
    "write it with torch.cond or torch.where, or remove the assertion, .item() or boolean test on data; "
    "nothing is computed in a trace, so no value is known"
)
SIZE_HINT = "a Python number, or the shape of a tensor, has a known value; sequences padded instead of packed, too"


def trace(
    module: nn.Module,
    example_inputs: Sequence[Any] | torch.Tensor,
    *,
    name: str = "",
    example_kwargs: Mapping[str, Any] | None = None,
    cache: bool = True,
) -> WorkloadGraph:
    """Return the workload graph of `module` in evaluation, for inputs of the examples' shapes and dtypes.

    Parameters
    ----------
    module
        On any device, the meta device included; it is left as found.
    example_inputs, example_kwargs
        Positional and keyword arguments of `forward`; a tensor alone is the only one. Tensors give shape and dtype.
    name
        Name of the graph; the class's name if empty.
    cache
        Take the graph from the disk cache if it is there, else trace and keep it there.

    Raises
    ------
    WorkloadError
        If the arguments are not these, or the model cannot be exported: what failed, where in the source, and in which
        module.
    """
    args, kwargs = check_arguments(module, example_inputs, example_kwargs)
    name = name or type(module).__name__
    key = fingerprint(module, args, kwargs, name) if cache else ""
    if key and (stored := graph_cache.read(name, key)) is not None:
        return stored
    graph = _trace(module, args, kwargs, name)
    if key:
        graph_cache.write(name, key, graph)
    return graph


def check_arguments(
    module: nn.Module, example_inputs: Sequence[Any] | torch.Tensor, example_kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments of `forward`.

    Raises WorkloadError where one of the three is something else.
    """
    if not isinstance(module, nn.Module):
        raise WorkloadError(f"a {type(module).__name__} cannot be traced", "give a torch.nn.Module")
    if isinstance(example_inputs, Mapping):
        raise WorkloadError("example_inputs is a mapping", "give keyword arguments as example_kwargs")
    if not isinstance(example_inputs, torch.Tensor | list | tuple):
        raise WorkloadError(
            f"example_inputs is a {type(example_inputs).__name__}", "a tuple of the arguments of forward, or one tensor"
        )
    args = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    return args, dict(example_kwargs or {})


def _trace(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> WorkloadGraph:
    tensors = [*module.parameters(), *module.buffers()]
    if tensors and all(tensor.is_meta for tensor in tensors):
        args, kwargs = torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.to("meta"), (args, kwargs))
    with _evaluation(module), quiet():
        try:
            program = torch.export.export(module, args, kwargs, strict=False)
        except Exception as error:  # whatever the model's own code raises on the way
            raise explain(error, module, name) from None
        return build_graph(program, name)


@contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    """Put the module in evaluation, gradients on and fused attention off (the fused path hides what it computes)."""
    training = {child: child.training for child in module.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for child, mode in training.items():
            child.training = mode


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch from logging tracebacks, warning and printing graphs while it exports; the exception says it all.

    What the model prints on stdout goes to stderr: stdout is for results.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def explain(error: Exception, module: nn.Module, name: str) -> WorkloadError:
    """Return the error that names what failed, the line of the user's source and the module."""
    text = str(error)
    if any(sign in f"{type(error).__name__} {text}" for sign in DATA_DEPENDENT):
        reason, hint = "its control flow depends on the values of a tensor", DATA_DEPENDENT_HINT
    elif "got FakeTensor" in text:
        reason, hint = "a size depends on the values of a tensor", SIZE_HINT
    else:
        first = next((line.strip() for line in text.splitlines() if line.strip()), "")
        reason = f"{type(error).__name__}: {first}" if first else type(error).__name__
        hint = "the model must run on these inputs: check their shapes and dtypes, and that all is on one device"
    parts = [f"{name} cannot be traced: {reason}"]
    if (operator := re.search(r"\baten[.:]+\w+(\.\w+)?", text)) and operator[0] not in reason:
        parts.append(f"operator {operator[0]}")
    place, path = source_of_error(error, module)
    if place:
        parts.append(f"at {place}")
    if path is not None:
        parts.append(f"in module {path or '(the model itself)'}")
    return WorkloadError(", ".join(parts), hint)
