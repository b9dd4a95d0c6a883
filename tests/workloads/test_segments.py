"""Segments against brute force on random graphs, and against fresh traces at another batch and precision."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workloads.attention import attention_layers
from workloads.errors import WorkloadError
from workloads.graph import Layer, OperatorKind, WorkloadGraph
from workloads.models.htdemucs import HTDemucs
from workloads.models.resnet import ResNet
from workloads.models.vit import ViT
from workloads.segments import SegmentGraph, build_segments, mark_fine_splittable_segments
from workloads.trace import trace

quick = settings(max_examples=40, deadline=None)
KINDS = [OperatorKind.CONV, OperatorKind.LINEAR, OperatorKind.ATTENTION, OperatorKind.ELEMENTWISE, OperatorKind.COPY]
MODULES = ["", "a", "a.b", "a.b.c", "a.d", "e", "e.f"]


@st.composite
def graphs(draw: st.DrawFn, largest: int = 9) -> WorkloadGraph:
    """A random DAG of layers; sizes are multiples of 8, so that they stay whole at another precision."""
    count = draw(st.integers(1, largest))
    size = st.integers(0, 50).map(lambda n: 8 * n)
    outputs = [draw(size) for _ in range(count)]
    edges = [(u, v) for v in range(count) for u in range(v) if outputs[u] and draw(st.booleans())]
    edge_bytes = [draw(st.sampled_from([outputs[u], max(8, outputs[u] // 16 * 8)])) for u, _ in edges]
    read = np.bincount([v for _, v in edges], edge_bytes, count) if edges else np.zeros(count)
    layers = []
    for index in range(count):
        float_bytes = draw(st.sampled_from([0, 4, 4, 4]))
        part = st.tuples(st.integers(0, 2), st.integers(1, 3))
        reads = draw(st.dictionaries(st.sampled_from("xyz"), part)) if float_bytes else {}
        weights = {name: (8 * first, 8 * (first + n)) for name, (first, n) in reads.items()}
        macs = draw(st.integers(0, 100))
        layers.append(
            Layer(
                name=f"layer{index}",
                operator="aten.any",
                kind=draw(st.sampled_from(KINDS)),
                module=draw(st.sampled_from(MODULES)),
                macs=macs,
                flops=2 * macs,
                weights=weights,
                weight_bytes=sum(end - first for first, end in weights.values()),
                input_bytes=int(read[index]) + draw(size),
                output_bytes=outputs[index],
                float_bytes=float_bytes,
                seq_len=draw(st.integers(0, 3)),
            )
        )
    return WorkloadGraph(
        name="random",
        layers=tuple(layers),
        edges=np.array(edges, np.int64).reshape(-1, 2),
        edge_bytes=np.array(edge_bytes, np.int64),
        parameters=0,
        weight_bytes=0,
    )


@st.composite
def segmented(draw: st.DrawFn) -> SegmentGraph:
    graph = draw(graphs())
    ways = [
        {"segment_size": draw(st.integers(1, 4))},
        {"depth": draw(st.integers(1, 3))},
        {"count": draw(st.integers(1, len(graph.layers)))},
    ]
    return build_segments(graph, **draw(st.sampled_from(ways)))


def segment_reads(segments: SegmentGraph) -> dict[tuple[int, int], int]:
    """(producer layer, consumer segment) -> bytes, edge by edge."""
    graph, reads, largest = segments.graph, {}, {}
    for (u, v), nbytes in zip(graph.edges.tolist(), graph.edge_bytes.tolist(), strict=True):
        key = u, int(segments.segment_of_layer[v])
        reads[key] = reads.get(key, 0) + nbytes
        largest[u] = max(largest.get(u, graph.layers[u].output_bytes), nbytes)
    return {(u, k): min(nbytes, largest[u]) for (u, k), nbytes in reads.items()}


def live_bytes(segments: SegmentGraph, k: int) -> float:
    """Peak of a segment, by running its layers one after the other with a list of what is held."""
    graph, of = segments.graph, segments.segment_of_layer
    mine = segments[k].layer_indices
    readers: dict[int, list[int]] = {}
    for u, v in graph.edges.tolist():
        readers.setdefault(u, []).append(v)
    held = {u: nbytes for (u, s), nbytes in segment_reads(segments).items() if s == k and of[u] != k}
    peak = 0.0
    for now in mine:
        layer = graph.layers[now]
        held[now] = layer.output_bytes
        external = layer.input_bytes - sum(
            n for (_, v), n in zip(graph.edges.tolist(), graph.edge_bytes.tolist(), strict=True) if v == now
        )
        peak = max(peak, sum(held.values()) + external)
        for u in list(held):
            ahead = [v for v in readers.get(u, []) if of[v] != k or v > now] if of[u] == k else []
            ahead += [v for v in readers.get(u, []) if of[u] != k and of[v] == k and v > now]
            if not ahead and (readers.get(u) or of[u] != k):
                del held[u]
    return peak


@quick
@given(segmented())
def test_segments_are_runs_that_hold_all_layers(segments: SegmentGraph) -> None:
    graph = segments.graph
    assert [i for segment in segments for i in segment.layer_indices] == list(range(len(graph.layers)))
    assert [segment.id for segment in segments] == list(range(len(segments)))
    for segment in segments:
        assert segment.layer_indices
        assert set(segments.segment_of_layer[list(segment.layer_indices)]) == {segment.id}
    assert segments.flops.sum() == graph.flops
    assert sum(segment.macs for segment in segments) == graph.macs
    assert sum(segment.bytes for segment in segments) == sum(layer.bytes for layer in graph.layers)
    assert len({segment.name for segment in segments}) == len(segments)


@quick
@given(segmented())
def test_the_quotient_is_a_dag_numbered_topologically(segments: SegmentGraph) -> None:
    assert (segments.edges[:, 0] < segments.edges[:, 1]).all()
    quotient = nx.DiGraph(map(tuple, segments.edges.tolist()))
    assert nx.is_directed_acyclic_graph(quotient)
    assert quotient.number_of_edges() == len(segments.edges)
    of = segments.segment_of_layer
    assert set(quotient.edges) == {(of[u], of[v]) for u, v in segments.graph.edges if of[u] != of[v]}


@quick
@given(segmented())
def test_traffic_equals_counting_it_edge_by_edge(segments: SegmentGraph) -> None:
    of, graph = segments.segment_of_layer, segments.graph
    edges: dict[tuple[int, int], int] = {}
    asked: dict[int, int] = {}
    for (u, k), nbytes in segment_reads(segments).items():
        if of[u] != k:
            edges[of[u], k] = edges.get((of[u], k), 0) + nbytes
            asked[u] = asked.get(u, 0) + nbytes
    assert dict(zip(map(tuple, segments.edges.tolist()), segments.edge_bytes.tolist(), strict=True)) == edges
    for segment in segments:
        assert segment.traffic_in_bytes == sum(n for (_, k), n in edges.items() if k == segment.id)
        written = {u: min(n, graph.layers[u].output_bytes) for u, n in asked.items() if of[u] == segment.id}
        assert segment.traffic_out_bytes == sum(written.values())


@quick
@given(segmented())
def test_workspace_equals_a_simulation_of_what_is_held(segments: SegmentGraph) -> None:
    assert segments.workspace_bytes.tolist() == [live_bytes(segments, k) for k in range(len(segments))]


@quick
@given(segmented())
def test_each_byte_of_a_weight_is_kept_once_a_segment(segments: SegmentGraph) -> None:
    for segment in segments:
        layers = [segments.graph.layers[i] for i in segment.layer_indices]
        parts = [(name, part) for layer in layers for name, part in layer.weights.items()]
        assert segment.weight_bytes == len({(name, byte) for name, part in parts for byte in range(*part)})


@quick
@given(segmented(), st.data())
def test_segments_in_one_memory_keep_each_byte_of_a_weight_once(segments: SegmentGraph, data: st.DataObject) -> None:
    group = np.array([data.draw(st.integers(0, 2)) for _ in segments])
    kept, users = [set(), set(), set()], set()
    for layer, segment in zip(segments.graph.layers, segments.segment_of_layer.tolist(), strict=True):
        users |= {(name, segment) for name in layer.weights}
        kept[group[segment]] |= {(name, byte) for name, part in layer.weights.items() for byte in range(*part)}
    assert segments.weight_bytes_together(group, 3).tolist() == [len(held) for held in kept]
    assert segments.shares_weights == (len(users) > len({name for name, _ in users}))


def test_a_tensor_counts_once_a_segment_and_its_slices_add_up() -> None:
    layers = tuple(
        Layer(name=str(i), operator="op", kind=OperatorKind.CONV, output_bytes=96, flops=1) for i in range(5)
    )
    graph = WorkloadGraph(
        name="slices",
        layers=layers,
        edges=np.array([[0, 1], [0, 2], [0, 3], [0, 4]]),
        edge_bytes=np.array([32, 32, 96, 96]),
        parameters=0,
        weight_bytes=0,
    )
    each = build_segments(graph, segment_size=1)
    assert each.edge_bytes.tolist() == [32, 32, 96, 96]
    assert each[0].traffic_out_bytes == 96  # written once
    named = tuple(replace(layer, module="abbcc"[i]) for i, layer in enumerate(layers))
    pairs = build_segments(replace(graph, layers=named), depth=1)
    assert pairs.segment_of_layer.tolist() == [0, 1, 1, 2, 2]
    assert pairs.edge_bytes.tolist() == [64, 96]


def rescaled(graph: WorkloadGraph, float_bytes: int) -> WorkloadGraph:
    """The graph as it would be traced at another precision."""

    def factor(layer: Layer) -> float:
        return float_bytes / layer.float_bytes if layer.float_bytes else 1.0

    def scaled(layer: Layer, reads: int) -> Layer:
        weights = {name: (int(a * factor(layer)), int(b * factor(layer))) for name, (a, b) in layer.weights.items()}
        known = graph.edges[:, 1] == reads
        old, new = int(graph.edge_bytes[known].sum()), int(edge_bytes[known].sum())
        return replace(
            layer,
            weights=weights,
            weight_bytes=sum(end - first for first, end in weights.values()),
            input_bytes=new + int((layer.input_bytes - old) * factor(layer)),
            output_bytes=int(layer.output_bytes * factor(layer)),
            float_bytes=float_bytes if layer.float_bytes else 0,
        )

    edge_bytes = np.array(
        [n * factor(graph.layers[u]) for (u, _), n in zip(graph.edges, graph.edge_bytes, strict=True)]
    )
    layers = tuple(scaled(layer, index) for index, layer in enumerate(graph.layers))
    return replace(graph, layers=layers, edge_bytes=edge_bytes)


COMPARED = ["flops", "macs", "bytes", "traffic_in_bytes", "traffic_out_bytes", "weight_bytes", "workspace_bytes"]
COMPARED += ["attn_flops_ratio", "precision", "name"]


def assert_equal(one: SegmentGraph, other: SegmentGraph) -> None:
    assert (one.batch, one.float_bytes) == (other.batch, other.float_bytes)
    np.testing.assert_array_equal(one.segment_of_layer, other.segment_of_layer)
    np.testing.assert_array_equal(one.edges, other.edges)
    np.testing.assert_array_equal(one.edge_bytes, other.edge_bytes)
    for name in COMPARED:
        assert [getattr(s, name) for s in one] == pytest.approx([getattr(s, name) for s in other]), name


@quick
@given(graphs(), st.integers(1, 4), st.sampled_from([1, 2, 4, 8]))
def test_another_precision_equals_rescaling_every_tensor(graph: WorkloadGraph, size: int, float_bytes: int) -> None:
    expected = replace(build_segments(rescaled(graph, float_bytes), segment_size=size), float_bytes=float_bytes)
    segments = build_segments(graph, segment_size=size)
    assert_equal(segments.at(float_bytes), expected)
    assert_equal(segments.at(2).at(float_bytes), expected)  # always from what was traced


def test_another_batch_and_precision_equal_a_fresh_trace() -> None:
    for model, shape in (
        (ResNet((1, 1, 1, 1), bottleneck=True, classes=10), (3, 64, 64)),
        (ViT(image=32, patch=8, dim=32, depth=2, heads=4, hidden=64, classes=10), (3, 32, 32)),
    ):
        segments = build_segments(trace(model.eval(), (torch.zeros(1, *shape),), name="model"), segment_size=3)
        at_four = trace(model, (torch.zeros(4, *shape),), name="model")
        assert_equal(segments.over(at_four), build_segments(at_four, segment_size=3))
        at_half = build_segments(trace(model.half(), (torch.zeros(1, *shape).half(),), name="model"), segment_size=3)
        assert at_half.float_bytes == 2
        assert_equal(segments.at(2), at_half)
        assert_equal(segments.at(2).over(at_four), build_segments(at_four, segment_size=3).at(2))


def test_a_copy_that_only_a_batch_makes_joins_the_segment_of_the_layer_before() -> None:
    model = HTDemucs(channels=8, nfft=2048, depth=2, dconv_mode=1, t_layers=2, t_heads=2, segment_s=0.5).eval()
    one, three = (trace(model, (torch.zeros(batch, 2, 22_050),), name="htdemucs") for batch in (1, 3))
    assert len(three.layers) > len(one.layers)  # at batch 1 frequencies fold into the batch without a copy
    for cut in ({"segment_size": 4}, {"depth": 1}, {"count": 6}):
        segments = build_segments(one, **cut)
        larger = segments.over(three)
        assert [s.name for s in larger] == [s.name for s in segments]
        assert sum(s.flops for s in larger) == three.flops
        assert sum(s.bytes for s in larger) == sum(layer.bytes for layer in three.layers)
        for layer, origin, segment in zip(three.layers, larger.origin, larger.segment_of_layer, strict=True):
            assert segment == segments.segment_of_layer[origin]
            same = (one.layers[origin].operator, one.layers[origin].module) == (layer.operator, layer.module)
            assert same or layer.kind is OperatorKind.COPY
        assert (np.diff(larger.origin) >= 0).all()
        back = build_segments(three, **cut).over(one)
        assert (back.origin == np.flatnonzero(np.diff(larger.origin, prepend=-1))).all()


ACTIVATIONS = (nn.ReLU(), nn.Tanh())


def test_segments_of_another_model_are_refused() -> None:
    nets = [trace(nn.Sequential(nn.Linear(4, 4), act).eval(), (torch.zeros(1, 4),), name="net") for act in ACTIVATIONS]
    with pytest.raises(WorkloadError, match=r"structure of net differs.*aten\.relu"):
        build_segments(nets[0], segment_size=1).over(nets[1])


def test_attention_share_is_that_of_kernels_and_projections() -> None:
    model = ViT(image=32, patch=8, dim=32, depth=2, heads=4, hidden=64, classes=10)
    graph = trace(model.eval(), (torch.zeros(1, 3, 32, 32),), name="vit")
    tokens, dim = 17, 32
    projections, kernel, feedforward = 4 * tokens * dim * dim, 2 * tokens * tokens * dim, 2 * tokens * dim * 64
    macs = np.array([layer.macs for layer in graph.layers])
    assert macs[attention_layers(graph)].sum() == 2 * (projections + kernel)
    blocks = [s for s in build_segments(graph, depth=2) if s.name.startswith("blocks.")]
    assert len(blocks) == 2
    for block in blocks:
        assert block.attn_flops_ratio * block.flops == pytest.approx(2 * (projections + kernel))
        assert block.flops > 2 * (projections + kernel + feedforward)  # norms, GELU and sums besides
        assert (block.seq_len, block.embed_dim, block.num_heads) == (17, 32, 4)


def test_depth_follows_the_modules() -> None:
    graph = trace(ResNet((2, 2, 2, 2), bottleneck=False, classes=3).eval(), (torch.zeros(1, 3, 64, 64),), name="r")
    names = [segment.name for segment in build_segments(graph, depth=2)]
    assert [name for name in names if name.startswith("stages")] == [f"stages.{i}" for i in range(4)]
    assert len(build_segments(graph, depth=9)) > len(names)


def test_fine_splittable_segments_are_marked_and_stay_so() -> None:
    model = ViT(image=32, patch=8, dim=32, depth=2, heads=4, hidden=64, classes=10)
    segments = build_segments(trace(model.eval(), (torch.zeros(1, 3, 32, 32),), name="vit"), depth=3)
    cfg = {"fine_split_attn_ratio_threshold": 0.5, "fine_split_traffic_threshold": 100.0}
    marked = mark_fine_splittable_segments(segments, cfg)
    assert [s.id for s in marked if s.can_split_fine] == [s.id for s in segments if "attention" in s.name.split(".")]
    assert {s.fine_groups for s in marked} == {None, 2}
    assert not any(s.can_split_fine for s in segments)
    larger = trace(model, (torch.zeros(2, 3, 32, 32),), name="vit")
    for other in (marked.at(2), marked.over(larger)):
        assert [s.can_split_fine for s in other] == [s.can_split_fine for s in marked]
    four = mark_fine_splittable_segments(marked, cfg | {"fine_groups": 4})
    assert {s.fine_groups for s in four} == {None, 4}
    none = mark_fine_splittable_segments(marked, cfg | {"fine_split_traffic_threshold": 1e9})
    assert not any(s.can_split_fine or s.fine_groups for s in none)


ONE_LAYER = WorkloadGraph(
    name="one",
    layers=(Layer(name="x", operator="op", kind=OperatorKind.CONV),),
    edges=np.empty((0, 2), np.int64),
    edge_bytes=np.empty(0, np.int64),
    parameters=0,
    weight_bytes=0,
)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"segment_size": 4, "count": 2}, "segment_size=4 and count=2"),
        ({"segment_size": 0}, "segment_size is 0"),
        ({"depth": 0}, "depth is 0"),
        ({"count": 0}, "count is 0"),
        ({"count": 2}, "count is 2"),
        ({"count": 1, "balance": 0.5}, "balance is 0.5"),
        ({"count": 1, "balance": float("nan")}, "balance is nan"),
    ],
)
def test_wrong_ways_to_cut_are_named(arguments: dict[str, float], names: str) -> None:
    with pytest.raises(WorkloadError, match=names) as caught:
        build_segments(ONE_LAYER, **arguments)  # type: ignore[arg-type]
    assert caught.value.hint


def test_a_graph_without_layers_is_refused() -> None:
    with pytest.raises(WorkloadError, match="no layers"):
        build_segments(replace(ONE_LAYER, layers=()))


def test_a_wrong_precision_is_named() -> None:
    with pytest.raises(WorkloadError, match="float_bytes is 0"):
        build_segments(ONE_LAYER).at(0)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"fine_split_traffic_threshold": None}, "fine_split_traffic_threshold is None"),
        ({"fine_split_attn_ratio_threshold": "0.5"}, "fine_split_attn_ratio_threshold is '0.5'"),
        ({"fine_groups": 1}, "fine_groups is 1"),
    ],
)
def test_a_wrong_fine_split_setting_is_named(change: dict[str, object], names: str) -> None:
    cfg = {"fine_split_attn_ratio_threshold": 0.5, "fine_split_traffic_threshold": 1.0} | change
    with pytest.raises(WorkloadError, match=names):
        mark_fine_splittable_segments(build_segments(ONE_LAYER), cfg)
    with pytest.raises(WorkloadError, match="fine_split_attn_ratio_threshold is missing"):
        mark_fine_splittable_segments(build_segments(ONE_LAYER), {})
