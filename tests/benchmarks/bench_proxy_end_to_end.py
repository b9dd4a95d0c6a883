"""Whole models of the catalogue on the machine that measured them: latency and peak memory, layer by layer."""

from __future__ import annotations

from dse.proxy.evaluate.end_to_end import GOAL, measured_here, on_measuring_machines
from dse.proxy.predict import shipped
from tests.benchmarks.figure import Figure


def measure() -> list[Figure]:
    """Errors of each model's latency and memory, and how many intervals hold the measurement."""
    table = on_measuring_machines(shipped(), measured_here())
    figures = []
    for row in table.itertuples():
        interval = f"90 % interval {row.low_ms:,.4g} to {row.high_ms:,.4g}"
        latency = f"predicted {row.predicted_ms:,.4g} ms ({interval}), measured {row.measured_ms:,.4g} ms"
        memory = f"predicted {row.predicted_mb:,.4g} MB, measured {row.measured_mb:,.4g} MB"
        for what, error, note in (("latency", row.error, latency), ("peak memory", row.memory_error, memory)):
            figures.append(
                Figure(
                    figure=f"end to end, {what} of {row.model}",
                    goal=GOAL,
                    measured=abs(error),
                    unit="%",
                    higher_is_better=False,
                    note=note,
                )
            )
    inside = Figure(
        figure="end to end, models inside their 90 % interval of latency",
        goal=85.0,
        measured=100 * float(table["inside"].mean()),
        unit="%",
        note=f"{len(table)} models",
    )
    return [*figures, inside]
