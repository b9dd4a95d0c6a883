"""A measurement: rows in, a JSON line out as soon as each is measured; what stands there is not measured again."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from dse.errors import DseError
from dse.proxy.columns import COLUMNS, SHAPES
from dse.proxy.measure.energy import energy_counter
from dse.proxy.measure.machine import Machine
from dse.proxy.measure.operators import operator
from dse.proxy.measure.timing import TIMERS, ColdData, peak_memory_bytes, time_operator
from dse.proxy.tables import write_table
from dse.store import write_atomically

SOURCE = "chipfront"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How far a measurement is."""

    measured: int = 0
    refused: int = 0
    known: int = 0  # measured before
    total: int | None = None
    wall_s: float = 0.0
    doing: str = ""

    @property
    def done(self) -> int:
        """Rows that are dealt with."""
        return self.measured + self.refused + self.known


def key_of(row: Mapping[str, Any]) -> str:
    """Return what identifies an operator: its names, sizes and bytes."""
    sizes = [(name, int(row[name])) for name in SHAPES if name in row and row[name] == row[name]]
    return json.dumps(
        [row["op_type"], row["op_name"], row["dtype"], sizes, int(row["bytes"]), int(row["weight_bytes"])]
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows that a measurement has written; a last line that is not whole is left out.

    Raises
    ------
    DseError
        If another line is not JSON.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise DseError(
                f"{path}, line {number}: not a JSON object", "remove this line, or name another file"
            ) from None
    return rows


def measure(
    rows: Iterable[Mapping[str, Any]],
    out: Path,
    machine: Machine,
    *,
    budget_s: float = math.inf,
    seed: int = 0,
    total: int | None = None,
    report: Callable[[State], None] = lambda state: None,
) -> State:
    """Measure `rows` in order and append each to `out`; rows that stand there, of this device, are left out.

    A row that cannot be run is kept with its reason (`refused`). No new row is begun after `budget_s`. Ctrl-C goes
    through; what was measured stands in the file.

    Raises
    ------
    DseError
        If `out` holds something else.
    """
    known = {row["key"] for row in read_lines(out) if row.get("device") == machine.device}
    warnings.filterwarnings("ignore", message="A window was not provided")  # as the layer was traced
    names = {"source": SOURCE, "framework": machine.framework, "timer": TIMERS[machine.kind], "device": machine.device}
    data, energy = ColdData(machine.kind, machine.cache_bytes, seed), energy_counter(machine.kind)
    state, start = State(total=total), time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    _drop_torn_line(out)
    with out.open("a", encoding="utf-8") as file:
        for row in rows:
            if time.monotonic() - start > budget_s:
                break
            key = key_of(row)
            if key in known:
                state = replace(state, known=state.known + 1)
                continue
            known.add(key)
            line = names | {name: value for name, value in row.items() if value == value}
            try:
                line |= _measured(line, machine, data, energy)
                state = replace(state, measured=state.measured + 1)
            except (DseError, RuntimeError, ValueError, IndexError, TypeError) as error:  # torch's own, too
                line["refused"] = str(error).split("\n")[0]
                state = replace(state, refused=state.refused + 1)
            file.write(json.dumps(line | {"key": key}) + "\n")
            file.flush()
            doing = f"{row['op_type']} {row['op_name']} {row['dtype']}"
            state = replace(state, wall_s=time.monotonic() - start, doing=doing)
            report(state)
    return state


def _measured(line: Mapping[str, Any], machine: Machine, data: ColdData, energy: Any) -> dict[str, Any]:
    op = operator(line, machine.kind)
    timing = time_operator(op, data, energy)
    found: dict[str, Any] = {
        "latency_ms": timing.latency_ms,
        "latency_mad_ms": timing.mad_ms,
        "repeats": timing.repeats,
        "mem_mb": peak_memory_bytes(op, data) / 1e6,
    }
    if timing.power_w is not None:
        found["power_w"] = timing.power_w
    return found


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line that a crash left unfinished."""
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def table_of(lines: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return measured lines as a compact tidy table: its columns in their order, refused rows left out."""
    frame = pd.DataFrame([line for line in lines if "refused" not in line])
    columns = [name for name in COLUMNS if name in frame and frame[name].notna().any()]
    types = {name: "category" if COLUMNS[name].kind in ("name", "label") else np.float32 for name in columns}
    return frame[columns].astype(types)


def publish(lines: Sequence[Mapping[str, Any]], machine: Machine, path: Path) -> None:
    """Write the table of measured lines of this machine as `path` (parquet), and beside it what they are, as YAML:
    the row of the device table, the machine, and how many rows there are, how steady, and why others were refused.
    """
    lines = [line for line in lines if line["device"] == machine.device]
    table = table_of(lines)
    spread = [line["latency_mad_ms"] / line["latency_ms"] for line in lines if "refused" not in line]
    described = {
        "device": machine.device_row(),
        "machine": machine.describe(),
        "rows": len(table),
        "median_deviation_percent": {
            "median": round(100 * float(np.median(spread)), 2),
            "90 % of rows": round(100 * float(np.quantile(spread, 0.9)), 2),
        },
        "refused": dict(
            Counter(f"{row['op_type']} {row['op_name']}: {row['refused']}" for row in lines if "refused" in row)
        ),
    }
    write_table(table, path)
    beside = yaml.safe_dump(described, sort_keys=False, allow_unicode=True, width=120)
    write_atomically(path.with_suffix(".yaml"), beside)
