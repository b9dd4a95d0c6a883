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
    """Return the modules that hold most of the weight, the heaviest first, none of them without weight."""
    groups = group_by_module(modules, weights, rows=4 * count)
    sums = {name: float(weights[members].sum()) for name, members in groups.items()}
    heaviest = sorted((name for name in sums if sums[name] > 0), key=lambda name: (-sums[name], name))
    return tuple(dict.fromkeys(name.removesuffix(f" {ITSELF}") for name in heaviest[:count]))
