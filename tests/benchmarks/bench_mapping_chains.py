"""Serial chains with memory 85 % full on heterogeneous slots: proven gap of the Lagrangian solver, and its time."""

from __future__ import annotations

from time import process_time

from solvers.mapping.solve import solve_mapping
from tests.benchmarks.figure import Figure
from tests.benchmarks.synthetic_chains import chain

CASES = ((40, 4, 0.0, 1.0), (300, 16, 1.0, 30.0), (3000, 64, 5.0, 60.0), (1000, 1000, 6.0, 120.0))
"""Segments, slots, gap to reach in %, deadline in s."""


def measure() -> list[Figure]:
    """Proven gap at the deadline, of one chain each."""
    solve_mapping(chain(6, 3), "lagrangian")  # compiles
    figures = []
    for segments, slots, goal, deadline_s in CASES:
        started = process_time()
        mapping = solve_mapping(chain(segments, slots), "lagrangian", deadline_s=deadline_s)
        cpu_s = process_time() - started
        figures.append(
            Figure(
                figure=f"proven gap of a serial chain, {segments} segments on {slots} slots, {deadline_s:.0f} s",
                goal=goal,
                measured=0.0 if mapping.status == "optimal" else 100 * mapping.gap,
                unit="%",
                higher_is_better=False,
                note=f"{mapping.objective:.4f} ms, bound {mapping.lower_bound:.4f} ms, {cpu_s:.1f} CPU s",
            )
        )
    return figures
