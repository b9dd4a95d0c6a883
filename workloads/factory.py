"""Models by name of their factory: `package.module:factory`, as the catalogue and `dse trace` write it."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.errors import WorkloadError
from workloads.files import LOADERS, is_model_file, trace_file
from workloads.graph import WorkloadGraph
from workloads.inputs import at_batch, example_input, parse_input
from workloads.run_mode import RunMode, run_mode

if TYPE_CHECKING:
    from torch import nn

EXAMPLE = "write package.module:factory, such as workloads.models.resnet:resnet18"


def split(text: str) -> tuple[str, str]:
    """Return module and attribute of `package.module:factory`."""
    module, colon, attribute = text.partition(":")
    file = Path(module)
    if file.suffix == ".py" or "/" in module:
        hint = f"name the module, from the folder that it is in: {file.stem}:{attribute or 'factory'}"
        raise WorkloadError(f"{module!r} is a path, not a module", hint)
    if not colon and file.is_file():
        raise WorkloadError(f"{text} is not a model file that can be read", f"one of {', '.join(sorted(LOADERS))}")
    if not (module and colon and attribute):
        raise WorkloadError(f"{text!r} does not name a factory", EXAMPLE)
    return module, attribute


def resolve(text: str) -> Any:
    """Import the module of `package.module:factory` and return the attribute.

    Raises
    ------
    WorkloadError
        If the module is not found or cannot be imported, or has no such attribute.
    """
    module_name, attribute = split(text)
    try:
        with redirect_stdout(sys.stderr):  # stdout is for results
            found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            hint = "modules are looked for in the current folder and in the installed packages"
            raise WorkloadError(f"there is no module {error.name!r} (of {text!r})", hint) from None
        raise WorkloadError(
            f"{module_name} needs the module {error.name!r}, which is not installed", "install it"
        ) from None
    except (Exception, SystemExit) as error:
        hint = "it is imported, not run as a script: keep what it does when it is run behind if __name__ == '__main__'"
        message = f"{module_name} cannot be imported: {type(error).__name__}: {error}"
        raise WorkloadError(message, hint) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            close = get_close_matches(part, [name for name in dir(found) if not name.startswith("_")], n=1)
            raise WorkloadError(f"{module_name} has no {part!r}", f"did you mean {close[0]!r}?" if close else EXAMPLE)
        found = getattr(found, part)
    return found


def build(
    factory: str,
    inputs: Sequence[tuple[Sequence[int], str]] = (),
    *,
    kwargs: Mapping[str, Any] | None = None,
    device: str = "cpu",
    batch: int | None = None,
) -> tuple[nn.Module, tuple[Any, ...]]:
    """Call a factory and return its module and example inputs.

    Parameters
    ----------
    factory
        `package.module:factory`: a module, or a callable that returns a module or (module, example_inputs): a tensor, a
        tuple of the arguments of forward, or a mapping of their names.
    inputs
        Shape and dtype of each example input; they take the place of the factory's own.
    kwargs
        Keyword arguments of the factory.
    device
        Where the factory's tensors are made: "meta" makes them without memory.
    batch
        Batch that the example inputs get, see `at_batch`; None for that which they have.

    Raises
    ------
    WorkloadError
        If there is no such factory, it fails, returns something else, or no inputs are given.
    """
    import torch
    from torch import nn

    target = resolve(factory)
    made = target
    if not isinstance(target, nn.Module):
        if not callable(target):
            hint = "a factory is a torch.nn.Module, or a callable that returns one or (module, example_inputs)"
            raise WorkloadError(f"{factory} is a {type(target).__name__}", hint)
        try:
            with torch.device(device), redirect_stdout(sys.stderr):
                made = target(**(kwargs or {}))
        except WorkloadError:
            raise
        except (Exception, SystemExit) as error:
            hint = "what fails is the factory itself, which is called without arguments"
            raise WorkloadError(f"{factory} failed: {type(error).__name__}: {error}", hint) from error
    module, examples = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        hint = "return a torch.nn.Module or (module, example_inputs)"
        raise WorkloadError(f"{factory} returned a {type(made).__name__}", hint)
    if inputs:
        examples = tuple(example_input(shape, dtype, device) for shape, dtype in inputs)
    if examples is None:
        hint = "give their shapes, such as --input 1x3x224x224, or return (module, example_inputs)"
        raise WorkloadError(f"{factory} gives no example inputs", hint)
    if isinstance(examples, torch.Tensor):
        examples = (examples,)
    elif isinstance(examples, Mapping):
        examples = _by_position(module, examples, factory)
    if not isinstance(examples, list | tuple):
        hint = "return (module, example_inputs): a tuple or a mapping of the arguments of forward, or one tensor"
        raise WorkloadError(f"{factory} returned example inputs that are a {type(examples).__name__}", hint)
    return module, tuple(examples) if batch is None else at_batch(tuple(examples), batch)


def _by_position(module: nn.Module, named: Mapping[str, Any], factory: str) -> tuple[Any, ...]:
    """Return arguments of `module.forward` given by name in the order of its parameters, defaults between them."""
    signature = inspect.signature(module.forward)
    try:
        signature.bind(**named)
    except TypeError as error:
        raise WorkloadError(
            f"{factory} returned example inputs that forward does not take: {error}", "the names of its parameters"
        ) from None
    places = [p for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if without := named.keys() - {place.name for place in places}:
        raise WorkloadError(
            f"{factory} returned example inputs that forward has no place for: {', '.join(sorted(without))}",
            "names of its parameters that can go by position; workloads.trace takes others as example_kwargs",
        )
    given = max((at for at, place in enumerate(places, 1) if place.name in named), default=0)
    return tuple(named.get(place.name, place.default) for place in places[:given])


def trace_factory(
    factory: str,
    inputs: Sequence[str] | None = None,
    *,
    name: str = "",
    cache: bool = True,
    mode: RunMode = "inference",
    batch: int | None = None,
) -> WorkloadGraph:
    """Trace the model of `package.module:factory`, looked for in the current folder and the installed packages.

    Parameters
    ----------
    factory
        See `build`; or the path of a model file (see `workloads.trace_file`).
    inputs
        Shapes such as "1x3x224x224" or "1x128:int64", needed where the factory returns a module alone.
    name
        Name of the graph; the factory's name if empty.
    cache
        As in `workloads.trace`.
    mode
        "inference", "train", or a `Training` for a training step of these options.
    batch
        Batch of the inputs (see `at_batch`); as they are where nothing is said.

    Raises
    ------
    WorkloadError
        As `build`, `workloads.trace` and `workloads.trace_training` do; for a model file in mode "train", which holds
        no module that could be trained.
    """
    training = run_mode(mode)
    if is_model_file(factory):
        if training:
            hint = "give a factory of the module itself: package.module:factory"
            raise WorkloadError(f"{factory} holds an exported program, which cannot be trained", hint)
        if batch is not None:
            shape, *others = trace_file(factory, inputs, name=name, cache=cache).input_shapes
            sized = ((batch, *s[1:]) if s[:1] == shape[:1] else s for s in (shape, *others))
            inputs = ["x".join(map(str, s)) for s in sized]
        return trace_file(factory, inputs, name=name, cache=cache)
    shapes = [parse_input(text) for text in inputs or ()]
    with current_folder_importable():
        module, examples = build(factory, shapes, batch=batch)
        return trace_as(mode, module, examples, name=name or split(factory)[1], cache=cache)


def trace_as(mode: RunMode, module: nn.Module, examples: tuple[Any, ...], *, name: str, cache: bool) -> WorkloadGraph:
    """Trace a module's inference, or a step of its training."""
    if (training := run_mode(mode)) is not None:
        from workloads.training_step import trace_training

        return trace_training(
            module, examples, optimizer=training.optimizer, recompute=training.recompute, name=name, cache=cache
        )
    from workloads.trace import trace

    return trace(module, examples, name=name, cache=cache)


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """Look for modules in the current folder too, as python -m does."""
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
