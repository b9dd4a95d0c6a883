"""What a specification claims of a model, part by part, beside what is built; its tables stand in specifications/."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from workloads.errors import WorkloadError
from workloads.graph import Layer, OperatorKind, WorkloadGraph

FOLDER = Path(__file__).with_name("specifications")

SAME_SUM = 0.05
"""Relative difference from which a table's rows do not add up to its total."""

SAME_FIGURE = 0.01
"""Relative difference up to which a claim, printed with two or three digits, is what is built."""


FIGURES = ("parameters", "flops", "flops_of_kinds", "flops_by_rule")
"""What is built of a part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How a specification counts operations: those of these `kinds` (all, where empty), times `scale`."""

    kinds: tuple[OperatorKind, ...] = ()
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One row: what the specification says of a part, and the modules of ours that are that part.

    `modules` are dotted paths: every layer called in or under one of them belongs to the part; * in a path stands for
    any of its parts, and an empty path for the model itself. What the specification does not state is None. Parts of
    one `group` are also added up.
    """

    part: str
    group: str = ""
    claim: str = ""
    modules: tuple[str, ...] = ()
    output_shape: tuple[int, ...] | None = None
    parameters: float | None = None
    flops: float | None = None
    rule: Rule = field(default_factory=Rule)
    note: str = ""  # why ours differs


@dataclass(frozen=True, slots=True, kw_only=True)
class Specification:
    """A specification's own table: its rows and the totals that it prints under them."""

    source: str
    convention: str = ""  # how it counts, in words
    parts: tuple[Part, ...]
    parameters: float | None = None
    flops: float | None = None
    note: str = ""


def load_specification(name: str) -> Specification:
    """Return the specification of workloads/specifications/NAME.yaml.

    Raises WorkloadError where there is none.
    """
    file = FOLDER / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(each.stem for each in FOLDER.glob("*.yaml")))
        raise WorkloadError(f"there is no specification {name!r}", f"there are {known}")
    record = yaml.safe_load(file.read_text(encoding="utf-8"))
    return Specification(**record | {"parts": tuple(_part(row) for row in record["parts"])})


def _part(row: Mapping[str, Any]) -> Part:
    rule = row.get("rule", {})
    kinds = tuple(OperatorKind(kind) for kind in rule.get("kinds", ()))
    shape = row.get("output_shape")
    return Part(
        **dict(row)
        | {
            "modules": tuple(row.get("modules", ())),
            "output_shape": None if shape is None else tuple(shape),
            "rule": Rule(kinds=kinds, scale=rule.get("scale", 1.0)),
        }
    )


def compare_parts(graph: WorkloadGraph, specification: Specification) -> dict[str, Any]:
    """Return the specification's table beside the graph's figures, as JSON types.

    Each row holds the claim (`claimed`), what is built (`built`) and which of the claims are off by more than
    SAME_FIGURE (`differs`; FLOPs by the specification's own rule). A row without modules is not built. Built are
    parameters; FLOPs of all that runs, of the kinds that the rule counts (`flops_of_kinds`), and by the rule; and
    `output_shape`, of the part's last operator: views that follow it only arrange it, so that a shape differs where
    it holds another number of elements.

    `groups` add up the rows of each group, `sums` all rows; `total` are the specification's printed totals,
    `built_total` the graph's and `unclaimed` those of its layers that belong to no row. `findings` say where the
    specification contradicts itself, and how its groups compare with what is built.

    Raises WorkloadError where a module of a part has no layer in the graph.
    """
    paths = {layer.module for layer in graph.layers}
    claimed: set[str] = set()
    rows = []
    for part in specification.parts:
        layers = _layers_of(graph, part, paths)
        claimed.update(layer.name for layer in layers)
        row: dict[str, Any] = {
            "part": part.part,
            "group": part.group,
            "claim": part.claim,
            "claimed": {
                "parameters": part.parameters,
                "flops": part.flops,
                "output_shape": None if part.output_shape is None else list(part.output_shape),
            },
            "built": _built(layers, part.rule) if part.modules else None,
            "note": part.note,
        }
        rows.append(row | {"differs": _differs(row, graph.batch)})
    groups = {name: _add_up([row for row in rows if row["group"] == name]) for name in _names_of_groups(specification)}
    sums = _add_up(rows)
    total = {"parameters": specification.parameters, "flops": specification.flops}
    rest = [layer for layer in graph.layers if layer.name not in claimed]
    return {
        "source": specification.source,
        "convention": specification.convention,
        "rows": rows,
        "groups": groups,
        "sums": sums["claimed"],
        "total": total,
        "built_total": {
            "parameters": graph.parameters,
            "flops": graph.flops,
            "flops_by_rule": sums["built"]["flops_by_rule"],
        },
        "unclaimed": {"parameters": parameters_of(rest), "flops": sum(layer.flops for layer in rest)},
        "findings": [*_contradictions(sums["claimed"], total), *_discrepancies(groups)],
        "note": specification.note,
    }


def _layers_of(graph: WorkloadGraph, part: Part, paths: Collection[str]) -> list[Layer]:
    """Return the layers of a part; every module that it names must have one."""
    for module in part.modules:
        if not any(_within(path, module) for path in paths):
            close = get_close_matches(module, paths, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "a dotted path of a module that computes something"
            raise WorkloadError(f"{graph.name} has no layer in the module {module!r} of the part {part.part!r}", hint)
    return [layer for layer in graph.layers if any(_within(layer.module, module) for module in part.modules)]


def _within(path: str, module: str) -> bool:
    return fnmatchcase(path, module) or fnmatchcase(path, f"{module}.*")


def _built(layers: Sequence[Layer], rule: Rule) -> dict[str, Any]:
    ruled = [layer for layer in layers if not rule.kinds or layer.kind in rule.kinds]
    return {
        "parameters": parameters_of(layers),
        "flops": sum(layer.flops for layer in layers),
        "flops_of_kinds": sum(layer.flops for layer in ruled),
        "flops_by_rule": rule.scale * sum(layer.flops for layer in ruled),
        "output_shape": list(layers[-1].output_shape),
    }


def _differs(row: Mapping[str, Any], batch: int) -> list[str]:
    """Return which claims of a row are not what is built."""
    claimed, built = row["claimed"], row["built"]
    if built is None:
        return []
    pairs = {"parameters": (claimed["parameters"], built["parameters"])}
    pairs["flops"] = claimed["flops"], built["flops_by_rule"]
    differs = [key for key, (said, found) in pairs.items() if said is not None and _apart(said, found, SAME_FIGURE)]
    shape = claimed["output_shape"]
    if shape is not None and batch * math.prod(shape) != math.prod(built["output_shape"]):
        differs.append("output_shape")
    return differs


def _apart(said: float, found: float, tolerance: float) -> bool:
    return abs(found - said) > tolerance * abs(said)


def _names_of_groups(specification: Specification) -> list[str]:
    return list(dict.fromkeys(part.group for part in specification.parts if part.group))


def _add_up(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Return the sums of the claims (None where there are none) and of what is built."""
    built = [row["built"] for row in rows if row["built"] is not None]
    return {
        "claimed": {key: _sum([row["claimed"][key] for row in rows]) for key in ("parameters", "flops")},
        "built": {key: float(sum(row[key] for row in built)) for key in FIGURES},
    }


def _sum(claims: Sequence[float | None]) -> float | None:
    stated = [claim for claim in claims if claim is not None]
    return float(sum(stated)) if stated else None


def parameters_of(layers: Sequence[Layer]) -> int:
    """Trainable parameters that these layers read; what several of them read alike counts once."""
    return sum({tuple(sorted(layer.weights)): layer.parameters for layer in layers}.values())


def _contradictions(sums: Mapping[str, float | None], total: Mapping[str, float | None]) -> list[str]:
    """Say where the rows of a specification do not add up to its own total."""
    findings = []
    for key, unit, size in (("parameters", " M parameters", 1e6), ("flops", " GFLOPs", 1e9)):
        rows, said = sums[key], total[key]
        if rows is not None and said and _apart(said, rows, SAME_SUM):
            findings.append(
                f"the rows of the specification add up to {rows / size:.2f}{unit}, its total says {said / size:.2f}"
            )
    return findings


def _discrepancies(groups: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> list[str]:
    """Say how the claimed operations of each group compare with its own rule and with what runs."""
    findings = []
    for name, group in groups.items():
        said, built = group["claimed"]["flops"], group["built"]
        by_rule, runs = built["flops_by_rule"], built["flops_of_kinds"]
        if said and by_rule is not None and runs is not None and _apart(said, by_rule, SAME_FIGURE):
            findings.append(
                f"the rows of {name} claim {said / 1e9:.2f} GFLOPs; "
                f"by the specification's own rule they have {by_rule / 1e9:.2f}, and {runs / 1e9:.2f} run"
            )
    return findings
