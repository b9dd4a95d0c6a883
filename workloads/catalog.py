"""The catalogue: models by name, with their example inputs and published figures.

What ships stands in catalog.yaml. Other distributions add models through the entry-point group `chipfront.workloads`:
the name is the model's, the value a factory `package.module:factory` that returns (module, example_inputs).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from workloads import cache as graph_cache
from workloads.errors import WorkloadError
from workloads.factory import build, trace_as
from workloads.fingerprint import digest, file_digest, tracer_version
from workloads.graph import WorkloadGraph
from workloads.run_mode import RunMode, run_mode

FILE = Path(__file__).with_name("catalog.yaml")
ENTRY_POINTS = "chipfront.workloads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A published figure: `quantity` is one of those that `workloads.describe.quantity` knows."""

    quantity: str
    value: float
    source: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthAxis:
    """Where the sequence length of a model stands: dimension `dim` of input number `input`, counted in `unit`.

    `per_second` units are one second of signal, where that has a meaning. Sizes inside the network are affine in those
    lengths that differ by multiples of `multiple` (1: not known). Below `padded_to` the network pads to that length.
    """

    dim: int
    input: int = 0
    unit: str = "samples"
    per_second: float | None = None
    multiple: int = 1
    padded_to: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model of the catalogue. `inputs` are (shape, dtype); empty where the factory gives its own.

    `specification` names a file of workloads/specifications: what its specification claims, part by part.
    `unpublished` says, in place of references, why nobody has published a figure to reach. What is `streaming` runs in
    `workloads.streaming.StreamingSeparator`.
    """

    name: str
    factory: str
    description: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[tuple[tuple[int, ...], str], ...] = ()
    references: tuple[Reference, ...] = ()
    unpublished: str = ""
    streaming: bool = False
    length: LengthAxis | None = None
    specification: str = ""


@cache
def _entries() -> Mapping[str, Entry]:
    held: dict[str, Entry] = {}
    for name, row in yaml.safe_load(FILE.read_text(encoding="utf-8")).items():
        inputs = (_input(item) for item in row.pop("inputs", ()))
        references = (Reference(**item) for item in row.pop("references", ()))
        axis = row.pop("length", None)
        length = LengthAxis(**axis) if axis else None
        held[name] = Entry(name=name, inputs=tuple(inputs), references=tuple(references), length=length, **row)
    for point in metadata.entry_points(group=ENTRY_POINTS):
        description = f"from the distribution {point.dist.name}" if point.dist else ""
        if point.name in held:
            message = f"the workload {point.name!r} {description} ({point.value}) is left out: the name is taken"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
            continue
        held[point.name] = Entry(name=point.name, factory=point.value, description=description)
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


def key(model: Entry, mode: RunMode = "inference") -> str:
    """Return the content hash of the graph of a model that ships, without importing it.

    It holds the entry, the mode, the sources of all models here, and the tracer with the versions of its libraries.
    """
    sources = sorted((Path(__file__).parent / "models").rglob("*.py"))
    return digest([model, run_mode(mode), *tracer_version(), *map(file_digest, sources)])


def load(name: str, cache: bool = True, mode: RunMode = "inference") -> WorkloadGraph:
    """Return the graph of a model of the catalogue, from the disk cache if it is there.

    torch is then not imported for a model that ships. A model of another distribution is always built (on the meta
    device), since only the module itself tells all that it is made of. `mode` is "inference", "train", or a
    `Training` for a training step of these options, with the loss that `workloads.trace_training` takes by itself.

    Raises
    ------
    WorkloadError
        If there is no such model or mode, or it cannot be traced.
    """
    return traced(entry(name), cache=cache, mode=mode)


def traced(model: Entry, *, cache: bool = True, mode: RunMode = "inference", batch: int | None = None) -> WorkloadGraph:
    """Return the graph of an entry, as `load` does of a name; its inputs may have been given another size, or batch."""
    ships = model.factory.startswith("workloads.")
    if batch is not None and model.inputs:
        model = replace(model, inputs=tuple(((batch, *shape[1:]), dtype) for shape, dtype in model.inputs))
    content = key(model, mode) if cache and ships else ""
    if content and (stored := graph_cache.read(model.name, content)) is not None:
        return stored
    module, inputs = build(model.factory, model.inputs, kwargs=model.kwargs, device="meta", batch=batch)
    graph = trace_as(mode, module, inputs, name=model.name, cache=cache and not ships)
    if content:
        graph_cache.write(model.name, content, graph)
    return graph
