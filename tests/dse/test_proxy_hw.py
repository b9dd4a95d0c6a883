"""LayerHwProxy: it says what predict_frame says, in one batch, and its gradients are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import chiplib
from dse.errors import DseError
from dse.proxy import LayerHwProxy, build_layer_features, device_cfg, predict_frame, traced_layers
from dse.proxy.chips import device_table
from dse.proxy.columns import OPERATORS, SHAPES, WORK
from dse.proxy.evaluate.inputs import specified_features
from dse.proxy.features import NAMES, features, shape_as_run
from dse.proxy.slopes import work_growth
from tests.dse.proxy_rows import SHAPES_OF, chips, completed, operators
from workloads import catalog

SOFTWARE = {"framework": "vllm-0.24.0", "timer": "cudagraph_mean"}
BLOCK = {
    "layer_type": ["attention", "linear", "mlp", "norm", "gelu", "attention_softmax"],
    "flops": [2.4e8, 9.2e8, 3.7e9, 1.2e6, 6e6, 2.3e6],
    "bytes": [2.4e6, 5.2e6, 2.2e7, 1.2e6, 4.8e6, 3.7e6],
    "embed_dim": 768,
    "num_heads": 12,
    "mlp_ratio": [1, 3, 4, 1, 4, 1],
    "seq_len": 392,
    "precision": 1,
}
BIG_CORE = {"peak_flops": 1.0e14, "peak_bw": 1.0e12, "mem_gb": 24, "area_mm2": 600, "tdp_w": 350}
"""The specification's first chip (version C, 8.1)."""


def config_of(rows: pd.DataFrame) -> dict[str, Any]:
    """The layer_cfg of tidy rows."""
    names = {"layer_type": "op_type", "op_name": "op_name", "dtype": "dtype", "compute_dtype": "compute_dtype"}
    return {key: rows[column].to_numpy(object) for key, column in names.items()} | {
        name: rows[name].to_numpy(float) for name in (*SHAPES, *WORK)
    }


def test_values_are_those_of_predict_frame_for_every_layer_and_chip_of_the_library() -> None:
    library = list(chiplib.load_library("reference").chips.values())
    table = device_table(library)
    rows = operators(150, 8, ["anywhere"])
    found = LayerHwProxy(device_cfg(library), **SOFTWARE).predict_layer(config_of(rows))
    each = pd.concat([rows.assign(device=name, **SOFTWARE) for name in table.index], ignore_index=True)
    expected = predict_frame(each, table)
    for ours, theirs in (("lat_ms", "latency_ms"), ("mem_mb", "memory_mb"), ("power_w", "power_w")):
        wanted = expected[theirs].to_numpy().reshape(len(library), len(rows)).T
        np.testing.assert_allclose(found[ours].numpy(), wanted, rtol=1e-5, err_msg=ours)


def test_traced_layers_are_one_batch_and_a_gate_on_their_heads_flows_through() -> None:
    """Attention with half of its heads pruned by a gate costs what the same layers with half as many heads cost."""
    layers = traced_layers(catalog.load("videovit-tiny"))
    attention = layers["layer_type"] == "attn_encoder"
    keep = torch.where(torch.from_numpy(attention), 0.5, 1.0).double().requires_grad_()
    gated = layers | {name: layers[name] * keep for name in ("heads", "kv_heads", "flops", "bytes")}
    found = LayerHwProxy(BIG_CORE).predict_layer(gated)
    halved = dict(layers)
    for name in ("heads", "kv_heads", "flops", "bytes"):
        halved[name] = torch.where(torch.from_numpy(attention), layers[name] / 2, layers[name])
    expected = LayerHwProxy(BIG_CORE).predict_layer(halved)
    torch.testing.assert_close(found["lat_ms"], expected["lat_ms"])
    (gradient,) = torch.autograd.grad(found["lat_ms"].sum(), keep)
    assert (gradient[torch.from_numpy(attention)] > 0).all()


def slope(name: str, place: str, config: dict[str, Any], device: dict[str, Any], out: str) -> tuple[Tensor, Tensor]:
    """Gradient of all outputs by one quantity, and its central difference, both by the quantity's log."""
    proxy = LayerHwProxy(dtype=torch.float64, framework="torch2.1", timer="cuda_event_median")

    def total(change: Tensor) -> Tensor:
        layer, chip = dict(config), dict(device)
        where = layer if place == "layer" else chip
        where[name] = torch.as_tensor(where[name], dtype=torch.float64) * torch.exp(change)
        return torch.log(proxy.predict_layer(layer | {"device": chip})[out]).sum() + 0.0 * change

    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(total(zero), zero)
    step = 1e-4
    with torch.no_grad():
        difference = (total(zero + step) - total(zero - step)) / (2 * step)
    return gradient, difference


@pytest.mark.parametrize("out", ["lat_ms", "mem_mb", "power_w"])
@pytest.mark.parametrize(
    ("place", "name"),
    [
        *(("layer", name) for name in ("flops", "bytes", "seq_len", "num_heads", "mlp_ratio", "embed_dim")),
        *(("chip", name) for name in ("peak_flops", "peak_bw", "tdp_w", "vector_flops", "sram_mb")),
    ],
)
def test_gradients_are_finite_differences_in_every_quantity(place: str, name: str, out: str) -> None:
    device = BIG_CORE | {"vector_flops": 2.5e13, "sram_mb": 1.0, "vendor": "amd", "kind": "cpu"}
    gradient, difference = slope(name, place, dict(BLOCK), device, out)
    torch.testing.assert_close(gradient, difference, rtol=1e-5, atol=1e-7)
    if out == "lat_ms" and name in ("flops", "bytes", "seq_len"):
        assert gradient > 0.1  # it would say nothing of pruning else
    if out == "lat_ms" and name in ("peak_flops", "peak_bw"):
        assert gradient < -0.1


def test_a_gate_that_keeps_less_never_costs_more() -> None:
    keep = torch.linspace(0.05, 1.0, 60, dtype=torch.float64, requires_grad=True)
    layer = {"layer_type": "attention", "embed_dim": 384, "num_heads": 6, "precision": 1}
    layer |= {"flops": 4e9 * keep**2, "bytes": 3e7 * keep, "seq_len": 1568 * keep}
    found = LayerHwProxy(BIG_CORE).predict_layer(layer)
    assert (found["lat_ms"].diff() >= 0).all()
    (gradient,) = torch.autograd.grad(found["lat_ms"].sum(), keep)
    assert torch.isfinite(gradient).all()
    assert (gradient > 0).all()


@pytest.mark.parametrize("kind", sorted(SHAPES_OF))
def test_work_grows_with_each_size_as_features_say(kind: str) -> None:
    """From sizes that fill every tile to twice these: no padding is in the way."""
    devices = chips(3, count=1).assign(l2_mb=0.0)  # what a cache holds is told a chip, see beyond_cache
    rows = operators(60, 4, list(devices.index))
    rows = rows[rows["op_type"] == kind].reset_index(drop=True)
    for name in SHAPES_OF[kind]:
        rows[name] = 256.0
        if name == "heads":
            rows["kv_heads"] = 256.0
    rows = completed(rows)
    base = features(rows, devices, dtype=np.float64)
    whole = {name: np.array(rows[name], float) for name in (*SHAPES, *WORK)}
    for name in set(SHAPES_OF[kind]) - {"head_dim"}:
        both = {name, "kv_heads"} if name == "heads" else {name}
        if kind == "conv2d" and name in ("hout", "wout"):
            both |= {name.replace("out", "in")}
        twice = completed(rows.assign(**dict.fromkeys(both, 512.0)))
        numbers = {size: torch.full((len(rows),), 512.0, dtype=torch.float64) for size in both}
        numbers |= {column: torch.tensor(twice[column].to_numpy(float)) for column in WORK}
        found = base.work + work_growth(base, whole, numbers).numpy()
        np.testing.assert_allclose(found, features(twice, devices, dtype=np.float64).work, atol=1e-9, err_msg=name)


def test_a_batch_norms_sizes_are_those_that_its_features_have() -> None:
    devices = chips(3, count=1).assign(l2_mb=0.0)
    rows = operators(60, 4, list(devices.index))
    rows = rows[rows["op_type"] == "layernorm"].assign(op_name="batchnorm", rows=256.0, cols=256.0, batch=4.0)
    rows = completed(rows.reset_index(drop=True))
    base = features(rows, devices, dtype=np.float64)
    names = base.names[:, NAMES.index("op_name")]
    whole = shape_as_run({name: np.array(rows[name], float) for name in (*SHAPES, *WORK)}, names)
    twice = completed(rows.assign(rows=512.0, batch=8.0))
    numbers = {"rows": torch.full((len(rows),), 512.0, dtype=torch.float64)}
    numbers |= {"batch": torch.full((len(rows),), 8.0, dtype=torch.float64)}
    numbers |= {column: torch.tensor(twice[column].to_numpy(float)) for column in WORK}
    found = base.work + work_growth(base, whole, numbers).numpy()
    np.testing.assert_allclose(found, features(twice, devices, dtype=np.float64).work, atol=1e-9)


def test_segments_merge_their_layers_as_specified() -> None:
    proxy = LayerHwProxy({"peak_flops": [1e14, 4e13], "peak_bw": [1e12, 5e11], "tdp_w": [350, 120]})
    layers = proxy.predict_layer(BLOCK)
    segment = [0, 0, 1, 1, 1, 0]
    found = proxy.predict_segment({"layers": BLOCK, "segment": segment})
    longest = proxy.predict_segment({"layers": BLOCK, "segment": segment, "reduction": "max"})
    for number in (0, 1):
        own = torch.tensor(segment) == number
        latency, power = layers["lat_ms"][own], layers["power_w"][own]
        torch.testing.assert_close(found["lat_ms"][number], latency.sum(0))
        torch.testing.assert_close(longest["lat_ms"][number], latency.amax(0))
        torch.testing.assert_close(found["mem_mb"][number], layers["mem_mb"][own].amax(0))
        torch.testing.assert_close(found["power_w"][number], (power * latency).sum(0) / latency.sum(0))
    singles = [{key: value[i] if isinstance(value, list) else value for key, value in BLOCK.items()} for i in range(6)]
    alone = proxy.predict_segment({"layers": singles, "device": BIG_CORE})
    assert alone["lat_ms"].shape == ()
    torch.testing.assert_close(
        alone["lat_ms"], sum(proxy.predict_layer(one | {"device": BIG_CORE})["lat_ms"] for one in singles)
    )


def test_the_specified_features_stand_in_the_specified_order() -> None:
    layer = {"layer_type": "attention", "flops": 999.0, "bytes": 99999.0, "embed_dim": 512, "num_heads": 8}
    vector = build_layer_features(layer | {"mlp_ratio": 4, "seq_len": 256, "precision": 1}, BIG_CORE)[0].tolist()
    kinds = len(OPERATORS)
    assert vector[:2] == pytest.approx([3.0, 5.0])
    assert vector[2:4] == pytest.approx([14.0, 12.0])
    assert vector[4 : 4 + kinds] == [float(kind == "attn_encoder") for kind in OPERATORS]
    assert vector[4 + kinds :] == pytest.approx([0.5, 0.5, 1.0, 0.25, 1.0])


def test_the_baselines_read_the_specified_features() -> None:
    devices = chips(1)
    rows = operators(40, 1, list(devices.index)).astype(dict.fromkeys(("device", "dtype", "compute_dtype"), "category"))
    found = specified_features(rows, devices)
    peak = np.where(rows["compute_dtype"] == "fp32", devices["peak_fp32_tflops"][rows["device"].astype(str)],
                    devices["peak_fp16_tensor_tflops"][rows["device"].astype(str)])  # fmt: skip
    np.testing.assert_allclose(found[:, 0], np.log10(rows["flops"] + 1), rtol=1e-6)
    np.testing.assert_allclose(found[:, 2], np.log10(peak * 1e12 + 1), rtol=1e-6)
    assert found.shape[1] == 9 + len(OPERATORS)
    assert (found[:, 4:-5].sum(axis=1) == 1).all()


@pytest.mark.parametrize(
    ("layer", "device", "said"),
    [
        ({"layer_type": "atention"}, {}, "did you mean 'attention'"),
        ({"head_count": 3}, {}, "head_count"),
        ({"num_heads": [1, 2]}, {}, "differ in size"),
        ({"flops": -1.0}, {}, "flops"),
        ({}, {"peak_bw": 0.0}, "peak_bw"),
        ({}, {"peak_flop": 1e12}, "peak_flop"),
        ({}, {"peak_flops": {"fp17": 1e12}}, "fp17"),
    ],
)
def test_what_is_wrong_is_named(layer: dict[str, Any], device: dict[str, Any], said: str) -> None:
    with pytest.raises(DseError) as caught:
        LayerHwProxy(BIG_CORE | device).predict_layer(BLOCK | layer)
    assert said in f"{caught.value.message} {caught.value.hint}"


def test_a_missing_quantity_or_device_is_named() -> None:
    without = {key: value for key, value in BLOCK.items() if key != "seq_len"}
    with pytest.raises(DseError, match="seq_len"):
        LayerHwProxy(BIG_CORE).predict_layer(without)
    with pytest.raises(DseError, match="device"):
        LayerHwProxy().predict_layer(BLOCK)
    with pytest.raises(DseError, match="reduction"):
        LayerHwProxy(BIG_CORE, reduction="mean")  # type: ignore[arg-type]
