"""Cuts through views, the team's collectives, windows of convolutions, and what a split says of itself."""

import math
import pickle
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from tests.workloads.sharding_help import check, cut, run_split
from workloads import WorkloadError, build_segments
from workloads.sharding import ChannelPermute, run_together, split_segment, split_ways
from workloads.sharding.layout import Cut, Shard, parts_cut, through_view
from workloads.sharding.team import ThreadTeam

BYTES = 8  # of a float64


class Chain(nn.Module):
    """Modules one after the other: one segment."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.steps = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def whole(module, *shapes, **how):
    """A model of one segment, on random inputs."""
    torch.manual_seed(0)
    return cut(module.double(), *(torch.randn(shape, dtype=torch.float64) for shape in shapes), count=1, **how)


# --- cuts and views --------------------------------------------------------------------------------------------------


@st.composite
def views(draw):
    """A shape, another of the same elements, and an even cut of one dimension of the first by any order."""
    factors = draw(st.lists(st.sampled_from([1, 2, 2, 3, 4]), min_size=1, max_size=6))
    shapes = []
    for _ in range(2):
        marks = sorted(draw(st.sets(st.integers(1, len(factors) - 1)))) if len(factors) > 1 else []
        edges = [0, *marks, len(factors)]
        shapes.append(tuple(math.prod(factors[a:b]) for a, b in pairwise(edges)))
    dim = draw(st.integers(0, len(shapes[0]) - 1))
    size = shapes[0][dim]
    members = draw(st.sampled_from([m for m in (1, 2, 3, 4) if size % m == 0]))
    order = draw(st.permutations(range(size))) if draw(st.booleans()) else list(range(size))
    pieces = np.array(order).reshape(members, -1)
    return shapes[0], shapes[1], Shard(dim, Cut(size, tuple(pieces)))


@settings(max_examples=300, deadline=None)
@given(views())
def test_pieces_of_a_view_are_views_of_the_pieces(case) -> None:
    old, new, shard = case
    through = through_view(old, shard, new)
    tensor = torch.arange(math.prod(old)).reshape(old)
    if through is None:
        return
    for before, after in zip(shard.cut.pieces, through.cut.pieces, strict=True):
        piece = tensor.index_select(shard.dim, torch.tensor(before))
        expected = tensor.reshape(new).index_select(through.dim, torch.tensor(after))
        assert torch.equal(piece.reshape(expected.shape), expected)


def test_a_cut_of_channels_becomes_one_of_heads_and_back() -> None:
    qkv = Shard(2, parts_cut((12, 12, 12), 2))  # both members hold half of the queries, keys and values
    heads = through_view((1, 5, 36), qkv, (1, 5, 3, 4, 3))
    assert heads is not None and heads.dim == 3
    assert [piece.tolist() for piece in heads.cut.pieces] == [[0, 1], [2, 3]]
    assert through_view((1, 5, 3, 4, 3), heads, (1, 5, 36)) == qkv
    assert through_view((1, 5, 36), Shard(2, parts_cut((36,), 2)), (1, 5, 3, 4, 3)) is None


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 9))
def test_channels_are_dealt_out_whole_and_once(members: int, count: int, granule: int, parts: int, seed: int) -> None:
    size = members * count * granule
    dealt = parts_cut((size,) * parts, members, granule, seed)
    assert sorted(dealt.order.tolist()) == list(range(parts * size))
    assert dealt.even
    for piece in dealt.pieces:
        runs = piece.reshape(-1, granule)
        assert (np.diff(runs) == 1).all() and (runs[:, 0] % granule == 0).all()
        first = piece[: len(piece) // parts]  # the same share of every part
        assert all(np.array_equal(piece[i * len(first) : (i + 1) * len(first)], first + i * size) for i in range(parts))
    order = torch.randperm(members * count, generator=torch.Generator().manual_seed(seed)).tolist()
    assert dealt.order[::granule].tolist()[:count] == [number * granule for number in order[:count]]


# --- the team --------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 4), st.integers(0, 1), st.integers(0, 3))
def test_collectives_and_their_bytes(members: int, dim: int, seed: int) -> None:
    torch.manual_seed(seed)
    given_, size = torch.randn(members, 2 * members, 3 * members, dtype=torch.float64), 6 * members**2 * BYTES
    total = given_.sum(0)

    def work(team: ThreadTeam) -> tuple[Tensor, ...]:
        mine = given_[team.member]
        return (
            team.all_gather(mine.chunk(members, dim)[team.member], dim),
            team.reduce_scatter(mine, dim),
            team.all_reduce(mine),
            team.all_to_all(mine, dim, 1 - dim),
            team.halo(total.chunk(members, 0)[team.member], 0, 1, 2),
        )

    results, sent = run_together(members, work)
    for member, (gathered, scattered, reduced, swapped, halo) in enumerate(results):
        assert torch.equal(gathered, torch.cat([g.chunk(members, dim)[m] for m, g in enumerate(given_)], dim))
        assert_close(scattered, total.chunk(members, dim)[member])
        assert_close(reduced, total)
        assert torch.equal(swapped, torch.cat([g.chunk(members, dim)[member] for g in given_], 1 - dim))
        assert torch.equal(halo, total[max(2 * member - 1, 0) : 2 * member + 4])
        share = (members - 1) * size // members
        row = size // (2 * members)
        assert [size for _, size in sent[member]] == [
            *(share, share, 2 * share, share),
            row * (member < members - 1) + 2 * row * (member > 0),
        ]


def test_a_member_that_fails_stops_the_others() -> None:
    def work(team: ThreadTeam) -> Tensor:
        if team.member == 1:
            raise ValueError("no")
        return team.all_reduce(torch.ones(1))

    with pytest.raises(ValueError, match="no"):
        run_together(3, work)


# --- splits whose collectives are known ------------------------------------------------------------------------------


def test_megatron_s_feedforward_sends_one_reduce_scatter() -> None:
    model = whole(Chain(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)), (2, 6, 8))
    for groups in (2, 4):
        split = split_segment(model.program, model.segments, 0, groups=groups, way="channels")
        check(model, split)
        (reduce,) = split.collectives
        assert (reduce.kind, reduce.sent_bytes[0]) == ("reduce_scatter", (groups - 1) * 2 * 6 * 8 * BYTES // groups)
        assert np.allclose(split.flops_share, 1 / groups)
        assert split.inputs[0].full
        cut_ = (8 * 32 + 32 + 32 * 8) * BYTES // groups
        assert [member.weight_bytes for member in split.members] == [cut_ + 8 * BYTES] + [cut_] * (groups - 1)


def test_attention_by_heads_sends_nothing_before_the_output_projection() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).view(*x.shape[:2], 3, 6, 2).permute(2, 0, 3, 1, 4).unbind(0)
            return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    model = whole(Attention(), (1, 8, 12))
    for groups in (2, 3, 6):
        split = model.splitter.split(0, groups=groups, way="heads")
        check(model, split)
        assert [c.kind for c in split.collectives] == ["reduce_scatter"]
        assert np.allclose(split.flops_share, 1 / groups)
    four = model.splitter.split(0, groups=4, way="heads")
    assert not four.valid and "6 heads" in four.reason and "scaled_dot_product_attention" in four.reason
    tokens = model.splitter.split(0, groups=4, way="sequence")  # keys and values are gathered
    check(model, tokens)
    assert [(c.kind, c.sent_bytes[0]) for c in tokens.collectives] == 2 * [("all_gather", 3 * 8 * 12 * BYTES // 4)]


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.integers(1, 6),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 4),
    transposed=st.booleans(),
    length=st.sampled_from([24, 36]),
    groups=st.sampled_from([2, 3, 4]),
)
def test_convolutions_along_time(
    kernel: int, stride: int, dilation: int, padding: int, transposed: bool, length: int, groups: int
) -> None:
    """Any kernel: where the result divides, members make it of windows of the input."""
    spread = dilation * (kernel - 1)
    padding = min(padding, spread if transposed else padding)
    make = nn.ConvTranspose1d if transposed else nn.Conv1d
    model = whole(make(2, 3, kernel, stride, padding, dilation=dilation), (1, 2, length))
    split = model.splitter.split(0, groups=groups, way="sequence")
    (out,) = model.splitter.parts[0].outputs
    size = model.values[out.name].shape[2]
    if size % groups == 0:
        assert split.valid, split.reason
    if split.valid:
        check(model, split)
        assert {c.kind for c in split.collectives} <= {"halo", "all_gather", "all_to_all"}


def test_a_convolution_that_keeps_its_length_sends_its_halo() -> None:
    model = whole(nn.Conv1d(2, 3, 5, padding=2), (1, 2, 32))
    split = model.splitter.split(0, groups=4, way="sequence")
    check(model, split)
    (halo,) = split.collectives
    slab = 2 * BYTES  # of one position
    assert (halo.kind, halo.sent_bytes) == ("halo", (2 * slab, 4 * slab, 4 * slab, 2 * slab))
    assert split.inputs[0].dim == 2
    assert split.replicated == ()


def test_depthwise_and_grouped_convolutions_need_no_collective_by_channels() -> None:
    layers = (nn.Conv1d(8, 16, 1), nn.PReLU(16), nn.Conv1d(16, 32, 3, groups=8), nn.BatchNorm1d(32), nn.GLU(1))
    model = whole(Chain(*layers), (2, 8, 9))
    for groups in (2, 4):
        split = model.splitter.split(0, groups=groups, way="channels")
        check(model, split)
        assert split.collectives == () and np.allclose(split.flops_share[:, :3], 1 / groups)


@pytest.mark.parametrize(
    "module, shape",
    [
        (nn.LayerNorm(12), (2, 5, 12)),
        (nn.GroupNorm(1, 12), (2, 12, 8)),
        (nn.GroupNorm(3, 12), (2, 12, 8)),
        (nn.InstanceNorm1d(12, affine=True), (2, 12, 8)),
        (Calls(lambda x: x.softmax(-1)), (2, 4, 8)),
        (Calls(lambda x: x.cumsum(1)), (2, 4, 8)),
        (Calls(lambda x: x.mean((1, 2))), (4, 12, 8)),
        (Calls(lambda x: torch.linalg.vector_norm(x, dim=-1)), (4, 12, 8)),
        (Calls(lambda x: x.std(2, keepdim=True)), (2, 4, 12, 8)),
        (Calls(lambda x: torch.einsum("bct,bdt->bcd", x, x)), (1, 8, 12)),
        (Calls(lambda x: torch.cat([x, x[:, :4]], 1).roll(1, 2)), (1, 8, 12)),
        (Calls(lambda x: F.pad(x, (3, -1)) * 2), (1, 8, 14)),
        (Calls(lambda x: torch.view_as_real(torch.fft.rfft(x, dim=1).exp())), (2, 8, 8)),
        (nn.LSTM(8, 4), (3, 2, 8)),
    ],
)
def test_operators_on_pieces(module: nn.Module, shape: tuple[int, ...]) -> None:
    """Around each operator others that compute enough for members to share, whatever the operator itself allows."""
    before = Calls(lambda x: (x * 2).tanh())
    after = Calls(lambda x: (x[0] if isinstance(x, tuple) else x).exp())
    model = whole(Chain(before, module, after), shape)
    valid = 0
    for groups in (2, 4):
        for way in ("channels", "sequence"):
            split = model.splitter.split(0, groups=groups, way=way)
            valid += split.valid
            if split.valid:
                check(model, split)
    assert valid


# --- channel permutation ---------------------------------------------------------------------------------------------


def test_permuted_channels_are_put_back_at_the_entry_of_whoever_reads_them() -> None:
    torch.manual_seed(0)
    net = Chain(nn.Conv1d(4, 16, 3, padding=1), nn.ReLU(), nn.Conv1d(16, 8, 1), nn.Tanh())
    model = cut(net.double(), torch.randn(2, 4, 10, dtype=torch.float64), segment_size=2)
    split = model.splitter.split(0, groups=4, way="channels", permute_seed=3)
    (meta,) = split.rewire_meta
    assert (meta["segment_id"], meta["groups"], meta["way"], meta["dim"]) == (0, 4, "channels", 1)
    assert torch.equal(meta["perm"], torch.randperm(16, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(meta["inv_perm"], torch.argsort(meta["perm"]))
    original = model.values[meta["tensor"]]
    at_exit, at_entry = ChannelPermute(meta["perm"], 1), ChannelPermute(meta["inv_perm"], 1)
    joined = torch.cat([outputs[0] for outputs in run_split(model, split)], 1)
    for member, outputs in enumerate(run_split(model, split)):  # member g holds perm[g C / G : (g + 1) C / G]
        assert_close(outputs[0], original[:, meta["perm"][4 * member : 4 * member + 4]])
    assert_close(joined, at_exit(original))
    assert torch.equal(at_entry(at_exit(original)), original)
    assert_close(nn.Sequential(at_entry, *net.steps[2:])(joined), net(model.values["x"]))


def test_channels_stay_where_their_order_matters() -> None:
    """Groups and gates: what is dealt out are whole groups, and both halves of a gate alike."""
    model = whole(Chain(nn.Conv1d(4, 16, 1), nn.GroupNorm(4, 16), nn.GLU(1)), (1, 4, 6))
    split = model.splitter.split(0, groups=2, way="channels", permute_seed=1)
    check(model, split)
    (meta,) = split.rewire_meta
    assert sorted(meta["perm"].tolist()) == list(range(8))
    assert (meta["perm"].reshape(-1, 4).diff() == 1).all()


# --- what a split says -----------------------------------------------------------------------------------------------


def test_why_a_segment_cannot_be_split() -> None:
    model = whole(nn.Linear(9, 7), (5, 9))
    for way in ("channels", "sequence"):
        split = model.splitter.split(0, groups=2, way=way)
        assert not split.valid and "linear" in split.reason and "5x7" in split.reason
    assert "no attention" in model.splitter.split(0, groups=2, way="heads").reason
    assert split_ways(model.program, model.segments, 0, groups=2) == ()


def test_ways_come_best_first_and_once() -> None:
    model = whole(Chain(nn.LayerNorm(8), nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)), (1, 12, 8))
    ways = split_ways(model.program, model.segments, 0, groups=4)
    assert [split.way for split in ways] == ["sequence", "channels"]
    assert ways[0].sent_bytes == 0
    keys = [(split.largest_share, split.sent_bytes) for split in ways]
    assert keys == sorted(keys)


def test_sizes_at_another_precision() -> None:
    torch.manual_seed(0)
    model = cut(Chain(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)), torch.randn(4, 8), count=1)
    split = model.splitter.split(0, groups=2, way="channels")
    full, half = split.at(4), split.at(2)
    assert [len(rows) for rows in full.rows] == [len(member.graph.layers) for member in split.members]
    assert full.weight_bytes.tolist() == [member.weight_bytes for member in split.members]
    assert full.sent_bytes.tolist() == [list(c.sent_bytes) for c in split.collectives]
    for name in ("weight_bytes", "workspace_bytes", "sent_bytes"):
        assert np.allclose(getattr(half, name), getattr(full, name) / 2)
    assert (full.rows[0]["flops"] == half.rows[0]["flops"]).all()


def test_a_member_counts_as_a_trace_of_what_it_runs() -> None:
    """Half of a linear layer costs what a linear layer of half the size costs."""
    model = whole(nn.Linear(6, 10), (3, 6))
    split = model.splitter.split(0, groups=2, way="channels")
    (mine,) = split.members[0].graph.layers
    (other,) = whole(nn.Linear(6, 5), (3, 6)).segments.graph.layers
    for name in ("operator", "kind", "shape", "macs", "flops", "weight_bytes", "input_bytes", "output_bytes"):
        assert getattr(mine, name) == getattr(other, name)
    assert split.members[0].layer_of.tolist() == [0]


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.GroupNorm(1, 6), nn.InstanceNorm1d(6, affine=True)])
def test_a_member_can_be_sent_to_another_process(norm: nn.Module) -> None:
    model = whole(Chain(nn.Conv1d(6, 6, 3, padding=1), norm), (2, 6, 8))
    split = model.splitter.split(0, groups=2, way="sequence")
    assert {c.kind for c in split.collectives} == {"halo", "all_reduce"}
    check(model, replace(split, members=pickle.loads(pickle.dumps(split.members))))


def test_input_errors() -> None:
    model = whole(nn.Linear(4, 4), (2, 4))
    for arguments, message in (
        ({"segment_id": 3, "groups": 2, "way": "channels"}, "there is no segment 3"),
        ({"segment_id": 0, "groups": 1, "way": "channels"}, "groups is 1"),
        ({"segment_id": 0, "groups": 2, "way": "chanels"}, "no way 'chanels'"),
        ({"segment_id": 0, "groups": 2, "way": "heads", "permute_seed": 1}, "split by heads"),
    ):
        with pytest.raises(WorkloadError, match=message):
            split_segment(model.program, model.segments, **arguments)
    other = whole(Chain(nn.Linear(4, 4), nn.ReLU()), (2, 4))
    with pytest.raises(WorkloadError, match="the program has 1 layers"):
        split_segment(model.program, build_segments(other.segments.graph), 0, groups=2, way="channels")
    inplace = Chain(nn.Linear(4, 4), nn.ReLU(inplace=True))
    with pytest.raises(WorkloadError, match="writes in place by aten"):
        whole(inplace, (2, 4))


def test_constants_that_a_model_makes_of_numbers() -> None:
    model = whole(Calls(lambda x: x[:, torch.tensor([2, 0, 3, 1])].exp()), (2, 4, 8))
    for way in ("channels", "sequence"):
        split = model.splitter.split(0, groups=2, way=way)
        assert split.valid
        check(model, split)
