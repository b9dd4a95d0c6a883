"""Growth with length: linear against quadratic attention, and what the scores of softmax attention cost in memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import workloads
from workloads.errors import WorkloadError
from workloads.growth import GrowthPoint, growth, measure, order, unpadded
from workloads.models.linear_transformer import LinearTransformer
from workloads.trace import trace

HEADS, DIM = 4, 16


@pytest.fixture(scope="module")
def points() -> dict[tuple[str, float], GrowthPoint]:
    rows = growth(("htdemucs", "htdemucs_n"), (1.0, 60.0, 300.0, 600.0))
    return {(row.name, row.seconds): row for row in rows}


def test_operations_of_attention_grow_quadratically_in_htdemucs_and_linearly_in_htdemucs_n(
    points: dict[tuple[str, float], GrowthPoint],
) -> None:
    for name, expected in (("htdemucs", 2.0), ("htdemucs_n", 1.0)):
        mine = [point for point in points.values() if point.name == name]
        slopes = order(mine, "attention_flops")
        assert [seconds for seconds, _ in slopes] == [60.0, 300.0, 600.0]
        assert [slope for _, slope in slopes] == pytest.approx([expected] * 3, abs=0.03)
        of_all = [slope for _, slope in order(mine, "flops")]  # what is linear in HTDemucs counts ever less
        assert expected - 0.06 < of_all[-1] < expected + 1e-3
        assert of_all == sorted(of_all)


def test_attention_of_htdemucs_at_ten_minutes_is_its_formula(points: dict[tuple[str, float], GrowthPoint]) -> None:
    """Three self-attentions of each branch and two pairs of cross-attentions, two products of 384 channels."""
    frames, samples = -(-600 * 44100 // 1024), -(-600 * 44100 // 256)
    spectral, temporal = 8 * frames, samples
    pairs = 3 * (spectral**2 + temporal**2) + 2 * 2 * spectral * temporal
    assert points["htdemucs", 600.0].attention_flops == pytest.approx(2 * 2 * 384 * pairs, rel=1e-3)


def test_only_scores_make_memory_grow_quadratically(points: dict[tuple[str, float], GrowthPoint]) -> None:
    theirs = [point for point in points.values() if point.name == "htdemucs"]
    assert order(theirs, "peak_bytes")[-1][1] == pytest.approx(1.0, abs=0.05)
    assert order(theirs, "peak_bytes_with_scores")[-1][1] == pytest.approx(2.0, abs=0.05)
    for point in points.values():
        assert point.weight_bytes < point.peak_bytes <= point.peak_bytes_with_scores
        if point.name == "htdemucs_n":  # it has no scores
            assert point.peak_bytes == point.peak_bytes_with_scores


@pytest.mark.parametrize("name", ["htdemucs", "htdemucs_n"])
def test_ten_minutes_from_three_traces_are_those_of_a_trace(name: str) -> None:
    sized = unpadded(name)
    errors = sized.check(length=sized.units(600.0))
    assert max(errors[key] for key in ("macs", "flops", "peak_memory")) < 1e-3


def test_the_linear_transformer_costs_twice_as_much_for_twice_as_many_tokens() -> None:
    net = LinearTransformer(64, layers=2, heads=2, head_dim=16, positions=100).to("meta")
    once, twice = (trace(net, torch.empty(1, tokens, 64, device="meta"), cache=False) for tokens in (512, 1024))
    assert twice.macs == 2 * once.macs
    assert twice.flops == pytest.approx(2 * once.flops, rel=1e-6)


class Fused(nn.Module):
    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(query, key, value)


class StepByStep(nn.Module):
    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return (query @ key.transpose(-1, -2)).softmax(-1) @ value


@pytest.mark.parametrize(("queries", "keys"), [(512, 512), (512, 300)])
def test_the_peak_with_scores_is_that_of_attention_step_by_step(queries: int, keys: int) -> None:
    """The step of the softmax, which reads and writes a matrix of queries x keys a head."""
    inputs = [torch.empty(2, HEADS, n, DIM, device="meta") for n in (queries, keys, keys)]
    fused, steps = (measure("", 1.0, trace(net, inputs, cache=False)) for net in (Fused(), StepByStep()))
    scores = 2 * HEADS * queries * keys * 4
    assert fused.peak_bytes_with_scores == fused.peak_bytes + 2 * scores
    assert steps.peak_bytes >= 2 * scores
    assert fused.peak_bytes_with_scores == pytest.approx(steps.peak_bytes, rel=0.1)


def test_scores_are_those_of_the_specification() -> None:
    """One head of 10,000 tokens: 400 MB."""
    inputs = [torch.empty(1, 1, 10_000, 64, device="meta")] * 3
    point = measure("", 1.0, trace(Fused(), inputs, cache=False))
    assert point.peak_bytes_with_scores - point.peak_bytes == 2 * 400_000_000


def test_half_the_precision_is_half_the_memory() -> None:
    full, half = (growth(("htdemucs_n-fast",), (5.0,), precision=name)[0] for name in ("fp32", "fp16"))
    assert half.peak_bytes == pytest.approx(full.peak_bytes / 2, rel=1e-3)
    assert half.flops == full.flops


def test_bad_requests_are_named() -> None:
    with pytest.raises(WorkloadError, match="0 seconds"):
        growth(("htdemucs",), (0.0,))
    with pytest.raises(WorkloadError, match="nan seconds"):
        growth(("htdemucs",), (float("nan"),))
    with pytest.raises(WorkloadError, match="resnet18"):
        growth(("resnet18",), (1.0,))
    with pytest.raises(WorkloadError, match="htdemux"):
        growth(("htdemux",))
    one = growth(("htdemucs_n-fast",), (5.0,))[0]
    two = growth(("htdemucs",), (10.0,))[0]
    with pytest.raises(WorkloadError, match="several workloads"):
        order([one, two], "flops")
    assert workloads.growth is growth
