"""Topcuoglu's graph of ten tasks on three processors: what HEFT publishes, and the optimum."""

from __future__ import annotations

from tests.benchmarks.figure import Figure
from tests.benchmarks.mapping_instances import instances, run

DEADLINE_S = 10.0
PUBLISHED = {"heft": 80.0, "cp_sat": 73.0}  # Topcuoglu et al. 2002; proven optimum


def measure() -> list[Figure]:
    """Schedule lengths, which are to be met and not to be beaten: HEFT is one algorithm, and 73 is the optimum."""
    comparison = run(instances(["heft_canonical/topcuoglu10.json"]), DEADLINE_S, tuple(PUBLISHED))
    return [
        Figure(
            figure=f"schedule length of Topcuoglu's graph, {a.solver}",
            goal=PUBLISHED[a.solver],
            measured=float("inf") if a.objective is None else a.objective,
            unit="ms",
            higher_is_better=False,
            note=f"{a.status}, {a.wall_s:.2f} s{f': {a.reason}' if a.reason else ''}",
        )
        for a in comparison.answers
    ]
