"""Segment and SegmentGraph: runs of layers that are mapped as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import cached_property
from itertools import pairwise, takewhile
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from workloads.attention import attention_layers
from workloads.cuts import cut_by_module, cut_every, cut_least_traffic
from workloads.errors import WorkloadError
from workloads.graph import OperatorKind, WorkloadGraph
from workloads.precision import scaled
from workloads.traffic import peak_live_bytes, segment_edges, segment_reads, sum_by, written_for_others
from workloads.weights import weight_bytes_of_groups

SEGMENT_SIZE = 4
"""Layers of a segment where nothing is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of consecutive layers. Fields as in the owner's specification (version_c.md 9.1), then ours.

    `seq_len` to `mlp_ratio` are those of the layer with the most FLOPs among those that have them.
    """

    id: int
    layer_indices: tuple[int, ...]
    flops: float
    bytes: float
    seq_len: int
    embed_dim: int
    num_heads: int
    mlp_ratio: float
    precision: int  # 1 where weights and activations take 2 bytes or less, else 0
    traffic_in_bytes: float  # read from other segments, each tensor once
    traffic_out_bytes: float  # written for other segments, each tensor once
    can_split_fine: bool = False
    fine_groups: int | None = None
    name: str = ""  # from the module paths of its layers
    macs: float = 0.0
    attn_flops_ratio: float = 0.0  # FLOPs of attention_layers
    weight_bytes: float = 0.0  # kept in memory; what several of its layers use of a weight counts once
    workspace_bytes: float = 0.0  # peak of live activations while it runs, its inputs and outputs included


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentGraph(Sequence[Segment]):
    """DAG of K segments over a workload graph, in topological order.

    `segment_of_layer` [N] never decreases. `edges` [E, 2] are pairs of segments, each once, with the bytes that the
    consumer reads of the producer (a tensor that several of its layers read counts once). All bytes and operations
    hold for the batch of the graph and floating values of `float_bytes`. `origin` [N] is the layer of the graph that
    was cut which each layer is, or for a copy that only this batch makes the one before it (see `over`).
    """

    graph: WorkloadGraph
    segments: tuple[Segment, ...]
    segment_of_layer: NDArray[np.int64]
    edges: NDArray[np.int64]
    edge_bytes: NDArray[np.float64]
    origin: NDArray[np.int64]
    float_bytes: int = 4

    @property
    def batch(self) -> int:
        """Examples of an input."""
        return self.graph.batch

    @overload
    def __getitem__(self, index: int) -> Segment: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Segment]: ...
    def __getitem__(self, index: int | slice) -> Segment | Sequence[Segment]:
        return self.segments[index]

    def __len__(self) -> int:
        return len(self.segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def at(self, float_bytes: int) -> SegmentGraph:
        """Return the same segments at another precision.

        What is floating takes `float_bytes` a real number instead of the layer's own; the tensors of layers without
        floating values keep their size. Marks of fine splitting are kept.

        Raises WorkloadError where it is not positive.
        """
        if float_bytes <= 0:
            raise WorkloadError(f"float_bytes is {float_bytes}", "at least 1")
        sizes, edges, edge_bytes = _sizes(self.graph, self.segment_of_layer, float_bytes)
        resized = (replace(segment, **{name: column[segment.id] for name, column in sizes.items()}) for segment in self)
        return replace(self, segments=tuple(resized), edges=edges, edge_bytes=edge_bytes, float_bytes=float_bytes)

    def over(self, graph: WorkloadGraph) -> SegmentGraph:
        """Return the same segments of the same model at another batch or length, whose graph is given.

        Layers correspond one to one. Only copies may be more or fewer (of a batch of 1 some are views): a further one
        joins the segment of the layer before it. Marks of fine splitting are kept.

        Raises WorkloadError where the models differ, or nothing of a segment is left.
        """
        origin = corresponding(self.graph, graph)
        segment_of_layer = self.segment_of_layer[origin]
        if missing := sorted(set(range(len(self))) - set(segment_of_layer.tolist())):
            raise WorkloadError(
                f"of segment {missing[0]} of {self.graph.name} nothing runs at batch {graph.batch}, where a copy is a "
                "view",
                "longer segments",
            )
        cut = _segmented(graph, segment_of_layer, self.float_bytes)
        marked = (
            replace(mine, can_split_fine=segment.can_split_fine, fine_groups=segment.fine_groups)
            for mine, segment in zip(cut, self, strict=True)
        )
        return replace(cut, segments=tuple(marked), origin=self.origin[origin])

    @cached_property
    def features(self) -> NDArray[np.void]:
        """Record array [N] of LAYER_FEATURES, at this precision."""
        return scaled(self.graph, self.float_bytes).rows

    def weight_bytes_together(self, group: NDArray[np.int64], groups: int) -> NDArray[np.float64]:
        """Return the bytes [groups] of weights that the segments of each `group` [K] keep in one memory.

        What several of them use lies there once: tied weights, and in a training step those that the forward and the
        backward pass read and the optimiser updates.
        """
        growth = scaled(self.graph, self.float_bytes).growth
        return weight_bytes_of_groups(self.graph, growth, group[self.segment_of_layer], groups)

    @cached_property
    def shares_weights(self) -> bool:
        """Whether several segments use the same weight."""
        weight = self.graph.weight_parts["weight"]
        users = np.stack([weight, self.segment_of_layer[self.graph.weight_parts["layer"]]])
        return bool(np.unique(users, axis=1).shape[1] > len(np.unique(weight)))

    @cached_property
    def flops(self) -> NDArray[np.float64]:
        """FLOPs [K]."""
        return np.array([segment.flops for segment in self.segments])

    @cached_property
    def weight_bytes(self) -> NDArray[np.float64]:
        """Weights [K] that a segment keeps in memory."""
        return np.array([segment.weight_bytes for segment in self.segments])

    @cached_property
    def workspace_bytes(self) -> NDArray[np.float64]:
        """Peak of live activations [K] while a segment runs."""
        return np.array([segment.workspace_bytes for segment in self.segments])

    @cached_property
    def output_bytes(self) -> NDArray[np.float64]:
        """What a segment writes for others [K], each tensor once."""
        return np.array([segment.traffic_out_bytes for segment in self.segments])


def build_segments(
    graph: WorkloadGraph,
    *,
    segment_size: int | None = None,
    depth: int | None = None,
    count: int | None = None,
    balance: float = 1.25,
) -> SegmentGraph:
    """Cut a workload graph into segments of consecutive layers.

    At the batch as traced, and with floating values of the size that most layers were traced with.

    In one of three ways: `segment_size` layers each (4, where nothing is given); by the module that computes them,
    told apart by the first `depth` names of its path; or `count` segments with the least traffic between them, none
    heavier than `balance` times the heaviest of the most even cut, and no more of them with hardly any FLOPs than fixed
    size has (see cut_least_traffic).

    Raises WorkloadError where more than one way is given, a number is out of range, or the graph has no layers.
    """
    ways = {"segment_size": segment_size, "depth": depth, "count": count}
    given = [f"{name}={value}" for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise WorkloadError(f"build_segments got {' and '.join(given)}", f"only one of {', '.join(ways)}")
    if not graph.layers:
        raise WorkloadError(f"the graph {graph.name!r} has no layers", "trace a model that computes something")
    if depth is not None:
        first = cut_by_module(graph, depth)
    elif count is not None:
        first = cut_least_traffic(graph, count, balance)
    else:
        first = cut_every(graph, SEGMENT_SIZE if segment_size is None else segment_size)
    segment_of_layer = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(graph.layers))))
    return _segmented(graph, segment_of_layer, _traced_float_bytes(graph))


def mark_fine_splittable_segments(segments: SegmentGraph, cfg: Mapping[str, Any]) -> SegmentGraph:
    """Mark the segments that are worth splitting over several slots (version_c.md 9.2); return the marked graph.

    Those whose share of attention FLOPs is above `cfg["fine_split_attn_ratio_threshold"]` and that write more than
    `cfg["fine_split_traffic_threshold"]` bytes for others, at the batch and precision of `segments`. Their
    `fine_groups` is `cfg["fine_groups"]`, 2 where that is missing.

    Raises WorkloadError for a threshold that is missing or no number, and for fewer than 2 groups.
    """
    thresholds = {}
    for key in ("fine_split_attn_ratio_threshold", "fine_split_traffic_threshold"):
        value = cfg.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise WorkloadError(f"{key} is {value!r}" if key in cfg else f"{key} is missing", "a number")
        thresholds[key] = value
    groups = cfg.get("fine_groups", 2)
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 2:
        raise WorkloadError(f"fine_groups is {groups!r}", "a whole number, at least 2")
    ratio, traffic = thresholds.values()
    return replace(
        segments,
        segments=tuple(
            replace(segment, can_split_fine=True, fine_groups=groups)
            if segment.attn_flops_ratio > ratio and segment.traffic_out_bytes > traffic
            else replace(segment, can_split_fine=False, fine_groups=None)
            for segment in segments
        ),
    )


def corresponding(one: WorkloadGraph, other: WorkloadGraph) -> NDArray[np.int64]:
    """Return the layer of `one` [N] that each layer of `other`, the same model at another size, corresponds to.

    A copy that `one` does not make corresponds to the layer before it, the first of its phase to the one after it.

    Raises WorkloadError where a layer that is no copy has no counterpart.
    """
    ours, theirs = ([(layer.operator, layer.module, layer.phase) for layer in graph.layers] for graph in (one, other))
    if ours == theirs:
        return np.arange(len(one.layers))
    found = np.zeros(len(other.layers), np.int64)
    for tag, a, a_end, b, b_end in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if tag == "equal":
            found[b:b_end] = np.arange(a, a_end)
            continue
        for layer in (*one.layers[a:a_end], *other.layers[b:b_end]):
            if layer.kind is not OperatorKind.COPY:
                raise WorkloadError(
                    f"the structure of {one.name} differs between batch {one.batch} and {other.batch}: "
                    f"{layer.operator} in {layer.module or 'the model itself'} is not in both",
                    "a study of each batch for itself",
                )
        if b < b_end:
            found[b:b_end] = a if not a or one.layers[a - 1].phase != other.layers[b].phase else a - 1
    return found


def _traced_float_bytes(graph: WorkloadGraph) -> int:
    """Size of a floating value as traced: of most layers, where they differ."""
    sizes = Counter(layer.float_bytes for layer in graph.layers if layer.float_bytes)
    return sizes.most_common(1)[0][0] if sizes else 4


def _segmented(graph: WorkloadGraph, segment_of_layer: NDArray[np.int64], float_bytes: int) -> SegmentGraph:
    first = np.flatnonzero(np.diff(segment_of_layer, prepend=-1))
    sizes, edges, edge_bytes = _sizes(graph, segment_of_layer, float_bytes)
    columns = _characters(graph, segment_of_layer, first) | sizes
    segments = (Segment(id=k, **{name: column[k] for name, column in columns.items()}) for k in range(len(first)))
    return SegmentGraph(
        graph=graph,
        segments=tuple(segments),
        segment_of_layer=segment_of_layer,
        edges=edges,
        edge_bytes=edge_bytes,
        origin=np.arange(len(graph.layers)),
        float_bytes=float_bytes,
    )


def _sizes(
    graph: WorkloadGraph, segment_of_layer: NDArray[np.int64], float_bytes: int
) -> tuple[dict[str, list[Any]], NDArray[np.int64], NDArray[np.float64]]:
    """What depends on the precision: columns [K] of Segment, and the edges between segments with their bytes."""
    resized = scaled(graph, float_bytes)
    rows, count = resized.rows, int(segment_of_layer[-1]) + 1
    first = np.searchsorted(segment_of_layer, np.arange(count))
    reads = segment_reads(resized.parts, segment_of_layer)
    edges, edge_bytes = segment_edges(reads, segment_of_layer)

    def total(values: NDArray[np.float64]) -> list[float]:
        summed: list[float] = sum_by(segment_of_layer, values, count).tolist()
        return summed

    columns = {
        "flops": total(rows["flops"]),
        "macs": total(rows["macs"]),
        "bytes": total(rows["weight_bytes"] + rows["input_bytes"] + rows["output_bytes"]),
        "precision": [int(0 < widest <= 2) for widest in np.maximum.reduceat(rows["float_bytes"], first)],
        "weight_bytes": weight_bytes_of_groups(graph, resized.growth, segment_of_layer, count).tolist(),
        "workspace_bytes": peak_live_bytes(
            reads, rows["output_bytes"], resized.external_bytes, segment_of_layer
        ).tolist(),
        "traffic_in_bytes": sum_by(edges[:, 1], edge_bytes, count).tolist(),
        "traffic_out_bytes": written_for_others(resized.parts, segment_of_layer).tolist(),
    }
    return columns, edges, edge_bytes


def _characters(
    graph: WorkloadGraph, segment_of_layer: NDArray[np.int64], first: NDArray[np.int64]
) -> dict[str, list[Any]]:
    """What does not depend on the precision: columns [K] of Segment."""
    rows, count = graph.features, len(first)
    flops = sum_by(segment_of_layer, rows["flops"], count)
    attention = sum_by(segment_of_layer, rows["flops"] * attention_layers(graph), count)
    bounds = [*first.tolist(), len(rows)]
    columns: dict[str, list[Any]] = {
        "layer_indices": [tuple(range(start, end)) for start, end in pairwise(bounds)],
        "name": _names(graph, first),
        "attn_flops_ratio": (attention / np.where(flops > 0, flops, 1.0)).tolist(),
        "mlp_ratio": _of_heaviest(rows, "mlp_ratio", segment_of_layer).tolist(),
    }
    for name in ("seq_len", "embed_dim", "num_heads"):
        columns[name] = _of_heaviest(rows, name, segment_of_layer).astype(np.int64).tolist()
    return columns


def _of_heaviest(rows: NDArray[np.void], name: str, segment_of_layer: NDArray[np.int64]) -> NDArray[np.float64]:
    """`rows[name]` [K] of each segment's layer with the most FLOPs among those where it is not 0, else 0."""
    found = np.zeros(int(segment_of_layer[-1]) + 1)
    having = np.flatnonzero(rows[name])
    having = having[np.argsort(rows["flops"][having], kind="stable")]
    found[segment_of_layer[having]] = rows[name][having]  # the last one written stays
    return found


def _names(graph: WorkloadGraph, first: NDArray[np.int64]) -> list[str]:
    """Longest module path that a segment's layers share, or its parts of the model; numbered where others have it too.

    Layers that the model itself calls have a say only where there are no others.
    """
    names: list[str] = []
    seen: Counter[str] = Counter()
    for start, end in pairwise([*first.tolist(), len(graph.layers)]):
        paths = [layer.module.split(".") for layer in graph.layers[start:end] if layer.module]
        levels = [list(dict.fromkeys(level)) for level in zip(*paths, strict=False)]  # distinct names, in order
        name = ".".join(level[0] for level in takewhile(lambda level: len(level) == 1, levels))
        name = name or (" + ".join(levels[0]) if levels else graph.name)
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names
