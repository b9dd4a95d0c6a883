"""Trace a PyTorch model into a workload graph; nothing is computed, so a model on the meta device will do."""

from __future__ import annotations

import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from workloads import cache as graph_cache
from workloads.dataflow import DENSE_HINT, build_graph
from workloads.errors import WorkloadError
from workloads.fingerprint import fingerprint
from workloads.graph import WorkloadGraph
from workloads.sources import source_of_error

DATA_DEPENDENT = (
    *("data-dependent", "GuardOnDataDependent", "_local_scalar_dense", "Could not extract specialized"),
    *("DynamicOutputShape", "DataDependentOutput", "unbacked symbol"),  # on fake tensors
)
EXPORTED = (torch.Tensor, bool, int, float, complex, str, type(None), torch.SymInt, torch.SymFloat, torch.SymBool)
"""What an exported program can return, in lists, tuples and dicts."""

DATA_DEPENDENT_HINT = (
    "write it with torch.cond or torch.where, or remove the assertion, .item() or boolean test on data; "
    "nothing is computed in a trace, so no value is known"
)
SIZE_HINT = "a Python number, or the shape of a tensor, has a known value; sequences padded instead of packed, too"
NUMBERS_HINT = "give such numbers as tensors, as the lengths of ctc_loss"
CLASS_HINT = "give tensors, numbers, lists, tuples and dicts, or register the class: torch.export.register_dataclass"
SCRIPT_HINT = "give the modules as they were before torch.jit.script or torch.jit.trace"
QUANTIZED_HINT = (
    "give the model as it is before quantisation; the bytes of another precision are asked for by --precision"
)


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
    if isinstance(module, torch.jit.ScriptModule):
        raise WorkloadError("a TorchScript module cannot be traced", SCRIPT_HINT)
    if isinstance(example_inputs, Mapping):
        raise WorkloadError("example_inputs is a mapping", "give keyword arguments as example_kwargs")
    if not isinstance(example_inputs, torch.Tensor | list | tuple):
        raise WorkloadError(
            f"example_inputs is a {type(example_inputs).__name__}", "a tuple of the arguments of forward, or one tensor"
        )
    for path, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if torch.nn.parameter.is_lazy(tensor):
            hint = "call it once on an example first: lazy modules take their shapes from what they meet"
            raise WorkloadError(f"{type(module).__name__} cannot be traced: {path} has no shape yet", hint)
    args = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    return args, dict(example_kwargs or {})


def _trace(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> WorkloadGraph:
    program = export(module, args, kwargs, name)
    with quiet():
        return build_graph(program, name)


def export(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> ExportedProgram:
    """Return the exported program of a module in evaluation; the module is left as found.

    Of a module on the meta device the inputs go there too.

    Raises WorkloadError where it cannot be exported: what failed, where in the source, and in which module.
    """
    tensors = [*module.parameters(), *module.buffers()]
    if tensors and all(tensor.is_meta for tensor in tensors):
        args, kwargs = tree_map_only(torch.Tensor, lambda t: t.to("meta"), (args, kwargs))
    with evaluation(module), plain_outputs(module), quiet():
        try:
            return torch.export.export(module, args, kwargs, strict=False)
        except Exception as error:  # whatever the model's own code raises on the way
            raise explain(error, module, name) from None


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Put the module in evaluation, gradients on; fused attention off, which hides what it computes, and checks of
    distributions' parameters, which depend on values."""
    training = {child: child.training for child in module.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    validated = torch.distributions.Distribution._validate_args
    with suppress(NotImplementedError):  # of the module of an exported program, whose mode is fixed
        module.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        torch.distributions.Distribution.set_default_validate_args(validated)
        for child, mode in training.items():
            child.training = mode


@contextmanager
def plain_outputs(module: nn.Module) -> Iterator[None]:
    """Return the tensors that they hold instead of objects of classes that torch.export cannot return, as caches."""

    def plain(module: nn.Module, inputs: Any, output: Any) -> Any:
        return tree_map(lambda leaf: leaf if isinstance(leaf, EXPORTED) else list(held_tensors(leaf)), output)

    handle = module.register_forward_hook(plain)
    try:
        yield
    finally:
        handle.remove()


def held_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors that an object holds in its attributes, or in those of what they hold."""
    yield from _held(value, set())


def _held(value: Any, visited: set[int]) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif not isinstance(value, EXPORTED) and id(value) not in visited:
        visited.add(id(value))
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        names = [*getattr(value, "__dict__", ()), *slots]
        for item in tree_leaves([getattr(value, name, None) for name in names]):
            yield from _held(item, visited)


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
    elif "Unsupported input type" in text:
        kind = re.search(r"<class '([^']+)'>", text)
        reason, hint = f"an argument is a {kind[1] if kind else 'class'}, which torch.export does not know", CLASS_HINT
    elif any(isinstance(child, torch.jit.ScriptModule) for child in module.modules()):
        reason, hint = "it holds TorchScript", SCRIPT_HINT
    elif "functorch" in text:
        reason, hint = "torch.func inside it hides what runs", DENSE_HINT
    elif "data is not allocated yet" in text:
        reason, hint = "an operator makes a tensor of Python numbers where no values are known", NUMBERS_HINT
    elif "__torch__.torch.classes.quantized" in text:
        reason, hint = "it holds quantised weights, packed for a CPU", QUANTIZED_HINT
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
