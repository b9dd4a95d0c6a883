"""Learned: the layer proxy, fitted to measured operators, as the cost model of layers on chips."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chiplib.chip import ChipType, Precision
from dse.errors import DseError
from dse.proxy.model import Bound, Evidence, LayerCosts, LayerQuestion
from dse.proxy.software import Software, known_software

if TYPE_CHECKING:
    import pandas as pd

    from dse.proxy.features import Features
    from dse.proxy.predict import LayerPrediction, LayerProxy
    from dse.proxy.vocabulary import Vocabulary

Array = NDArray[np.float64]

LESS_WORK, LAUNCH_SHARE = 0.25, 0.5
"""Share of its sizes, operations and bytes with which a layer that starting limits keeps more than that of its time."""


@dataclass(frozen=True, slots=True)
class Learned:
    """The weights that ship, with the calibrations that are stored beside a chip.

    Latency is the network's, never below physics (see dse.proxy.network); layers of equal shape are predicted once, and
    a layer that computes and moves nothing costs nothing. Energy is predicted power, less static power, times the time
    on chips of makers whose boards' power was measured (so that chips are compared by one rule), elsewhere operations x
    pJ/flop + bytes x pJ/byte, at most what the chip may draw beside its static power. A layer of a kind that was never
    measured is predicted as what it is most like, and flagged.
    """

    name: str = "learned"
    source: str = (
        "Learned layer proxy: networks fitted to measured operators (dse/proxy/weights/layer_proxy.md), which by "
        "construction never beat physics, never take less time for more work, nor more on a better chip. Each layer is "
        "timed on its own: nothing is fused that the framework does not run as one. Energy: predicted power times the "
        "time on chips of makers whose boards' power was measured, else by operations and bytes."
    )

    def checked_software(self, software: Software) -> Software:
        """Return the software with its default filled in. Raises DseError for what the data do not know."""
        return known_software(software)

    def predict(self, question: LayerQuestion) -> LayerCosts:
        """Return the costs [N, C]; infinite on chips that lack the precision.

        Raises DseError for software that the data do not know, where two chips are measured under one name, and where a
        stored calibration is damaged or for other weights.
        """
        from dse.proxy.calibration import fingerprint, with_stored
        from dse.proxy.features import features
        from dse.proxy.intervals import COVERAGE
        from dse.proxy.predict import shipped
        from dse.proxy.question_rows import question_rows

        table = _devices(question.types)
        proxy = shipped()
        if question.calibrations is not None:
            proxy = with_stored(proxy, question.calibrations, table.index)
        software = known_software(question.software)
        spoken_for = tuple(software.on(chip) for chip in question.types)
        asked = question_rows(question, proxy.vocabulary)
        rows, place, shape = asked.rows, asked.place, (len(table), len(asked.rows))
        found = _at_peak(features(_on_chips(rows, table, spoken_for), table), question, len(rows), proxy.vocabulary)
        predicted = proxy.predict(found)
        outside = predicted.outside.reshape(shape).T | asked.outside[:, None]
        less_ms = np.exp(proxy.log_latency(_with_less_to_do(found)))
        latency_ms, low_ms, high_ms = (
            _spread(values.reshape(shape).T, place, question.chips["supported"])
            for values in (predicted.latency_ms, predicted.low_ms, predicted.high_ms)
        )
        calibrated = getattr(proxy, "calibrations", {})
        return LayerCosts(
            latency_ms=latency_ms,
            low_ms=low_ms,
            high_ms=high_ms,
            energy_mj=_energy(question, latency_ms, _gather(_board_power(proxy, found, predicted, shape), place)),
            memory_bytes=np.broadcast_to(_moved(question.layers)[:, None], latency_ms.shape),
            bound=_gather(_bound(rows, found, predicted.latency_ms, less_ms, shape), place).astype(np.int8),
            outside=_gather(outside, place),
            evidence=Evidence(
                data=dict(proxy.card["data"]["source"]),
                software=spoken_for,
                coverage=COVERAGE,
                fingerprint=_together(fingerprint(proxy), calibrated),
                calibrated=tuple(
                    chip.name for chip, device in zip(question.types, table.index, strict=True) if device in calibrated
                ),
            ),
        )


def _devices(types: Sequence[ChipType]) -> pd.DataFrame:
    """Return the device table [C] of chips."""
    from dse.proxy.chips import device_table

    names: dict[str, str] = {}
    for chip in types:
        other = names.setdefault(chip.measured_as or chip.name, chip.name)
        if other != chip.name:
            raise DseError(
                f"chips {other!r} and {chip.name!r} are both measured as {chip.measured_as or chip.name!r}",
                "leave out measured_as of one of them",
            )
    return device_table(types)


def _on_chips(rows: pd.DataFrame, table: pd.DataFrame, software: Sequence[Software]) -> pd.DataFrame:
    """Return rows [C * U], those of the first chip first."""
    count = len(rows)
    pairs = rows.iloc[np.tile(np.arange(count), len(table))].reset_index(drop=True)
    return pairs.assign(
        device=np.repeat(table.index.to_numpy(object), count),
        framework=np.repeat(np.array([each.framework for each in software], object), count),
        timer=np.repeat(np.array([each.timer for each in software], object), count),
    )


def _at_peak(found: Features, question: LayerQuestion, count: int, vocabulary: Vocabulary) -> Features:
    """Return features [C * U] in arithmetic that the proxy knows, at the datasheet's peak.

    A device table has no column for the tf32 peak: it counts as that of fp16, of which it is a half.
    """
    from dse.proxy.features import NAMES, RATES

    column = NAMES.index("compute_dtype")
    strange = ~np.isin(found.names[:, column].astype(str), vocabulary.known["compute_dtype"])
    if not strange.any():
        return found
    rates, terms, names = found.rates.copy(), found.terms.copy(), found.names.copy()
    if question.precision is Precision.TF32:
        own = (names[:, column] == "tf32") & np.repeat(question.chips["supported"], count)
        peak = np.log(np.repeat(question.chips["peak_flops"], count)[own] / 1e3).astype(np.float32)
        terms[own, 0] += rates[own, RATES.index("peak")] - peak
        rates[own, RATES.index("peak")] = peak
    names[strange, column] = "fp32"
    return replace(found, rates=rates, terms=terms, names=names)


def _with_less_to_do(found: Features) -> Features:
    """Return the same layers with LESS_WORK of their work."""
    work = np.maximum(found.work + np.log(LESS_WORK), 0.0).astype(found.work.dtype)
    return replace(found, work=work, floor=np.full_like(found.floor, -np.inf))


def _bound(
    rows: pd.DataFrame, found: Features, latency_ms: Array, less_ms: Array, shape: tuple[int, int]
) -> NDArray[np.int8]:
    """Return codes of Bound [U, C]: starting the layer, else the longer of its two times at the datasheet's peaks."""
    from dse.proxy.columns import VECTOR_OPERATORS

    units = np.where(rows["op_type"].isin(VECTOR_OPERATORS), np.int8(Bound.VECTOR), np.int8(Bound.COMPUTE))
    compute, memory = found.terms.T
    limit = np.where(compute > memory, np.tile(units, shape[0]), np.int8(Bound.MEMORY))
    limit = np.where(less_ms > LAUNCH_SHARE * latency_ms, np.int8(Bound.LAUNCH), limit)
    return limit.reshape(shape).T


def _board_power(proxy: LayerProxy, found: Features, predicted: LayerPrediction, shape: tuple[int, int]) -> Array:
    """Return W [U, C] of chips of makers whose boards' power was measured; NaN of others."""
    from dse.proxy.features import CHIP_NAMES

    makers = found.chip_names[:, CHIP_NAMES.index("maker")].astype(str)
    measured = np.isin(makers, proxy.power.vocabulary.known["maker"] if proxy.power else ())
    power: Array = np.where(measured, predicted.power_w, np.nan).reshape(shape).T
    return power


def _energy(question: LayerQuestion, latency_ms: Array, power_w: Array) -> Array:
    """Return dynamic mJ [N, C]; W x ms = mJ."""
    layers, chips = question.layers, question.chips
    energy_mj = layers["flops"][:, None] * (chips["pj_per_flop"] * 1e-9)
    energy_mj += _moved(layers)[:, None] * (chips["pj_per_byte"] * 1e-9)
    energy_mj = np.minimum(energy_mj, latency_ms * np.maximum(chips["tdp_w"] - chips["static_w"], 0.0))
    with np.errstate(invalid="ignore"):
        measured_mj = np.maximum(power_w - chips["static_w"], 0.0) * latency_ms
    dynamic_mj: Array = np.where(np.isnan(power_w), energy_mj, measured_mj)
    dynamic_mj[:, ~chips["supported"]] = np.inf
    return dynamic_mj


def _spread(values: Array, place: NDArray[np.int64], supported: NDArray[np.bool_]) -> Array:
    """Return values [U, C] of each layer [N, C]: 0 for layers that cost nothing, infinite without the precision."""
    of_layers = _gather(values, place)
    of_layers[:, ~supported] = np.inf
    return of_layers


def _gather(values: NDArray[Any], place: NDArray[np.int64]) -> NDArray[Any]:
    """Return values [U, C] of each layer [N, C], 0 where it has none."""
    gathered: NDArray[Any] = np.concatenate([values, np.zeros((1, values.shape[1]), values.dtype)])[place]
    return gathered


def _moved(layers: NDArray[np.void]) -> Array:
    """Bytes [N] of weights, inputs and outputs, each once."""
    moved: Array = layers["weight_bytes"] + layers["input_bytes"] + layers["output_bytes"]
    return moved


def _together(weights: str, calibrated: Mapping[str, Any]) -> str:
    """Return one fingerprint of weights and calibrations."""
    if not calibrated:
        return weights
    digest = hashlib.sha256(weights.encode())
    for device in sorted(calibrated):
        digest.update(repr(asdict(calibrated[device])).encode())
    return digest.hexdigest()[:16]


MODEL = Learned()
