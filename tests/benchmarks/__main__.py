"""`make bench`: measure every figure of the bench_*.py files here and print one table, or with --json one object.

python -m tests.benchmarks [--json] [NAME ...]     NAME: a part of a file's name, such as `design_points`
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tests.benchmarks.figure import Figure

HERE = Path(__file__).parent


def main() -> int:
    """Run the benchmarks that were asked for; exit code 1 where one of them fails to run."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", action="store_true", dest="as_json")
    arguments = parser.parse_args()
    figures: list[Figure] = []
    broken: dict[str, str] = {}
    for path in sorted(HERE.glob("bench_*.py")):
        if arguments.names and not any(name in path.stem for name in arguments.names):
            continue
        print(f"{path.stem} ...", file=sys.stderr, flush=True)
        try:
            figures += measure(path)
        except Exception as error:  # one broken benchmark must not cost the others
            broken[path.stem] = f"{type(error).__name__}: {error}"
    if arguments.as_json:
        print(json.dumps({"machine": machine(), "figures": [asdict(f) for f in figures], "broken": broken}, indent=2))
    else:
        show(figures)
        for name, reason in broken.items():
            print(f"{name} did not run: {reason}", file=sys.stderr)
    return 1 if broken else 0


def measure(path: Path) -> list[Figure]:
    """Import one benchmark file and return what its `measure()` measures."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return list(module.measure())


def machine() -> str:
    """Return the machine in a few words: cores, processor, Python."""
    names = [
        line.partition(":")[2].strip()
        for line in (Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else "").splitlines()
        if line.startswith("model name")
    ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = names[0] if names else platform.machine()
    return f"{cores} cores, {processor}, Python {platform.python_version()}"


def show(figures: list[Figure]) -> None:
    """Print the table."""
    table = Table(box=SIMPLE_HEAD, title=f"Machine: {machine()}", title_justify="left")
    for name in ("figure", "goal", "measured", "reached", "note"):
        table.add_column(name, justify="right" if name in ("goal", "measured") else "left")
    for f in figures:
        sign = ">=" if f.higher_is_better else "<="
        goal = "" if f.goal is None else f"{sign} {f.goal:,.6g} {f.unit}"
        reached = {None: "", True: "yes", False: "NO"}[f.reached]
        table.add_row(f.figure, goal, f"{f.measured:,.4g} {f.unit}", reached, f.note)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    sys.exit(main())
