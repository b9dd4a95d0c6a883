"""The plain baseline does what the specification says: heavy to free slots, then single moves that help."""

from dataclasses import replace

import numpy as np

from solvers.mapping.evaluate import evaluate
from solvers.mapping.greedy_local import heavy_first
from solvers.mapping.solve import solve_mapping


def test_heavy_segments_go_to_free_slots_first(random_problem):
    problem = random_problem(1, segments=4, slots=4, regime="pipelined", memory=0.1)
    problem = replace(
        problem,
        compute_ms=np.array([[1.0], [8.0], [4.0], [2.0]]) / np.array([1.0, 2.0, 4.0, 8.0]),
        energy_mj=np.zeros((4, 4)),
        allowed=np.ones((4, 4), dtype=bool),
        latency_weight=1.0,
        energy_weight=0.0,
    )
    assert heavy_first(problem).tolist() == [0, 3, 2, 1]


def test_no_single_move_makes_its_answer_better(random_problem, rich_problem):
    for seed in range(40):
        for draw in (random_problem, rich_problem):
            problem = draw(seed, segments=6, slots=3)
            mapping = solve_mapping(problem, "greedy_local")
            if not len(mapping.assignment):
                continue
            for u in range(int(problem.unit.max()) + 1):
                rows = np.repeat(mapping.assignment[None], problem.modes, axis=0)
                rows[:, problem.unit == u] = np.arange(problem.modes)[:, None]
                assert evaluate(problem, rows).objective.min() >= mapping.objective * (1 - 1e-9)


def test_it_is_deterministic_and_never_worse_than_where_it_starts(random_problem):
    for regime in ("serial", "pipelined"):
        problem = random_problem(2, segments=40, slots=6, regime=regime, memory=0.3)
        one, other = (solve_mapping(problem, "greedy_local", seed=seed) for seed in (0, 9))
        assert one.assignment.tolist() == other.assignment.tolist()
        start = heavy_first(problem)
        assert one.objective <= evaluate(problem, start).objective[0]
