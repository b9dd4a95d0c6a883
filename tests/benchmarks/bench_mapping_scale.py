"""Mapping at scale: proven gaps of annealing on synthetic networks, and mappings evaluated a CPU second."""

from __future__ import annotations

import time

import numpy as np

from solvers.mapping.check import checked
from solvers.mapping.evaluate import evaluate
from solvers.mapping.problem import MappingProblem
from solvers.mapping.solve import solve_mapping
from tests.benchmarks.figure import Figure
from tests.benchmarks.synthetic_mapping import synthetic

SOLVED = ((40, 4, 10.0, 1.0), (300, 16, 30.0, 1.0), (3000, 64, 60.0, 5.0), (1000, 1000, 60.0, 6.0))
EVALUATED = ((50, 16, 400_000), (500, 64, 30_000))


def measure() -> list[Figure]:
    """Solve each size once, and evaluate random mappings of each regime."""
    solve_mapping(synthetic(16, 4), "annealing", deadline_s=2)  # compiled
    solve_mapping(synthetic(16, 4, links=False), "annealing", deadline_s=2)
    figures = [_gap(*size) for size in SOLVED]
    for segments, slots, goal in EVALUATED:
        for regime in ("pipelined", "serial"):
            figures.append(_speed(synthetic(segments, slots, regime=regime), goal))
    return figures


def _gap(segments: int, slots: int, deadline_s: float, goal: float) -> Figure:
    problem = synthetic(segments, slots, links=slots < 256)
    mapping = solve_mapping(problem, "annealing", deadline_s=deadline_s)
    return Figure(
        figure=f"proven gap, K={segments} S={slots}, pipelined, free, memory 75 % full, annealing, {deadline_s:g} s",
        goal=goal,
        measured=100 * mapping.gap,
        unit="%",
        higher_is_better=False,
        note=f"T {mapping.objective:.6g} ms, bound {mapping.lower_bound:.6g} ms, {mapping.wall_s:.1f} s",
    )


def _speed(problem: MappingProblem, goal: float) -> Figure:
    rng = np.random.default_rng(0)
    assignments = rng.integers(0, problem.slots, (10_000_000 // problem.segments, problem.segments))
    evaluate(problem, assignments[:2])  # compiled
    started = time.process_time()
    figures = evaluate(problem, assignments)
    cpu_s = time.process_time() - started
    for row in np.flatnonzero(figures.feasible)[:20]:
        checked(problem, assignments[row], objective=float(figures.objective[row]))
    return Figure(
        figure=f"mappings evaluated, K={problem.segments} S={problem.slots}, {problem.regime}",
        goal=goal,
        measured=len(assignments) / cpu_s,
        unit="mappings/CPU s",
        note=f"{len(problem.edges)} edges, {problem.route_links.shape[2]} links",
    )
