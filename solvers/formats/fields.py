"""JSON into frozen records, with errors that name the file, the key, the value, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from solvers.errors import SolverError

Record = TypeVar("Record")
SHOWN = 3  # problems of a file; the others are counted


def parse(kind: type[Record], document: Any, path: Path) -> Record:
    """Return a JSON document as a record of dataclasses; keys that the record lacks are left aside.

    Raises SolverError with the first problems of the document, all of one kind of mistake at once.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(document)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        said = [_said(problem) for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            said.append(f"and {len(problems) - SHOWN} more")
        hints = [_hint(problem, document) for problem in problems]
        near = next((hint for hint in hints if hint.startswith("did you mean")), hints[0])
        raise SolverError(f"{path}: {'; '.join(said)}", near) from None


def _said(problem: Mapping[str, Any]) -> str:
    where = key_path(problem["loc"])
    return f"{where} is missing" if problem["type"] == "missing" else f"{where} is {problem['input']!r}"[:120]


def _hint(problem: Mapping[str, Any], document: Any) -> str:
    if problem["type"] != "missing":
        message = str(problem["msg"])
        return message[:1].lower() + message[1:]
    *above, key = problem["loc"]
    holder = document
    for step in above:
        holder = holder[step]
    near = difflib.get_close_matches(str(key), [str(name) for name in holder], n=1)
    return f"did you mean {key!r} by {near[0]!r}?" if near else f"the format needs {key!r}"


def key_path(steps: Sequence[int | str]) -> str:
    """Return a place in a document as `nodes[3].size`."""
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text or "the document"
