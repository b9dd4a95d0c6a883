"""PipeDream profiles: layers of a training run, to be cut into the stages of a pipeline.

The graph.txt of Narayanan et al., "PipeDream: Generalized Pipeline Parallelism for DNN Training" (SOSP 2019;
arXiv 1806.03377; github.com/msr-fiddle/pipedream).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solvers.errors import SolverError
from solvers.formats.instance import Instance, InstanceFormat, Reading, Source, topological_order
from solvers.mapping.problem import MappingProblem

DEVICES = 4  # our own: the optimiser's command line asks for it
BANDWIDTH_GB_S = 1.0  # --network_bandwidths of optimizer/optimizer_graph_hierarchical.py, where nothing is said
MEMORY_GB = 16.0  # --memory_size of the same, which it heeds with --use_memory_constraint only; we always do
NUMBERS = ("forward_compute_time", "backward_compute_time", "activation_size", "parameter_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    id: str
    compute_ms: float  # forward and backward
    activation_bytes: float
    parameter_bytes: float


class PipeDreamProfile(InstanceFormat):
    """Layers of a training step as stages of a one-forward-one-backward pipeline of `devices` equal workers.

    A layer's forward and backward pass run on one worker, so a layer is one segment of both times. It keeps, for each
    mini-batch in flight, its activation and a version of its weights (weight stashing, section 3.3 of the paper), and
    one gradient of them. Activations go to the next stage, as many bytes of gradients come back: each worker has one
    full-duplex port of `bandwidth_gb_s`, which either direction of it loads alike. With `replicas` > 1 a stage may take
    that many neighbouring workers (data parallel): each does its share of the mini-batches, and exchanges gradients by
    2 (m - 1) / m of their bytes (ring all-reduce), counted as not overlapped.

    The file says nothing of the machine. Without a word from the caller there are 4 workers (this reader's assumption)
    of 1 GB/s and 16 GB (defaults of optimizer/optimizer_graph_hierarchical.py in the paper's repository). Stages are
    contiguous unless the caller says otherwise.
    """

    name = "pipedream"
    layout = "lines `node -- layer -- forward_compute_time=..., ...`, then `from -- to`"
    takes = ("devices", "bandwidth_gb_s", "memory_gb", "replicas")

    def recognises(self, source: Source) -> bool:
        """Whether a line gives a forward time."""
        return "forward_compute_time=" in source.text

    def read(self, source: Source, reading: Reading) -> Instance:
        """Return the instance, named by its folder (the file is called graph.txt); ids are those of the nodes."""
        path = source.path
        layers, pairs = _parse(source)
        order = topological_order([layer.id for layer in layers], pairs, path)
        layers = [layers[n] for n in order]
        number = np.empty(len(order), dtype=np.int64)
        number[order] = np.arange(len(order))
        edges = number[np.array(pairs, dtype=np.int64).reshape(-1, 2)]
        workers = DEVICES if reading.devices is None else reading.devices
        bandwidth = BANDWIDTH_GB_S if reading.bandwidth_gb_s is None else reading.bandwidth_gb_s
        memory = MEMORY_GB if reading.memory_gb is None else reading.memory_gb
        teams = _teams(workers, reading.replicas or 1)
        members = np.concatenate([np.eye(workers, dtype=np.bool_), teams])
        size = members.sum(axis=1)  # [M] workers of a mode
        activation, parameters = (
            np.array([getattr(layer, name) for layer in layers]) for name in ("activation_bytes", "parameter_bytes")
        )
        ms_per_byte = 1e3 / (bandwidth * 1e9)
        exchange = 2 * (size - 1) / size * ms_per_byte  # of a byte of gradients, once every `size` mini-batches
        compute = np.array([layer.compute_ms for layer in layers])[:, None] + parameters[:, None] * exchange
        modes = len(members)
        apart = 1.0 - np.eye(modes)
        # a link is a worker's port: a route holds those of its two ends, each of a team's members for its share
        share = members / size[:, None]
        links = (share[:, None, :] + share[None, :, :]) * apart[:, :, None]
        return Instance(
            name=path.parent.name if path.name == "graph.txt" and path.parent.name else path.stem,
            path=path,
            format=self.name,
            ids=tuple(layer.id for layer in layers),
            devices=tuple(f"worker {s}" for s in range(workers)),
            problem=MappingProblem(
                compute_ms=compute / size,
                energy_mj=np.zeros((len(layers), modes)),
                edges=edges,
                edge_bytes=activation[edges[:, 0]],
                route_latency_ms=np.zeros((modes, modes)),
                route_ms_per_byte=ms_per_byte * apart,
                route_mj_per_byte=np.zeros((modes, modes)),
                route_links=links,
                resident_bytes=parameters,
                workspace_bytes=np.zeros(len(layers)),
                capacity_bytes=np.full(workers, memory * 1e9),
                allowed=np.ones((len(layers), modes), dtype=np.bool_),
                teams=teams,
                stash_bytes=activation + parameters,
                regime="pipelined",
                contiguous=reading.contiguous is not False,
                names=tuple(layer.id for layer in layers),
            ),
        )


def _teams(workers: int, replicas: int) -> NDArray[np.bool_]:
    """[T, S] every run of 2 to `replicas` neighbouring workers; workers are alike, so other sets bring nothing."""
    runs = [(first, many) for many in range(2, min(replicas, workers) + 1) for first in range(workers - many + 1)]
    teams = np.zeros((len(runs), workers), dtype=np.bool_)
    for row, (first, many) in zip(teams, runs, strict=True):
        row[first : first + many] = True
    return teams


def _parse(source: Source) -> tuple[list[_Layer], list[tuple[int, int]]]:
    layers: list[_Layer] = []
    place: dict[str, int] = {}
    named: list[tuple[int, str, str]] = []
    for line, text in enumerate(source.text.splitlines(), start=1):
        if not text.strip():
            continue
        parts = [part.strip() for part in text.split(" -- ")]
        if text[:1].isspace() and len(parts) == 2:
            named.append((line, *parts))  # type: ignore[arg-type]
        elif len(parts) >= 3:
            layer = _layer(parts, source.path, line)
            if place.setdefault(layer.id, len(layers)) != len(layers):
                raise SolverError(f"{source.path}, line {line}: node {layer.id!r} is there twice", "unique names")
            layers.append(layer)
        else:
            raise SolverError(f"{source.path}, line {line}: {text.strip()[:60]!r} is no node and no edge", _LINES)
    for line, *ends in named:
        for end in ends:
            if end not in place:
                raise SolverError(f"{source.path}, line {line}: no node is called {end!r}", "a node of the file")
    return layers, [(place[i], place[j]) for _, i, j in named]


_LINES = "a node is `name -- layer -- figures`, an edge an indented `from -- to`"


def _layer(parts: list[str], path: Path, line: int) -> _Layer:
    """Parse `name -- description -- figures`; a fourth part names a stage, which is an answer and no input."""
    found = dict(re.findall(r"(\w+)=(\[[^\]]*\]|[^,\s]+)", parts[2]))
    values = []
    for key in NUMBERS:
        text = found.get(key)
        if text is None:
            raise SolverError(f"{path}, line {line}: {key} is missing", f"node {parts[0]!r} needs {', '.join(NUMBERS)}")
        try:
            # an activation of several tensors is a list of their bytes
            value = sum(float(part) for part in text.strip("[]").split(";"))
        except ValueError:
            raise SolverError(f"{path}, line {line}: {key} is {text!r}", "a number, or [a; b] of several") from None
        if not 0 <= value < float("inf"):
            raise SolverError(f"{path}, line {line}: {key} is {value:g}", "zero or more")
        values.append(value)
    forward, backward, activation, parameters = values
    return _Layer(id=parts[0], compute_ms=forward + backward, activation_bytes=activation, parameter_bytes=parameters)
