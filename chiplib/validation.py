"""Reading YAML into frozen dataclasses: every error of a file at once, each with its path, its value and a remedy."""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Hashable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from chiplib.errors import ChipError

T = TypeVar("T")


class UserError(typing.Protocol):
    """What an error class of a package offers: ChipError, DseError, ..."""

    def __call__(self, message: str, hint: str = "") -> Exception:
        """Return the error that says `message`, and `hint` as the remedy."""


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file, and what would be right."""

    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice and reads 1e14 as a number, as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, Hashable) and lines.setdefault(key, line) != line:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice, in lines {lines[key]} and {line}", None
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def read_yaml(path: str | Path, error: UserError = ChipError) -> Any:
    """Return the content of the YAML file `path`.

    Raises `error` where the file is missing, unreadable, empty, not YAML, or gives a key twice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error(f"{path}: no such file", _nearest_file(path)) from None
    except (OSError, UnicodeDecodeError) as reason:
        raise error(f"{path}: cannot be read: {reason}", "a YAML file in UTF-8") from None
    try:
        data = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as reason:
        mark = reason.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        hint = "give each key once" if "given twice" in str(reason.problem) else "mend the YAML there"
        raise error(f"{path}{where}: {reason.problem or reason.context}", hint) from None
    except RecursionError:
        raise error(f"{path}: lists or mappings lie too deep in each other", "a flatter file") from None
    except (yaml.YAMLError, ValueError) as reason:
        raise error(f"{path}: not YAML: {reason}", "a text file in YAML") from None
    if data is None:
        raise error(f"{path}: the file is empty", "a mapping of keys to values")
    return data


def validate(
    data: object, target: type[T], where: str, error: UserError = ChipError, problems: Iterable[Problem] = ()
) -> T:
    """Return `data` (plain values, as YAML gives them) as a `target` dataclass.

    Types are taken strictly (a text is no number); a dataclass says with `__pydantic_config__` that unknown keys are
    errors. `problems` are those that the caller has found; all are raised together, one line each, as one `error`.
    """
    import pydantic

    found = list(problems)
    try:
        text = json.dumps(data, default=str)
    except (ValueError, TypeError, RecursionError) as reason:
        raise error(
            f"{where}: an alias holds itself, or a key is no text: {reason}", "plain lists and mappings"
        ) from None
    try:
        value: T = _adapter(cast(Hashable, target)).validate_json(text, strict=True)
    except pydantic.ValidationError as invalid:
        found += [_problem(dict(entry), data, target) for entry in invalid.errors(include_url=False)]
    if not found:
        return value
    if len(found) == 1:
        raise error(f"{where}: {found[0].message}", found[0].hint)
    lines = "".join(f"\n  {problem}" for problem in dict.fromkeys(map(str, found)))
    raise error(f"{where}: {len(found)} errors{lines}", "")


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return a hint for the misspelt `name`: those of `known` that it begins, else the nearest, else all of them."""
    names = sorted(known)
    lowered = {n.lower(): n for n in reversed(names)}
    asked = str(name).lower()
    near = [key for key in lowered if len(asked) > 2 and key.startswith(asked)]
    near = sorted(near)[:4] or get_close_matches(asked, lowered, n=1)
    if near:
        return f"did you mean {' or '.join(repr(lowered[key]) for key in near)}?"
    return f"one of {', '.join(names)}" if names else "none is known"


def describe(path: Sequence[object], data: object) -> str:
    """Return `path` into `data` in words: ("chip_types", 3, "peak_bw") -> "chip_types[3] (big_core).peak_bw"."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
            data = data[step] if isinstance(data, Sequence) and step < len(data) else None
            if isinstance(data, Mapping) and isinstance(data.get("name"), str):
                text += f" ({data['name']})"
        else:
            text += f".{step}" if text else f"{step}"
            data = data.get(step) if isinstance(data, Mapping) else None
    return text


def _nearest_file(path: Path) -> str:
    """Return a hint for a path that does not exist."""
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    return did_you_mean(path.name, (other.name for other in path.parent.glob("*.y*ml")))


@cache
def _adapter(target: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(target)


_RIGHT = {
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "string_type": "a text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "dataclass_type": "a mapping of keys to values",
}


def _problem(entry: dict[str, Any], data: object, target: Any) -> Problem:
    """Say one pydantic error in the words of the file."""
    kind, context = entry["type"], entry.get("ctx", {})
    path, value = _resolve(entry["loc"], data)
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        key = entry["loc"][-1]
        return Problem(f"{describe([*path[:-1], key], data)}: unknown key", did_you_mean(key, _keys(target, path[:-1])))
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return Problem(f"{describe([*path, entry['loc'][-1]], data)}: missing", "this key is required")
    where = describe(path, data) or "top level"
    if isinstance(context.get("error"), Exception):
        reason = context["error"]
        return Problem(f"{where}: {getattr(reason, 'message', reason)}", getattr(reason, "hint", ""))
    expected = str(context.get("expected", ""))
    if kind in ("enum", "literal_error"):
        wrong = entry["input"]
        choices = re.findall(r"'([^']*)'", expected)
        hint = did_you_mean(wrong, choices) if isinstance(wrong, str) else f"one of {', '.join(choices)}"
        return Problem(f"{where}: {wrong!r} is unknown", hint)
    right = _RIGHT.get(kind)
    hint = right.format(**context) if right else entry["msg"]
    shown = repr(value)
    return Problem(f"{where} is {shown if len(shown) <= 60 else shown[:57] + '...'}", hint)


def _resolve(loc: Sequence[int | str], data: object) -> tuple[list[int | str], object]:
    """Return the steps of `loc` that lead somewhere in `data` (others name a branch of a union), and the value."""
    path: list[int | str] = []
    for step in loc:
        if isinstance(data, Mapping):
            keys = {str(key): key for key in data}
            if str(step) in keys:
                path.append(step)
                data = data[keys[str(step)]]
        elif isinstance(data, Sequence) and not isinstance(data, str) and isinstance(step, int) and step < len(data):
            path.append(step)
            data = data[step]
    return path, data


def _keys(target: Any, path: Sequence[int | str]) -> list[str]:
    """Return the keys that a mapping at `path` of `target` may have."""
    if not path:
        return (
            [f.name for f in dataclasses.fields(target)] if dataclasses.is_dataclass(target) else _keys_of_parts(target)
        )
    if dataclasses.is_dataclass(target):
        hints = typing.get_type_hints(target)
        return _keys(hints[path[0]], path[1:]) if path[0] in hints else []
    origin, arguments = typing.get_origin(target), typing.get_args(target)
    if origin in (typing.Union, types.UnionType):
        return [key for part in arguments for key in _keys(part, path)]
    if origin is typing.Annotated:
        return _keys(arguments[0], path)
    inner = [part for part in arguments if part is not Ellipsis]
    return _keys(inner[-1], path[1:]) if inner else []


def _keys_of_parts(target: Any) -> list[str]:
    """Return the keys of a mapping that may be one of several dataclasses."""
    parts = [part for part in typing.get_args(target) if dataclasses.is_dataclass(part)]
    return [f.name for part in parts for f in dataclasses.fields(part)]
