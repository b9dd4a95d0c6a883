"""A family's graph at any batch, length and precision against a real trace at that size."""

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


def test_few_traces_serve_a_sweep():
    sizes = []

    def counted(batch, length):
        sizes.append((batch, length))
        return at(batch, length)

    family = Family(name="audio", trace_at=counted, length=512, axis=LengthAxis(dim=2, multiple=8))
    graphs = [family.at(batch=batch, length=length) for batch in (2, 5, 9) for length in range(600, 3000, 240)]
    assert len(sizes) == len(set(sizes)) == 6
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


def test_any_model_has_a_family(tmp_path, monkeypatch):
    (tmp_path / "sized.py").write_text(
        "import torch\n\ndef make():\n    return torch.nn.LSTM(4, 6, batch_first=True)\n"
    )
    monkeypatch.chdir(tmp_path)
    family = workloads.family("sized:make", inputs=["1x32x4"], length=LengthAxis(dim=1), cache=False)
    assert family.at(batch=3, length=1000).macs == 3 * 1000 * 4 * 6 * (4 + 6)
    sys.modules.pop("sized", None)


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


@given(st.lists(st.integers(-5, 5), min_size=3, max_size=3), st.integers(-50, 50))
def test_three_points_make_a_parabola(coefficients, x):
    points = [10.0, 74.0, 138.0]
    weights = polynomial_weights(points, x)
    assert weights @ np.polyval(coefficients, points) == pytest.approx(np.polyval(coefficients, x), abs=1e-6, rel=1e-9)


def test_a_training_step_scales_too():
    family = workloads.family("conv-tasnet", mode="train")
    assert family.check(batch=4, length=16_000 + 16 * 70) == dict.fromkeys(("macs", "flops", "bytes", "peak_memory"), 0)
