"""What a specification claims of a model, part by part, beside what is built; its tables stand in specifications/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from workloads.errors import WorkloadError
from workloads.graph import Layer, OperatorKind, WorkloadGraph

FOLDER = Path(__file__).with_name("specifications")

SAME_SUM = 0.05
"""Relative difference from which a table's rows do not add up to its total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How a specification counts operations: those of these `kinds` (all, where empty), times `scale`."""

    kinds: tuple[OperatorKind, ...] = ()
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One row: what the specification says of a part, and the modules of ours that are that part.

    `modules` are dotted paths: every layer called in or under one of them belongs to the part; * in a path stands for
    any of its parts, and an empty path for the model itself. What the specification does not state is None.
    """

    part: str
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

    Each row holds the claim (`claimed`) and what is built (`built`): parameters, FLOPs of what runs and FLOPs by the
    specification's own rule; a row without modules is not built. `sums` are those of the rows, `total` the
    specification's printed one, `findings` where the two contradict each other.
    """
    rows = []
    for part in specification.parts:
        layers = [layer for layer in graph.layers if _belongs(layer, part.modules)]
        ruled = [layer for layer in layers if not part.rule.kinds or layer.kind in part.rule.kinds]
        built = {
            "parameters": parameters_of(layers),
            "flops": sum(layer.flops for layer in layers),
            "flops_by_rule": part.rule.scale * sum(layer.flops for layer in ruled),
            "output_shape": list(layers[-1].output_shape) if layers else [],
        }
        rows.append(
            {
                "part": part.part,
                "claim": part.claim,
                "claimed": {
                    "parameters": part.parameters,
                    "flops": part.flops,
                    "output_shape": None if part.output_shape is None else list(part.output_shape),
                },
                "built": built if part.modules else None,
                "note": part.note,
            }
        )
    sums = {key: _sum(rows, key) for key in ("parameters", "flops")}
    total = {"parameters": specification.parameters, "flops": specification.flops}
    return {
        "source": specification.source,
        "convention": specification.convention,
        "rows": rows,
        "sums": sums,
        "total": total,
        "built_total": {"parameters": graph.parameters, "flops": graph.flops},
        "findings": _findings(sums, total),
        "note": specification.note,
    }


def parameters_of(layers: Sequence[Layer]) -> int:
    """Trainable parameters that these layers read; what several of them read alike counts once."""
    return sum({tuple(sorted(layer.weights)): layer.parameters for layer in layers}.values())


def _belongs(layer: Layer, modules: Sequence[str]) -> bool:
    return any(fnmatchcase(layer.module, path) or fnmatchcase(layer.module, f"{path}.*") for path in modules)


def _sum(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    claims = [row["claimed"][key] for row in rows if row["claimed"][key] is not None]
    return float(sum(claims)) if claims else None


def _findings(sums: Mapping[str, float | None], total: Mapping[str, float | None]) -> list[str]:
    findings = []
    for key, unit, size in (("parameters", "M parameters", 1e6), ("flops", " GFLOPs", 1e9)):
        rows, said = sums[key], total[key]
        if rows is not None and said and abs(rows - said) > SAME_SUM * said:
            findings.append(
                f"the rows of the specification add up to {rows / size:.2f}{unit}, its total says {said / size:.2f}"
            )
    return findings
