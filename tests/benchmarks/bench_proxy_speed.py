"""Predictions of the layer proxy a second: every layer of the catalogue on every chip of the library, on two cores."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

import chiplib
from dse.proxy import LayerHwProxy
from dse.proxy.chips import device_table
from dse.proxy.dataset import read_rows
from dse.proxy.features import features
from dse.proxy.layer_rows import layer_rows
from dse.proxy.predict import shipped
from dse.proxy.specified import traced_layers
from tests.benchmarks.figure import Figure
from workloads import catalog

ROWS, CORES = 1_000_000, 2
NAMES = {"source": "bench", "framework": "vllm-0.24.0", "timer": "cudagraph_mean"}


def measure() -> list[Figure]:
    """Predictions a second with and without working out the features; and one step's cost with gradients."""
    chips = [chip for chip in chiplib.load_library("reference").chips.values() if chip.vendor == "NVIDIA"]
    devices, layers = device_table(chips), pd.concat([layer_rows(catalog.load(name)) for name in catalog.names()])
    layers = layers.iloc[np.random.default_rng(0).integers(len(layers), size=ROWS // len(chips))].reset_index(drop=True)
    pairs = layers.iloc[np.tile(np.arange(len(layers)), len(chips))].reset_index(drop=True)
    rows = read_rows(
        pairs.assign(device=np.repeat(devices.index, len(layers)), **NAMES), devices=devices, measured=False
    )
    proxy = shipped()
    before = torch.get_num_threads()
    torch.set_num_threads(CORES)
    try:
        found = features(rows, devices)
        proxy.log_latency(found[:20_000])
        latency_s = _seconds(lambda: proxy.log_latency(found))
        everything_s = _seconds(lambda: proxy.predict(features(rows, devices)))
        step_s = _step_s()
    finally:
        torch.set_num_threads(before)
    note = f"{len(rows):,} rows: layers of the catalogue on {len(chips)} chips; {CORES} threads"
    return [
        Figure(
            figure="layer proxy, latencies a second",
            goal=1_000_000.0,
            measured=len(rows) / latency_s,
            unit="a second",
            note=note,
        ),
        Figure(
            figure="layer proxy, from rows to latency with interval, power and memory",
            goal=None,
            measured=len(rows) / everything_s,
            unit="a second",
            note=note,
        ),
        Figure(
            figure="layer proxy, one batched call with gradients",
            goal=None,
            measured=1e3 * step_s,
            unit="ms",
            higher_is_better=False,
            note="all layers of VideoViT base on 16 slots, by FLOPs and bytes of layers and rates of slots",
        ),
    ]


def _step_s() -> float:
    """Seconds of a call and its gradients, once the fixed part is worked out, as in a training step."""
    slots = 16
    rates = {"peak_flops": 1e14, "peak_bw": 1e12, "tdp_w": 300.0}
    device = {name: torch.full((slots,), value, dtype=torch.float64) for name, value in rates.items()}
    layer = traced_layers(catalog.load("videovit-base"))
    gate = torch.ones((), dtype=torch.float64, requires_grad=True)
    mix = torch.ones((), dtype=torch.float64, requires_grad=True)
    proxy = LayerHwProxy()

    def step() -> None:
        layers = layer | {name: layer[name] * gate for name in ("flops", "bytes")}
        chip = {name: value * mix for name, value in device.items()}
        torch.autograd.grad(proxy.predict_segment({"layers": layers, "device": chip})["lat_ms"].sum(), (gate, mix))

    step()
    return _seconds(step)


def _seconds(call: Callable[[], object]) -> float:
    """Least wall time of three calls."""
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best
