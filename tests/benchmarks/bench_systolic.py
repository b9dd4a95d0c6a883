"""The systolic cost model against SCALE-Sim on ResNet-18, both in one run on one core, in a minute or two."""

from __future__ import annotations

from pathlib import Path

import workloads
from tests.benchmarks.figure import Figure
from tests.peers.environment import PeerError
from tests.peers.systolic import compare, ours, scale_sim

ROWS, COLUMNS, DATAFLOW = 256, 256, "os"


def measure() -> list[Figure]:
    """Difference of all cycles and of the worst layer, and how many times faster the closed form is."""
    graph = workloads.load("resnet18")
    result = ours(graph, ROWS, COLUMNS, DATAFLOW)
    setting = f"ResNet-18, {ROWS}x{COLUMNS} output stationary"
    folder = (Path("build") / "peers").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        compare(result, scale_sim(graph, ROWS, COLUMNS, DATAFLOW, folder))
    except PeerError as error:  # no network: our own time is measured all the same
        note = f"{setting}; not compared: {error}"
        return [_figure("systolic, one model on one chip", None, result["ours_s"] * 1e3, "ms", note)]
    cycles, theirs = (sum(row[name] for row in result["layers"]) for name in ("ours", "scalesim"))
    off = max(abs(row["off"]) for row in result["layers"])
    return [
        _figure("systolic, all cycles against SCALE-Sim", 2.0, abs(cycles / theirs - 1) * 100, "%", setting),
        _figure("systolic, worst layer against SCALE-Sim", 5.0, off * 100, "%", f"{len(result['layers'])} layers"),
        Figure(
            figure="systolic, speed against SCALE-Sim",
            goal=10_000.0,
            measured=result["speed"],
            unit="times",
            note=f"{result['ours_s'] * 1e3:.3f} ms against {result['scalesim_s']:.1f} CPU s",
        ),
    ]


def _figure(figure: str, goal: float | None, measured: float, unit: str, note: str) -> Figure:
    return Figure(figure=figure, goal=goal, measured=measured, unit=unit, higher_is_better=False, note=note)
