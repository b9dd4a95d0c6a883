"""End to end: whole models predicted layer by layer, beside what was measured of them here and elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import chiplib
from dse.proxy.chips import device_table
from dse.proxy.evaluate.left_out import STEPS, proxies_left_out
from dse.proxy.evaluate.published import Published
from dse.proxy.evaluate.whole_models import Setting, WholeModel, predict_model
from dse.proxy.own_data import own_layers, own_models
from dse.proxy.predict import LayerProxy
from dse.proxy.software import UNSAID
from dse.store import to_json, write_atomically
from dse.workload import workload_graph
from workloads import at_precision, catalog, eager_memory
from workloads.factory import build

GOAL = 15.0
"""Error in % from which on a prediction is a miss, which is explained."""

SHARE = 0.1
"""Share of the time from which on something counts as a reason for a miss."""

MACHINE = {
    "model": "of the catalogue",
    "device": "that measured it",
    "left_out": "measured rows that the fit did not see, being layers of the model (or of others of its part)",
    "measured_ms": "forward pass, eager",
    "predicted_ms": "sum of its layers",
    "low_ms": "90 % interval",
    "high_ms": "",
    "error": "% of what was measured",
    "inside": "whether the interval holds the measurement",
    "measured_mb": "peak memory: weights, inputs, and what was allocated at most on top",
    "predicted_mb": "the same of the eager model on tensors without data",
    "memory_error": "%",
    "outside": "% of the time in layers that nothing like was fitted",
    "reasons": "of a miss of GOAL % or more",
}
"""Columns of the table of measuring machines, and what they say."""

NAMED = {
    "chip": "of the reference library",
    "model": "of the catalogue",
    "batch": "",
    "precision": "",
    "quantity": "latency_ms or memory_mb",
    "published": "what others measured",
    "predicted": "",
    "low": "90 % interval; none of memory",
    "high": "",
    "error": "%",
    "inside": "whether the interval holds what was published",
    "outside": "% of the time in layers, or on a chip, that nothing like was fitted",
    "ran": "software of the measurement",
    "predicted_for": "software of the prediction",
    "reasons": "of a miss of GOAL % or more",
    "source": "",
}
"""Columns of the table of named devices."""

JSON_FILE, MACHINE_FILE, NAMED_FILE = "end_to_end.json", "measuring_machines.csv", "named_devices.csv"

Report = Callable[[int, str], None]


def measured_here(models: Sequence[str] = ()) -> pd.DataFrame:
    """Return the measured forward passes of the catalogue's models, all or those that are named."""
    table = own_models()
    return table[table["model"].isin(list(models) or catalog.names())].reset_index(drop=True)


def on_measuring_machines(
    proxy: LayerProxy, measured: pd.DataFrame, *, left_out: int = 0, report: Report = lambda done, what: None
) -> pd.DataFrame:
    """Return MACHINE of each row of `measured`, predicted for the software that measured it."""
    rows, devices = own_layers()
    timers = rows.astype({"device": str, "timer": str}).groupby("device")["timer"].first()
    found = []
    for number, row in enumerate(measured.to_dict("records")):
        report(number, f"{row['model']} on {row['device']}")
        setting = Setting(device=row["device"], framework=row["framework"], timer=timers[row["device"]])
        said = predict_model(catalog.load(row["model"]), devices, setting, proxy)
        memory = memory_mb(row["model"], workspaces=devices["kind"][row["device"]] == "cpu")
        error = _error(said.latency_ms, row["latency_ms"])
        found.append(
            {
                "model": row["model"],
                "device": row["device"],
                "left_out": left_out,
                "measured_ms": row["latency_ms"],
                "predicted_ms": said.latency_ms,
                "low_ms": said.low_ms,
                "high_ms": said.high_ms,
                "error": error,
                "inside": said.low_ms <= row["latency_ms"] <= said.high_ms,
                "measured_mb": row["peak_memory_mb"],
                "predicted_mb": memory,
                "memory_error": _error(memory, row["peak_memory_mb"]),
                "outside": 100 * said.outside,
                "reasons": _steady(row, error) + "; ".join(_reasons(said, error)),
            }
        )
    return pd.DataFrame(found, columns=list(MACHINE))


def on_measuring_machines_left_out(
    proxy: LayerProxy,
    measured: pd.DataFrame,
    rows: pd.DataFrame,
    devices: pd.DataFrame,
    *,
    seed: int = 0,
    steps: int = STEPS,
    report: Report = lambda done, what: None,
) -> pd.DataFrame:
    """Return MACHINE of proxies that were fitted to `rows` without the layers of what they predict.

    Models go in parts (see dse.proxy.evaluate.left_out); intervals are as wide as those of `proxy`.
    """
    models = list(dict.fromkeys(measured["model"]))
    parts = proxies_left_out(models, rows, devices, widths=proxy.widths, seed=seed, steps=steps, progress=report)
    tables = [
        on_measuring_machines(fitted, measured[measured["model"].isin(part)], left_out=count)
        for part, fitted, count in parts
    ]
    return pd.concat(tables, ignore_index=True)


def on_named_devices(
    proxy: LayerProxy, figures: Sequence[Published], *, report: Report = lambda done, what: None
) -> pd.DataFrame:
    """Return NAMED of each published figure, predicted from the chip's datasheet for eager PyTorch."""
    library = chiplib.load_library("reference")
    found = []
    for number, figure in enumerate(figures):
        report(number, f"{figure.model} on {figure.chip}")
        chip = library.chip(figure.chip)
        table, software = device_table([chip]), UNSAID.on(chip)
        setting = Setting(device=str(table.index[0]), framework=software.framework, timer=software.timer)
        graph = workload_graph(figure.model, batch=figure.batch)
        graph = graph if figure.precision == "fp32" else at_precision(graph, figure.precision)
        said = predict_model(graph, table, setting, proxy)
        timed = figure.quantity == "latency_ms"
        predicted = figure.passes * said.latency_ms if timed else memory_mb(figure.model, workspaces=False)
        low, high = (figure.passes * said.low_ms, figure.passes * said.high_ms) if timed else (np.nan, np.nan)
        error = _error(predicted, figure.value)
        reasons = _reasons(said, error, figure.passes) + _differences(figure, said) if timed else [_CONTEXT]
        found.append(
            {
                "chip": figure.chip,
                "model": figure.model,
                "batch": figure.batch,
                "precision": figure.precision,
                "quantity": figure.quantity,
                "published": figure.value,
                "predicted": predicted,
                "low": low,
                "high": high,
                "error": error,
                "inside": bool(low <= figure.value <= high) if timed else None,
                "outside": 100 * said.outside,
                "ran": figure.software,
                "predicted_for": software.framework,
                "reasons": "; ".join(reasons) if abs(error) > GOAL else "",
                "source": figure.source,
            }
        )
    return pd.DataFrame(found, columns=list(NAMED))


@cache
def memory_mb(model: str, *, workspaces: bool) -> float:
    """Return the MB that a model of the catalogue takes at its peak as it runs in eager PyTorch."""
    entry = catalog.entry(model)
    module, inputs = build(entry.factory, entry.inputs, kwargs=entry.kwargs, device="meta")
    return eager_memory(module, inputs, workspaces=workspaces).bytes / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class EndToEnd:
    """The tables; those that were not asked for are empty."""

    machines: pd.DataFrame
    left_out: pd.DataFrame
    named: pd.DataFrame

    @property
    def summary(self) -> pd.DataFrame:
        """A row a table: models, how many are within GOAL %, median and largest error, coverage of intervals in %."""
        tables = {"measuring machines": self.machines, "their layers left out": self.left_out}
        tables["named devices"] = self.named[self.named["quantity"] == "latency_ms"]
        found = []
        for name, table in tables.items():
            if len(table):
                errors = table["error"].abs()
                memory = table["memory_error"].abs() if "memory_error" in table else pd.Series(dtype=float)
                found.append(
                    {
                        "table": name,
                        "models": len(table),
                        "within_goal": int((errors <= GOAL).sum()),
                        "median_error": float(errors.median()),
                        "largest_error": float(errors.max()),
                        "coverage": 100 * float(table["inside"].astype(float).mean()),
                        "memory_within_goal": int((memory <= GOAL).sum()) if len(memory) else None,
                        "largest_memory_error": float(memory.max()) if len(memory) else None,
                    }
                )
        return pd.DataFrame(found)

    def to_dict(self) -> dict[str, Any]:
        """Return lists of plain records; what is not known is None."""
        frames = {"summary": self.summary, "machines": self.machines, "left_out": self.left_out, "named": self.named}
        return {
            name: [
                {key: None if _unknown(value) else value for key, value in record.items()}
                for record in frame.astype(object).to_dict("records")
            ]
            for name, frame in frames.items()
        }

    def write(self, folder: Path, about: dict[str, Any]) -> list[Path]:
        """Write end_to_end.json, measuring_machines.csv and named_devices.csv; returns their paths."""
        machines = pd.concat([table for table in (self.machines, self.left_out) if len(table)] or [self.machines])
        texts = {
            JSON_FILE: to_json(about | self.to_dict()),
            MACHINE_FILE: machines.to_csv(index=False, lineterminator="\n"),
            NAMED_FILE: self.named.to_csv(index=False, lineterminator="\n"),
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomically(folder / name, text)
        return [folder / name for name in texts]


def nothing(columns: Iterable[str]) -> pd.DataFrame:
    """Return an empty table."""
    return pd.DataFrame(columns=list(columns))


def _unknown(value: object) -> bool:
    return value is None or (isinstance(value, float) and not np.isfinite(value))


def _error(predicted: float, measured: float) -> float:
    return 100 * (predicted / measured - 1)


def _reasons(said: WholeModel, error: float, times: float = 1.0) -> list[str]:
    """Say what a miss rests on: how far from physics both figures are, what takes most of the time, what is unknown.

    `times` are forward passes that the figure holds.
    """
    if abs(error) <= GOAL:
        return []
    ratio = said.latency_ms / said.roofline_ms
    kind, most = next(iter(said.by_kind.items()))
    reasons = [
        f"measured {ratio / (1 + error / 100):.3g} times the roofline of {times * said.roofline_ms:.3g} ms, predicted "
        f"{ratio:.3g} times",
        f"{100 * most.share:.0f} % of the prediction is {kind}, at {most.rooflines:.3g} times its roofline",
    ]
    if error < 0:
        between_ms = said.latency_ms * (1 / (1 + error / 100) - 1)
        reasons.append(f"the difference is {1e3 * between_ms / said.layers:.3g} us a layer")
    if said.outside > SHARE:
        reasons.append(f"{100 * said.outside:.0f} % is outside of the data")
    return reasons


def _steady(row: Mapping[Hashable, Any], error: float) -> str:
    """Say where the measurement itself was not steady."""
    spread = 100 * (row["max_ms"] / row["min_ms"] - 1)
    return f"its repeats differ by {spread:.0f} %; " if abs(error) > GOAL and spread > GOAL else ""


_CONTEXT = "tensors alone are predicted: a GPU's context, its libraries' workspaces and its caching come on top"


def _differences(figure: Published, said: WholeModel) -> list[str]:
    """Say how the software of the measurement differs from the one that is predicted for."""
    reasons = []
    if figure.compiled:
        fused = figure.passes * said.fused_ms
        reasons.append(f"{figure.software} fuses layers: without those it may fuse {fused:.3g} ms are predicted")
    if figure.passes > 1:
        reasons.append(f"{figure.passes} passes of a whole program, reading, overlapping and writing not predicted")
    return reasons
