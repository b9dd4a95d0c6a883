"""What the bench_mapping_* files share: public instances, the solvers to run on them, and the worst of the answers.

CHIPFRONT_DATA names the folder of the measured data, CHIPFRONT_MAPPING_SOLVERS the solvers (joined by commas; portfolio
unless given), CHIPFRONT_MAPPING_ONLY a part of the names of the instances to run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from dse.compare import Answer, Comparison, compare
from solvers.formats import Instance, Reading, read_instance
from tests.benchmarks.figure import Figure

DATA = Path(os.environ.get("CHIPFRONT_DATA") or Path(__file__).parents[3] / "shared" / "data") / "solvers"
SOLVERS = tuple(os.environ.get("CHIPFRONT_MAPPING_SOLVERS", "portfolio").split(","))
ONLY = os.environ.get("CHIPFRONT_MAPPING_ONLY", "")


def instances(paths: Iterable[str], reading: Reading | None = None) -> dict[str, Instance]:
    """Read instances by their paths below the data's solvers/; those that CHIPFRONT_MAPPING_ONLY leaves."""
    found = {path: read_instance(DATA / path, reading) for path in paths if ONLY in path}
    if not found:
        raise FileNotFoundError(f"no instance is left of those below {DATA} (CHIPFRONT_MAPPING_ONLY={ONLY!r})")
    return found


def run(found: dict[str, Instance], deadline_s: float, solvers: Sequence[str] = SOLVERS) -> Comparison:
    """Run the solvers on all instances, one at a time; a line an answer on stderr, for these runs are long."""
    comparison = compare(
        {name: instance.problem for name, instance in found.items()},
        solvers,
        deadline_s=deadline_s,
        best_known={name: i.best_known for name, i in found.items() if i.best_known is not None},
        report=_Told(),
    )
    for a in comparison.answers:
        value = "none" if a.objective is None else f"{a.objective:.6g}"
        bound = "none" if a.lower_bound is None else f"{a.lower_bound:.6g}"
        cpu = "" if a.cpu_s is None else f", {a.cpu_s:.1f} CPU s"
        line = f"  {a.solver} on {a.instance}: {value}, bound {bound}, {a.status}, {a.wall_s:.1f} s{cpu} {a.reason}"
        print(line, file=sys.stderr, flush=True)
    for said in comparison.contradictions():
        print(f"  CONTRADICTION: {said}", file=sys.stderr, flush=True)
    return comparison


class _Told:
    """Says what runs, a line an answer."""

    def __init__(self) -> None:
        self.last = ""

    def __call__(self, done: int, doing: str) -> None:
        if doing != self.last:
            print(f"  {done} done, {doing} ...", file=sys.stderr, flush=True)
        self.last = doing


def label(name: str) -> str:
    """Return the end of an instance's path, as notes show it."""
    return "/".join(Path(name).with_suffix("").parts[-2:])


def of_solver(comparison: Comparison, solver: str) -> list[Answer]:
    """Return the answers of one solver."""
    return [answer for answer in comparison.answers if answer.solver == solver]


def above(answers: Iterable[Answer], known: dict[str, float]) -> dict[str, float]:
    """Return instance -> percent above the known value; inf where no mapping was found."""
    return {
        a.instance: float("inf") if a.objective is None else 100 * (a.objective / known[a.instance] - 1)
        for a in answers
    }


def worst(figure: str, shares: dict[str, float], goal: float, note: str = "") -> Figure:
    """Return the largest of some percents as a figure that names its instance."""
    name = max(shares, key=lambda instance: shares[instance])
    over = sum(share > goal for share in shares.values())
    told = f"worst: {label(name)}; {over} of {len(shares)} over the goal{note}"
    return Figure(figure=figure, goal=goal, measured=shares[name], unit="%", higher_is_better=False, note=told)


def share_of(figure: str, met: dict[str, bool], note: str = "") -> Figure:
    """Return how many instances met something, all of them being the goal; the note names the others."""
    missed = [label(name) for name, fine in met.items() if not fine]
    told = f"not: {', '.join(missed)}" if missed else "all"
    return Figure(figure=figure, goal=len(met), measured=sum(met.values()), unit="instances", note=told + note)
