"""Streaming Conv-TasNet against its specification: sizes, formulas, causality, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import workloads
from workloads.errors import WorkloadError
from workloads.graph import OperatorKind
from workloads.models.conv_tasnet import Block, ConvTasNet, ConvTasNetConfig, Decoder, Encoder, Separator, conv_tasnet
from workloads.scaling import family
from workloads.trace import trace


def weights(module: nn.Module) -> int:
    """Parameters without the slopes of PReLU."""
    slopes = sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.PReLU))
    return sum(p.numel() for p in module.parameters() if p.requires_grad) - slopes


def snr_db(signal: torch.Tensor, estimate: torch.Tensor) -> float:
    return 10 * torch.log10(signal.square().sum() / (signal - estimate).square().sum()).item()


def small(**sizes: int) -> ConvTasNet:
    return conv_tasnet(**({"filters": 12, "bottleneck": 8, "hidden": 10, "blocks": 3, "repeats": 2} | sizes))


def test_the_constants_are_those_of_the_specification() -> None:
    config = ConvTasNetConfig()
    assert (config.frame, config.hop, config.stride) == (320, 160, 16)
    assert config.frame % (config.kernel // 2) == 0
    assert config.hop <= config.frame
    assert config.hop % (config.kernel // 2) == 0
    assert ConvTasNetConfig(kernel=20).stride == 10  # the specification's other choice
    assert config.dilations == (1, 2, 4, 8, 16, 32) * 3


def test_parameters_are_those_of_the_specifications_formulas() -> None:
    n, b, h, taps, blocks, repeats, sources, kernel = 64, 64, 64, 3, 6, 3, 2, 32
    block = b * h + h * taps + h * b + h * b  # expand, depthwise, residual, skip
    assert weights(Block(b, h, taps, 4)) == block == 12_480
    separator = n * b + blocks * repeats * block + b * n * sources
    assert weights(Separator(ConvTasNetConfig())) == separator
    model = ConvTasNet()
    assert weights(model) == n * kernel + separator + n * kernel == 241_024
    assert sum(p.numel() for p in model.parameters()) == 241_024 + 36
    assert 200_000 <= weights(model) <= 260_000


def test_macs_are_those_counted_by_hand() -> None:
    graph, config = workloads.load("conv-tasnet"), ConvTasNetConfig()
    frames = (16_000 - config.kernel) // config.stride + 1
    once = 241_024 - 64 * 32  # every weight but the decoder's meets every frame once, the decoder's once a source
    expected = frames * (once + config.sources * 64 * 32)
    assert sum(layer.macs for layer in graph.layers if layer.kind is OperatorKind.CONV) == expected == 242_828_928
    assert not graph.refused


def test_its_work_at_any_whole_number_of_strides_follows_from_three_lengths() -> None:
    workload = family("conv-tasnet")
    for length in (16 * 801, 64_000):
        assert not any(workload.check(length=length).values())
    frames = 64_000 // 16 - 1
    matrix = sum(layer.macs for layer in workload.at(seconds=4).layers if layer.kind is OperatorKind.CONV)
    assert matrix == frames * (241_024 + 64 * 32)


@pytest.mark.parametrize(
    ("length", "kernel", "stride", "dilation", "pad"),
    [(16_000, 32, 16, 1, 0), (16_007, 20, 10, 1, 3), (999, 3, 1, 32, 64)],
)
def test_a_convolution_is_as_long_as_the_specification_says(
    length: int, kernel: int, stride: int, dilation: int, pad: int
) -> None:
    conv = nn.Conv1d(1, 1, kernel, stride, pad, dilation)
    expected = (length + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
    assert conv(torch.zeros(1, 1, length)).shape[-1] == expected


@pytest.mark.parametrize("dilation", [1, 2, 4, 8])
def test_a_block_keeps_its_shape_and_reads_nothing_of_the_future(dilation: int) -> None:
    torch.manual_seed(0)
    block, x = Block(8, 10, 3, dilation), torch.randn(2, 8, 50)
    residual, skip = block(x)
    assert residual.shape == skip.shape == x.shape
    changed = x.clone()
    changed[..., 30] += 1
    for before, after in zip((residual, skip), block(changed), strict=True):
        moved = (before != after).any(dim=1).any(dim=0).nonzero().flatten().tolist()
        assert moved == [30 + tap * dilation for tap in range(3) if 30 + tap * dilation < 50]


def test_a_block_is_the_sum_that_its_formula_says() -> None:
    torch.manual_seed(1)
    block = Block(2, 3, 3, 2).double()
    x = torch.randn(1, 2, 9, dtype=torch.float64)

    def prelu(value: torch.Tensor) -> torch.Tensor:
        return torch.where(value > 0, value, 0.25 * value)

    hidden = prelu(block.expand[0].weight[:, :, 0] @ x[0])
    taps = block.depthwise[0].weight[:, 0]
    causal = torch.zeros_like(hidden)
    for frame in range(9):
        for tap in range(3):
            if frame - 2 * (2 - tap) >= 0:
                causal[:, frame] += taps[:, tap] * hidden[:, frame - 2 * (2 - tap)]
    causal = prelu(causal)
    residual, skip = block(x)
    torch.testing.assert_close(residual[0], x[0] + block.residual.weight[:, :, 0] @ causal)
    torch.testing.assert_close(skip[0], block.skip.weight[:, :, 0] @ causal)


def test_shapes_and_masks() -> None:
    torch.manual_seed(0)
    model, mix = ConvTasNet().eval(), torch.randn(2, 1, 16_000)
    with torch.no_grad():
        masks = model.separator(model.encoder(mix))
        assert masks.shape == (2, 2, 64, 999)
        assert masks.min() > 0
        assert masks.max() < 1
        assert masks.std() < 0.3  # not saturated before training, though no norm holds the sums
        assert model(mix).shape == (2, 2, 16_000)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 47, 48, 1000, 1001])
def test_any_length_comes_back(length: int) -> None:
    torch.manual_seed(0)
    model, mix = small(sources=3).eval(), torch.randn(2, 1, length)
    with torch.no_grad():
        out = model(mix)
        longer = model(nn.functional.pad(mix, (0, 40)))[..., :length]
    assert out.shape == (2, 3, length)
    torch.testing.assert_close(out[..., : length - 31], longer[..., : length - 31])  # all but what a zero pads


def test_the_output_looks_one_kernel_ahead_and_a_receptive_field_back() -> None:
    torch.manual_seed(0)
    model = small().eval().double()
    config = model.config
    mix = torch.randn(1, 1, 2000, dtype=torch.float64)
    with torch.no_grad():
        for place in (0, 15, 16, 1000, 1007, 1999):
            changed = mix.clone()
            changed[..., place] += 1
            moved = (model(mix) != model(changed)).any(dim=1)[0].nonzero().flatten()
            first_frame = max(0, -(-(place - config.kernel + 1) // config.stride))
            assert first_frame * config.stride <= moved.min() <= place
            last = place // config.stride * config.stride + config.receptive_field
            assert moved.max() < min(last, 2000)
            assert moved.max() > min(last, 2000) - 2 * config.stride - 1  # the field is reached


def test_matrix_and_convolution_form_of_the_filterbank_agree() -> None:
    torch.manual_seed(0)
    encoder, decoder, wave = Encoder(12, 32), Decoder(12, 32), torch.randn(3, 1, 320)
    features = encoder(wave)
    torch.testing.assert_close(encoder.of_frames(wave.unfold(-1, 32, 16)), features)
    frames, expected = decoder.to_frames(features), torch.zeros(3, 320)
    for index in range(frames.shape[1]):
        expected[:, 16 * index : 16 * index + 32] += frames[:, index]
    torch.testing.assert_close(decoder(features)[:, 0], expected)


def test_the_filterbank_learns_to_reconstruct() -> None:
    """Random filters stay around 0 dB; the pair, trained on noise alone, takes noise and tones apart and together."""
    torch.manual_seed(0)
    encoder, decoder = Encoder(64, 32), Decoder(64, 32)
    noise = torch.randn(1, 1, 16_000)
    sine = torch.sin(2 * torch.pi * 1000 / 16_000 * torch.arange(16_000))[None, None]
    assert snr_db(noise, decoder(encoder(noise))) < 5
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2000)
    for _ in range(2000):
        wave = torch.randn(4, 1, 1024)
        loss = (decoder(encoder(wave)) - wave).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        for signal in (noise, sine):
            assert snr_db(signal, decoder(encoder(signal))) > 30


def test_training_lowers_the_loss_and_reaches_every_weight_but_the_last_residual() -> None:
    torch.manual_seed(0)
    model = small()
    sources = torch.randn(4, 2, 640) * torch.tensor([[1.0], [0.3]])
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=3e-3), []
    for _ in range(20):
        loss = (model(sources.sum(1, keepdim=True)) - sources).square().mean()
        optimizer.zero_grad()
        loss.backward()
        idle = {name for name, p in model.named_parameters() if p.grad is None or not (p.grad != 0).any()}
        assert idle == {"separator.blocks.5.residual.weight"}  # nothing reads the last block's residual
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_it_traces_whole_on_the_meta_device() -> None:
    with torch.device("meta"):
        model, mix = small().eval(), torch.empty(2, 1, 1000)
    graph = trace(model, (mix,), name="conv-tasnet")
    assert not graph.refused
    assert graph.layers[-1].output_shape[0] == 4  # batch x sources leave the decoder
    assert graph.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        ({"kernel": 31}, "kernel 31"),
        ({"kernel": 64, "hop_ms": 11}, "hop_ms 11 is 176"),
        ({"sample_rate": 44_100, "frame_ms": 21}, "926.1 samples"),
        ({"hop_ms": 30}, "hop_ms 30"),
        ({"repeats": 0}, "repeats is 0"),
        ({"filters": True}, "filters is True"),
        ({"sources": 2.0}, "sources is 2.0"),
    ],
)
def test_sizes_that_do_not_fit_are_named(sizes: dict[str, int], names: str) -> None:
    with pytest.raises(WorkloadError, match=names) as caught:
        ConvTasNetConfig(**sizes)
    assert caught.value.hint


@pytest.mark.parametrize("shape", [(1, 16_000), (1, 2, 16_000), (1, 1, 0)])
def test_inputs_that_do_not_fit_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(WorkloadError, match="ConvTasNet got an input"):
        small()(torch.zeros(shape))
