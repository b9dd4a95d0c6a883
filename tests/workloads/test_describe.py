"""What is said of a model from its stored graph alone: no torch, and the same as the model itself says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from workloads import catalog
from workloads.describe import describe_entry
from workloads.factory import build
from workloads.models.conv_tasnet import ConvTasNet
from workloads.streaming import latency

STREAMING = [name for name in catalog.names() if catalog.entry(name).streaming]


@pytest.mark.parametrize("name", STREAMING)
def test_the_latency_of_the_graph_is_that_of_the_model(name: str) -> None:
    entry = catalog.entry(name)
    model, _ = build(entry.factory, entry.inputs, kwargs=entry.kwargs, device="meta")
    assert isinstance(model, ConvTasNet)
    described = describe_entry(catalog.load(name), entry)
    assert described["streaming"]["algorithmic_latency_ms"] == latency(model).algorithmic_latency_ms
    assert describe_entry(catalog.load(name, mode="train"), entry)["streaming"] is None


def test_a_stored_graph_is_described_without_torch() -> None:
    catalog.load("conv-tasnet")  # now it is stored
    code = (
        "import sys; from workloads import catalog; from workloads.describe import describe_entry;"
        "describe_entry(catalog.load('conv-tasnet'), catalog.entry('conv-tasnet'));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
