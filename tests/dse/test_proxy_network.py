"""What the layer proxy holds by construction: for any weights, not only for fitted ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.proxy.features import ALIGNMENT, RATES, WORK, Features, features
from dse.proxy.fit import inputs_of
from dse.proxy.network import LayerProxyModel, Scales
from dse.proxy.vocabulary import Vocabulary
from tests.dse.proxy_rows import SHAPES_OF, chips, completed, operators

COUNT = 60


def network(found: Features, seed: int, wild: float = 1.0) -> tuple[LayerProxyModel, Vocabulary]:
    """A network of random weights, some of them far from those that fits start with."""
    torch.manual_seed(seed)
    vocabulary = Vocabulary.of(found)
    scales = Scales(
        work_mean=torch.from_numpy(found.work.mean(0)),
        work_spread=torch.from_numpy(found.work.std(0) + 0.01),
        rates_mean=torch.from_numpy(found.rates.mean(0)),
    )
    model = LayerProxyModel(vocabulary.sizes, scales)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += wild * torch.randn_like(parameter) * parameter.abs().mean()
    return model.double().eval(), vocabulary


def log_ms(
    model: LayerProxyModel,
    vocabulary: Vocabulary,
    rows: pd.DataFrame,
    devices: pd.DataFrame,
    *,
    physics: bool = True,
) -> np.ndarray:
    x = inputs_of(features(rows, devices), vocabulary)
    x = replace(x, **{name: getattr(x, name).double() for name in ("work", "shape_class", "rates", "floor")})
    if not physics:
        x = replace(x, floor=torch.full_like(x.floor, -50.0))
    with torch.no_grad():
        return model(x).numpy()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    factor=st.floats(1.01, 30),
    column=st.sampled_from(["peak", "bandwidth", "vector", "power", "cache"]),
)
def test_a_better_chip_never_slows_a_layer(seed: int, factor: float, column: str) -> None:
    devices = chips(seed)
    rows = operators(COUNT, seed, list(devices.index))
    model, vocabulary = network(features(rows, devices), seed)
    raised = devices.copy()
    named = {"peak": ["peak_fp16_tensor_tflops"], "bandwidth": ["peak_bw_gbs"], "vector": ["peak_fp32_tflops"]}
    for name in named.get(column, ["tdp_w"] if column == "power" else ["l2_mb"]):
        raised[name] *= factor
    before, after = log_ms(model, vocabulary, rows, devices), log_ms(model, vocabulary, rows, raised)
    assert (after <= before + 1e-5).all()  # features are float32


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), times=st.integers(2, 9))
def test_more_work_of_the_same_class_never_takes_less_time(seed: int, times: int) -> None:
    """Every size that is no part of the class grows: rows, tokens, images, sequences, heads (with their keys)."""
    devices = chips(seed)
    rows = operators(COUNT, seed, list(devices.index))
    model, vocabulary = network(features(rows, devices), seed)
    before = log_ms(model, vocabulary, rows, devices)
    for column in ("m", "batch", "rows", "seq_q", "seq_kv", "hout", "heads"):
        more = rows.copy()
        grown = more["op_type"].map(lambda kind, name=column: name in SHAPES_OF[kind])
        more.loc[grown, column] *= times
        if column == "heads":
            more.loc[grown, "kv_heads"] *= times
        after = log_ms(model, vocabulary, completed(more), devices)
        assert (after >= before - 1e-5).all(), column


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), times=st.integers(2, 1000))
def test_a_layer_takes_no_longer_than_its_parts_would(seed: int, times: int) -> None:
    """Rows, tokens, images and queries, beyond the data, too; but for a cache that holds the parts and not all."""
    devices = chips(seed).assign(l2_mb=0.0)
    rows = operators(COUNT, seed, list(devices.index))
    model, vocabulary = network(features(rows, devices), seed)
    before = log_ms(model, vocabulary, rows, devices, physics=False)
    for column in ("m", "batch", "rows", "seq_q"):
        more = rows.copy()
        grown = more["op_type"].map(lambda kind, name=column: name in SHAPES_OF[kind]).to_numpy()
        more.loc[grown, column] *= times
        after = log_ms(model, vocabulary, completed(more), devices, physics=False)
        assert (after <= before + np.log(times) + 1e-4).all(), column


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), times=st.integers(2, 5))
def test_wider_layers_of_the_same_alignment_never_take_less_time(seed: int, times: int) -> None:
    devices = chips(seed)
    rows = operators(COUNT, seed, list(devices.index))
    for column in ("n", "k", "cols", "cin", "cout"):
        rows[column] = (
            np.maximum(rows[column] // ALIGNMENT, 1) * ALIGNMENT if column in rows else np.nan
        )  # as aligned as it counts
    rows = completed(rows)
    model, vocabulary = network(features(rows, devices), seed)
    before = log_ms(model, vocabulary, rows, devices)
    for column in ("n", "k", "cols", "cout", "cin"):
        after = log_ms(model, vocabulary, completed(rows.assign(**{column: rows[column] * times})), devices)
        assert (after >= before - 1e-5).all(), column


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_no_prediction_beats_physics(seed: int) -> None:
    devices = chips(seed)
    rows = operators(COUNT, seed, list(devices.index))
    model, vocabulary = network(features(rows, devices), seed, wild=5.0)
    of_row = devices.loc[rows["device"]]
    wide = rows["dtype"].eq("fp32").to_numpy() | rows["compute_dtype"].eq("fp32").to_numpy()
    peak = np.where(wide, of_row["peak_fp32_tflops"], of_row["peak_fp16_tensor_tflops"]) * 1e9  # FLOP/ms
    winograd = np.where(rows["op_type"] == "conv2d", 2.25, 1.0)
    from_dram = (rows["bytes"].to_numpy() - of_row["l2_mb"].to_numpy() * 1e6) / (of_row["peak_bw_gbs"].to_numpy() * 1e6)
    least = np.maximum(rows["flops"].to_numpy() / peak / winograd, from_dram)
    assert (np.exp(log_ms(model, vocabulary, rows, devices)) >= least * (1 - 1e-5)).all()


@pytest.mark.parametrize("seed", range(3))
def test_gradients_agree_with_finite_differences(seed: int) -> None:
    """In layer features and in chip features, which hardware feedback follows."""
    devices = chips(seed)
    rows = operators(20, seed, list(devices.index))
    model, vocabulary = network(features(rows, devices), seed, wild=0.3)
    x = inputs_of(features(rows, devices), vocabulary)
    x = replace(x, **{name: getattr(x, name).double() for name in ("work", "shape_class", "rates", "floor")})
    x = replace(x, floor=torch.full_like(x.floor, -50.0))  # away from its kink

    def total(work: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
        return model(replace(x, work=work, rates=rates)).exp()

    inputs = (x.work.clone().requires_grad_(), x.rates.clone().requires_grad_())
    assert torch.autograd.gradcheck(total, inputs, eps=1e-6, atol=1e-6, rtol=1e-4)
    slowest = torch.autograd.grad(model(replace(x, work=inputs[0], rates=inputs[1])).sum(), inputs)
    assert (slowest[0] >= 0).all() and slowest[0].shape[1] == len(WORK)
    assert (slowest[1] <= 0).all() and slowest[1].shape[1] == len(RATES)
