"""Windowed search: what a window may change, and that it ends where no window improves."""

from dataclasses import replace

import numpy as np
import pytest

from solvers.mapping._cp_model.units import Units
from solvers.mapping.check import checked
from solvers.mapping.cp_sat import CpSat
from solvers.mapping.evaluate import evaluate
from solvers.mapping.pipeline_dp import PipelineDP
from solvers.mapping.windowed import Windowed, _fixed_but


@pytest.mark.parametrize("seed", range(40))
def test_a_window_is_the_problem_with_the_rest_fixed(seed, rich_problem, brute_force):
    problem = replace(rich_problem(seed, segments=5), free_order=False)
    _, every, evaluation = brute_force(problem)
    legal = np.flatnonzero(evaluation.feasible)
    if not len(legal):
        return
    rng = np.random.default_rng(seed)
    start = every[rng.choice(legal)]
    units = Units.from_problem(problem)
    inside = np.flatnonzero(rng.random(units.count) < 0.5)
    modes = np.flatnonzero(rng.random(problem.modes) < 0.7)
    free = np.isin(units.of, inside)
    stays = every == start
    may = (stays | (free & np.isin(every, modes))).all(axis=1)
    expected = evaluation.objective[may].min()
    mapping = CpSat().solve(_fixed_but(problem, units, start, inside, modes), warm_start=start)
    assert mapping.objective == pytest.approx(expected, rel=1e-8)
    assert (mapping.assignment[~free] == start[~free]).all()


@pytest.mark.parametrize("regime", ["serial", "pipelined"])
@pytest.mark.parametrize("contiguous", [False, True])
def test_it_starts_where_fast_solvers_end_and_repeats_itself(regime, contiguous, random_problem):
    problem = random_problem(3, segments=48, slots=4, regime=regime, contiguous=contiguous, memory=0.6)
    first, second = (Windowed().solve(problem, deadline_s=0.2, seed=5, deterministic=True) for _ in range(2))
    assert first.assignment.tolist() == second.assignment.tolist()
    checked(problem, first.assignment, objective=first.objective)
    assert first.objective <= PipelineDP().solve(problem, deadline_s=0.02, seed=5, deterministic=True).objective * (
        1 + 1e-9
    )


def test_evening_out_neighbours_beats_cuts_of_one_order(random_problem):
    """Eight like slots, stages of a graph: more even than any cut of the orders that the programme tries."""
    problem = random_problem(11, segments=120, slots=8, regime="pipelined", contiguous=True, memory=0.3)
    problem = replace(
        problem,
        compute_ms=np.repeat(np.random.default_rng(0).lognormal(0, 0.7, (120, 1)), 8, axis=1),
        allowed=np.ones((120, 8), dtype=bool),
        latency_weight=1.0,
        energy_weight=0.0,
    )
    start = PipelineDP().solve(problem, deadline_s=2)
    mapping = Windowed().solve(problem, deadline_s=1.5, deterministic=True)
    assert mapping.objective < start.objective
    assert evaluate(problem, mapping.assignment).objective[0] == pytest.approx(mapping.objective)
