"""A whole model as the sum of its layers: what the layer proxy says of its latency, power and memory on a device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dse.proxy.dataset import read_rows
from dse.proxy.features import features
from dse.proxy.layer_rows import layer_rows
from dse.proxy.predict import LayerProxy
from workloads.graph import WorkloadGraph

Array = NDArray[np.float64]

FUSIBLE = ("elementwise", "layernorm", "copy")
"""Kinds of operator that compilers run inside of the kernel before, or behind, and that eager PyTorch runs alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a prediction speaks for, as the measurements name it."""

    device: str  # of the device table
    framework: str
    timer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KindShare:
    """What layers of one kind of operator take."""

    share: float  # of the time
    rooflines: float  # times their roofline


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeModel:
    """What the layer proxy says of one forward pass, its layers one after another."""

    layers: int
    latency_ms: float
    low_ms: float  # 90 % interval
    high_ms: float
    power_w: float  # mean over the time; NaN where the proxy has none
    fused_ms: float  # without the layers that a compiler may fuse with their neighbours
    outside: float  # share of the time in layers that nothing like was fitted
    roofline_ms: float  # of its layers: operations at the peak of their units, or bytes at the bandwidth
    by_kind: dict[str, KindShare]  # largest share first


def predict_model(graph: WorkloadGraph, devices: pd.DataFrame, setting: Setting, proxy: LayerProxy) -> WholeModel:
    """Predict the forward pass of a traced graph on a device of the device table.

    Errors of layers of one kind of operator are taken to go the same way, those of different kinds to be independent:
    the half width is the root of the sum over kinds of the square of their layers' half widths together.

    Raises DseError where the graph has operators or number types that the tidy schema does not know.
    """
    rows = layer_rows(graph)
    names = {"source": graph.name, "device": setting.device, "framework": setting.framework, "timer": setting.timer}
    tidy = read_rows(rows.assign(**names), devices=devices, measured=False)
    told = features(tidy, devices)
    found = proxy.predict(told)
    columns = {"time": found.latency_ms, "roofline": np.exp(told.terms.astype(np.float64)).max(axis=1)}
    columns |= {"below": found.latency_ms - found.low_ms, "above": found.high_ms - found.latency_ms}
    kind = tidy["op_type"].astype(object).to_numpy()
    kinds = pd.DataFrame(columns).groupby(kind).sum().sort_values("time", ascending=False)
    total = float(found.latency_ms.sum())
    below, above = np.sqrt((kinds[["below", "above"]] ** 2).sum())
    return WholeModel(
        layers=len(tidy),
        latency_ms=total,
        low_ms=total - float(below),
        high_ms=total + float(above),
        power_w=float((found.power_w * found.latency_ms).sum() / total),
        fused_ms=float(found.latency_ms[~np.isin(kind, FUSIBLE)].sum()),
        outside=float(found.latency_ms[found.outside > 0].sum() / total),
        roofline_ms=float(kinds["roofline"].sum()),
        by_kind={
            str(kind): KindShare(share=float(time) / total, rooflines=float(time) / float(roofline))
            for kind, time, roofline in zip(kinds.index, kinds["time"], kinds["roofline"], strict=True)
        },
    )
