"""One conformance suite for every mapping solver that is discovered: a new file is tested without editing this one."""

from dataclasses import replace
from itertools import pairwise
from time import perf_counter

import numpy as np
import pytest

from solvers.errors import SolverError
from solvers.mapping.bounds import lower_bound
from solvers.mapping.check import check, checked
from solvers.mapping.evaluate import evaluate
from solvers.mapping.solve import solve_mapping
from solvers.mapping.solver import MappingSolver, mapping_solvers

SOLVERS = sorted(mapping_solvers())
PLAIN = range(12)
CASES = range(42)


@pytest.fixture(scope="module")
def cases(random_problem, rich_problem, brute_force):
    """Small problems of every kind, with their optimum (inf: none is legal)."""
    problems = [
        random_problem(seed, regime=("serial", "pipelined")[seed % 2], contiguous=seed % 4 >= 2, segments=2 + seed % 5)
        for seed in PLAIN
    ]
    problems += [
        rich_problem(seed, regime=("serial", "pipelined", "offload")[seed % 3], segments=2 + seed % 4)
        for seed in range(len(CASES) - len(PLAIN))
    ]
    return [(problem, brute_force(problem)[0]) for problem in problems]


def able(name: str, problem) -> bool:
    return not mapping_solvers()[name].refusal(problem)


def suited(name: str, draw, seed: int, **asked):
    """A random problem that the solver does: a contiguous pipeline if it can, else less, a serial chain at last."""
    regime = mapping_solvers()[name].regimes[0]
    steps = np.stack([np.arange(asked["segments"] - 1), np.arange(1, asked["segments"])], axis=1)
    for changes in (
        {"regime": "pipelined", "contiguous": True},
        {"regime": regime, "contiguous": True},
        {"regime": regime},
        {"regime": regime, "edges": steps, "edge_bytes": np.full(len(steps), 10.0)},
    ):
        problem = draw(seed, **(changes | asked))
        if able(name, problem):
            return problem
    pytest.skip(f"{name} does none of the kinds drawn here: its own tests draw what it does")


@pytest.fixture(params=SOLVERS)
def name(request) -> str:
    missing = mapping_solvers()[request.param].missing_modules()
    if missing:
        pytest.skip(f"{request.param} needs {', '.join(missing)}")
    return request.param


def test_the_solvers_that_ship_are_found():
    assert {"greedy", "local_search"} <= set(SOLVERS)
    for solver in mapping_solvers().values():
        assert issubclass(solver, MappingSolver)
        assert solver.regimes
        assert solver.__doc__


@pytest.mark.parametrize("case", CASES)
def test_answers_are_legal_bounded_and_honest(name, case, cases):
    problem, optimum = cases[case]
    if not able(name, problem):
        with pytest.raises(SolverError, match="does not do"):
            solve_mapping(problem, name)
        return
    mapping = solve_mapping(problem, name, deadline_s=60, seed=1)
    assert mapping.solver == name
    assert mapping.wall_s >= 0
    if not len(mapping.assignment):
        assert mapping.objective == np.inf
        assert mapping.status in ("infeasible", "unknown")
        assert optimum == np.inf or mapping.status == "unknown"
        return
    assert optimum < np.inf
    values = checked(problem, mapping.assignment, order=mapping.order, objective=mapping.objective)
    assert mapping.latency_ms == pytest.approx(values.latency_ms, rel=1e-12)
    assert mapping.energy_mj == pytest.approx(values.energy_mj, rel=1e-12)
    assert mapping.objective >= optimum * (1 - 1e-9)
    assert mapping.lower_bound <= optimum * (1 + 1e-9)
    assert 0 <= mapping.gap <= 1
    if mapping.status == "optimal":
        assert mapping.objective == pytest.approx(optimum, rel=1e-8)
    if mapping_solvers()[name].proves(problem):
        assert mapping.status == "optimal"
    history = mapping.history
    assert history[-1].objective == mapping.objective
    for before, after in pairwise(history):
        assert before.wall_s <= after.wall_s
        assert before.objective >= after.objective
        assert before.lower_bound <= after.lower_bound * (1 + 1e-9)


def test_a_warm_start_is_never_lost(name, cases, brute_force):
    for problem, optimum in cases:
        if optimum == np.inf or not able(name, problem):
            continue
        every, evaluation = brute_force(problem)[1:]
        best = every[int(np.argmin(evaluation.objective))]
        mapping = solve_mapping(problem, name, deadline_s=60, warm_start=best)
        assert mapping.objective <= optimum * (1 + 1e-9)


def test_an_illegal_warm_start_does_no_harm(name, random_problem):
    problem = suited(name, random_problem, 4, segments=5, slots=2, memory=0.1)
    mapping = solve_mapping(problem, name, deadline_s=60, warm_start=np.array([0, 1, 0, 1, 0]))
    assert not check(problem, mapping.assignment)
    with pytest.raises(SolverError):
        solve_mapping(problem, name, deadline_s=60, warm_start=np.array([0, 1, 0, 1, 7]))
    with pytest.raises(SolverError):
        solve_mapping(problem, name, deadline_s=60, warm_start=np.array([0, 1]))


def test_same_seed_same_answer(name, random_problem):
    for seed in (5, 6):
        problem = suited(name, random_problem, seed, segments=8, slots=3, memory=0.5)
        first, second = (solve_mapping(problem, name, deadline_s=20, seed=seed) for _ in range(2))
        assert first.assignment.tolist() == second.assignment.tolist()
        assert (first.objective, first.lower_bound) == (second.objective, second.lower_bound)


def test_any_seed_of_32_bits_will_do(name, random_problem):
    problem = suited(name, random_problem, 1, segments=5, slots=3, memory=0.5)
    assert len(solve_mapping(problem, name, seed=2**32 - 1).assignment)


def test_it_returns_at_the_deadline(name, random_problem):
    """Loosely: a solver that ignores its deadline would hang here, one that overshoots by seconds would not."""
    problem = suited(name, random_problem, 7, segments=120, slots=8, memory=0.3)
    solve_mapping(problem, name, deadline_s=0.5)
    started = perf_counter()
    mapping = solve_mapping(problem, name, deadline_s=0.5)
    assert perf_counter() - started < 60
    assert mapping.lower_bound >= lower_bound(problem) * (1 - 1e-6)


def test_what_cannot_be_met_is_explained(name, random_problem):
    problem = suited(name, random_problem, 8, segments=5, slots=2)
    mapping = solve_mapping(replace(problem, capacity_bytes=np.ones(2)), name, deadline_s=60)
    assert mapping.status == "infeasible"
    assert mapping.infeasibility
    assert all(line.gap > 0 and line.levers and line.unit for line in mapping.infeasibility)


def test_one_segment_one_slot_no_edges(name, random_problem):
    for regime in mapping_solvers()[name].regimes:
        problem = suited(name, random_problem, 0, segments=1, slots=1, regime=regime, memory=0.1)
        mapping = solve_mapping(problem, name, deadline_s=60)
        assert mapping.assignment.tolist() == [0]
        assert mapping.status == "optimal"


def test_unknown_solver_bad_deadline_and_bad_seed(random_problem):
    problem = random_problem(0, memory=0.1)
    with pytest.raises(SolverError, match="no mapping solver is called 'greedi'"):
        solve_mapping(problem, "greedi")
    with pytest.raises(SolverError, match="deadline_s"):
        solve_mapping(problem, "greedy", deadline_s=0)
    for seed in (-1, 2**32, 0.5):
        with pytest.raises(SolverError, match="seed"):
            solve_mapping(problem, "greedy", seed=seed)


def test_vectorised_evaluation_agrees_on_large_answers(random_problem):
    for regime in ("serial", "pipelined"):
        problem = random_problem(9, segments=60, slots=8, regime=regime, memory=0.6)
        mapping = solve_mapping(problem, "local_search")
        assert evaluate(problem, mapping.assignment).objective[0] == pytest.approx(mapping.objective, rel=1e-12)
