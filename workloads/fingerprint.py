"""Content hashes: of a module and its inputs, and of source files and installed versions."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads.operators import registered

if TYPE_CHECKING:
    from torch import nn

TRACER_FILES = (
    *("backward_flops", "calls", "dataflow", "estimates", "extents", "fake_kernels", "fingerprint", "flops", "gemms"),
    *("graph", "images", "linear_algebra", "operators", "programs", "recorder", "shapes", "sources", "trace"),
    *("traffic", "training_step", "values", "workspace"),
)
"""The files of this package that decide what a traced graph holds."""


def digest(parts: Iterable[object]) -> str:
    """Return a hash of 20 hexadecimal digits of the parts' representations, in order."""
    state = hashlib.sha256()
    for part in parts:
        state.update(repr(part).encode())
        state.update(b"\0")
    return state.hexdigest()[:20]


def file_digest(path: Path) -> str:
    """Return the hash of a file's bytes; of its name where it cannot be read (a built-in, the interactive prompt)."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return f"unreadable {path}"


@cache
def tracer_version() -> tuple[str, ...]:
    """Return what identifies the tracer: the versions of torch and fvcore, and the sources of this package."""
    here = Path(__file__).parent
    versions = (f"{name} {metadata.version(name)}" for name in ("torch", "fvcore"))
    return (*versions, *(file_digest(here / f"{name}.py") for name in TRACER_FILES))


def registered_rules() -> list[object]:
    """Return what identifies the rules of custom operators: their names and code."""
    return [item for name, rule in sorted(registered().items()) for item in (name, *_plain(rule, set()))]


def identify(options: object) -> list[object]:
    """Return what identifies the options of a trace: plain values, functions and modules by what they are made of."""
    import torch

    if isinstance(options, torch.nn.Module):
        return [fingerprint(options, (), {}, "")]
    if isinstance(options, list | tuple):
        return [part for item in options for part in (len(options), *identify(item))]
    return list(_plain(options, set()))


def fingerprint(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str) -> str:
    """Return a hash that changes with whatever can change the trace of `module` on these inputs.

    It holds each submodule's class and plain attributes, the shapes and dtypes of parameters and buffers and which of
    them are one tensor, the code of the classes and the sources of their packages, the inputs, and the tracer with its
    libraries. It does not hold the values of tensors, on which no trace depends.
    """
    parts: list[object] = [name, *tracer_version(), *registered_rules()]
    seen: dict[int, int] = {}
    for path, child in module.named_modules(remove_duplicate=False):
        parts += [path, type(child).__module__, type(child).__qualname__]
        tensors = [*child._parameters.items(), *child._buffers.items()]
        for key, tensor in tensors:
            if tensor is not None:
                first = seen.setdefault(id(tensor), len(seen))
                parts.append((key, tuple(tensor.shape), str(tensor.dtype), tensor.is_meta, first))
        state = {k: v for k, v in vars(child).items() if k not in ("_parameters", "_buffers", "_modules", "training")}
        parts.append(list(_plain(state, set())))
    classes = _classes(module)
    for kind in classes:
        parts += _code(kind)
    parts += sorted(set(_sources(classes)))
    parts += [*_plain(args, set()), *_plain(dict(kwargs), set())]
    return digest(parts)


def _plain(value: Any, visited: set[int]) -> Iterator[object]:
    """Yield what identifies a value, without addresses; objects by their attributes, functions by their code."""
    import torch

    if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | torch.device):
        yield value
        return
    if isinstance(value, torch.Tensor):
        yield ("tensor", tuple(value.shape), str(value.dtype))
        return
    if isinstance(value, np.ndarray | np.generic):
        yield ("array", value.shape, str(value.dtype), hashlib.sha256(value.tobytes()).hexdigest())
        return
    if isinstance(value, CodeType):
        yield value.co_code
        for constant in value.co_consts:
            yield from _plain(constant, visited)
        yield value.co_names
        return
    if isinstance(value, ModuleType):  # not what it imports in turn
        file = getattr(value, "__file__", None)
        yield (value.__name__, file_digest(Path(file)) if file else "built in")
        return
    if id(value) in visited:
        yield "again"
        return
    visited.add(id(value))
    yield (type(value).__module__, type(value).__qualname__)
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _plain(key, visited)
            yield from _plain(item, visited)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _plain(item, visited)
    elif isinstance(value, set | frozenset):
        yield sorted(repr(list(_plain(item, set(visited)))) for item in value)
    elif isinstance(value, FunctionType):
        yield value.__qualname__
        yield from _plain(value.__code__, visited)
        yield from _plain(value.__defaults__, visited)
        for cell in value.__closure__ or ():
            try:
                held = cell.cell_contents
            except ValueError:  # a name that is bound later, or never
                held = "empty"
            yield from _plain(held, visited)
    elif isinstance(value, MethodType):
        yield from _plain(value.__func__, visited)
    elif isinstance(value, type):
        yield value.__qualname__
    elif isinstance(value, torch.nn.Module):
        yield "module"  # reached through named_modules, or not a part of the model
    else:
        yield from _plain(_state(value), visited)


def _state(value: object) -> object:
    """Return what an object is made of, as pickling it would: slots, arguments of a partial, bounds of a range, ...

    Its attributes, or its text with the address, where it cannot be pickled: that is traced anew in each process.
    """
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # whatever a class's own code raises
        return vars(value) if hasattr(value, "__dict__") else repr(value)
    if isinstance(reduced, str):  # a global name, such as that of a built-in function
        return reduced
    return [list(part) if isinstance(part, Iterator) else part for part in reduced[1:]]


def _classes(module: nn.Module) -> list[type]:
    """Return the classes that the model's modules inherit from, torch's own apart (its version stands for them)."""
    found = {base for child in module.modules() for base in type(child).__mro__}
    return sorted(
        (c for c in found if c.__module__.partition(".")[0] not in ("torch", "builtins")),
        key=lambda c: (c.__module__, c.__qualname__),
    )


def _code(kind: type) -> Iterator[object]:
    """Yield what a class defines: its methods' code, which also serves where there is no source file, and constants."""
    yield (kind.__module__, kind.__qualname__)
    for name, item in vars(kind).items():
        if isinstance(item, staticmethod | classmethod):
            item = item.__func__
        if isinstance(item, property):
            item = item.fget
        if isinstance(item, FunctionType) or not name.startswith("_"):
            yield name
            yield from _plain(item, set())


def _sources(classes: Iterable[type]) -> Iterator[str]:
    """Yield hashes of the source files of the classes' modules, and of what these use of their own packages.

    It follows what each module's global names were imported from, so that it does not depend on what else is loaded.
    """
    tops = {kind.__module__.partition(".")[0] for kind in classes}
    waiting = sorted({kind.__module__ for kind in classes})
    met = set(waiting)
    while waiting:
        module = sys.modules.get(waiting.pop())
        if file := getattr(module, "__file__", None):
            yield file_digest(Path(file))
        for value in list(vars(module).values()) if module is not None else ():
            home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(home, str) and home not in met and home.partition(".")[0] in tops:
                met.add(home)
                waiting.append(home)
