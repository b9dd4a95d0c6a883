"""Every entry of the catalogue, weights and all, on a processor: it answers, and it trains.

Nets run at their full width and depth, audio nets on a short signal. Two arguments are changed, which set how much is
computed and not what: HTDemucs does not pad a short signal to its segment, and the larger video nets look at 32 x 32
pixels, 4 patches a frame, instead of 224 x 224.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import workloads
from workloads.catalog import Entry
from workloads.factory import resolve

SHIPPED = [name for name in workloads.names() if workloads.entry(name).factory.startswith("workloads.")]

SECONDS = {"htdemucs": 0.1, "mossformer2": 0.05, "conv-tasnet": 0.1, "bcctn": 0.05}
"""Length of the signal, by how the name of a model begins."""

CHANGES: dict[str, dict[str, Any]] = {
    "htdemucs": {"use_train_segment": False},
    "videovit-small": {"img_size": 32},
    "videovit-base": {"img_size": 32},
    "videoaudioast-small": {"img_size": 32},
    "videoaudioast-base": {"img_size": 32},
}
"""Arguments changed, by how the name begins."""

ANSWERS = {  # by how the name begins: the output's shape behind the batch; T is the signal's length
    "htdemucs": (4, 2, "T"),
    "mossformer2": (2, "T"),
    "conv-tasnet": (2, "T"),
    "bcctn": (2, "T"),
    "resnet": (1000,),
    "vit_b_16": (1000,),
    "videovit-tiny": (6,),
    "videovit": (101,),
    "videoaudioast-tiny": (6,),
    "videoaudioast": (101,),
}

UNTRAINED = {
    "conv-tasnet": {"separator.blocks.17.residual.weight"},  # the last block's residual, which nothing reads: the
    # specification counts it, and has no block after it
    "mossformer2": {"mask_net.stack.rotary.frequencies"},  # fixed angles, a parameter only because the release's is
}
"""Parameters without a gradient, each with the reason in the architecture; all others must have one."""

CHEAP = ("conv-tasnet", "bcctn-table", "resnet18", "videovit-tiny", "videoaudioast-tiny")
"""Nets that take more than one step here."""


def of(table: dict[str, Any], name: str, otherwise: Any = None) -> Any:
    """Return the row of the longest key that `name` begins with."""
    return max(((len(key), value) for key, value in table.items() if name.startswith(key)), default=(0, otherwise))[1]


def short(entry: Entry) -> tuple[tuple[int, ...], ...]:
    """Shapes of the entry's inputs, its length axis cut to SECONDS and images to the changed size."""
    shapes = [list(shape) for shape, _ in entry.inputs]
    if entry.length is not None:
        samples = of(SECONDS, entry.name) * entry.length.per_second
        shapes[entry.length.input][entry.length.dim] = math.ceil(samples)
    if (size := of(CHANGES, entry.name, {}).get("img_size")) is not None:
        shapes[0][-2:] = size, size
    return tuple(map(tuple, shapes))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def built(name: str) -> tuple[nn.Module, list[Tensor]]:
    entry = workloads.entry(name)
    module: nn.Module = resolve(entry.factory)(**{**entry.kwargs, **of(CHANGES, name, {})})
    return module, [torch.randn(shape) for shape in short(entry)]


def parts(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def test_the_tables_name_what_there_is() -> None:
    for table in (SECONDS, CHANGES, ANSWERS, UNTRAINED):
        assert not [key for key in table if not any(name.startswith(key) for name in SHIPPED)]
    assert set(CHEAP) <= set(SHIPPED)
    assert not [name for name in SHIPPED if of(ANSWERS, name) is None], "say what shape a new model answers with"


@pytest.mark.parametrize("name", SHIPPED)
def test_it_answers_and_takes_a_training_step(name: str) -> None:
    module, inputs = built(name)
    shape = tuple(inputs[0].shape[-1] if size == "T" else size for size in of(ANSWERS, name))
    with torch.no_grad():
        answer = module.eval()(*inputs)
    assert answer.shape == (1, *shape)
    assert torch.isfinite(answer).all()

    module.train()
    target = 0.1 * torch.randn(answer.shape)
    steps = 6 if name in CHEAP else 1
    optimizer, losses = torch.optim.SGD(module.parameters(), lr=1e-2), []
    for _ in range(steps):
        loss = (module(*inputs) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        without = {key for key, parameter in module.named_parameters() if parameter.grad is None}
        assert without == of(UNTRAINED, name, set())
        wrong = [
            key
            for key, parameter in module.named_parameters()
            if parameter.grad is not None and not torch.isfinite(parts(parameter.grad)).all()
        ]
        assert not wrong
        optimizer.step()
    assert all(map(math.isfinite, losses))
    assert all(torch.isfinite(parts(parameter)).all() for parameter in module.parameters())
    if steps > 1:
        assert losses[-1] < losses[0]


def test_inputs_are_the_entry_s_own_but_for_their_length_and_the_image() -> None:
    for name in SHIPPED:
        entry = workloads.entry(name)
        for ours, (theirs, _) in zip(short(entry), entry.inputs, strict=True):
            assert len(ours) == len(theirs)
            assert all(one <= other for one, other in zip(ours, theirs, strict=True))
            assert ours == theirs or entry.length is not None or "img_size" in of(CHANGES, name, {})
