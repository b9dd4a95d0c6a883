"""Where in the user's source something happened: of an operator of a traced program, and of an exception."""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

_FRAME = re.compile(r'File "(?P<file>[^"\n]+)", line (?P<line>\d+), in [^\n]*\n\s*(?P<code>[^\n]*)')


def source_of(node: fx.Node) -> str:
    """Return "file:line `code`" of the innermost frame outside of torch that called the node; empty if not known."""
    return source_in(_stack_trace(node))


def source_in(stack_trace: str) -> str:
    """Return "file:line `code`" of the innermost frame outside of torch in the text of a stack trace."""
    frames = [frame for frame in _FRAME.finditer(stack_trace) if of_the_user(frame["file"])]
    return f"{frames[-1]['file']}:{frames[-1]['line']} `{frames[-1]['code'].strip()}`" if frames else ""


def _stack_trace(node: fx.Node) -> str:
    """Return the node's stack trace; for a call of a body, which has none, that of the first operator in the body."""
    if trace := node.meta.get("stack_trace"):
        return str(trace)
    for argument in node.all_input_nodes:
        body = getattr(node.graph.owning_module, str(argument.target), None) if argument.op == "get_attr" else None
        for inner in body.graph.nodes if isinstance(body, fx.GraphModule) else ():
            if trace := inner.meta.get("stack_trace"):
                return str(trace)
    return ""


def source_of_error(error: Exception, module: nn.Module) -> tuple[str, str | None]:
    """Return "file:line `code`" of the innermost frame outside of torch, and the path of the module it belongs to."""
    paths: dict[int, str] = {id(child): path for path, child in module.named_modules()}
    place, owner = "", None
    for frame, line in traceback.walk_tb(error.__traceback__):
        inside: Any = frame.f_locals.get("self")
        if id(inside) in paths:
            owner = paths[id(inside)]
        file = frame.f_code.co_filename
        if of_the_user(file):
            place = f"{file}:{line} `{linecache.getline(file, line).strip()}`"
    return place, owner


def of_the_user(file: str) -> bool:
    """Whether a source file is the model's, neither Python's, torch's nor the tracer's."""
    path = Path(file)
    if file.startswith("<") or path.is_relative_to(Path(torch.__file__).parent) or path.parent == Path(__file__).parent:
        return False
    if "site-packages" in path.parts:  # also of another machine, in a saved program
        return path.parts[path.parts.index("site-packages") + 1] != "torch"
    return not path.is_relative_to(Path(sysconfig.get_paths()["stdlib"]))
