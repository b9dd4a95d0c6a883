"""The catalogue: models by name, with their example inputs and published figures.

What ships stands in catalog.yaml. Other distributions add models through the entry-point group `chipfront.workloads`:
the name is the model's, the value a factory `package.module:factory` that returns (module, example_inputs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from workloads import cache as graph_cache
from workloads.errors import WorkloadError
from workloads.factory import build, source_files
from workloads.fingerprint import digest, file_digest, tracer_version
from workloads.graph import WorkloadGraph

FILE = Path(__file__).with_name("catalog.yaml")
ENTRY_POINTS = "chipfront.workloads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A published figure: `quantity` is parameters, macs, matrix_macs or matrix_macs.KIND."""

    quantity: str
    value: float
    source: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model of the catalogue. `inputs` are (shape, dtype); empty where the factory gives its own."""

    name: str
    factory: str
    description: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[tuple[tuple[int, ...], str], ...] = ()
    references: tuple[Reference, ...] = ()


@cache
def _entries() -> Mapping[str, Entry]:
    held: dict[str, Entry] = {}
    for name, row in yaml.safe_load(FILE.read_text(encoding="utf-8")).items():
        inputs = (_input(item) for item in row.pop("inputs", ()))
        references = (Reference(**item) for item in row.pop("references", ()))
        held[name] = Entry(name=name, inputs=tuple(inputs), references=tuple(references), **row)
    for point in metadata.entry_points(group=ENTRY_POINTS):
        description = f"from the distribution {point.dist.name}" if point.dist else ""
        held.setdefault(point.name, Entry(name=point.name, factory=point.value, description=description))
    return held


def _input(item: Sequence[int] | Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    if isinstance(item, Mapping):
        return tuple(item["shape"]), str(item["dtype"])
    return tuple(item), "float32"


def names() -> list[str]:
    """Return the names of all models, sorted."""
    return sorted(_entries())


def entry(name: str) -> Entry:
    """Return the entry of a model.

    Raises
    ------
    WorkloadError
        If there is none of that name.
    """
    if name not in _entries():
        close = get_close_matches(name, names(), n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names())}"
        raise WorkloadError(f"there is no workload {name!r}", hint)
    return _entries()[name]


def key(model: Entry) -> str:
    """Return the content hash of a model's graph, from its entry, sources and installed versions; imports no model."""
    sources = [file_digest(file) for file in source_files(model.factory)]
    return digest([model, *tracer_version(), *sources])


def load(name: str, cache: bool = True) -> WorkloadGraph:
    """Return the graph of a model of the catalogue, from the disk cache if it is there (torch is then not imported).

    Raises
    ------
    WorkloadError
        If there is no such model, or it cannot be traced.
    """
    model = entry(name)
    content = key(model) if cache else ""
    if content and (stored := graph_cache.read(name, content)) is not None:
        return stored
    from workloads.trace import trace

    module, inputs = build(model.factory, model.inputs, kwargs=model.kwargs, device="meta")
    graph = trace(module, inputs, name=name, cache=False)
    if content:
        graph_cache.write(name, content, graph)
    return graph
