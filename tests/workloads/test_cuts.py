"""Where graphs are cut, against trying every cut; the cut bytes are counted edge by edge."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads import cuts
from workloads.cuts import LIGHT_SHARE, cut_by_module, cut_every, cut_least_traffic
from workloads.errors import WorkloadError
from workloads.graph import Layer, OperatorKind, WorkloadGraph

PHASES = ("forward", "backward", "optimizer")


def graph_of(
    flops: list[int], outputs: list[int], edges: dict[tuple[int, int], int], phases: list[int] | None = None
) -> WorkloadGraph:
    of_phase = phases or [0] * len(flops)
    return WorkloadGraph(
        name="random",
        layers=tuple(
            Layer(name=str(i), operator="op", kind=OperatorKind.CONV, flops=n, output_bytes=size, phase=PHASES[phase])
            for i, (n, size, phase) in enumerate(zip(flops, outputs, of_phase, strict=True))
        ),
        edges=np.array(list(edges), np.int64).reshape(-1, 2),
        edge_bytes=np.array(list(edges.values()), np.int64),
        parameters=0,
        weight_bytes=0,
        mode="train" if any(of_phase) else "inference",
    )


@st.composite
def graphs(draw: st.DrawFn, largest: int = 10) -> WorkloadGraph:
    """A random DAG, of up to three phases: some layers without FLOPs, some with most of them, some read in parts."""
    count = draw(st.integers(1, largest))
    values = draw(st.sampled_from([[0, 1, 2, 3], [0, 1, 5, 90, 100, 120, 1000]]))
    flops = draw(st.lists(st.sampled_from(values), min_size=count, max_size=count))
    outputs = draw(st.lists(st.integers(1, 60), min_size=count, max_size=count))
    pairs = draw(st.sets(st.sampled_from([(u, v) for v in range(count) for u in range(v)]))) if count > 1 else set()
    edges = {(u, v): draw(st.sampled_from([outputs[u], (outputs[u] + 1) // 2])) for u, v in sorted(pairs)}
    phases = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)) if draw(st.booleans()) else [0] * count
    return graph_of(flops, outputs, edges, sorted(phases))


class Cut(NamedTuple):
    bytes: int
    squares: int  # of FLOPs
    heaviest: int
    light: int


def judge(graph: WorkloadGraph, first: list[int]) -> Cut:
    """What runs that start there read of each other, each tensor once a run, and how even their FLOPs are."""
    bounds = [*first, len(graph.layers)]
    flops = [sum(layer.flops for layer in graph.layers[a:b]) for a, b in pairwise(bounds)]
    whole = {u: layer.output_bytes for u, layer in enumerate(graph.layers)}
    for (u, _), nbytes in zip(graph.edges.tolist(), graph.edge_bytes.tolist(), strict=True):
        whole[u] = max(whole[u], nbytes)
    total = 0
    for start, end in pairwise(bounds):
        read: dict[int, int] = defaultdict(int)
        for (u, v), nbytes in zip(graph.edges.tolist(), graph.edge_bytes.tolist(), strict=True):
            if u < start <= v < end:
                read[u] += nbytes
        total += sum(min(nbytes, whole[u]) for u, nbytes in read.items())
    light = sum(f < LIGHT_SHARE * graph.flops / len(first) for f in flops)
    return Cut(total, sum(f * f for f in flops), max(flops), light)


def phase_starts(graph: WorkloadGraph) -> list[int]:
    return [i for i in range(1, len(graph.layers)) if graph.layers[i].phase != graph.layers[i - 1].phase]


def every_cut(graph: WorkloadGraph, count: int) -> list[Cut]:
    forced = phase_starts(graph)
    free = sorted(set(range(1, len(graph.layers))) - set(forced))
    chosen = combinations(free, count - 1 - len(forced))
    return [judge(graph, [0, *sorted([*forced, *starts])]) for starts in chosen]


def fixed_cut(graph: WorkloadGraph, count: int) -> list[int]:
    """Runs of the least size that gives at most `count`."""
    sizes = range(1, len(graph.layers) + 1)
    return next(first for size in sizes if len(first := cut_every(graph, size).tolist()) <= count)


def fixed_lights(graph: WorkloadGraph, count: int) -> int:
    """How many of those runs are light, by the mean over `count` runs."""
    bounds = [*fixed_cut(graph, count), len(graph.layers)]
    flops = [sum(layer.flops for layer in graph.layers[a:b]) for a, b in pairwise(bounds)]
    return sum(f < LIGHT_SHARE * graph.flops / count for f in flops)


@settings(max_examples=300, deadline=None)
@given(graphs(), st.data(), st.sampled_from([1.0, 1.25, 2.0, 10.0, float("inf")]))
def test_the_least_cut_equals_trying_every_cut(graph: WorkloadGraph, data: st.DataObject, balance: float) -> None:
    count = data.draw(st.integers(len(phase_starts(graph)) + 1, len(graph.layers)))
    first = cut_least_traffic(graph, count, balance).tolist()
    assert len(first) == count
    assert first[0] == 0
    assert first == sorted(set(first))
    assert set(phase_starts(graph)) <= set(first)
    found = every_cut(graph, count)
    most_even = min(cut.heaviest for cut in found)
    within = [cut for cut in found if not most_even or cut.heaviest <= balance * most_even]
    allowed = max(fixed_lights(graph, count), min(cut.light for cut in within))
    best = min((cut.bytes, cut.squares) for cut in within if cut.light <= allowed)
    cut = judge(graph, first)
    assert cut in within
    assert cut.light <= allowed
    assert cut.bytes == best[0]
    assert cut.squares == pytest.approx(best[1], rel=1e-9)


@settings(max_examples=150, deadline=None)
@given(graphs(largest=30), st.data())
def test_no_fixed_size_at_equal_balance_carries_less(graph: WorkloadGraph, data: st.DataObject) -> None:
    count = len(fixed_cut(graph, data.draw(st.integers(len(phase_starts(graph)) + 1, len(graph.layers)))))
    sizes = range(1, len(graph.layers) + 1)
    for size in (size for size in sizes if len(cut_every(graph, size)) == count):
        fixed = judge(graph, cut_every(graph, size).tolist())
        most_even = judge(graph, cut_least_traffic(graph, count, 1.0).tolist()).heaviest
        balance = max(1.0, fixed.heaviest / most_even * (1 + 1e-12)) if most_even else 1.0
        least = judge(graph, cut_least_traffic(graph, count, balance).tolist())
        assert least.heaviest <= fixed.heaviest
        if fixed.light <= fixed_lights(graph, count):
            assert (least.bytes, least.squares) <= (fixed.bytes, fixed.squares * (1 + 1e-9))
            assert least.light <= fixed_lights(graph, count)


def chain(flops: list[int], sizes: list[int]) -> WorkloadGraph:
    return graph_of(flops, sizes, {(i, i + 1): size for i, size in enumerate(sizes[:-1])})


def test_where_all_cuts_cost_the_same_the_most_even_is_taken() -> None:
    assert cut_least_traffic(chain([5] * 12, [8] * 12), 4, 2.0).tolist() == [0, 3, 6, 9]
    assert cut_least_traffic(chain([1, 1, 1, 9, 1, 1, 1, 9], [8] * 8), 2, 2.0).tolist() == [0, 4]


def test_a_skip_is_paid_by_each_cut_up_to_its_reader() -> None:
    """An encoder and decoder: the cheapest place is the bottleneck by the chain alone, not with what passes it."""
    flops, sizes = [10] * 6, [50, 20, 10, 10, 20, 50]
    steps = {(i, i + 1): sizes[i] for i in range(5)}
    assert cut_least_traffic(graph_of(flops, sizes, steps), 2, 1.0).tolist() == [0, 3]
    assert judge(graph_of(flops, sizes, steps), [0, 3]).bytes == 10
    skips = {(0, 5): 50, (1, 4): 20}
    assert judge(graph_of(flops, sizes, steps | skips), [0, 3]).bytes == 10 + 50 + 20
    assert cut_least_traffic(graph_of(flops, sizes, steps | skips), 2, 5 / 3).tolist() == [0, 1]


@pytest.mark.parametrize("every", [100, 97])
def test_a_long_graph_is_cut_at_its_narrow_places(every: int) -> None:
    """5,000 layers in a chain, where few tensors are small: the reduced search still finds those."""
    sizes = [8 if (i + 1) % every == 0 else 8000 for i in range(5000)]
    graph = chain([10] * 5000, sizes)
    first = cut_least_traffic(graph, 5, 1.25)
    assert [sizes[i - 1] for i in first[1:].tolist()] == [8] * 4
    assert judge(graph, first.tolist()).heaviest <= 1.25 * graph.flops / 5


@pytest.mark.parametrize("count", [4, 19, 64])
def test_a_long_graph_too_carries_no_more_than_fixed_size(count: int) -> None:
    """The reduced search looks at the positions of fixed size and of the most even cut, whatever it leaves out."""
    random = np.random.default_rng(count)
    flops, sizes = random.integers(0, 1000, 6000) ** 2, random.integers(1, 1000, 6000)
    graph = chain(flops.tolist(), sizes.tolist())
    first = fixed_cut(graph, count)
    fixed = judge(graph, first)
    prefix = np.concatenate([[0], np.cumsum(flops)])
    most_even = judge(graph, cut_least_traffic(graph, len(first), 1.0).tolist())
    assert most_even.heaviest <= prefix[-1] / len(first) + flops.max()
    least = judge(graph, cut_least_traffic(graph, len(first), fixed.heaviest / most_even.heaviest).tolist())
    assert least.bytes <= fixed.bytes
    assert least.heaviest <= fixed.heaviest
    assert least.light <= fixed.light


def test_a_long_graph_too_can_be_cut_perfectly_even() -> None:
    graph = chain([10] * 6000, [8 if i % 7 else 1 for i in range(6000)])  # 750 layers a run, not at narrow places
    assert cut_least_traffic(graph, 8, 1.0).tolist() == cut_every(graph, 750).tolist()


@settings(max_examples=60, deadline=None)
@given(graphs(), st.data())
def test_with_few_states_fewer_runs_are_light_and_all_else_holds(graph: WorkloadGraph, data: st.DataObject) -> None:
    count = data.draw(st.integers(len(phase_starts(graph)) + 1, len(graph.layers)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "MOST_STATES", 0)
        cut = judge(graph, cut_least_traffic(graph, count, 1.25).tolist())
    found = every_cut(graph, count)
    most_even = min(cut.heaviest for cut in found)
    within = [cut for cut in found if cut.heaviest <= 1.25 * most_even]
    assert (cut.light, cut.bytes) == min((cut.light, cut.bytes) for cut in within)


def test_a_graph_without_flops_is_cut_for_its_bytes_alone() -> None:
    graph = chain([0] * 6, [9, 1, 9, 9, 1, 9])
    for balance in (1.0, float("inf")):
        assert cut_least_traffic(graph, 3, balance).tolist() == [0, 2, 5]
    assert cut_least_traffic(graph, 1, 1.0).tolist() == [0]
    assert cut_least_traffic(graph, 6, 1.0).tolist() == list(range(6))


@given(graphs(), st.integers(1, 12))
def test_fixed_size_starts_anew_in_each_phase(graph: WorkloadGraph, size: int) -> None:
    first = cut_every(graph, size).tolist()
    starts = [0, *phase_starts(graph), len(graph.layers)]
    assert first == [i for a, b in pairwise(starts) for i in range(a, b) if (i - a) % size == 0]
    assert [*first, len(graph.layers)] == sorted({*first, *starts})


@given(graphs())
def test_modules_are_cut_where_the_path_or_the_phase_changes(graph: WorkloadGraph) -> None:
    assert cut_by_module(graph, 1).tolist() == [0, *phase_starts(graph)]


def test_a_step_of_three_phases_has_at_least_three_runs() -> None:
    graph = graph_of([5] * 6, [8] * 6, {(i, i + 1): 8 for i in range(5)}, [0, 0, 1, 1, 2, 2])
    assert cut_least_traffic(graph, 3, 1.0).tolist() == [0, 2, 4]
    for count in (2, 7):
        with pytest.raises(WorkloadError, match=f"count is {count}") as caught:
            cut_least_traffic(graph, count, 1.25)
        assert "3 to 6 segments" in str(caught.value.hint)
        assert "in 3 phases" in str(caught.value.hint)
