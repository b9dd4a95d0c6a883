"""Quadratic assignment: within 0.6 % of the best known value on every instance."""

from __future__ import annotations

from tests.benchmarks.figure import Figure
from tests.benchmarks.mapping_instances import DATA, above, instances, of_solver, run, worst

DEADLINE_S = 60.0
GOAL = 0.6  # percent
FOLDER = "qaplib"


def measure() -> list[Figure]:
    """How far the worst answer lies above the best known value."""
    paths = sorted(f"{FOLDER}/{path.name}/{path.name}.txt" for path in (DATA / FOLDER).iterdir() if path.is_dir())
    found = instances(paths)
    comparison = run(found, DEADLINE_S)
    return [
        worst(
            f"quadratic assignment, worst above the best known, {solver}",
            above(of_solver(comparison, solver), dict(comparison.best_known)),
            GOAL,
        )
        for solver in comparison.solvers
    ]
