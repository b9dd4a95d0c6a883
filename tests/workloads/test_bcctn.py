"""BCCTN against its published figures, complex layers against torch's own complex numbers, and that both nets train."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import workloads
from tests.workloads.tracing_help import fvcore_total
from workloads import WorkloadGraph
from workloads.describe import quantity
from workloads.errors import WorkloadError
from workloads.models.bcctn import BCCTN, BCCTNTable
from workloads.models.complex_layers import (
    ComplexBatchNorm2d,
    ComplexConv2d,
    ComplexConvTranspose2d,
    ComplexMask,
    ComplexPReLU,
    ComplexReLU,
)
from workloads.models.spectrogram import ISTFT, STFT


def small(**changes: object) -> BCCTN:
    sizes = {"channels": (2, 4), "n_fft": 32, "window": 16, "hop": 4, "heads": 4}
    return BCCTN(**(sizes | changes))  # type: ignore[arg-type]


def small_table(**changes: object) -> BCCTNTable:
    sizes = {"channels": (4, 8), "n_fft": 32, "window": 16, "hop": 4, "width": 32, "attention_width": 16, "heads": 4}
    return BCCTNTable(**(sizes | changes))  # type: ignore[arg-type]


NETS = pytest.mark.parametrize("make", [small, lambda: small(shared_encoder=False), small_table])


@cache
def graph_of(name: str) -> WorkloadGraph:
    return workloads.load(name, cache=False)


# --- figures ---------------------------------------------------------------------------------------------------------


def test_bcctn_has_the_published_parameters_and_macs() -> None:
    """What fvcore says of the authors' code; of ours it misses the fused attention, which theirs spells out."""
    graph, frames = graph_of("bcctn"), 167
    theirs = fvcore_total(BCCTN().eval(), (torch.randn(1, 2, 16_000),))  # under no_grad it misses projections too
    attention = 4 * 2 * frames**2 * 1024
    assert graph.parameters == 11_086_488
    assert theirs + attention == quantity(graph, "macs.complex_as_one") == 10_759_901_184
    assert graph.macs == 10_759_901_184 + 3 * frames * 1024**2  # of the complex linear layer four products run
    assert not graph.refused


def test_bcctn_counts_layer_by_layer() -> None:
    """Four real convolutions a layer and ear: outputs x taps; in the decoder inputs x taps, the skip beside them."""
    channels, frames = [1, 8, 16, 32, 64, 128, 128], range(161, 168)
    encoder = [
        8 * (256 >> i) * frames[i] * 10 * before * after
        for i, (before, after) in enumerate(pairwise(channels), start=1)
    ]
    decoder = [
        8 * (256 >> i) * frames[i] * 10 * 2 * before * after
        for i, (after, before) in enumerate(pairwise(channels), start=1)
    ]
    graph = graph_of("bcctn")
    convolutions = [layer for layer in graph.layers if layer.kind == "conv"]
    assert len(convolutions) == 2 * 4 * 12
    assert sum(layer.macs for layer in convolutions) == sum(encoder) + sum(decoder) == 7_540_408_320
    for i, macs in enumerate(encoder):
        assert sum(x.macs for x in convolutions if x.module.startswith(f"encoders.0.{i}.")) == macs
    for i, macs in enumerate(reversed(decoder)):
        assert sum(x.macs for x in convolutions if x.module.startswith(f"decoder.{i}.")) == macs


def test_an_encoder_for_each_ear_costs_parameters_but_no_macs() -> None:
    graph, shared = graph_of("bcctn-unshared"), graph_of("bcctn")
    assert graph.macs == shared.macs
    assert graph.parameters - shared.parameters == 547_708


def test_the_table_s_net_has_the_parameters_of_its_rows() -> None:
    graph = graph_of("bcctn-table")
    channels = [2, 16, 32, 64, 128, 256, 256]
    convolutions = 2 * sum(2 * 5 * a * b for a, b in pairwise(channels))
    assert graph.parameters == convolutions + 2 * 1024 * 512 + 4 * 512**2 == 4_278_912
    (stft,) = [layer for layer in graph.layers if layer.operator.startswith("aten.stft")]
    assert stft.output_shape == (2, 257, 157)


OFFICIAL = torch.tensor(  # [channel, sample] of the authors' layers (VikasTokala/BCCTN), at AT
    [
        [0.35647, 0.36086, 0.31651, 0.75423, 0.72047, 1.37637],
        [-0.28956, -0.31081, 0.47895, 0.82785, -0.65927, 0.76081],
    ]
)
AT = [0, 1, 100, 500, 777, 1099]


def test_bcctn_computes_what_the_authors_net_does() -> None:
    """Every parameter set to a cosine of its place; the authors' net got the same and gave OFFICIAL."""
    model = BCCTN().eval()
    parameters = [
        p for part in (model.encoders, model.bottleneck, model.decoder) for p in part.parameters()
    ]  # in the order of the signal, real part before imaginary
    with torch.no_grad():
        for index, parameter in enumerate(parameters):
            flat = torch.view_as_real(parameter).view(-1) if parameter.is_complex() else parameter.view(-1)
            place = torch.arange(flat.numel(), dtype=torch.float64) * 1.7 + parameter.numel() + index
            gain = (parameter.numel() / parameter.shape[0]) ** -0.5
            flat.copy_(place.cos() * gain if parameter.dim() > 1 else 0.3 + 0.2 * place.cos())
        time = torch.arange(1100, dtype=torch.float64)
        chirp = torch.sin(0.05 * time) + torch.sin(0.0003 * time * time)
        wave = torch.stack([chirp, torch.cos(0.031 * time) + 0.5 * torch.sin(0.0007 * time * time)])[None].float()
        torch.testing.assert_close(model(wave)[0][:, AT], OFFICIAL, atol=5e-5, rtol=0)


# --- complex layers --------------------------------------------------------------------------------------------------


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(shape), torch.randn(shape)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_complex_convolution_is_torch_s_own(transposed: bool, bias: bool) -> None:
    x, sizes = pair(2, 3, 9, 6), {"stride": (2, 1), "padding": (2, 1)}
    kind, function = (ComplexConvTranspose2d, F.conv_transpose2d) if transposed else (ComplexConv2d, F.conv2d)
    layer = kind(3, 4, (5, 2), bias=bias, **sizes)
    real, imag = layer.real, layer.imag
    theirs = torch.complex(real.bias - imag.bias, real.bias + imag.bias) if bias else None
    expected = function(torch.complex(*x), torch.complex(real.weight, imag.weight), theirs, **sizes)
    torch.testing.assert_close(torch.complex(*layer(x)), expected)
    assert sum(p.numel() for p in layer.parameters()) == 2 * (3 * 4 * 10 + 4 * bias)


def test_norm_and_activations_act_on_each_part() -> None:
    real, imag = x = pair(4, 3, 5, 6)
    out = ComplexBatchNorm2d(3)(x)
    for part, normed in zip(x, out, strict=True):
        mean, var = part.mean((0, 2, 3), keepdim=True), part.var((0, 2, 3), correction=0, keepdim=True)
        torch.testing.assert_close(normed, (part - mean) / (var + 1e-5).sqrt())
    prelu = ComplexPReLU()
    with torch.no_grad():
        prelu.real.weight.fill_(0.1)
        prelu.imag.weight.fill_(0.5)
    torch.testing.assert_close(
        prelu(x), (torch.where(real > 0, real, 0.1 * real), torch.where(imag > 0, imag, imag / 2))
    )
    torch.testing.assert_close(ComplexReLU()(x), (real.clamp(min=0), imag.clamp(min=0)))


def test_the_mask_is_a_complex_gain() -> None:
    mask, spectrum = pair(2, 3, 4, 5), pair(2, 3, 4, 5)
    expected = torch.complex(*mask) * torch.complex(*spectrum)
    torch.testing.assert_close(torch.complex(*ComplexMask()(mask, spectrum)), expected)


# --- spectrogram -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [16_000, 4_100])
def test_the_centred_transform_and_its_inverse_are_torch_s(length: int) -> None:
    wave, window = torch.randn(1, 2, length), torch.hann_window(400)
    sizes = {"n_fft": 512, "hop_length": 100, "win_length": 400, "window": window, "normalized": True}
    spectrum = torch.complex(*STFT(512, 400, 100, centred=True)(wave))
    torch.testing.assert_close(spectrum[0], torch.stft(wave[0], return_complex=True, **sizes), atol=1e-5, rtol=1e-4)
    other = spectrum * torch.randn(1, 2, 257, 1)  # no spectrogram of any signal
    back = ISTFT(512, 400, 100, centred=True)((other.real, other.imag), length)
    torch.testing.assert_close(back[0], torch.istft(other[0], **sizes, length=length), atol=1e-4, rtol=1e-4)


@given(st.integers(17, 200), st.sampled_from([(32, 16, 4), (32, 32, 8), (24, 20, 4), (16, 16, 4)]), st.booleans())
@settings(deadline=None, max_examples=60)
def test_the_transform_has_an_inverse_at_any_length(length: int, sizes: tuple[int, int, int], centred: bool) -> None:
    wave = torch.randn(2, 3, length)
    n_fft, window, hop = sizes
    spectrum = STFT(*sizes, centred=centred)(wave)
    frames = 1 + length // hop if centred else 1 + max(0, -(-(length - window) // hop))
    assert spectrum[0].shape == spectrum[1].shape == (2, 3, n_fft // 2 + 1, frames)
    back = ISTFT(*sizes, centred=centred)(spectrum, length)
    assert back.shape == wave.shape
    fades = 0 if centred else window // 2  # uncentred windows begin and end at zero
    inner = slice(fades, length - fades)
    torch.testing.assert_close(back[..., inner], wave[..., inner], atol=1e-5, rtol=1e-4)
    assert (back.abs() <= 2 * wave.abs().max()).all()


# --- the nets --------------------------------------------------------------------------------------------------------


def test_swapping_the_ears_permutes_what_a_shared_encoder_gives() -> None:
    real, imag = pair(2, 2, 16, 9)
    swapped = real.flip(1), imag.flip(1)
    for model, permuted in ((small().eval(), True), (small(shared_encoder=False).eval(), False)):
        with torch.no_grad():
            left, right = model.encode((real, imag))
            other_right, other_left = model.encode(swapped)
        for ours, theirs in ((left, other_left), (right, other_right)):
            for x, y in zip(ours, theirs, strict=True):
                assert all(torch.allclose(a, b) for a, b in zip(x, y, strict=True)) is permuted


def test_two_encoders_of_equal_weights_are_a_shared_one() -> None:
    shared, unshared = small().eval(), small(shared_encoder=False).eval()
    for encoder in unshared.encoders:
        encoder.load_state_dict(shared.encoders[0].state_dict())
    for name in ("bottleneck", "decoder"):
        getattr(unshared, name).load_state_dict(getattr(shared, name).state_dict())
    wave = torch.randn(2, 2, 100)
    with torch.no_grad():
        torch.testing.assert_close(unshared(wave), shared(wave))


@NETS
@pytest.mark.parametrize("length", [64, 65, 77, 101, 128, 33])
def test_the_output_is_as_long_as_the_input(make: Callable[[], nn.Module], length: int) -> None:
    with torch.no_grad():
        out = make().eval()(torch.randn(3, 2, length))
    assert out.shape == (3, 2, length)
    assert torch.isfinite(out).all()


@NETS
def test_examples_of_a_batch_do_not_mix(make: Callable[[], nn.Module]) -> None:
    model, wave = make().eval(), torch.randn(3, 2, 90)
    with torch.no_grad():
        alone = torch.cat([model(example[None]) for example in wave])
        torch.testing.assert_close(model(wave), alone, atol=1e-6, rtol=1e-4)


@NETS
def test_the_ears_hear_each_other(make: Callable[[], nn.Module]) -> None:
    model, wave = make().eval(), torch.randn(1, 2, 90)
    other = wave.clone()
    other[:, 1] = torch.randn(90)
    with torch.no_grad():
        assert not torch.allclose(model(wave)[:, 0], model(other)[:, 0], atol=1e-7)


@NETS
def test_gradients_are_finite_and_reach_every_parameter(make: Callable[[], nn.Module]) -> None:
    """In evaluation: a batch norm that learns its mean takes the gradient of the bias before it away."""
    torch.manual_seed(0)
    model = make().eval()
    model(torch.randn(2, 2, 100)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(torch.view_as_real(parameter.grad) if parameter.is_complex() else parameter.grad).all()
        assert parameter.grad.abs().max() > 0, name


@NETS
def test_the_nets_learn(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().train()
    time = torch.arange(200)
    clean = torch.stack([torch.sin(0.3 * time), torch.cos(0.3 * time)])[None]
    noisy = clean + 0.5 * torch.randn(1, 2, 200)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        loss = (model(noisy) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert losses[-1] < (noisy - clean).square().mean().item()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: small(n_fft=36, channels=(2, 2, 2)), "n_fft=36"),
        (lambda: small(channels=()), "0 layers"),
        (lambda: small(channels=(2,) * 6), "6 layers"),
        (lambda: small(heads=5), "5 heads"),
        (lambda: small(window=18), "window of 18"),
        (lambda: small(window=48), "window of 48"),
        (lambda: small(hop=8), "every 8"),
        (lambda: small_table(width=40), "width 40"),
        (lambda: small_table(width=96), "width 96"),
        (lambda: small_table(heads=3), "3 heads"),
        (lambda: small_table(n_fft=36, channels=(4, 4, 4)), "n_fft=36"),
    ],
)
def test_sizes_that_do_not_fit_are_named(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(WorkloadError) as caught:
        make()
    assert words in caught.value.message
    assert caught.value.hint


@NETS
@pytest.mark.parametrize("shape", [(2, 64), (1, 1, 64), (1, 3, 64), (1, 2, 0)])
def test_inputs_that_are_not_binaural_are_named(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    with pytest.raises(WorkloadError) as caught:
        make()(torch.zeros(shape))
    assert str(shape) in caught.value.message
    assert "[B, 2, T]" in caught.value.hint


def test_a_signal_too_short_to_be_reflected_is_named() -> None:
    with pytest.raises(WorkloadError) as caught:
        small()(torch.randn(1, 2, 16))
    assert "16 samples" in caught.value.message
    assert small()(torch.randn(1, 2, 17)).shape == (1, 2, 17)
