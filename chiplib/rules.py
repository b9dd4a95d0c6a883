"""Deployability: which layers of a network a chip cannot run, and which rule says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chiplib.chip import MEASURES, ChipType, Rule

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
    columns = {name: np.full(len(shapes), np.nan) for name in names}
    for layer, shape in enumerate(shapes):
        for name, value in shape.items():
            columns[name][layer] = value
    return columns


def broken_rules(
    chip: ChipType,
    kinds: Sequence[str],
    shapes: Sequence[Mapping[str, int]] | LayerShapes,
    operations: Sequence[str] = (),
) -> list[BrokenRule]:
    """Return every rule of `chip` that a layer breaks, in the order of the layers.

    `kinds` [N] are operator kinds, `shapes` [N] their shape parameters; for many chips pass `layer_shapes(shapes)`
    once made. A rule holds for the layers of its operator ("*": all) that have its parameter, or a part of it by axis
    ("kernel" means "kernel_d", "kernel_h" and "kernel_w" too), and whose other parameters are as in `when`.
    `operations` [N] are what the layers compute, as rules on the parameter "operation" name it ("add", "relu"); such
    rules hold for nothing where none are given.
    """
    if not chip.rules and not chip.missing_operators:  # as most chips: spare the arrays
        return []
    columns = shapes if isinstance(shapes, Mapping) else layer_shapes(shapes)
    kind, operation = np.asarray(kinds, dtype=str), np.asarray(operations, dtype=str)
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
        if rule.names and len(operation):
            found += _unnamed(rule, operation, concerned)
        for name in (rule.parameter, *(f"{rule.parameter}_{axis}" for axis in "dhw")):
            if name in columns:
                found += _broken(rule, name, columns[name], concerned)
    return sorted(found, key=lambda broken: broken.layer)


def broken_network_rules(
    chip: ChipType, kinds: Sequence[str], measures: Mapping[str, NDArray[np.float64]]
) -> list[BrokenRule]:
    """Return every network rule of `chip` that N layers break together, each with the layer that is one too many.

    `kinds` [N] are operator kinds, `measures` what each layer [N] takes of MEASURES ("layers": 1 of each).

    Raises KeyError where a measure is missing.
    """
    kind = np.asarray(kinds, dtype=str)
    found = []
    for rule in chip.network_rules:
        concerned = np.isin(kind, rule.operators) if rule.operators else np.ones(len(kind), bool)
        taken = np.cumsum(np.where(concerned, measures[rule.measure], 0.0))
        if len(taken) and taken[-1] > rule.limit:
            of = f" of {', '.join(rule.operators)}" if rule.operators else ""
            found.append(
                BrokenRule(
                    layer=int(np.argmax(taken > rule.limit)),
                    rule=f"network: {rule.measure} <= {rule.limit:g}",
                    demand=f"{taken[-1]:,.0f} {rule.measure}{of} on one chip",
                    limit=f"at most {rule.limit:,.0f}",
                    source=rule.source,
                )
            )
    return found


def network_measures(
    chip: ChipType, *, weight_bytes: NDArray[np.float64], bias_bytes: NDArray[np.float64], pixels: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return what each layer [N] takes of MEASURES on `chip`.

    `weight_bytes` [N] are without biases, `pixels` [N] those of one channel of the layer's input, a byte each.
    """
    room = chip.cycle_rules.channel_bytes if chip.cycle_rules is not None else np.inf
    taken = (np.ones(len(pixels)), weight_bytes, bias_bytes, (pixels > room).astype(np.float64))
    return dict(zip(MEASURES, taken, strict=True))


def _unnamed(rule: Rule, operation: NDArray[np.str_], concerned: NDArray[np.bool_]) -> list[BrokenRule]:
    """Return the `concerned` layers whose operation the rule does not name."""
    choices = ", ".join(rule.names)
    return [
        BrokenRule(
            layer=int(layer),
            rule=f"{rule.operator}: operation in {{{choices}}}",
            demand=f"operation {operation[layer]}",
            limit=f"one of {choices}",
            source=rule.source,
        )
        for layer in np.flatnonzero(concerned & ~np.isin(operation, rule.names))
    ]


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
