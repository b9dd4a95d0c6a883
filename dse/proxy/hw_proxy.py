"""LayerHwProxy: the layer proxy by the specification's interface (version C, 7.3), differentiable in layer and chip."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dse.errors import DseError
from dse.proxy.calibration import CalibratedProxy
from dse.proxy.columns import SHAPES, WORK
from dse.proxy.dataset import read_rows
from dse.proxy.features import CHIP_NAMES, NAMES, Features, features, shape_as_run
from dse.proxy.fit import inputs_of
from dse.proxy.intervals import UNKNOWN, outside
from dse.proxy.memory import MemoryModel, buffers_of, memory_inputs, number_bytes
from dse.proxy.network import Inputs, LayerProxyModel
from dse.proxy.power import PowerInputs, PowerModel, power_inputs
from dse.proxy.predict import LONGEST_WAIT_MS, SLOWEST, LayerProxy, shipped
from dse.proxy.slopes import beyond_cache, physics, work_growth
from dse.proxy.specified import TEXTS, Config, TidyLayers, real, tidy_layers
from dse.proxy.specified_chips import TidyDevices, anywhere, tidy_devices

Reduction = Literal["sum", "max"]
Array = NDArray[np.float64]
M = TypeVar("M", bound=nn.Module)

ANYWHERE = "a chip"
"""Device of rows whose features do not depend on one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fixed:
    """What does not change while gates and mixes of chips do: N layers at whole sizes, and their N x S rows."""

    whole: dict[str, Array]  # [N] sizes, FLOPs, bytes and weight bytes
    layers: Features  # [N]
    kind: NDArray[np.object_]  # [N] op_type
    compute_dtype: NDArray[np.object_]  # [N]
    inputs: Inputs  # [N x S]
    settings: tuple[Tensor, ...]  # [N x S, settings] of each network
    power: PowerInputs | None
    memory: tuple[Tensor, Tensor] | None  # class and codes
    of_known_maker: Tensor  # [N x S] whether workspaces of its libraries were measured
    unknown: Tensor  # [N x S] whether its maker, operator or numbers were not in the data
    number_bytes: Tensor  # [N]


class LayerHwProxy:
    """Latency, memory and power of layers and segments, in one batched call, with gradients.

    A layer_cfg holds the specification's quantities (layer_type, flops, bytes, embed_dim, num_heads, mlp_ratio,
    seq_len, precision: see dse.proxy.specified) or columns of the tidy schema, each one number or one a layer [N]. A
    device_cfg holds peak_flops, peak_bw and tdp_w, as gpu_data.yaml does (see dse.proxy.specified_chips), each one
    number or one a chip [S]. Gradients go to every number: FLOPs, bytes and sizes that gates scale, rates of a mix of
    chips. Values are those of predict_frame at whole sizes.

    `device_cfg` is that of layers and segments that name none. `framework` and `timer` are those that predictions speak
    for; without, for one that is not known. `dtype` is that of the networks: float64 for exact gradients.
    """

    def __init__(
        self,
        device_cfg: Config | None = None,
        *,
        proxy: LayerProxy | None = None,
        framework: str = "unknown",
        timer: str = "unknown",
        reduction: Reduction = "sum",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if isinstance(proxy, CalibratedProxy):
            raise DseError("LayerHwProxy takes no calibrated proxy", "give the proxy that it was calibrated from")
        self.proxy = proxy or shipped()
        self.device_cfg, self.framework, self.timer, self.dtype = device_cfg, framework, timer, dtype
        self.reduction = _reduction(reduction)
        self._models: list[LayerProxyModel] = [_as(model, dtype) for model in self.proxy.models]
        self._power: list[PowerModel] = (
            [_as(each, dtype) for each in self.proxy.power.models] if self.proxy.power else []
        )
        self._memory: MemoryModel | None = _as(self.proxy.memory.model, dtype) if self.proxy.memory else None
        self._held: tuple[object, _Fixed] | None = None

    def predict_layer(self, layer_cfg: Config) -> dict[str, Tensor]:
        """Return lat_ms, mem_mb (the most that is held at once) and power_w of N layers on S chips [N, S].

        An axis is left out where no quantity of the layers, or of the device (key `device`), has one. Power is NaN
        where the proxy has none.

        Raises DseError where something is missing, unknown or out of range.
        """
        layers = tidy_layers({key: value for key, value in layer_cfg.items() if key != "device"})
        devices = tidy_devices(self._device(layer_cfg))
        return {name: _squeezed(value, layers, devices) for name, value in self._predict(layers, devices).items()}

    def predict_segment(self, segment_cfg: Config) -> dict[str, Tensor]:
        """Return lat_ms, mem_mb and power_w of K segments on S chips [K, S], axes left out as by predict_layer.

        `layers` are a layer_cfg, or a sequence of such; `segment` tells each layer's segment [N] (one segment without);
        `device` is a device_cfg, `reduction` says whether latencies are summed ("sum") or the longest counts ("max").
        Memory is the largest of the layers', power their mean weighted by latency.
        """
        for key in segment_cfg:
            if key not in ("layers", "segment", "device", "reduction"):
                raise DseError(f"segment_cfg has a key {key!r}", "layers, segment, device, reduction")
        layers = tidy_layers(_stacked(segment_cfg.get("layers", {})))
        devices = tidy_devices(self._device(segment_cfg))
        found = self._predict(layers, devices)
        count, one = len(layers.calls), "segment" not in segment_cfg
        segment = torch.as_tensor(segment_cfg.get("segment", np.zeros(count, np.int64)), dtype=torch.int64)
        if segment.shape != (count,) or bool((segment < 0).any()):
            raise DseError(f"segment has shape {tuple(segment.shape)}", f"the number from 0 of each of {count} layers")
        shape = (int(segment.max()) + 1, devices.count)
        place = segment[:, None].expand(count, devices.count)
        total = found["lat_ms"].new_zeros(shape).scatter_add(0, place, found["lat_ms"])
        work = total.new_zeros(shape).scatter_add(0, place, found["lat_ms"] * found["power_w"])
        nothing = total.new_zeros(shape)
        longest, memory = (
            nothing.scatter_reduce(0, place, found[name], "amax", include_self=False) for name in ("lat_ms", "mem_mb")
        )
        latency = {"sum": total, "max": longest}[_reduction(segment_cfg.get("reduction", self.reduction))]
        merged = {"lat_ms": latency, "mem_mb": memory, "power_w": work / total}
        merged = {name: value[0] if one else value for name, value in merged.items()}
        return {name: value[..., 0] if devices.single else value for name, value in merged.items()}

    def _device(self, config: Config) -> Config:
        device: Config | None = config.get("device", self.device_cfg)
        if device is None:
            raise DseError(
                "no device to predict for", "give LayerHwProxy a device_cfg, or the configuration a `device`"
            )
        return device

    def _predict(self, layers: TidyLayers, devices: TidyDevices) -> dict[str, Tensor]:
        """Return lat_ms, mem_mb and power_w [N, S]."""
        fixed = self._fixed(layers, devices)
        size = (len(layers.calls), devices.count)

        def rows(of_layer: Tensor) -> Tensor:
            return of_layer.repeat_interleave(devices.count, dim=0)

        work = torch.from_numpy(fixed.layers.work) + work_growth(fixed.layers, fixed.whole, layers.numbers)
        rates = devices.rates(fixed.compute_dtype)  # [N, S, RATES]
        moved, cache_bytes = rows(layers.numbers["bytes"]), devices.cache_bytes.repeat(len(layers.calls))
        taps = np.prod([np.nan_to_num(fixed.whole[name], nan=1.0) for name in ("kh", "kw")], axis=0)
        floor, terms = physics(
            np.repeat(fixed.kind, devices.count),
            np.repeat(taps, devices.count),
            rows(layers.numbers["flops"]),
            moved,
            rates.flatten(0, 1),
            cache_bytes,
        )
        x = replace(
            fixed.inputs,
            work=beyond_cache(rows(work), moved, cache_bytes).to(self.dtype),
            rates=torch.log(rates).flatten(0, 1).to(self.dtype),
            floor=floor.to(self.dtype),
        )
        nets = zip(self._models, fixed.settings, strict=True)
        log_ms = torch.stack([torch.maximum(model.latency(x, settings), x.floor) for model, settings in nets]).mean(0)
        roofline = torch.logsumexp(terms, dim=1) + float(np.log(SLOWEST))
        most = torch.logaddexp(roofline, torch.full_like(roofline, float(np.log(LONGEST_WAIT_MS)))).to(self.dtype)
        log_ms = torch.where(fixed.unknown, torch.minimum(log_ms, most), log_ms)
        power = self._watts(fixed, x, terms, log_ms, devices)
        memory = self._megabytes(fixed, rows(work), moved, rows(fixed.number_bytes))
        latency = rows(layers.calls).to(self.dtype) * torch.exp(log_ms)
        return {"lat_ms": latency.view(size), "mem_mb": memory.view(size), "power_w": power.view(size)}

    def _watts(self, fixed: _Fixed, x: Inputs, terms: Tensor, log_ms: Tensor, devices: TidyDevices) -> Tensor:
        if fixed.power is None:
            return torch.full_like(log_ms, torch.nan)
        count = len(log_ms) // devices.count
        power = replace(
            fixed.power,
            utilisation=torch.cat([terms.to(self.dtype) - log_ms[:, None], log_ms[:, None]], dim=1),
            shape_class=x.shape_class,
            work=x.work,
            known=fixed.power.known.to(self.dtype),
            idle_w=devices.idle_w.repeat(count).to(self.dtype),
            tdp_w=devices.tdp_w.repeat(count).to(self.dtype),
        )
        return torch.stack([model(power) for model in self._power]).mean(0)

    def _megabytes(self, fixed: _Fixed, work: Tensor, moved: Tensor, number_bytes: Tensor) -> Tensor:
        megabytes = (moved / 1e6).to(self.dtype)
        if self._memory is None or fixed.memory is None:
            return megabytes
        shape_class, names = fixed.memory
        buffers = buffers_of(work, number_bytes).to(self.dtype)
        workspace = self._memory(shape_class.to(self.dtype), names, buffers)
        return megabytes * (1.0 + torch.where(fixed.of_known_maker, workspace, 0.0))

    def _fixed(self, layers: TidyLayers, devices: TidyDevices) -> _Fixed:
        """Work out what gates do not change; that of the last call is kept, as most steps of a training share it."""
        sizes = {name: np.round(value.detach().numpy()) for name, value in layers.numbers.items()}
        key = (
            tuple((name, *texts) for name, texts in layers.texts.items()),
            tuple((name, values.tobytes()) for name, values in sizes.items() if name in SHAPES),
            tuple(devices.names.flat),
        )
        if self._held is None or self._held[0] != key:
            self._held = (key, self._worked_out(layers.texts, sizes, devices))
        return self._held[1]

    def _worked_out(
        self, texts: Mapping[str, NDArray[np.object_]], sizes: Mapping[str, Array], devices: TidyDevices
    ) -> _Fixed:
        names = {"source": "layer_cfg", "framework": self.framework, "timer": self.timer, "device": ANYWHERE}
        frame = read_rows(pd.DataFrame({**texts, **sizes}).assign(**names), measured=False)
        found = features(frame, anywhere(ANYWHERE), dtype=np.float64)
        row = np.repeat(np.arange(len(frame)), devices.count)
        each = replace(found[row], chip_names=np.tile(devices.names, (len(frame), 1)))
        proxy = self.proxy
        maker = each.chip_names[:, CHIP_NAMES.index("maker")].astype(str)
        known_makers = proxy.memory.vocabulary.known["maker"] if proxy.memory else ()
        inputs = inputs_of(each, proxy.vocabulary)
        inputs = replace(inputs, shape_class=inputs.shape_class.to(self.dtype))
        whole = {name: frame[name].to_numpy(np.float64) for name in (*SHAPES, *WORK)}
        return _Fixed(
            whole=shape_as_run(whole, found.names[:, NAMES.index("op_name")]),
            layers=found,
            kind=found.names[:, NAMES.index("op_type")],
            compute_dtype=found.names[:, NAMES.index("compute_dtype")],
            inputs=inputs,
            settings=tuple(
                model.classes(inputs.shape_class, inputs.names, inputs.chip_names) for model in self._models
            ),
            power=power_inputs(each, np.zeros(len(each)), proxy.power.vocabulary) if proxy.power else None,
            memory=memory_inputs(each, proxy.memory.vocabulary)[:2] if proxy.memory else None,
            of_known_maker=torch.from_numpy(np.isin(maker, known_makers)),
            unknown=torch.from_numpy((outside(each, proxy.vocabulary) & UNKNOWN) > 0),
            number_bytes=number_bytes(found),
        )


def _reduction(name: Any) -> Reduction:
    if name not in ("sum", "max"):
        raise DseError(f"reduction = {name!r}", "sum or max")
    chosen: Reduction = name
    return chosen


def _as(model: M, dtype: torch.dtype) -> M:
    return copy.deepcopy(model).to(dtype).requires_grad_(False)


def _squeezed(value: Tensor, layers: TidyLayers, devices: TidyDevices) -> Tensor:
    value = value[:, 0] if devices.single else value
    return value[0] if layers.single else value


def _stacked(layers: Config | Sequence[Config]) -> Config:
    """Return configurations of single layers as one of all."""
    if isinstance(layers, Mapping):
        return layers
    keys = {key for layer in layers for key in layer}
    if lacking := [(number, key) for number, layer in enumerate(layers) for key in sorted(keys) if key not in layer]:
        raise DseError(f"layer {lacking[0][0]} of the segment has no {lacking[0][1]}", "the same keys for all layers")
    columns = {key: [layer[key] for layer in layers] for key in keys}
    tensors = {key: torch.stack([*map(real, column)]) for key, column in columns.items() if key not in TEXTS}
    return tensors | {key: column for key, column in columns.items() if key in TEXTS}
