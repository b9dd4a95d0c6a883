"""Deployability: which layers of a network a chip cannot run, and which rule says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chiplib.chip import ChipType, Rule

LayerShapes = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenRule:
    """A layer that breaks a rule: what it asks for, and what the chip allows."""

    layer: int
    rule: str  # such as "conv: kernel <= 9"
    demand: str  # what the layer has, such as "kernel_w 32"
    limit: str  # what the chip allows, such as "at most 9"
    source: str = ""


def layer_shapes(shapes: Sequence[Mapping[str, int]]) -> LayerShapes:
    """Return the shape parameters of N layers as columns: name -> [N], NaN where a layer lacks the parameter."""
    names = sorted({name for shape in shapes for name in shape})
    return {name: np.array([shape.get(name, np.nan) for shape in shapes], np.float64) for name in names}


def broken_rules(
    chip: ChipType, kinds: Sequence[str], shapes: Sequence[Mapping[str, int]] | LayerShapes
) -> list[BrokenRule]:
    """Return every rule of `chip` that a layer breaks, in the order of the layers.

    `kinds` [N] are operator kinds, `shapes` [N] their shape parameters; for many chips pass `layer_shapes(shapes)`
    once made. A rule holds for the layers of its operator ("*": all) that have its parameter, or a part of it by axis
    ("kernel" means "kernel_d", "kernel_h" and "kernel_w" too), and whose other parameters are as in `when`.
    """
    columns = shapes if isinstance(shapes, Mapping) else layer_shapes(shapes)
    kind = np.asarray(kinds, dtype=str)
    found = [
        BrokenRule(
            layer=int(layer), rule=f"{name} is missing", demand=name, limit="no such operator", source=_source(chip)
        )
        for name in chip.missing_operators
        for layer in np.flatnonzero(kind == name)
    ]
    for rule in chip.rules:
        concerned = np.ones(len(kind), bool) if rule.operator == "*" else kind == rule.operator
        for parameter, value in rule.when.items():
            concerned = concerned & np.isin(columns.get(parameter, np.full(len(kind), np.nan)), value)
        for name in (rule.parameter, *(f"{rule.parameter}_{axis}" for axis in "dhw")):
            if name in columns:
                found += _broken(rule, name, columns[name], concerned)
    return sorted(found, key=lambda broken: broken.layer)


def _broken(rule: Rule, name: str, values: NDArray[np.float64], concerned: NDArray[np.bool_]) -> list[BrokenRule]:
    """Return what the parameter `name` of the `concerned` layers breaks; NaN breaks nothing."""
    concerned = concerned & ~np.isnan(values)
    found = []
    if rule.limit is not None:
        text = f"{rule.operator}: {rule.parameter} <= {rule.limit:g}"
        found += [
            (layer, text, f"at most {rule.limit:g}") for layer in np.flatnonzero(concerned & (values > rule.limit))
        ]
    if rule.allowed:
        choices = ", ".join(map(str, rule.allowed))
        text = f"{rule.operator}: {rule.parameter} in {{{choices}}}"
        wrong = concerned & ~np.isin(values, rule.allowed)
        found += [(layer, text, f"one of {choices}") for layer in np.flatnonzero(wrong)]
    return [
        BrokenRule(layer=int(layer), rule=text, demand=f"{name} {values[layer]:g}", limit=limit, source=rule.source)
        for layer, text, limit in found
    ]


def _source(chip: ChipType) -> str:
    return chip.source.get("missing_operators", chip.source.get("*", ""))
