"""What custom operators cost: rules of the user's own, beside those of workloads.flops.

An operator that the library cannot know, such as a kernel of the user's (torch.library), is refused until somebody says
what it costs: with `count_operator`, or as an entry point of the group `chipfront.operators`, whose name is the
operator's ("mylib::scan") and whose value is the rule ("mylib.counts:scan").
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib import metadata
from typing import Any

from workloads.calls import Call, Count, Rule
from workloads.errors import WorkloadError
from workloads.graph import OperatorKind

ENTRY_POINTS = "chipfront.operators"

_registered: dict[str, Rule] = {}


def count_operator(name: str, rule: Rule) -> None:
    """Say what an operator costs: every later trace counts its calls by `rule`.

    Parameters
    ----------
    name
        With namespace, without overload: "mylib::scan". A rule given before is replaced.
    rule
        Called with a `workloads.Call` (arguments by schema name, tensors as shape and dtype); returns a
        `workloads.Count`: its kind, `counting="handle"` with `macs` and `flops` = 2 x `macs`, or
        `counting="estimated"` with `flops` alone, or `counting="moved"` with neither; and its formula in words.

    Raises
    ------
    WorkloadError
        If the name is not of that form, or of an operator that is counted already.

    >>> def scan(call):
    ...     return Count(kind=OperatorKind.OTHER, counting="estimated", flops=2 * call.output.numel, formula="2 n")
    >>> count_operator("mylib::scan", scan)
    """
    from workloads.flops import RULES

    if not re.fullmatch(r"\w+::\w+", name):
        raise WorkloadError(f"{name!r} is not the name of an operator", "namespace and name: mylib::scan")
    if name.removeprefix("aten::") in RULES:
        raise WorkloadError(f"{name} is counted already", "workloads.flops.RULES says how")
    if not callable(rule):
        raise WorkloadError(f"the rule of {name} is a {type(rule).__name__}", "a function of a workloads.Call")
    _registered[name] = rule


def remedy(operator: str) -> str:
    """Return what to do about an operator that is not counted, called as the coverage ledger calls it."""
    namespace, _, name = operator.rpartition(".")[0].partition(".")
    if not name:  # a higher-order operator or a Python function: what it runs is its arguments' business
        return "write it with operators that are counted, such as a Python loop over a fixed number of steps"
    return f'say what it costs: workloads.count_operator("{namespace}::{name}", rule), or write it with counted ones'


def registered() -> dict[str, Rule]:
    """Return all rules from outside by name; those of entry points first, which `count_operator` replaces.

    Raises
    ------
    WorkloadError
        If an entry point cannot be loaded.
    """
    return _of_entry_points() | _registered


@cache
def _of_entry_points() -> dict[str, Rule]:
    rules: dict[str, Rule] = {}
    for point in metadata.entry_points(group=ENTRY_POINTS):
        try:
            rules[point.name] = point.load()
        except Exception as error:  # whatever the import of another distribution raises
            owner = f" of the distribution {point.dist.name}" if point.dist else ""
            raise WorkloadError(
                f"the operator {point.name!r}{owner} has no rule: {point.value}: {type(error).__name__}: {error}",
                "mend or remove that distribution",
            ) from error
    return rules


def custom_rule(operator: str) -> Callable[[Call], Count] | None:
    """Return the rule from outside of an operator ("scan" of aten, else "mylib::scan"), checked when it answers."""
    name = operator if "::" in operator else f"aten::{operator}"
    rule = registered().get(name)
    return None if rule is None else lambda call: _checked(name, rule, call)


def _checked(name: str, rule: Rule, call: Call) -> Count:
    """Return what the rule says of a call; WorkloadError where that is no count."""
    hint = 'a workloads.Count: counting="handle" with macs and flops = 2 x macs, "estimated" with flops, or "moved"'
    try:
        said: Any = rule(call)
    except Exception as error:  # the user's own code
        raise WorkloadError(f"the rule of {name} failed: {type(error).__name__}: {error}", hint) from error
    if not isinstance(said, Count):
        raise WorkloadError(f"the rule of {name} returned a {type(said).__name__}", hint)
    whole = isinstance(said.macs, int) and isinstance(said.flops, int) and min(said.macs, said.flops) >= 0
    fits = {
        "handle": said.flops == 2 * said.macs,
        "estimated": said.macs == 0,
        "moved": said.macs == said.flops == 0,
    }
    if not (whole and fits.get(said.counting, False) and isinstance(said.kind, OperatorKind)):
        raise WorkloadError(f"the rule of {name} returned {said}", hint)
    return said
