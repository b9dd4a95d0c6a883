"""`make peers`: ResNet-18 on arrays of processing elements, layer by layer, in closed form and by SCALE-Sim.

python -m tests.peers.systolic [--array 256x256 ...] [--dataflow os ...] [--folder DIR] [--json]

SCALE-Sim (Georgia Tech, github.com/scalesim-project/SCALE-Sim) is installed from PyPI as scalesim_requirements.txt pins
it; it takes one to ten minutes a setting. Its `Total Cycles` are those of arrays that never wait, counted from 0: one
fewer a layer than ours. With --bandwidth it also fetches both operands whole before a layer starts and writes outputs
after it, `Total Cycles (incl. prefetch)`: operands as im2col matrices padded to whole folds. That is not how an NPU
runs a network, and no part of the cost model; `cold` is our count with that added, for output stationary arrays.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import workloads
from chiplib import Dataflow, PeArray, load_library
from chiplib.chip import ChipType, Precision
from chiplib.features import chip_features
from dse.proxy.model import LayerQuestion, cost_model
from dse.proxy.systolic import layer_cycles
from tests.peers.environment import HERE, PeerError, environment, step
from workloads.graph import Layer, WorkloadGraph

DATAFLOWS = {"os": Dataflow.OUTPUT, "ws": Dataflow.WEIGHT, "is": Dataflow.INPUT}
SRAM_KB = (6144, 6144, 2048)  # SCALE-Sim's own google.cfg; in CALC it moves no cycle
ALLOWED = 0.02  # of the total


def main() -> int:
    """Print a table a setting; exit code 1 where a total is further off than ALLOWED."""
    parser = argparse.ArgumentParser(prog="python -m tests.peers.systolic", description=__doc__)
    parser.add_argument("--array", action="append", help="ROWSxCOLUMNS, again for more")
    parser.add_argument("--dataflow", action="append", choices=DATAFLOWS, help="again for more")
    parser.add_argument(
        "--bandwidth", type=int, default=0, help="words a cycle for each operand, before a layer starts"
    )
    parser.add_argument("--folder", type=Path, default=Path("build") / "peers")
    parser.add_argument("--json", action="store_true", dest="as_json")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    graph = workloads.load("resnet18")
    results: list[dict[str, Any]] = []
    failed = ""
    for array in arguments.array or ["256x256"]:
        rows, columns = map(int, array.split("x"))
        for dataflow in arguments.dataflow or DATAFLOWS:
            result = ours(graph, rows, columns, dataflow, arguments.bandwidth)
            try:
                compare(result, scale_sim(graph, rows, columns, dataflow, folder, arguments.bandwidth))
            except PeerError as error:
                failed = str(error)
            results.append(result)
    if arguments.as_json:
        print(json.dumps({"settings": results, "scalesim_failed": failed}, indent=2))
    else:
        show(results, failed)
    return 0 if all(abs(result.get("total_off", 0.0)) <= ALLOWED for result in results) else 1


def products(graph: WorkloadGraph) -> list[Layer]:
    """The layers that SCALE-Sim takes too."""
    return [layer for layer in graph.layers if layer.kind in ("conv", "linear")]


def npu(rows: int, columns: int, dataflow: str) -> ChipType:
    """Google's edge TPU with another array, and accumulators without end, which SCALE-Sim assumes."""
    chip = load_library("reference").chip("edge_tpu")
    clock_hz = max(chip.peak_flops.values()) / (2 * rows * columns)
    sram = dict(zip(("input_sram_kb", "weight_sram_kb", "output_sram_kb"), (*SRAM_KB[:2], 1e12), strict=True))
    assert isinstance(chip.pe_array, PeArray)
    return replace(
        chip,
        pe_array=replace(
            chip.pe_array, rows=rows, columns=columns, dataflow=DATAFLOWS[dataflow], clock_hz=clock_hz, **sram
        ),
    )


def ours(graph: WorkloadGraph, rows: int, columns: int, dataflow: str, bandwidth: int = 0) -> dict[str, Any]:
    """Return our cycles and SRAM reads of each product, and the time of one prediction of all layers."""
    layers, features = products(graph), graph.features
    mine = np.isin([layer.name for layer in graph.layers], [layer.name for layer in layers])
    types = [npu(rows, columns, dataflow)]
    chips = chip_features(types, Precision.INT8)
    question = LayerQuestion(layers=features, chips=chips, precision=Precision.INT8, graph=graph, types=types)
    model, times = cost_model("systolic"), []
    for _ in range(50):
        started = time.process_time()
        model.predict(question)
        times.append(time.process_time() - started)
    done = layer_cycles(features[mine], chips, Precision.INT8).products
    rows_of = zip(layers, done.cycles[:, 0, 0], done.input_reads[:, 0, 0], done.weight_reads[:, 0, 0], strict=True)
    found = [
        {"name": layer.name, "ours": int(cycles), "ours_sram": [int(inputs), int(weights)]}
        for layer, cycles, inputs, weights in rows_of
    ]
    if bandwidth:
        for row, product in zip(found, features[mine], strict=True):
            row["cold"] = row["ours"] + cold(product, rows, columns, dataflow, bandwidth)
    return {"array": f"{rows}x{columns}", "dataflow": dataflow, "layers": found, "ours_s": float(np.median(times))}


def cold(row: np.void, rows: int, columns: int, dataflow: str, bandwidth: int) -> int:
    """Return the cycles that SCALE-Sim adds to move one output-stationary product's operands in and its outputs out."""
    m, n, k = (float(row[f"gemm_{name}"][0]) for name in "mnk")
    if dataflow != "os":
        raise PeerError("what it fetches before a layer is understood for os alone: leave --bandwidth out")
    operands = max(math.ceil(m / rows) * rows * k, math.ceil(n / columns) * columns * k)
    return math.ceil(operands / bandwidth) + math.ceil(m * n / bandwidth)


def topology(layers: list[Layer]) -> list[list[str | int]]:
    """Return SCALE-Sim's rows: inputs with as much padding as the outputs need, since it rounds their number up."""
    found: list[list[str | int]] = []
    for layer in layers:
        s = layer.shape
        if layer.kind == "linear":
            found.append([layer.name, s["m"], 1, 1, 1, s["k"], s["n"], 1])
            continue
        spans = [(s[f"out_{axis}"] - 1) * s[f"stride_{axis}"] + s[f"kernel_{axis}"] for axis in "hw"]
        kernel = [s["kernel_h"], s["kernel_w"]]
        found.append([layer.name, *spans, *kernel, s["in_channels"], s["out_channels"], s["stride_h"]])
    return found


def scale_sim(
    graph: WorkloadGraph, rows: int, columns: int, dataflow: str, folder: Path, bandwidth: int = 0
) -> dict[str, Any]:
    """Return SCALE-Sim's answer on one setting (see scalesim_answers.py); its environment is made once."""
    python = environment("ScaleSim", folder, "--no-deps")
    home = folder / "scalesim" / f"{rows}x{columns}_{dataflow}"
    home.mkdir(parents=True, exist_ok=True)
    setting = {"rows": rows, "columns": columns, "dataflow": dataflow, "sram_kb": SRAM_KB, "bandwidth": bandwidth}
    (home / "setting.json").write_text(json.dumps(setting | {"layers": topology(products(graph))}))
    name = f"ResNet-18, {rows}x{columns}, {dataflow}"
    said = step("ScaleSim", name, [python, HERE / "scalesim_answers.py", home, home / "setting.json"])
    answer: dict[str, Any] = json.loads(said)
    return answer


def compare(result: dict[str, Any], answer: dict[str, Any]) -> None:
    """Put SCALE-Sim's figures beside ours."""
    for row, theirs in zip(result["layers"], answer["layers"], strict=True):
        row["scalesim"], row["scalesim_sram"] = theirs["cycles"], theirs["sram"][:2]
        row["off"] = row["ours"] / theirs["cycles"] - 1.0
        if "cold" in row:
            row["scalesim_cold"] = theirs["with_prefetch"]
    total = sum(row["scalesim"] for row in result["layers"])
    result["total_off"] = sum(row["ours"] for row in result["layers"]) / total - 1.0
    result["scalesim_s"] = answer["cpu_s"]
    result["speed"] = answer["cpu_s"] / result["ours_s"]


def show(results: list[dict[str, Any]], failed: str) -> None:
    """Print each setting and its totals."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    for result in results:
        table = Table(
            box=SIMPLE_HEAD, title=f"ResNet-18, {result['array']}, {result['dataflow']}", title_justify="left"
        )
        names = ("ours", "scalesim", "off", "ours_sram", "scalesim_sram", "cold", "scalesim_cold")
        present = [name for name in names if name in result["layers"][0]]
        for name in ("layer", *present):
            table.add_column(name.replace("_", " "), justify="left" if name == "layer" else "right")
        for row in result["layers"]:
            table.add_row(row["name"], *(_cell(row, name) for name in present))
        console.print(table)
        counts = [name for name in present if isinstance(result["layers"][0][name], int)]
        totals = {name: sum(row[name] for row in result["layers"]) for name in counts}
        said = ", ".join(f"{name.replace('_', ' ')} {total:,}" for name, total in totals.items())
        console.print(f"In all: {said}.")
        if "speed" in result:
            times = f"{result['ours_s'] * 1e3:.3f} ms against {result['scalesim_s']:.1f} CPU s"
            console.print(f"Off by {result['total_off']:+.4%}; {times}, {result['speed']:,.0f} times as fast.")
    if failed:
        console.print(f"SCALE-Sim has no answer: {failed}", markup=False)


def _cell(row: dict[str, Any], name: str) -> str:
    value = row[name]
    if isinstance(value, list):
        return " + ".join(f"{part:,}" for part in value)
    return f"{value:+.3%}" if isinstance(value, float) else f"{value:,}"


if __name__ == "__main__":
    sys.exit(main())
