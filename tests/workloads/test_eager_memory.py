"""Memory of an eager inference: what is worked out on fake tensors is what torch's allocator gives out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from workloads import catalog, eager_memory, peak_memory, trace
from workloads.errors import WorkloadError
from workloads.factory import build


def allocated(module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Bytes at the peak of a real forward pass: weights, buffers, inputs, and the allocator's on top of them."""
    with torch.no_grad():
        module.eval()(*inputs)
        with torch.autograd.profiler.profile(use_kineto=True, profile_memory=True) as profile:
            made = module(*inputs)
    del made
    held = {t.untyped_storage().data_ptr(): t for t in [*module.parameters(), *module.buffers(), *inputs]}
    live = peak = sum(t.untyped_storage().nbytes() for t in held.values())
    assert profile.kineto_results is not None
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("name", ["videovit-tiny", "videoaudioast-tiny", "resnet18", "conv-tasnet", "bcctn-table"])
def test_a_model_of_the_catalogue_takes_what_is_said(name: str) -> None:
    entry = catalog.entry(name)
    module, inputs = build(entry.factory, entry.inputs, kwargs=entry.kwargs)
    inputs = tuple(torch.randn_like(t) for t in inputs)
    assert eager_memory(module, inputs).bytes == pytest.approx(allocated(module, inputs), rel=0.05)


class Residual(nn.Module):
    """The caller holds the input of a block while the block runs."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(10, 1000)

    def double(self, x: Tensor) -> Tensor:
        x = x * 2.0
        return x + 1.0

    def forward(self, x: Tensor) -> Tensor:
        y = x + 1.0
        return self.double(y)


def test_what_a_caller_holds_and_what_nobody_reads_is_counted() -> None:
    x = torch.zeros(1000, 250)  # 1 MB
    found = eager_memory(Residual(), x)
    assert found.activation_bytes == 4_000_000  # x; y, which forward still names; its double; the sum
    assert found.weight_bytes == 4 * (10 * 1000 + 1000)
    least = peak_memory(trace(Residual(), (x,), cache=False))
    assert least.activation_bytes == 2_000_000
    assert least.weight_bytes == 0


def test_copies_of_kernels_are_those_of_a_processor() -> None:
    x, module = torch.zeros(1, 64, 100, 100), nn.Conv2d(64, 64, 3, padding=1)
    tensors = 2 * 4 * x.numel()
    assert eager_memory(module, x, workspaces=False).activation_bytes == tensors
    assert eager_memory(module, x).activation_bytes > 1.4 * tensors


def test_the_model_is_left_as_found_and_one_that_does_not_run_is_refused() -> None:
    module = Residual().train()
    eager_memory(module, torch.zeros(2, 2))
    assert module.training
    assert all(parameter.device.type == "cpu" for parameter in module.parameters())
    with pytest.raises(WorkloadError):
        eager_memory(nn.Linear(3, 3), torch.zeros(2, 4))
