"""Figures summed by module, at the depth where they tell most, and by operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workloads.graph import Layer, WorkloadGraph
from workloads.specification import parameters_of

MODULE_ROWS = 24
"""Most rows of a table of modules: one look at a terminal."""

ITSELF = "(itself)"
"""Ends the name of a module's own layers, where those of its children stand in other rows."""

SAME_WEIGHT = 0.01
"""Relative difference up to which repeated modules are alike: blocks that differ in a bias or an edge."""

MODEL = "(model)"
"""All layers, or those that no module of the model calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Sums over the layers of one module or operator; a weight that several of them read counts once."""

    name: str
    layers: int
    parameters: int
    macs: int
    flops: int
    bytes: int


def totals_by_module(graph: WorkloadGraph, rows: int = MODULE_ROWS) -> list[Total]:
    """Sum by module, the most FLOPs first; every layer stands in one row. See `group_by_module`."""
    flops = np.array([layer.flops for layer in graph.layers], np.float64)
    groups = group_by_module([layer.module for layer in graph.layers], flops, rows)
    return _totals(graph, groups)


def totals_by_operator(graph: WorkloadGraph) -> list[Total]:
    """Sum by operator, the most FLOPs first."""
    groups: dict[str, list[int]] = {}
    for index, layer in enumerate(graph.layers):
        groups.setdefault(layer.operator, []).append(index)
    return _totals(graph, groups)


def _totals(graph: WorkloadGraph, groups: Mapping[str, Sequence[int]]) -> list[Total]:
    totals = [total(name, [graph.layers[index] for index in indices]) for name, indices in groups.items()]
    return sorted(totals, key=lambda row: (-row.flops, -row.bytes, row.name))


def total(name: str, layers: Sequence[Layer]) -> Total:
    """Sum over these layers."""
    return Total(
        name=name,
        layers=len(layers),
        parameters=parameters_of(layers),
        macs=sum(layer.macs for layer in layers),
        flops=sum(layer.flops for layer in layers),
        bytes=sum(layer.bytes for layer in layers),
    )


def group_by_module(modules: Sequence[str], weights: NDArray[np.float64], rows: int) -> dict[str, list[int]]:
    """Group layers [N] by module path, deeper where the weight is: at most `rows` groups (one, if `rows` is less).

    From the whole model on, the heaviest group is split into its children for as long as the rows suffice; a group
    whose children are too many stays whole.
    """
    open_groups: dict[tuple[str, ...], list[int]] = {(): list(range(len(modules)))}
    closed: dict[str, list[int]] = {}
    paths = [tuple(module.split(".")) if module else () for module in modules]
    while open_groups:
        path = max(open_groups, key=lambda key: (float(weights[open_groups[key]].sum()), -len(key)))
        members = open_groups.pop(path)
        children: dict[tuple[str, ...], list[int]] = {}
        for index in members:
            children.setdefault(paths[index][: len(path) + 1], []).append(index)
        if list(children) == [path] or len(closed) + len(open_groups) + len(children) > rows:
            closed[".".join(path) or MODEL] = members
            continue
        own = children.pop(path, None)
        if own is not None:
            closed[f"{'.'.join(path) or MODEL} {ITSELF}"] = own
        open_groups |= children
    return closed


def heaviest_modules(modules: Sequence[str], weights: NDArray[np.float64], count: int = 3) -> tuple[str, ...]:
    """Return the modules that hold most of the weight, the heaviest first, none of them without weight.

    Repeated modules of equal weight are one entry, their numbers in braces: "blocks.{0..11}.attention".
    """
    groups = group_by_module(modules, weights, rows=4 * count)
    sums: dict[str, float] = {}
    for name, members in groups.items():
        name = name.removesuffix(f" {ITSELF}")
        sums[name] = sums.get(name, 0.0) + float(weights[members].sum())
    merged = _merge_repeated({name: weight for name, weight in sums.items() if weight > 0})
    return tuple(sorted(merged, key=lambda name: (-merged[name], name))[:count])


def _merge_repeated(sums: Mapping[str, float]) -> dict[str, float]:
    """Merge three names or more that differ in their first number alone and weigh the same."""
    alike: dict[tuple[tuple[str, ...], tuple[str, ...]], list[tuple[int, str]]] = {}
    for name in sums:
        parts = tuple(name.split("."))
        at = next((at for at, part in enumerate(parts) if part.isdigit()), None)
        if at is not None:
            alike.setdefault((parts[:at], parts[at + 1 :]), []).append((int(parts[at]), name))
    merged = dict(sums)
    for (before, after), numbered in alike.items():
        heaviest = max(sums[name] for _, name in numbered)
        equal = sorted((index, name) for index, name in numbered if sums[name] >= (1 - SAME_WEIGHT) * heaviest)
        if len(equal) < 3:
            continue
        numbers = [index for index, _ in equal]
        consecutive = numbers == list(range(numbers[0], numbers[-1] + 1))
        braces = f"{{{numbers[0]}..{numbers[-1]}}}" if consecutive else f"{{{','.join(map(str, numbers))}}}"
        merged[".".join((*before, braces, *after))] = sum(merged.pop(name) for _, name in equal)
    return merged
