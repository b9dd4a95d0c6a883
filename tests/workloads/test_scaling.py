"""A family's graph at any batch, length and precision against a real trace at that size."""

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import workloads
from tests.workloads.tracing_help import trace
from workloads import WorkloadError
from workloads.catalog import LengthAxis
from workloads.factory import trace_as
from workloads.scaling import Family, polynomial_weights


class Audio(nn.Module):
    """Strided convolutions, attention over all frames, a table of positions, a linear layer: all that scales apart."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Conv1d(1, 16, 8, 4, padding=2)
        self.narrow = nn.Conv1d(16, 16, 4, 2)
        self.positions = nn.Parameter(torch.zeros(4096, 16))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        y = F.gelu(self.narrow(F.relu(self.encode(x)))).transpose(1, 2)
        y = y + self.positions[: y.shape[1]]
        y = y + self.attention(y, y, y, need_weights=False)[0]
        return self.head(y).cumsum(1)


def at(batch, length):
    with torch.device("meta"):
        return trace(Audio().eval(), torch.empty(batch, 1, length), name="audio")


@pytest.fixture(scope="module")
def audio():
    return Family(name="audio", trace_at=at, batch=1, length=512, axis=LengthAxis(dim=2, per_second=64, multiple=8))


@pytest.mark.parametrize(("batch", "length"), [(1, 512), (1, 520), (1, 4096), (1, 64), (4, 512), (7, 2048), (2, 8000)])
def test_a_scaled_graph_is_the_traced_one(audio, batch, length):
    assert audio.at(batch=batch, length=length) == at(batch, length)


@given(batch=st.integers(1, 40), length=st.integers(100, 20_000))
@settings(max_examples=15, deadline=None)
def test_between_the_multiples_a_figure_is_off_by_one_frame_at_most(audio, batch, length):
    frame = 8 / length
    for key, error in audio.check(batch=batch, length=length).items():
        assert error <= 2.5 * frame, key  # attention grows with the square


@pytest.mark.parametrize(("batch", "length"), [(1, 777), (3, 514), (9, 1023)])
def test_one_size_is_exact_at_any_length(audio, batch, length):
    assert audio.at(batch=batch, length=length, exact=True) == at(batch, length)
    with pytest.raises(WorkloadError, match="audio cannot be traced"):
        audio.at(length=3, exact=True)


def test_few_traces_serve_a_sweep():
    sizes = []

    def counted(batch, length):
        sizes.append((batch, length))
        return at(batch, length)

    family = Family(name="audio", trace_at=counted, length=512, axis=LengthAxis(dim=2, multiple=8))
    graphs = [family.at(batch=batch, length=length) for batch in (2, 5, 9) for length in range(600, 3000, 240)]
    assert len(sizes) == len(set(sizes)) == 7  # 2 batches x 3 lengths, and one for whether the batch's part is linear
    assert len({graph.macs for graph in graphs}) == len(graphs)


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_precision_moves_the_bytes_that_a_trace_of_it_moves(audio, precision, dtype):
    with torch.device("meta"):
        real = trace(Audio().eval().to(dtype), torch.empty(1, 1, 512, dtype=dtype), name="audio")
    ours = audio.at(precision=precision)
    assert [layer.bytes for layer in ours.layers] == [layer.bytes for layer in real.layers]
    assert [layer.dtype for layer in ours.layers] == [layer.dtype for layer in real.layers]
    assert (ours.weight_bytes, ours.macs, ours.flops) == (real.weight_bytes, real.macs, real.flops)
    np.testing.assert_array_equal(ours.edge_bytes, real.edge_bytes)


def test_integers_keep_their_size_at_another_precision():
    with torch.device("meta"):
        module = nn.Sequential(nn.Embedding(100, 8), nn.Linear(8, 8)).eval()
        graph = trace(module, torch.zeros(2, 5, dtype=torch.int64))
    lookup = workloads.at_precision(graph, "fp16").layers[0]
    assert (lookup.input_bytes, lookup.output_bytes) == (2 * 5 * 8, 2 * 5 * 8 * 2)


def test_models_of_the_catalogue_at_sizes_not_traced_for_the_fit():
    assert workloads.family("resnet18").check(batch=5) == dict.fromkeys(("macs", "flops", "bytes", "peak_memory"), 0.0)
    with pytest.raises(WorkloadError, match="resnet18 has no sequence length"):
        workloads.family("resnet18").at(length=5)


class Block(nn.Module):
    """One of the ways in which a network treats a sequence [batch, channels, length]."""

    def __init__(self, kind, channels, stride):
        super().__init__()
        self.kind = kind
        if kind == "conv":
            self.inner = nn.Conv1d(channels, channels, 2 * stride + 1, stride, padding=stride)
        elif kind == "pool":
            self.inner = nn.AvgPool1d(stride)
        elif kind == "norm":
            self.inner = nn.GroupNorm(1, channels)
        elif kind == "attention":
            self.inner = nn.MultiheadAttention(channels, 2, batch_first=True)
        elif kind == "positions":
            self.inner = nn.Embedding(100, channels)
        elif kind == "groups":  # linear attention within groups of the length
            self.inner = nn.Linear(channels, channels)

    def forward(self, x):
        y = x.transpose(1, 2)
        match self.kind:
            case "conv" | "pool" | "norm":
                return self.inner(x)
            case "attention":
                return x + self.inner(y, y, y, need_weights=False)[0].transpose(1, 2)
            case "positions":
                return x + self.inner(torch.arange(y.shape[1], device=x.device).clamp(max=99)).T
            case "groups":
                padded = F.pad(y, (0, 0, 0, -y.shape[1] % 8)).unflatten(1, (-1, 8))
                z = (padded @ padded.transpose(-1, -2) @ self.inner(padded)).flatten(1, 2)
                return x * z[:, : y.shape[1]].transpose(1, 2)
            case "gelu":
                return F.gelu(x) + x.mean(2, keepdim=True)
            case "scores":
                return F.softmax(y @ x, -1).matmul(y).transpose(1, 2)
            case "compared":  # examples with each other
                return x * (y.flatten(1) @ y.flatten(1).T).softmax(-1).sum(-1)[:, None, None]


BLOCKS = ("conv", "pool", "norm", "attention", "positions", "groups", "gelu", "scores", "compared")


@pytest.mark.parametrize("mode", ["inference", "train"])
@given(
    kinds=st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=5),
    strides=st.lists(st.sampled_from([2, 3]), min_size=5, max_size=5),
    batch=st.integers(5, 30),
    steps=st.integers(3, 50),
)
@settings(max_examples=8, deadline=None)
def test_networks_that_nobody_named_scale_exactly(mode, kinds, strides, batch, steps):
    strides = strides[: len(kinds)]
    multiple = 8 * math.prod(strides)

    def sized(batch, length):
        layers = [nn.Conv1d(1, 4, 1), *(Block(kind, 4, stride) for kind, stride in zip(kinds, strides, strict=True))]
        return trace_as(mode, nn.Sequential(*layers), (torch.zeros(batch, 1, length),), name="net", cache=False)

    axis = LengthAxis(dim=2, multiple=multiple)
    family = Family(name="net", trace_at=sized, length=multiple + 8, axis=axis)
    errors = family.check(batch=batch, length=multiple * steps + 8)
    assert errors == dict.fromkeys(("macs", "flops", "bytes", "peak_memory"), 0.0)


def test_any_model_has_a_family(tmp_path, monkeypatch):
    (tmp_path / "sized.py").write_text(
        "import torch\n\ndef make():\n    return torch.nn.LSTM(4, 6, batch_first=True)\n"
    )
    monkeypatch.chdir(tmp_path)
    family = workloads.family("sized:make", inputs=["1x32x4"], length=LengthAxis(dim=1), cache=False)
    assert family.at(batch=3, length=1000).macs == 3 * 1000 * 4 * 6 * (4 + 6)
    sys.modules.pop("sized", None)


OWN_EXAMPLES = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(6, 8))
        self.linear = nn.Linear(8, 8)

    def forward(self, pair, mask):
        tokens, scale = pair
        return (self.linear(tokens + self.positions) * scale).transpose(1, 2) @ mask

def make():
    return Net(), ([torch.ones(4, 6, 8), torch.tensor(2.0)], torch.ones(6, 6))
"""


@pytest.fixture
def own_examples(tmp_path, monkeypatch):
    (tmp_path / "own_examples.py").write_text(OWN_EXAMPLES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CHIPFRONT_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    sys.modules.pop("own_examples", None)


@pytest.mark.parametrize("mode", ["inference", "train"])
def test_a_factory_with_examples_of_its_own_is_traced_at_other_batches(own_examples, mode):
    family = workloads.family("own_examples:make", mode=mode)
    assert family.batch == 4
    for batch in (1, 4, 11):  # a mask and a number beside the batch keep their size
        graph = family.at(batch=batch)
        assert graph.input_shapes == ((batch, 6, 8), (), (6, 6))
        assert graph == workloads.trace_factory("own_examples:make", mode=mode, batch=batch)


def test_a_saved_program_has_the_batches_that_it_leaves_open(own_examples):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    image, batch = torch.zeros(2, 3, 8, 8), torch.export.Dim("batch", min=1)
    torch.export.save(torch.export.export(module, (image,)), "fixed.pt2")
    torch.export.save(torch.export.export(module, (image,), dynamic_shapes=({0: batch},)), "open.pt2")
    assert workloads.family("open.pt2").at(batch=9).macs == 9 * (36 * 4 * 27 + 4 * 36 * 5)
    assert workloads.family("fixed.pt2").at(batch=2).batch == 2
    with pytest.raises(WorkloadError, match=r"fixed.pt2: input .* is 2x3x8x8") as caught:
        workloads.family("fixed.pt2").at(batch=9)
    assert "fixed when the program was exported" in caught.value.hint


def test_a_size_below_the_smallest_kernel_is_refused(audio):
    with pytest.raises(WorkloadError, match="audio cannot be as small as batch 1, length 1"):
        audio.at(length=1)


def test_a_size_whose_figures_nothing_holds_is_refused(audio):
    with pytest.raises(WorkloadError, match=r"audio has figures beyond 64 bits at batch 10{18}"):
        audio.at(batch=10**18)


def test_rows_that_are_looked_up_are_at_most_those_of_the_table():
    class Lookup(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(50, 4)

        def forward(self, tokens):
            return self.table(tokens).cumsum(1)

    def sized(batch, length):
        return trace(Lookup().eval(), torch.zeros(batch, length, dtype=torch.int64), name="lookup")

    family = Family(name="lookup", trace_at=sized, length=20, axis=LengthAxis(dim=1, multiple=4))
    for batch, length in ((1, 8), (1, 20), (5, 20), (1, 44), (2, 24), (30, 400)):
        graph = family.at(batch=batch, length=length)
        assert graph == sized(batch, length)
        assert graph.layers[0].weight_bytes == 16 * min(batch * length, 50)


@pytest.mark.parametrize(
    ("size", "names"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"length": -4}, "length is -4"),
        ({"precision": "fp12"}, "precision 'fp12'"),
    ],
)
def test_sizes_that_cannot_be_are_named(audio, size, names):
    with pytest.raises(WorkloadError, match=names) as caught:
        audio.at(**size)
    assert caught.value.hint


def test_seconds_are_lengths(audio):
    assert audio.units(2.5) == 160
    assert audio.at(seconds=16) == audio.at(length=1024)
    with pytest.raises(WorkloadError, match="no length in seconds"):
        Family(name="tokens", trace_at=at, length=8, axis=LengthAxis(dim=1)).at(seconds=1)


def test_a_structure_that_depends_on_the_length_is_named():
    class Uneven(nn.Module):
        def forward(self, x):
            return x.sin() if x.shape[1] % 512 else x

    def uneven(batch, length):
        with torch.device("meta"):
            return trace(Uneven(), torch.empty(batch, length), name="uneven")

    with pytest.raises(WorkloadError, match="structure of uneven depends"):
        Family(name="uneven", trace_at=uneven, length=256, axis=LengthAxis(dim=1, multiple=256)).at(length=600)


@given(st.lists(st.integers(-5, 5), min_size=3, max_size=3), st.integers(-(10**9), 10**9))
def test_three_points_make_a_parabola(coefficients, x):
    def value(at):
        return coefficients[0] * at**2 + coefficients[1] * at + coefficients[2]

    points = [10, 74, 138]
    weights = polynomial_weights(points, x)
    assert sum(w * value(at) for w, at in zip(weights, points, strict=True)) == value(x)


def test_a_training_step_scales_too():
    family = workloads.family("conv-tasnet", mode="train")
    assert family.check(batch=4, length=16_000 + 16 * 70) == dict.fromkeys(("macs", "flops", "bytes", "peak_memory"), 0)
