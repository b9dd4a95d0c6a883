"""Generalised assignment: within 0.3 % of the best known value on every instance."""

from __future__ import annotations

from tests.benchmarks.figure import Figure
from tests.benchmarks.mapping_instances import DATA, above, instances, of_solver, run, worst

DEADLINE_S = 60.0
GOAL = 0.3  # percent
FOLDER = "gap/instances"


def measure() -> list[Figure]:
    """How far the worst answer lies above the best known value, and how many are proven."""
    paths = sorted(str(path.relative_to(DATA)) for path in (DATA / FOLDER).rglob("*") if path.is_file())
    found = instances(paths)
    comparison = run(found, DEADLINE_S)
    figures = []
    for solver in comparison.solvers:
        answers = of_solver(comparison, solver)
        proven = sum(a.status == "optimal" for a in answers)
        shares = above(answers, dict(comparison.best_known))
        figures.append(
            worst(f"generalised assignment, worst above the best known, {solver}", shares, GOAL, f"; {proven} proven")
        )
    return figures
