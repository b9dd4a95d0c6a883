"""`make peers`: the fifteen probes, counted by hand, by both routes of ours, and by ZigZag in its own environment.

python -m tests.peers [--json] [--folder DIR]     DIR (build/peers) takes the ONNX files and ZigZag's environment

ZigZag (KU Leuven, github.com/KULeuven-MICAS/zigzag) is installed from PyPI as zigzag_requirements.txt pins it. Where
that fails, the table shows ours and the step that failed. stream-dse needs Python 3.12 and is not run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import workloads
from tests.peers.environment import HERE, PeerError, environment, step
from tests.peers.probes import PROBES, Probe
from workloads.graph import MATRIX_KINDS, WorkloadGraph


def main() -> int:
    """Print the table; exit code 1 where one of our own counts is not the hand's."""
    parser = argparse.ArgumentParser(prog="python -m tests.peers", description=__doc__)
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--folder", type=Path, default=Path("build") / "peers")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    rows = [ours(probe, folder / "onnx") for probe in PROBES]
    failed = ""
    try:
        answers = zigzag([Path(row["file"]) for row in rows], folder)
    except PeerError as error:
        answers, failed = {}, str(error)
    for row in rows:
        row["zigzag"] = answers.get(row["file"])
        row["verdict"] = verdict(row) if row["zigzag"] else ""
    if arguments.as_json:
        print(json.dumps({"probes": rows, "zigzag_failed": failed}, indent=2))
    else:
        show(rows, failed)
    return 0 if all(row["hand"] == row["pytorch"] == row["onnx"] for row in rows) else 1


def ours(probe: Probe, folder: Path) -> dict[str, Any]:
    """Return what we count by the PyTorch route and by the ONNX route, of the file that the peer gets too."""
    with quiet():
        path = probe.export(folder)
    unit = "MACs" if probe.macs else "operations"
    pytorch = workloads.trace(probe.module(), torch.rand(probe.shape), cache=False)
    return {
        "probe": probe.name,
        "file": str(path),
        "unit": unit,
        "hand": probe.macs or probe.flops,
        "pytorch": figure(pytorch, unit),
        "onnx": figure(workloads.trace_file(path, cache=False), unit),
    }


def figure(graph: WorkloadGraph, unit: str) -> int:
    """Return the MACs of matrix work, or all operations of a block that has none."""
    return sum(x.macs for x in graph.layers if x.kind in MATRIX_KINDS) if unit == "MACs" else graph.flops


@contextlib.contextmanager
def quiet() -> Any:
    """Keep the exporter from printing."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def zigzag(files: Sequence[Path], folder: Path) -> dict[str, dict[str, Any]]:
    """Return ZigZag's answer by file; its environment is made once."""
    python = environment("ZigZag", folder)
    output = folder / "zigzag"
    output.mkdir(exist_ok=True)
    said = step("ZigZag", "running it", [python, HERE / "zigzag_answers.py", output, *files])
    return {answer["file"]: answer for answer in map(json.loads, said.splitlines())}


def verdict(row: dict[str, Any]) -> str:
    """Say what ZigZag's answer is worth: right, zero, wrong by which factor, or a crash."""
    answer = row["zigzag"]
    if "crash" in answer:
        return "crash"
    if answer["macs"] == 0:
        return "zero"
    if row["unit"] == "MACs" and answer["macs"] == row["hand"]:
        return "right"
    return f"wrong ({row['hand'] / answer['macs']:.3g} times too small)"


def show(rows: Sequence[dict[str, Any]], failed: str) -> None:
    """Print the table and one line that sums it up."""
    table = Table(box=SIMPLE_HEAD)
    for name in ("probe", "unit", "by hand", "ours, PyTorch", "ours, ONNX", "ZigZag's MACs", "verdict"):
        table.add_column(name, justify="left" if name in ("probe", "unit", "verdict") else "right")
    for row in rows:
        answer = row["zigzag"] or {}
        theirs = f"{answer['macs']:,}" if "macs" in answer else ""
        note = answer.get("crash", row["verdict"])
        table.add_row(
            row["probe"], row["unit"], *(f"{row[key]:,}" for key in ("hand", "pytorch", "onnx")), theirs, note
        )
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    right = sum(row["hand"] == row["pytorch"] == row["onnx"] for row in rows)
    console.print(f"Ours: {right} of {len(rows)} right by both routes.")
    if failed:
        console.print(f"ZigZag has no answer: {failed}", markup=False)
        return
    kinds = [row["verdict"].partition(" ")[0] for row in rows]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("right", "zero", "wrong", "crash"))
    console.print(f"ZigZag: {counts}. It counts convolutions and matrix products; zero means that it says nothing.")


if __name__ == "__main__":
    sys.exit(main())
