"""The models against published sizes, and that they run, train and export."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from workloads.errors import WorkloadError
from workloads.models.htdemucs import HTDemucs
from workloads.models.htdemucs_transformer import Attention, sinusoid_1d, sinusoid_2d
from workloads.models.resnet import ResNet, resnet18, resnet50
from workloads.models.vit import ViT, vit_b_16
from workloads.trace import trace


def released_htdemucs() -> HTDemucs:
    return HTDemucs(dconv_mode=3, bottom_channels=512)


def small_htdemucs(**changes: object) -> HTDemucs:
    sizes = {"channels": 8, "nfft": 2048, "depth": 3, "t_layers": 2, "t_heads": 2, "samplerate": 8000, "segment_s": 1.0}
    return HTDemucs(**(sizes | changes))  # type: ignore[arg-type]


PARAMETERS = [
    (HTDemucs, 26_899_536),  # class defaults of the authors' release
    (released_htdemucs, 41_984_456),  # the released weights
    (resnet18, 11_689_512),  # torchvision's weight metadata, as the next two
    (resnet50, 25_557_032),
    (vit_b_16, 86_567_656),
]


@pytest.mark.parametrize(("factory", "parameters"), PARAMETERS)
def test_parameters_are_those_published(factory: Callable[[], nn.Module], parameters: int) -> None:
    with torch.device("meta"):
        model = factory()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


GMACS = [  # convolution, linear, attention at the input shape
    (HTDemucs, (1, 2, 441_000), (73.03, 45.75, 52.48)),
    (resnet18, (1, 3, 224, 224), (1.814, 0.001, 0.0)),
    (resnet50, (1, 3, 224, 224), (4.087, 0.002, 0.0)),  # 4.089 in torchvision's metadata
    (vit_b_16, (1, 3, 224, 224), (0.116, 16.733, 0.715)),  # 17.564
]


@pytest.mark.parametrize(("factory", "shape", "expected"), GMACS)
def test_macs_are_those_published(
    factory: Callable[[], nn.Module], shape: tuple[int, ...], expected: tuple[float, float, float]
) -> None:
    with torch.device("meta"):
        model, example = factory().eval(), torch.empty(shape)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(example)
    counts = {str(operator): flops / 2e9 for operator, flops in counter.get_flop_counts()["Global"].items()}
    attention = counts.pop("aten._scaled_dot_product_flash_attention", 0.0) + counts.pop("aten.bmm", 0.0)
    found = counts.pop("aten.convolution", 0.0), counts.pop("aten.addmm", 0.0), attention
    assert found == pytest.approx(expected, abs=0.005)
    assert not counts


def test_htdemucs_counts_over_two_seconds_are_those_of_the_official_net() -> None:
    """What fvcore's own handles count, norms included, measured on the authors' implementation."""
    with torch.device("meta"):
        model, mix = HTDemucs(use_train_segment=False).eval(), torch.empty(1, 2, 88_200)
    graph = trace(model, (mix,), name="htdemucs")
    assert sum(layer.macs for layer in graph.layers if layer.counting == "fvcore") == 24_087_643_488
    operators = {layer.operator for layer in graph.layers}
    assert {"aten.stft.default", "aten.fft_irfft.default", "aten.scaled_dot_product_attention.default"} <= operators


OFFICIAL = torch.tensor(  # [source, channel, sample] of the authors' demucs 4.1.0, at AT
    [
        [
            [-0.04424, 0.0282, -0.03518, -0.04398, -0.11878, -0.03678],
            [-0.1258, -0.1084, -0.07058, -0.07838, -0.23668, -0.07183],
        ],
        [[0.12142, 0.0578, 0.17123, 0.17427, 0.07588, 0.17438], [0.16963, 0.09493, 0.16323, 0.16923, 0.25877, 0.17062]],
        [
            [-0.12215, -0.1409, -0.17676, -0.17121, -0.00861, -0.17797],
            [-0.16403, -0.10393, -0.21445, -0.2122, -0.13542, -0.22064],
        ],
        [[0.10327, 0.17948, 0.10614, 0.098, 0.03859, 0.1043], [0.10812, 0.12934, 0.16258, 0.15409, -0.00701, 0.16132]],
    ]
)
AT = [0, 1, 1000, 3500, 6999, 7000]


def test_htdemucs_computes_what_the_official_net_does() -> None:
    """Every parameter set to a cosine of its place; the official net got the same and gave OFFICIAL."""

    def cosine(like: torch.Tensor) -> torch.Tensor:
        return 0.2 * torch.cos(torch.arange(like.numel()) * 1.7 + like.numel()).view(like.shape)

    model = small_htdemucs(dconv_mode=3, bottom_channels=16).eval()
    time = torch.arange(7001)
    mix = torch.stack([torch.sin(0.05 * time) + torch.sin(0.0003 * time * time), torch.cos(0.031 * time)])[None]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(cosine(parameter))
        for module in model.modules():
            if isinstance(module, Attention):  # there one matrix, and one bias, for queries, keys and values
                projections = module.query, module.key, module.value
                for kind in ("weight", "bias"):
                    packed = cosine(torch.cat([getattr(projection, kind) for projection in projections]))
                    for projection, part in zip(projections, packed.chunk(3), strict=True):
                        getattr(projection, kind).copy_(part)
        torch.testing.assert_close(model(mix)[0][..., AT], OFFICIAL, atol=2e-5, rtol=0)


@pytest.mark.parametrize("length", [8000, 8001, 5003, 12345, 300, 1])
@pytest.mark.parametrize("changes", [{}, {"dconv_mode": 3, "bottom_channels": 16}, {"use_train_segment": False}])
def test_htdemucs_separates_a_length_of_any_kind(length: int, changes: dict[str, object]) -> None:
    model = small_htdemucs(**changes).eval()
    with torch.no_grad():
        out = model(torch.randn(2, 2, length))
    assert out.shape == (2, 4, 2, length)
    if length > 1 or "use_train_segment" not in changes:  # a single sample has no standard deviation
        assert torch.isfinite(out).all()


@pytest.mark.parametrize("length", [8000, 8191, 12345])
def test_the_spectrogram_has_an_inverse(length: int) -> None:
    """But for 1.5 hops at the ends, and the Nyquist bin, which a low tone lacks."""
    model = small_htdemucs(sources=("one",))
    wave = torch.sin(torch.arange(length) * 0.05).expand(1, 2, length) * torch.tensor([[[1.0], [0.5]]])
    spectrum = model._spectrogram(wave)
    assert spectrum.shape == (1, 4, 1024, -(-length // 512))
    inner = slice(768, -768)
    torch.testing.assert_close(model._waveform(spectrum, length)[:, 0, :, inner], wave[..., inner], atol=2e-4, rtol=0)


def test_htdemucs_pads_to_its_segment_only_in_evaluation() -> None:
    model, mix = small_htdemucs().eval(), torch.randn(1, 2, 5000)
    with torch.no_grad():
        padded = model(nn.functional.pad(mix, (0, 3000)))[..., :5000]
        torch.testing.assert_close(model(mix), padded)
        assert not torch.allclose(model.train()(mix), padded)


def test_examples_of_a_batch_do_not_mix() -> None:
    model, mix = small_htdemucs(dconv_mode=3).eval(), torch.randn(3, 2, 8000)
    with torch.no_grad():
        alone = torch.cat([model(example[None]) for example in mix])
        torch.testing.assert_close(model(mix), alone, atol=1e-5, rtol=1e-4)


TRAINED = [
    (small_htdemucs, (2, 2, 5003)),
    (lambda: small_htdemucs(dconv_mode=3, bottom_channels=16, norm_starts=1), (2, 2, 5003)),
    (lambda: ResNet((1, 1, 1, 1), bottleneck=True, classes=5), (2, 3, 64, 64)),
    (lambda: ViT(image=32, patch=8, dim=16, depth=2, heads=2, hidden=32, classes=5), (2, 3, 32, 32)),
]


@pytest.mark.parametrize(("factory", "shape"), TRAINED)
def test_training_lowers_the_loss(factory: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = factory().train(), torch.randn(shape)
    target = 0.1 * torch.randn_like(model(x).detach())
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-4), []
    for _ in range(4):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if losses:  # a head that starts at zero sends no gradient back in the first step
            assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
            assert all(
                (p.grad != 0).any() for name, p in model.named_parameters() if "norm" not in name and p.dim() > 1
            )
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[1:]) < losses[0]


@pytest.mark.parametrize(
    ("factory", "shape", "out"),
    [
        (lambda: small_htdemucs(dconv_mode=3, bottom_channels=16), (1, 2, 5003), (1, 4, 2, 5003)),
        (resnet18, (1, 3, 224, 224), (1, 1000)),
        (vit_b_16, (1, 3, 224, 224), (1, 1000)),
    ],
)
def test_exports_on_the_meta_device(
    factory: Callable[[], nn.Module], shape: tuple[int, ...], out: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        model, example = factory().eval(), torch.empty(shape)
    program = torch.export.export(model, (example,), strict=False)
    assert next(iter(program.graph.find_nodes(op="output"))).args[0][0].meta["val"].shape == out


def test_positions_are_the_published_sinusoids() -> None:
    one = sinusoid_1d(5, 8, torch.device("cpu"))
    assert one.shape == (5, 8)
    torch.testing.assert_close(one[3, 1], torch.tensor(3 / 10000 ** (1 / 3)).cos())
    torch.testing.assert_close(one[3, 7], torch.tensor(3 / 10000).sin())
    two = sinusoid_2d(3, 5, 8, torch.device("cpu"))
    assert two.shape == (3, 5, 8)
    torch.testing.assert_close(two[2, 4, 0], torch.tensor(4.0).sin())  # the column
    torch.testing.assert_close(two[2, 4, 7], torch.tensor(2 / 10000**0.5).cos())  # the row


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda: HTDemucs(depth=6), "depth 6"),
        (lambda: HTDemucs(t_heads=7), "7 heads"),
        (lambda: HTDemucs(dconv_comp=1000), "dconv_comp 1000"),
        (lambda: HTDemucs(channels=5, growth=1, t_heads=1, dconv_mode=0), "5 channels"),
        (lambda: HTDemucs()(torch.empty(2, 441_000)), r"\(2, 441000\)"),
        (lambda: ResNet((2, 2), bottleneck=True), r"\[2, 2\]"),
        (lambda: ViT(image=225), "225"),
        (lambda: vit_b_16()(torch.empty(1, 3, 32, 32)), r"\(1, 3, 32, 32\)"),
    ],
)
def test_sizes_that_do_not_fit_are_named(build: Callable[[], object], names: str) -> None:
    with torch.device("meta"), pytest.raises(WorkloadError, match=names) as caught:
        build()
    assert caught.value.hint
