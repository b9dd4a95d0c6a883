"""Splits of the segments of every family of the catalogue: members on a team compute what the segment computes."""

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

import workloads
from dse.mapped_model.model import draw_zeros
from tests.workloads.sharding_help import check, cut
from workloads.factory import resolve
from workloads.models.bcctn import BCCTN, BCCTNTable
from workloads.models.conv_tasnet import conv_tasnet
from workloads.models.htdemucs import HTDemucs
from workloads.models.htdemucs_n import HTDemucsN
from workloads.models.mossformer2 import MossFormer2
from workloads.models.resnet import ResNet
from workloads.models.vit import ViT
from workloads.sharding import Way

SMALL: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]], int]] = {
    "conv-tasnet": (
        lambda: conv_tasnet(filters=16, bottleneck=8, hidden=16, blocks=3, repeats=1),
        [(1, 1, 512)],
        5,
    ),
    "bcctn": (
        lambda: BCCTN(channels=(2, 4, 8), n_fft=64, window=64, hop=16, heads=4),
        [(1, 2, 1024)],
        20,
    ),
    "bcctn-table": (
        lambda: BCCTNTable(channels=(4, 8, 8), n_fft=64, window=64, hop=16, width=64, attention_width=32, heads=4),
        [(1, 2, 1072)],
        16,
    ),
    "htdemucs": (
        lambda: HTDemucs(channels=8, nfft=512, depth=2, t_layers=2, t_heads=4, norm_starts=1, use_train_segment=False),
        [(1, 2, 4096)],
        20,
    ),
    "htdemucs_n": (
        lambda: HTDemucsN(
            channels=8,
            depth=2,
            n_ffts=(128, 256),
            resolution_channels=16,
            resunet_channels=16,
            t_layers=1,
            t_heads=4,
            t_head_dim=8,
            use_train_segment=False,
        ),
        [(1, 2, 4096)],
        20,
    ),
    "mossformer2": (
        lambda: MossFormer2(
            layers=1,
            embedding_dim=16,
            sequence_dim=16,
            bottleneck_dim=16,
            query_key_dim=8,
            group=16,
            fsmn_order=3,
        ),
        [(1, 1024)],
        9,
    ),
    "resnet": (lambda: ResNet((1, 1, 1, 1), bottleneck=True, classes=12), [(1, 3, 64, 64)], 4),
    "vit": (
        lambda: draw_zeros(ViT(image=32, patch=8, dim=32, depth=2, heads=4, hidden=64, classes=12)),  # its head
        [(1, 3, 32, 32)],
        7,
    ),
    "videovit": (lambda: _shipped("videovit-tiny", depth=1, num_classes=12), [(1, 4, 3, 32, 32)], 4),
    "videoaudioast": (
        lambda: _shipped("videoaudioast-tiny", depth=1, num_classes=12),
        [(1, 4, 3, 32, 32), (1, 4, 64)],
        9,
    ),
}
"""Family -> a small net, its inputs, and layers of a segment."""


def _shipped(name: str, **changes: Any) -> nn.Module:
    entry = workloads.entry(name)
    module: nn.Module = resolve(entry.factory)(**{**entry.kwargs, **changes})
    return module


def _double(module: nn.Module) -> nn.Module:
    module.double()
    for parameter in module.parameters():
        if parameter.is_complex():
            parameter.data = parameter.data.to(torch.complex128)
    return module


def test_every_family_of_the_catalogue_is_here() -> None:
    made = {type(module()).__name__ for module, *_ in SMALL.values()}
    for name in workloads.names():
        factory = workloads.entry(name).factory
        if factory.startswith("workloads."):
            with torch.device("meta"):
                assert type(resolve(factory)(**workloads.entry(name).kwargs)).__name__ in made


@pytest.mark.parametrize("family", SMALL)
def test_members_compute_what_the_segment_computes(family: str) -> None:
    torch.manual_seed(0)
    module, shapes, size = SMALL[family]
    inputs: list[Tensor] = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    model = cut(_double(module()), *inputs, segment_size=size)
    flops = model.segments.graph.flops
    for groups in (2, 4):
        splittable = 0.0
        for segment in model.segments:
            splits = [model.splitter.split(segment.id, groups=groups, way=way) for way in get_args(Way)]
            splits.append(model.splitter.split(segment.id, groups=groups, way="channels", permute_seed=7))
            for split in splits:
                if split.valid:
                    check(model, split)
                else:
                    assert not split.members and not split.outputs
            splittable += segment.flops * any(split.valid for split in splits)
        assert splittable > 0.9 * flops
