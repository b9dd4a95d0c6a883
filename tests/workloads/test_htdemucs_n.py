"""HTDemucs_n: each changed part against an independent formula, the net at any length, and its published parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import workloads
from workloads.errors import WorkloadError
from workloads.graph import OperatorKind
from workloads.models.frequency_time_fusion import FrequencyTimeFusion
from workloads.models.htdemucs import HTDemucs
from workloads.models.htdemucs_n import HTDemucsN
from workloads.models.htdemucs_spectrum import as_channels, as_spectrum, spectrogram, waveform
from workloads.models.linear_transformer import LearnedPositions, LinearTransformer, linear_attention
from workloads.models.multi_resolution import MultiResolutionEncoder
from workloads.models.resunet import AttentionGate, ResidualBlock, ResUNetDecoder, ResUNetEncoder, SqueezeExcitation
from workloads.specification import compare_parts, load_specification
from workloads.trace import trace

SMALL: dict[str, Any] = {
    "channels": 8,
    "depth": 2,
    "n_ffts": (128, 256),
    "resolution_channels": 8,
    "resunet_channels": 16,
    "t_layers": 2,
    "t_heads": 2,
    "t_head_dim": 8,
    "positions": 50,
    "samplerate": 8000,
    "segment_s": 0.5,
}


def small(**changes: Any) -> HTDemucsN:
    torch.manual_seed(0)
    return HTDemucsN(**(SMALL | changes))


# --- linear attention ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(sizes=st.tuples(*[st.integers(1, 12)] * 4), seed=st.integers(0, 99))
def test_linear_attention_is_the_quadratic_formula(sizes: tuple[int, int, int, int], seed: int) -> None:
    """Each query's output is the mean of all values, weighted by phi(q) . phi(k), term by term."""
    (queries, keys, dim, width), generator = sizes, torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(2, 3, n, d, generator=generator, dtype=torch.float64)
        for n, d in ((queries, dim), (keys, dim), (keys, width))
    )
    phi_q, phi_k = (torch.where(x > 0, x + 1, x.exp()) for x in (q, k))
    scores = (phi_q[..., :, None, :] * phi_k[..., None, :, :]).sum(-1)
    expected = (scores[..., None] * v[..., None, :, :]).sum(-2) / (scores.sum(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(linear_attention(q, k, v), expected)


def test_linear_attention_costs_what_the_specification_says() -> None:
    """N = 10,000 and D = 64: 40 M a product instead of 6.4 G, and a state of 16 KB instead of 400 MB of scores."""

    class Core(nn.Module):
        def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            return linear_attention(query, key, value)

    graph = trace(Core(), [torch.empty(10_000, 64, device="meta")] * 3, cache=False)
    products = [layer for layer in graph.layers if layer.kind is OperatorKind.MATMUL]
    assert sorted(layer.macs for layer in products) == [640_000, 40_960_000, 40_960_000]
    assert min(layer.output_bytes for layer in products) == 16_384


def test_attention_of_one_token_is_its_value() -> None:
    query, key, value = torch.randn(3, 1, 4, dtype=torch.float64)
    torch.testing.assert_close(linear_attention(query, key, value), value, atol=1e-4, rtol=1e-4)


def test_without_positions_the_order_of_tokens_does_not_matter() -> None:
    torch.manual_seed(0)
    net, x = LinearTransformer(16, layers=2, heads=2, head_dim=8, positions=9), torch.randn(1, 9, 16)
    shuffle = [3, 1, 8, 0, 2, 4, 7, 6, 5]
    with torch.no_grad():
        assert not torch.allclose(net(x)[:, shuffle], net(x[:, shuffle]), atol=1e-4)
        net.positions.table.zero_()
        torch.testing.assert_close(net(x)[:, shuffle], net(x[:, shuffle]))


@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 40])
def test_positions_are_interpolated_to_any_number_of_tokens(tokens: int) -> None:
    """Token i of N stands at (i + 1/2) P / N of a table whose row j stands at j + 1/2, flat beyond its ends."""
    torch.manual_seed(0)
    positions = LearnedPositions(8, 3)
    added = positions(torch.zeros(2, tokens, 3)).detach().numpy()
    at = (np.arange(tokens) + 0.5) * 8 / tokens
    table = positions.table.detach().numpy()
    expected = np.stack([np.interp(at, np.arange(8) + 0.5, column) for column in table.T], axis=1)
    np.testing.assert_allclose(added[0], expected, atol=1e-6)
    np.testing.assert_array_equal(added[0], added[1])


# --- ResUNet++ -------------------------------------------------------------------------------------------------------


def test_squeeze_and_excitation_scales_each_channel_by_one_gain_below_one() -> None:
    torch.manual_seed(0)
    net, x = SqueezeExcitation(32), torch.rand(2, 32, 5, 7) + 0.1
    ratio = net(x) / x
    assert ratio.shape == x.shape
    assert bool(((ratio > 0) & (ratio < 1)).all())
    torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(x))
    assert sum(p.numel() for p in net.parameters()) == 2 * 32 * 2 + 2 + 32
    with pytest.raises(WorkloadError, match="15 channels"):
        SqueezeExcitation(15)


def test_an_attention_gate_opens_each_place_for_all_channels_alike() -> None:
    torch.manual_seed(0)
    net, gate, skip = AttentionGate(6, 4), torch.randn(2, 6, 5, 7), torch.rand(2, 4, 5, 7) + 0.1
    ratio = net(gate, skip) / skip
    assert ratio.shape == skip.shape
    assert bool(((ratio > 0) & (ratio < 1)).all())
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(skip))
    assert not torch.allclose(ratio[0, 0, 0, 0], ratio[0, 0, 4, 6])


@pytest.mark.parametrize(("size", "stride", "half"), [((8, 6), 1, (8, 6)), ((8, 6), 2, (4, 3)), ((7, 5), 2, (4, 3))])
def test_a_residual_block_strides_body_and_shortcut_alike(
    size: tuple[int, int], stride: int, half: tuple[int, int]
) -> None:
    out = ResidualBlock(3, 5, stride=stride)(torch.randn(2, 3, *size))
    assert out.shape == (2, 5, *half)
    assert bool((out >= 0).all())


@settings(deadline=None, max_examples=15)
@given(height=st.integers(1, 20), width=st.integers(1, 20), depth=st.integers(1, 3))
def test_the_unet_halves_and_doubles_again(height: int, width: int, depth: int) -> None:
    encoder = ResUNetEncoder(3, base=16, depth=depth).eval()
    decoder = ResUNetDecoder(encoder.widths, 7).eval()
    with torch.no_grad():
        bottom, skips = encoder(torch.randn(1, 3, height, width))
        out = decoder(bottom, skips)
    up, across = -(-height // 2**depth), -(-width // 2**depth)
    assert bottom.shape == (1, 16 * 2 ** (depth - 1), up, across)
    assert [skip.shape[1] for skip in skips] == encoder.widths[:-1]
    assert out.shape == (1, 7, up * 2**depth, across * 2**depth)


# --- spectrograms and fusion -----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(hops=st.integers(2, 40), length=st.integers(200, 900))
def test_a_spectrogram_of_any_window_has_an_inverse(hops: int, length: int) -> None:
    """But for 1.5 hops at the ends, and the Nyquist bin, which a low tone lacks."""
    window = torch.hann_window(4 * hops, dtype=torch.float64)
    wave = torch.sin(torch.arange(length, dtype=torch.float64) * 0.01).expand(2, 3, length)
    spectrum = spectrogram(wave, window)
    assert spectrum.shape == (2, 3, 2 * hops, -(-length // hops))
    torch.testing.assert_close(as_spectrum(as_channels(spectrum), (3,)), spectrum)
    inner = slice(2 * hops, -2 * hops)
    torch.testing.assert_close(waveform(spectrum, window, length)[..., inner], wave[..., inner], atol=5e-3, rtol=0)


def test_resolutions_come_to_one_size_and_are_weighted_by_a_softmax() -> None:
    torch.manual_seed(0)
    net, wave = MultiResolutionEncoder((64, 256), hidden=4, channels=8), torch.randn(2, 2, 999)
    assert net(wave, (128, 16)).shape == (2, 8, 128, 16)
    with torch.no_grad():
        torch.testing.assert_close(net(wave, (32, 9)), net(wave.flip(1), (32, 9)))  # the mid signal
        net.weights.copy_(torch.tensor([0.0, 200.0]))  # all of the second resolution
        before = net(wave, (32, 9))
        net.encoders[0][0].weight.mul_(3)
        torch.testing.assert_close(net(wave, (32, 9)), before)
        net.encoders[1][0].weight.mul_(3)
        assert not torch.allclose(net(wave, (32, 9)), before)
    for wrong in ((), (512, 1022)):
        with pytest.raises(WorkloadError, match="n_ffts"):
            MultiResolutionEncoder(wrong)


def test_fusion_weighs_the_two_branches_and_adds_to_the_time_branch() -> None:
    torch.manual_seed(0)
    net = FrequencyTimeFusion(6, 4).eval()
    frequency, time = torch.randn(2, 6, 5, 3), torch.randn(2, 4, 17)
    heard: list[torch.Tensor] = []
    net.gated.register_forward_hook(lambda _module, inputs, _out: heard.append(inputs[0]))
    with torch.no_grad():
        assert net(frequency, time).shape == time.shape
        projected = F.interpolate(net.project(frequency.mean(2)), size=17, mode="linear")
        weights = net.weights(torch.cat([projected, time], 1))
        torch.testing.assert_close(weights.sum(1), torch.ones(2, 17))
        torch.testing.assert_close(heard[0], weights[:, :1] * projected + weights[:, 1:] * time)
        net.out.weight.zero_()
        net.out.bias.zero_()
        torch.testing.assert_close(net(frequency, time), time)


# --- the net ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [4000, 4001, 5003, 300, 65, 17, 1])
@pytest.mark.parametrize("changes", [{}, {"use_train_segment": False}, {"use_train_segment": False, "depth": 3}])
def test_it_separates_a_length_of_any_kind(length: int, changes: dict[str, Any]) -> None:
    with torch.no_grad():
        out = small(**changes).eval()(torch.randn(2, 2, length))
    assert out.shape == (2, 4, 2, length)
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_any_number_of_channels_and_sources(channels: int) -> None:
    model = small(audio_channels=channels, sources=("one", "two"), use_train_segment=False).eval()
    with torch.no_grad():
        assert model(torch.randn(1, channels, 777)).shape == (1, 2, channels, 777)
        silent = model(torch.zeros(1, channels, 777))
    assert bool(torch.isfinite(silent).all())


def test_examples_of_a_batch_do_not_mix_but_channels_do() -> None:
    model, mix = small().eval(), torch.randn(3, 2, 4000)
    with torch.no_grad():
        together = model(mix)
        alone = torch.cat([model(example[None]) for example in mix])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
        louder = model(mix * torch.tensor([[1.0], [0.5]]))
        assert not torch.allclose(louder[:, :, 0], together[:, :, 0], atol=1e-3)


def test_louder_sound_gives_louder_sources() -> None:
    model, mix = small().eval(), torch.randn(1, 2, 4000)
    with torch.no_grad():
        torch.testing.assert_close(model(100 * mix), 100 * model(mix), atol=1e-2, rtol=1e-2)


def test_it_pads_to_its_segment_only_in_evaluation() -> None:
    model, mix = small().eval(), torch.randn(2, 2, 3000)
    with torch.no_grad():
        torch.testing.assert_close(model(mix), model(F.pad(mix, (0, 1000)))[..., :3000])
        assert not torch.allclose(model(mix), small(use_train_segment=False).eval()(mix), atol=1e-4)


def test_gradients_reach_every_parameter_and_training_lowers_the_loss() -> None:
    model = small(resunet_channels=64).train()  # so that not all of the 4 squeezed values are cut off by their ReLU
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-3), []
    mix = torch.randn(2, 2, 3001)
    target = torch.stack([share * mix for share in (0.1, 0.2, 0.3, 0.4)], dim=1)
    for step in range(5):
        loss = (model(mix) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None, name
                assert bool(torch.isfinite(parameter.grad).all()), name
                assert bool(parameter.grad.any()), name
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda: HTDemucsN(depth=0), "depth 0"),
        (lambda: HTDemucsN(resunet_channels=8), "8 channels"),
        (lambda: HTDemucsN(n_ffts=[]), "n_ffts"),
        (lambda: HTDemucsN(channels=4), "dconv_comp 8"),
        (lambda: small()(torch.empty(2, 4000)), r"\(2, 4000\)"),
        (lambda: small()(torch.empty(1, 1, 4000)), r"\(1, 1, 4000\)"),
        (lambda: small()(torch.empty(1, 2, 0)), r"\(1, 2, 0\)"),
    ],
)
def test_sizes_that_do_not_fit_are_named(build: Any, names: str) -> None:
    with torch.device("meta"), pytest.raises(WorkloadError, match=names) as caught:
        build()
    assert caught.value.hint


# --- the catalogue's sizes, on the meta device -----------------------------------------------------------------------


def conv(inputs: int, outputs: int, taps: int, *, bias: bool = True) -> int:
    return inputs * outputs * taps + outputs * bias


def block(inputs: int, outputs: int) -> int:
    """Two convolutions 3 x 3, two norms of two vectors, a shortcut."""
    body = conv(inputs, outputs, 9, bias=False) + conv(outputs, outputs, 9, bias=False) + 4 * outputs
    return body + conv(inputs, outputs, 1)


UP = [(512, 256, 256), (256, 128, 128), (128, 64, 64), (64, 64, 68)]  # inputs, outputs, skip of each decoder stage
PARTS = {
    "multi-resolution encoder": 4 * (conv(2, 32, 9) + conv(32, 64, 9)) + 4 + conv(256, 64, 1) + conv(64, 64, 9),
    "residual blocks": block(68, 64) + block(64, 128) + block(128, 256) + block(256, 512)
    + sum(block(out + skip, out) for _, out, skip in UP),
    "squeeze-and-excitation": sum(conv(c, c // 16, 1) + conv(c // 16, c, 1) for c in (64, 128, 256, 512)),
    "attention gates": sum(conv(out, skip // 2, 1) + conv(skip, skip // 2, 1) + skip // 2 + 1 for _, out, skip in UP),
    "encoder and decoder": sum(conv(before, out, 4) for before, out, _ in UP) + conv(64, 4 * 4, 1),
    "linear attention": 5 * (3 * 768 * 512 + conv(512, 768, 1)),
    "feed-forward": 5 * (conv(768, 3072, 1) + conv(3072, 768, 1)),
    "positions": 8000 * 768,
    "frequency projection": conv(512, 384, 1, bias=False) + conv(384, 384, 3, bias=False) + 4 * 384,
    "fusion": conv(384, 768, 3) + conv(384, 384, 1),
    "adaptive weights": conv(768, 384, 1) + conv(384, 2, 1),
}  # fmt: skip


def test_parts_hold_what_their_formulas_say_and_cover_the_net() -> None:
    graph = workloads.load("htdemucs_n")
    compared = compare_parts(graph, load_specification(workloads.entry("htdemucs_n").specification))
    built = {row["part"]: row["built"]["parameters"] for row in compared["rows"]}
    assert {part: built[part] for part in PARTS} == PARTS
    assert round(PARTS["multi-resolution encoder"] / 1e6, 3) == 0.130
    transformer = [PARTS[part] / 1e6 for part in ("linear attention", "feed-forward", "positions")]
    assert [round(millions, 2) for millions in transformer] == [7.87, 23.61, 6.14]
    assert sum(built.values()) == graph.parameters == 52_858_632
    assert sum(row["built"]["flops"] for row in compared["rows"]) == pytest.approx(graph.flops, rel=1e-3)
    assert compared["sums"]["parameters"] == pytest.approx(63.6e6)
    assert compared["total"] == {"parameters": 43.33e6, "flops": 219.16e9}
    assert "add up to 63.60 M parameters, its total says 43.33" in compared["findings"][0]
    for row in compared["rows"]:
        claimed = row["claimed"]["parameters"]
        assert row["note"] or claimed is None or abs(claimed - row["built"]["parameters"]) < 0.05e6, row["part"]


def test_the_time_branch_is_that_of_htdemucs() -> None:
    with torch.device("meta"):
        ours, theirs = HTDemucsN(), HTDemucs()
    for branch in ("time_encoder", "time_decoder"):
        shapes = [[p.shape for p in getattr(model, branch).parameters()] for model in (ours, theirs)]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("name", "tokens", "width", "layers"),
    [
        ("htdemucs_n", 128 * 21 + 1344, 768, 5),
        ("htdemucs_n-quality", 128 * 21 + 1344, 1024, 6),
        ("htdemucs_n-low-memory", 128 * 21 + 1344, 512, 4),
        ("htdemucs_n-fast", 128 * 54 + 3446, 384, 3),
    ],
)
def test_variants_trace_completely(name: str, tokens: int, width: int, layers: int) -> None:
    graph = workloads.load(name)
    assert not graph.refused
    assert graph.layers[-1].output_shape == (1, 4, 2, graph.input_shapes[0][-1])
    feedforward = [layer for layer in graph.layers if "feedforward" in layer.module and layer.kind == "linear"]
    assert len(feedforward) == 2 * layers
    assert {layer.macs for layer in feedforward} == {tokens * 4 * width * width}


def test_htdemucs_as_released_has_its_published_counts() -> None:
    graph = workloads.load("htdemucs-released")
    macs = {kind: sum(layer.macs for layer in graph.layers if layer.kind == kind) for kind in OperatorKind}
    assert graph.parameters == 41_984_456
    assert (macs[OperatorKind.CONV] + macs[OperatorKind.LINEAR]) / 1e9 == pytest.approx(124.9, abs=0.05)
    assert macs[OperatorKind.ATTENTION] / 1e9 == pytest.approx(42.5, abs=0.05)
