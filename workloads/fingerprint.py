"""Content hashes: of a module and its inputs, and of source files and installed versions."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

TRACER_FILES = ("calls", "dataflow", "estimates", "fingerprint", "flops", "graph", "shapes", "trace")
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


def fingerprint(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str) -> str:
    """Return a hash that changes with whatever can change the trace of `module` on these inputs.

    It holds each submodule's class and plain attributes, the shapes and dtypes of parameters and buffers and which of
    them are one tensor, the sources of the classes' packages, the inputs, and the tracer with its libraries.
    """
    parts: list[object] = [name, *tracer_version()]
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
    parts += sorted(set(_sources(module)))
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
    if isinstance(value, CodeType):
        yield value.co_code
        for constant in value.co_consts:
            yield from _plain(constant, visited)
        yield value.co_names
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
            yield from _plain(cell.cell_contents, visited)
    elif isinstance(value, MethodType):
        yield from _plain(value.__func__, visited)
    elif isinstance(value, type):
        yield value.__qualname__
    elif isinstance(value, torch.nn.Module):
        yield "module"  # reached through named_modules, or not a part of the model
    elif hasattr(value, "__dict__"):
        yield from _plain(vars(value), visited)
    elif callable(value):
        yield getattr(value, "__qualname__", "")


def _sources(module: nn.Module) -> Iterator[str]:
    """Yield hashes of the loaded source files of the packages that the model's classes come from, torch apart."""
    tops = {base.__module__.partition(".")[0] for child in module.modules() for base in type(child).__mro__}
    for top in tops - {"torch", "builtins", "workloads"}:
        for name in sorted(sys.modules):
            loaded = sys.modules[name]
            if name.partition(".")[0] == top and (file := getattr(loaded, "__file__", None)):
                yield file_digest(Path(file))
    for child in module.modules():
        for base in type(child).__mro__:
            if base.__module__.partition(".")[0] == "workloads":
                yield file_digest(Path(inspect.getfile(base)))
