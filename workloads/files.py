"""Models in files: what reads a file is chosen by its suffix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from workloads.errors import WorkloadError
from workloads.graph import WorkloadGraph


def _onnx(path: Path, inputs: Sequence[str] | None, name: str, cache: bool) -> WorkloadGraph:
    from workloads.onnx_route import load_onnx
    from workloads.trace import trace

    module, examples = load_onnx(path, inputs)
    return trace(module, examples, name=name, cache=cache)


def _program(path: Path, inputs: Sequence[str] | None, name: str, cache: bool) -> WorkloadGraph:
    from workloads.programs import trace_program

    return trace_program(path, inputs or (), name=name, cache=cache)


LOADERS: Mapping[str, Callable[[Path, Sequence[str] | None, str, bool], WorkloadGraph]] = {
    ".onnx": _onnx,
    ".pt2": _program,
}
"""Suffix -> function of path, input shapes, name of the graph and whether to use the cache."""


def is_own_model(text: str) -> bool:
    """Whether this names a model of the user's, a factory or a model file, and none of the catalogue.

    >>> is_own_model("package.module:factory"), is_own_model("resnet18.onnx"), is_own_model("resnet18")
    (True, True, False)
    """
    return ":" in text or is_model_file(text)


def is_model_file(text: str) -> bool:
    """Whether `text` names a file that `trace_file` reads, by its suffix alone.

    >>> is_model_file("exports/resnet18.onnx"), is_model_file("package.module:factory")
    (True, False)
    """
    return Path(text).suffix.lower() in LOADERS


def trace_file(
    path: str | Path, inputs: Sequence[str] | None = None, *, name: str = "", cache: bool = True
) -> WorkloadGraph:
    """Trace the model in a file.

    Parameters
    ----------
    path
        An ONNX model (.onnx), or a program saved by `torch.export.save` (.pt2).
    inputs
        Shapes such as "1x3x224x224" or "1x128:int64", one for each input, in the file's order; needed where the file
        leaves sizes open.
    name
        Name of the graph; the file's name without its suffix if empty.
    cache
        As in `workloads.trace`.

    Raises
    ------
    WorkloadError
        If there is no such file, no reader for its suffix, or the reader or the tracer refuses the model.
    """
    path = Path(path)
    reader = LOADERS.get(path.suffix.lower())
    if reader is None:
        raise WorkloadError(f"{path} is not a model file that can be read", f"one of {', '.join(sorted(LOADERS))}")
    if not path.is_file():
        raise WorkloadError(f"there is no file {path}", "paths are taken from the current folder")
    return reader(path, inputs, name or path.stem, cache)
