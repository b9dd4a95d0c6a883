"""Trace one training step of a PyTorch model: forward, backward and optimiser as one workload graph.

The step is the one that eager PyTorch runs on a processor in its steady state: gradients were set to None, the
optimiser has its state; what the model returns is held to the end, as the variable of a loop does. It runs on fake
tensors, on a copy of the model: nothing is computed and the model is left as found.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.checkpoint import checkpoint

from workloads import cache as graph_cache
from workloads.dataflow import edges_of
from workloads.errors import WorkloadError
from workloads.fingerprint import digest, fingerprint, identify
from workloads.graph import Role, WorkloadGraph
from workloads.recorder import Scope, StepRecorder
from workloads.run_mode import check_depth, check_optimizer
from workloads.trace import check_arguments, explain, held_tensors, quiet

Loss = Callable[[Any], torch.Tensor]
"""Takes what the model returns, returns a scalar."""

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

_MAKE: Mapping[str, MakeOptimizer] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-2),
    "adam": lambda parameters: torch.optim.Adam(parameters),
    "adamw": lambda parameters: torch.optim.AdamW(parameters),
}
"""Of each name of OPTIMIZERS. On a processor these go through the parameters one by one."""


def trace_training(
    module: nn.Module,
    example_inputs: Sequence[Any] | torch.Tensor,
    *,
    loss: Loss | None = None,
    optimizer: str | MakeOptimizer = "adam",
    recompute: int | Sequence[str] | None = None,
    name: str = "",
    example_kwargs: Mapping[str, Any] | None = None,
    cache: bool = True,
) -> WorkloadGraph:
    """Return the workload graph (mode "train") of one training step of `module` on inputs like the examples.

    Each layer is one operator that eager PyTorch runs below autograd, in its order, with its `phase`. A backward layer
    belongs to the module of its forward operator, an optimiser's layer to that of the parameter. What is computed again
    for the backward pass is part of the backward pass. `allocations` say what memory lives when.

    Parameters
    ----------
    module
        On any device, the meta device included; it is left as found. All its modules are put in training mode;
        parameters that ask for no gradient stay frozen.
    example_inputs, example_kwargs
        As in `workloads.trace`.
    loss
        Takes what the model returns, returns a scalar tensor. None: the sum, over the floating tensors among the
        outputs (where it is an object of a class, among its attributes), of the mean of squared differences (of
        absolute values, where complex) from a target of zeros.
    optimizer
        "sgd" (lr 0.01, no momentum), "adam" or "adamw", as torch.optim has them by default; or a callable that makes
        one of a list of parameters.
    recompute
        Modules whose activations are not kept but computed again in the backward pass (torch.utils.checkpoint, not
        reentrant): paths, with * and ? as in file names, such as ["encoder.*"], of which the outermost that match
        count; or a depth: all modules of that many names in their path, where containers that only list modules do
        not count.
    name
        Name of the graph; the class's name if empty.
    cache
        Take the graph from the disk cache if it is there, else trace and keep it there.

    Raises
    ------
    WorkloadError
        If the arguments are not these, nothing can be trained, or the step cannot run: what failed, and where.
    """
    args, kwargs = check_arguments(module, example_inputs, example_kwargs)
    if isinstance(optimizer, str):
        check_optimizer(optimizer)
    paths = recomputed(module, recompute)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise WorkloadError(f"{type(module).__name__} has no parameter that asks for a gradient", "requires_grad_()")
    name = name or type(module).__name__
    key = ""
    if cache:
        frozen = [parameter.requires_grad for parameter in module.parameters()]
        options = identify([loss, optimizer, paths, frozen, _backends()])
        key = digest(["train", fingerprint(module, args, kwargs, name), *options])
        if (stored := graph_cache.read(name, key)) is not None:
            return stored
    make = _MAKE[optimizer] if isinstance(optimizer, str) else optimizer
    graph = _trace(module, args, kwargs, name, loss, make, paths)
    if key:
        graph_cache.write(name, key, graph)
    return graph


def recomputed(module: nn.Module, recompute: int | Sequence[str] | None) -> list[str]:
    """Return the paths of the modules that `recompute` names.

    Raises WorkloadError for a depth below 1 and for a path that no module has.
    """
    if recompute is None:
        return []
    if isinstance(recompute, int) and not isinstance(recompute, bool):
        check_depth(recompute)
        return list(_at_depth(module, "", recompute))
    if isinstance(recompute, str) or not isinstance(recompute, Sequence):
        raise WorkloadError(
            f"recompute is {recompute!r}", 'a depth, or a list of paths of modules such as ["encoder.*"]'
        )
    paths = [path for path, _ in module.named_modules() if path]
    for pattern in recompute:
        if not any(fnmatchcase(path, pattern) for path in paths):
            close = get_close_matches(pattern, paths, n=1)
            raise WorkloadError(
                f"recompute: no module is called {pattern!r}",
                f"did you mean {close[0]!r}?" if close else "see named_modules()",
            )
    found: list[str] = []
    for path in paths:  # parents come first; what is inside one that is named goes with it
        inside = found and path.startswith(f"{found[-1]}.")
        if not inside and any(fnmatchcase(path, pattern) for pattern in recompute):
            found.append(path)
    return found


def _at_depth(module: nn.Module, path: str, depth: int) -> Iterator[str]:
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        listing = isinstance(child, nn.ModuleList | nn.ModuleDict)
        if depth == 1 and not listing:
            yield inner
        else:
            yield from _at_depth(child, inner, depth if listing else depth - 1)


def _backends() -> list[bool]:
    """Return the settings of torch that choose other kernels."""
    return [
        torch._C._get_mkldnn_enabled(),
        torch._C._get_flash_sdp_enabled(),
        torch._C._get_mem_efficient_sdp_enabled(),
        torch._C._get_math_sdp_enabled(),
    ]


def _trace(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    name: str,
    loss: Loss | None,
    optimizer: MakeOptimizer,
    paths: Sequence[str],
) -> WorkloadGraph:
    model = module
    with quiet(), torch.inference_mode(False), torch.enable_grad():
        try:
            recorder, model, args, kwargs = recorded_copy(module, args, kwargs, paths, training=True)
            with recorder.fake, recorder:
                stepper = _run(recorder, model, args, kwargs, loss, optimizer)
        except WorkloadError:
            raise
        except Exception as error:  # whatever the model's own code raises on the way
            raise explain(error, model, name) from None
        again = f", {len(paths)} modules recomputed" if paths else ""
        return _graph(recorder, model, name, args, kwargs, type(stepper).__name__ + again)


def recorded_copy(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    paths: Sequence[str] = (),
    *,
    training: bool,
    workspaces: bool = True,
) -> tuple[StepRecorder, nn.Module, tuple[Any, ...], dict[str, Any]]:
    """Return a recorder that watches a copy of the model, the copy in its mode, and the arguments: all tensors fake."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    model, args, kwargs = _fake_copy(fake, module, args, kwargs)
    model.train(training)
    recorder = StepRecorder(fake, workspaces=workspaces)
    for tensor in tree_leaves((args, kwargs)):
        if isinstance(tensor, torch.Tensor):
            recorder.hold(tensor, Role.ACTIVATION)
    for path, tensor in _weights(model):
        recorder.hold(tensor, Role.WEIGHT, path, _owner(model, path))
    for path, child in model.named_modules():
        _watch(recorder, child, path, recompute=path in paths)
    return recorder, model, args, kwargs


def _fake_copy(
    fake: FakeTensorMode, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """Return the model and its arguments, all tensors fake ones on the processor."""
    memo: dict[int, Any] = {}

    def replace(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in memo:
            with fake:
                made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
                if isinstance(tensor, nn.Parameter):
                    made = nn.Parameter(made, requires_grad=tensor.requires_grad)
            memo[id(tensor)] = made if tensor.grad_fn is not None else made.requires_grad_(tensor.requires_grad)
        replaced: torch.Tensor = memo[id(tensor)]
        return replaced

    for child in module.modules():
        tree_map_only(torch.Tensor, replace, [vars(child), child._parameters, child._buffers])
    args, kwargs = tree_map_only(torch.Tensor, replace, (args, kwargs))
    return copy.deepcopy(module, memo), args, kwargs


def _weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield parameters and buffers by their first names."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _owner(model: nn.Module, weight: str) -> Scope:
    path = weight.rpartition(".")[0]
    return path, type(model.get_submodule(path)).__name__


def _watch(recorder: StepRecorder, child: nn.Module, path: str, *, recompute: bool) -> None:
    """Attribute what runs in a module of the copy to it, and let it forget its activations where asked."""
    call = recorder.watch(child._call_impl, (path, type(child).__name__))

    def forgetful(*args: Any, **kwargs: Any) -> Any:
        # the state of the random generator, which a real step keeps too, is 5 kB
        return checkpoint(call, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    child._call_impl = forgetful if recompute else call  # type: ignore[method-assign]


def _run(
    recorder: StepRecorder,
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    loss: Loss | None,
    make_optimizer: MakeOptimizer,
) -> torch.optim.Optimizer:
    """Run the step and return its optimiser. The optimiser gets its state unrecorded, as if from an earlier step."""
    output = model(*args, **kwargs)
    targets: list[torch.Tensor] = []  # held to the end, as what loads the data would
    error = loss(output) if loss else _squares(recorder, output, targets)
    if not isinstance(error, torch.Tensor) or error.numel() != 1 or not error.requires_grad:
        raise WorkloadError("the loss is not a scalar tensor that depends on the parameters", "return such as .mean()")
    recorder.phase = "backward"
    error.backward()  # type: ignore[no-untyped-call]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    recorder.mark_gradients(parameters)
    recorder.phase = "optimizer"
    with recorder.paused():
        optimizer = make_optimizer(parameters)
        optimizer.step()
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, state in optimizer.state.items():
        for key, tensor in state.items():
            if isinstance(tensor, torch.Tensor):
                name = names[parameter]
                recorder.hold(tensor, Role.OPTIMIZER, f"{name}.{key}", _owner(model, name))
    optimizer.step()
    return optimizer


def _squares(recorder: StepRecorder, output: Any, targets: list[torch.Tensor]) -> torch.Tensor:
    """Sum of the mean squared distance of each floating output from zeros, which are inputs of the step (`targets`)."""
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
    outputs = [tensor for tensor in leaves or held_tensors(output) if tensor.requires_grad]
    if not outputs:
        raise WorkloadError(
            f"what the model returns ({type(output).__name__}) holds no tensor that depends on its parameters",
            "give a loss that takes it and returns a scalar",
        )
    total: torch.Tensor | None = None
    for tensor in outputs:
        tensor = tensor.abs() if tensor.is_complex() else tensor
        with recorder.paused():
            targets.append(torch.zeros_like(tensor))
        error = nn.functional.mse_loss(tensor, targets[-1])
        total = error if total is None else total + error
    assert total is not None
    return total


def _graph(
    recorder: StepRecorder,
    model: nn.Module,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    training: str,
) -> WorkloadGraph:
    walker = recorder.walker
    edges, edge_bytes, edge_parts = edges_of(walker)
    read = {weight for layer in walker.layers for weight in layer.weights}
    sizes = {path: tensor.untyped_storage().nbytes() for path, tensor in _weights(model)}
    shapes = tuple(tuple(t.shape) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor))
    return WorkloadGraph(
        name=name,
        layers=tuple(walker.layers),
        edges=edges,
        edge_bytes=edge_bytes,
        edge_parts=edge_parts,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weight_bytes=sum(size for weight, size in sizes.items() if weight in read),
        input_shapes=shapes,
        batch=shapes[0][0] if shapes and shapes[0] else 1,
        mode="train",
        training=training,
        allocations=recorder.allocations(),
        aliases=dict(sorted(walker.aliases.items())),
        refused=dict(sorted(walker.refused.items())),
    )
