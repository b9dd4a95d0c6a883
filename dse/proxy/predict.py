"""LayerProxy: a fitted ensemble with its intervals, and predictions for any rows on any devices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from dse.errors import DseError
from dse.proxy.dataset import read_rows
from dse.proxy.devices import read_devices
from dse.proxy.features import CHIP_NAMES, CLASS, NAMES, RATES, WORK, Features, features
from dse.proxy.fit import inputs_of
from dse.proxy.intervals import UNKNOWN, Widths, standing
from dse.proxy.memory import MemoryHead, MemoryModel, least_mb
from dse.proxy.network import SHARPNESS, Inputs, LayerProxyModel, Scales
from dse.proxy.posynomial_kernel import soft_maxima
from dse.proxy.power import PowerHead, PowerModel
from dse.proxy.reach import Reach
from dse.proxy.vocabulary import Vocabulary
from dse.store import write_atomically

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

WEIGHTS = Path(__file__).with_name("weights") / "layer_proxy.safetensors"
"""The weights that ship."""

FORMAT = 3
"""Version of the weights' file."""

SLOWEST = 1e4
"""Most that a layer of unknown words is said to take, in times of its roofline: a network extrapolates wildly there.
The slowest row of the public table takes 6,800 times."""

LONGEST_WAIT_MS = 10.0
"""Added to it: thirty times the longest launch of the public table, a wall clock's."""

CLASSES = 256
"""Classes that go through the networks at once: their monomials stay in the cache while rows read them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPrediction:
    """What the proxy says of N rows."""

    latency_ms: Array  # [N]
    low_ms: Array  # [N] 90 % interval
    high_ms: Array  # [N]
    novelty: NDArray[np.int8]  # [N] codes of Novelty
    outside: NDArray[np.int8]  # [N] codes of Outside
    power_w: Array  # [N] of the board; NaN where its TDP is not known, or no power was fitted
    memory_mb: Array  # [N] most that is held at once; inputs, weights and outputs alone where no memory was fitted


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerProxy:
    """A fitted ensemble: networks, the names that they know, and widths of intervals."""

    models: tuple[LayerProxyModel, ...]
    vocabulary: Vocabulary
    widths: Widths
    card: Mapping[str, Any]  # what it was fitted on, how, and when
    power: PowerHead | None = None
    memory: MemoryHead | None = None

    def log_latency(self, rows: Features) -> Array:
        """Return the ensemble's log latency [N] in log ms."""
        if not len(rows):
            return np.empty(0)
        inputs = inputs_of(rows, self.vocabulary)
        code, first = _classes(inputs)
        order = np.argsort(code, kind="stable")
        starts = np.searchsorted(code[order], np.arange(CLASSES, len(first), CLASSES))
        chunks = np.split(order, starts)
        log_ms = np.empty(len(rows))
        with ThreadPoolExecutor(min(len(chunks), torch.get_num_threads())) as pool:
            for chunk, found in zip(chunks, pool.map(partial(self._mean, inputs, code, first), chunks), strict=True):
                log_ms[chunk] = found
        return log_ms

    @torch.inference_mode()
    def _mean(self, inputs: Inputs, code: Codes, first: Codes, rows: Codes) -> Array:
        """Return mean log latency of the rows of some classes, which go through the networks once."""
        least, most = code[rows[0]], code[rows[-1]]
        classes = inputs[torch.from_numpy(first[least : most + 1])]
        place, work, rates, floor = code[rows] - least, inputs.work[rows], inputs.rates[rows], inputs.floor[rows]
        total = np.zeros(len(rows))
        for model in self.models:
            monomials = model.classes(classes.shape_class, classes.names, classes.chip_names).numpy()
            centred = ((work - model.work_mean).numpy(), (rates - model.rates_mean).numpy())
            total += np.maximum(soft_maxima(monomials, place, *centred, SHARPNESS), floor.numpy())
        return total / len(self.models)

    def predict(self, rows: Features) -> LayerPrediction:
        """Predict rows, with the interval that fits how well their chip and software are known."""
        log_ms = self.log_latency(rows)
        levels, codes = standing(rows, self.vocabulary)
        unknown = (codes & UNKNOWN) > 0
        log_ms[unknown] = np.minimum(log_ms[unknown], ceiling(rows[unknown]))
        half = self.widths(rows.names[:, NAMES.index("op_type")], levels)
        low = np.maximum(log_ms - half, rows.floor)
        return LayerPrediction(
            latency_ms=np.exp(log_ms),
            low_ms=np.exp(low),
            high_ms=np.exp(log_ms + half),
            novelty=levels,
            outside=codes,
            power_w=self.power(rows, log_ms) if self.power else np.full(len(rows), np.nan),
            memory_mb=self.memory(rows) if self.memory else least_mb(rows),
        )

    def save(self, path: Path) -> None:
        """Write weights, vocabulary, widths and card to one safetensors file, by a temporary name."""
        tensors = {
            f"{i}.{name}": value for i, model in enumerate(self.models) for name, value in model.state_dict().items()
        }
        if self.power:
            for i, power in enumerate(self.power.models):
                tensors |= {f"power.{i}.{name}": value for name, value in power.state_dict().items()}
        if self.memory:
            tensors |= {f"memory.{name}": value for name, value in self.memory.model.state_dict().items()}
        head = {
            "format": FORMAT,
            "models": len(self.models),
            "inputs": {"work": WORK, "class": CLASS, "names": NAMES, "rates": RATES},
            "vocabulary": self.vocabulary.known,
            "reach": self.vocabulary.reach.limits,
            "widths": {"kinds": self.widths.kinds, "table": self.widths.table.tolist()},
            "power": self.power and {"models": len(self.power.models), "vocabulary": self.power.vocabulary.known},
            "memory": self.memory and {"vocabulary": self.memory.vocabulary.known},
            "card": self.card,
        }
        write_atomically(path, save(tensors, metadata={"layer_proxy": json.dumps(head)}))

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> LayerProxy:
        """Read a file that `save` wrote.

        Raises DseError where it is missing, is not one, or is of another version.
        """
        try:
            with safe_open(path, "pt") as file:
                head = json.loads((file.metadata() or {}).get("layer_proxy", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (OSError, SafetensorError) as error:
            raise DseError(
                f"{path}: no weights of a layer proxy ({error})", "a file that `dse proxy fit` wrote"
            ) from None
        inputs = {"work": [*WORK], "class": [*CLASS], "names": [*NAMES], "rates": [*RATES]}
        if head.get("format") != FORMAT or head.get("inputs") != inputs:
            raise DseError(f"{path}: weights of another version of the layer proxy", "fit them again: dse proxy fit")
        vocabulary = _vocabulary(head["vocabulary"], head["reach"])
        widths = Widths(kinds=tuple(head["widths"]["kinds"]), table=np.array(head["widths"]["table"]))
        models = []
        for number in range(head["models"]):
            state = _part(tensors, f"{number}.")
            scales = Scales(**{name: state[name] for name in ("work_mean", "work_spread", "rates_mean")})
            model = LayerProxyModel(vocabulary.sizes, scales)
            model.load_state_dict(state)
            models.append(model.eval())
        return cls(
            models=tuple(models),
            vocabulary=vocabulary,
            widths=widths,
            card=head["card"],
            power=_power(head["power"], tensors) if head.get("power") else None,
            memory=_memory(head["memory"], tensors) if head.get("memory") else None,
        )


def _vocabulary(known: Mapping[str, Sequence[str]], reach: Mapping[str, Any] | None = None) -> Vocabulary:
    limits = {maker: tuple((least, most) for least, most in pairs) for maker, pairs in (reach or {}).items()}
    return Vocabulary(known={name: tuple(texts) for name, texts in known.items()}, reach=Reach(limits=limits))


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _power(head: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> PowerHead:
    vocabulary, models = _vocabulary(head["vocabulary"]), []
    for number in range(head["models"]):
        state = _part(tensors, f"power.{number}.")
        model = PowerModel(vocabulary, state["mean"], state["spread"])
        model.load_state_dict(state)
        models.append(model.eval())
    return PowerHead(models=tuple(models), vocabulary=vocabulary)


def _memory(head: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> MemoryHead:
    vocabulary = _vocabulary(head["vocabulary"])
    model = MemoryModel(vocabulary)
    model.load_state_dict(_part(tensors, "memory."))
    return MemoryHead(model=model.eval(), vocabulary=vocabulary)


def ceiling(rows: Features) -> Array:
    """Return the log of the most ms [N] that a layer with a maker, operator or numbers not in the data is said to take.

    It grows with work and falls with rates like all else: SLOWEST times the roofline's two times, and a wait.
    """
    roofline = np.logaddexp(rows.terms[:, 0], rows.terms[:, 1]).astype(np.float64)
    log_ms: Array = np.logaddexp(roofline + np.log(SLOWEST), np.log(LONGEST_WAIT_MS))
    return log_ms


def _classes(inputs: Inputs) -> tuple[Codes, Codes]:
    """Return the class of each row [N], and a row of each class: rows of one differ in work and rates alone."""
    parts = (inputs.shape_class.view(torch.int32), inputs.names, inputs.chip_names)
    columns = [column for part in parts for column in part.numpy().T]
    key = np.zeros(len(inputs.work), np.int64)
    for column, factor in zip(columns, _MULTIPLIERS, strict=True):
        key += column * factor
    code, unique = pd.factorize(key)
    first = np.empty(len(unique), np.int64)
    first[code[::-1]] = np.arange(len(code))[::-1]
    return code, first


_MULTIPLIERS = (
    np.random.default_rng(7).integers(1, 2**62, size=len(CLASS) + len(NAMES) + len(CHIP_NAMES), dtype=np.int64) * 2 + 1
)
"""Odd numbers that mix a row's class to one 64-bit key (multiply-shift hashing)."""


@cache
def shipped() -> LayerProxy:
    """Return the proxy whose weights ship."""
    return LayerProxy.load()


def predict_frame(rows: pd.DataFrame, devices: pd.DataFrame, *, proxy: LayerProxy | None = None) -> pd.DataFrame:
    """Predict a table of operators on the devices that it names, by the proxy that ships unless another is given.

    `rows` [N] is in the tidy schema (dse.proxy.columns; what was measured is not needed and not read), `devices` a
    device table (dse.proxy.devices) that describes any device; neither has to be known to the proxy. Returns, one row
    each and in order: latency_ms, latency_low_ms and latency_high_ms (90 % interval), power_w and memory_mb (see
    LayerPrediction), and `outside`: the row is of a maker, an operator or numbers that were not in the data, or
    far from what was, so that the interval is a guess.

    Raises DseError for bad rows, with their numbers.
    """
    table = read_devices(devices)
    tidy = read_rows(rows, devices=table, measured=False)
    found = (proxy or shipped()).predict(features(tidy, table))
    return pd.DataFrame(
        {
            "latency_ms": found.latency_ms,
            "latency_low_ms": found.low_ms,
            "latency_high_ms": found.high_ms,
            "power_w": found.power_w,
            "memory_mb": found.memory_mb,
            "outside": found.outside > 0,
        },
        index=rows.index,
    )
