"""Incremental moves against whole evaluations and brute force."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.errors import SolverError
from solvers.mapping._merging import least_cut
from solvers.mapping.annealing import Annealing, incremental, stage_ranks
from solvers.mapping.check import check
from solvers.mapping.evaluate import evaluate, memory_bytes
from solvers.mapping.solve import solve_mapping


def walk(problem, start, moves, seed, temperature=10.0):
    """Return mapping, loads, energy and memory as thousands of moves have left them, and as worked out anew."""
    from solvers.mapping._incremental import ENERGY, reset, state_of
    from solvers.mapping._moves import anneal
    from solvers.mapping._random import seeded
    from solvers.mapping._units import units_of

    prices = np.full(problem.slots, problem.time_weight), np.zeros(problem.slots)
    units = units_of(problem, problem.unit, 8, prices)
    at = np.zeros(int(problem.unit.max()) + 1, dtype=np.int64)
    at[problem.unit] = start
    rank = stage_ranks(problem, start) if problem.contiguous else np.arange(problem.modes)
    state = state_of(units, at, rank, 3)
    anneal(units, state, moves, temperature, temperature, 3, np.inf, seeded(seed), at.copy(), rank.copy(), 0.0)
    moved = state.at.copy()
    kept = [state.load.copy(), state.held.copy(), state.largest.copy(), state.readers.copy(), state.total[ENERGY]]
    reset(units, state, 3)
    anew = [state.load, state.held, state.largest, state.readers, state.total[ENERGY]]
    return moved[problem.unit], kept, anew


@settings(deadline=None, max_examples=150)
@given(seed=st.integers(0, 100_000), rich=st.booleans(), size=st.integers(1, 12))
def test_thousands_of_moves_leave_what_a_whole_evaluation_finds(random_problem, rich_problem, seed, rich, size):
    draw = rich_problem if rich else random_problem
    problem = draw(seed, regime="pipelined", segments=size, slots=1 + seed % 4)
    if not incremental(problem):
        return
    starts = np.random.default_rng(seed).integers(0, problem.modes, (200, problem.segments))
    legal = evaluate(problem, np.concatenate([starts, np.arange(problem.modes)[:, None].repeat(size, 1)])).feasible
    if not legal.any():
        return
    every = np.concatenate([starts, np.arange(problem.modes)[:, None].repeat(size, 1)])
    moved, kept, anew = walk(problem, every[int(np.argmax(legal))], 3000, seed)
    assert not check(problem, moved)
    for one, other in zip(kept, anew, strict=True):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-9)
    whole = evaluate(problem, moved)
    time_ms = kept[0].max()
    if problem.time_weight:
        assert time_ms == pytest.approx(whole.latency_ms[0], rel=1e-9)
        assert kept[-1] + problem.static_w * time_ms == pytest.approx(whole.energy_mj[0], rel=1e-9)
    if not problem.stash_bytes.any():
        assert kept[1] + kept[2] == pytest.approx(memory_bytes(problem, moved)[0], rel=1e-9)


@pytest.mark.parametrize(("contiguous", "share"), [(False, 0.9), (True, 0.75)])
def test_it_finds_most_optima_of_small_problems(contiguous, share, random_problem, rich_problem, brute_force):
    found = legal = 0
    for seed in range(20):
        for draw in (random_problem, rich_problem):
            problem = draw(seed, regime="pipelined", segments=5, slots=3, contiguous=contiguous)
            optimum = brute_force(problem)[0]
            if np.isfinite(optimum):
                mapping = solve_mapping(problem, "annealing", deadline_s=0.2, deterministic=True)
                legal += 1
                found += mapping.objective <= optimum * (1 + 1e-9)
    assert legal > 12
    assert found >= share * legal  # memory so tight that no move is legal hides the others


def test_a_limit_on_one_objective_is_kept_while_the_other_falls(random_problem, brute_force):
    tried = 0
    for seed in range(20):
        problem = random_problem(seed, regime="pipelined", segments=5, slots=3, memory=0.3)
        _, _, evaluation = brute_force(problem)
        legal = evaluation.feasible
        if not legal.any():
            continue
        limit = float(np.median(evaluation.latency_ms[legal]))
        bounded = replace(problem, max_latency_ms=limit, latency_weight=0.0, energy_weight=1.0)
        optimum = float(evaluation.energy_mj[legal & (evaluation.latency_ms <= limit * (1 + 1e-9))].min())
        mapping = solve_mapping(bounded, "annealing", deadline_s=0.2, deterministic=True)
        assert mapping.latency_ms <= limit * (1 + 1e-9)
        assert mapping.objective == pytest.approx(optimum, rel=1e-9)
        tried += 1
    assert tried > 10


def test_what_no_better_mapping_cuts_is_told_by_every_mapping(random_problem, brute_force):
    for seed in range(30):
        problem = random_problem(seed, regime="pipelined", segments=5, slots=3)
        _, every, evaluation = brute_force(problem)
        for (i, j), least in zip(problem.edges.tolist(), least_cut(problem).tolist(), strict=True):
            cutting = evaluation.objective[every[:, i] != every[:, j]]
            assert (cutting >= least * (1 - 1e-9)).all()


def test_larger_problems_get_better_than_by_whole_evaluations(random_problem):
    better = 0
    for seed in range(4):
        draw = np.random.default_rng(seed)
        tables = {name: draw.uniform(0.5, 5.0, (80, 8)) for name in ("compute_ms", "energy_mj")}
        anywhere = np.ones((80, 8), dtype=bool)
        problem = random_problem(
            seed, segments=80, slots=8, regime="pipelined", memory=0.6, allowed=anywhere, latency_weight=1.0, **tables
        )
        quick = solve_mapping(problem, "local_search", deadline_s=20, deterministic=True)
        mapping = Annealing(patience=2).solve(problem, deadline_s=20, deterministic=True)
        assert mapping.objective <= quick.objective * (1 + 1e-9)
        better += mapping.objective < quick.objective * (1 - 1e-9)
    assert better >= 2


def test_settings_out_of_range_are_refused():
    with pytest.raises(SolverError, match="patience"):
        Annealing(patience=-1)
