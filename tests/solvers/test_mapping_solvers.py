"""One conformance suite for every mapping solver that is discovered: a new file is tested without editing this one."""

import sys
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
        given = best.copy()
        mapping = solve_mapping(problem, name, deadline_s=60, warm_start=given)
        assert mapping.objective <= optimum * (1 + 1e-9)
        assert (given == best).all()  # nor written to


def test_an_illegal_warm_start_does_no_harm(name, random_problem):
    problem = suited(name, random_problem, 4, segments=5, slots=2, memory=0.1)
    mapping = solve_mapping(problem, name, deadline_s=60, warm_start=np.array([0, 1, 0, 1, 0]))
    assert not check(problem, mapping.assignment)
    with pytest.raises(SolverError):
        solve_mapping(problem, name, deadline_s=60, warm_start=np.array([0, 1, 0, 1, 7]))
    with pytest.raises(SolverError):
        solve_mapping(problem, name, deadline_s=60, warm_start=np.array([0, 1]))


def kinds(random_problem):
    """One problem of each kind, most of them too large to be proven in a tenth of a second."""
    steps = np.stack([np.arange(13), np.arange(1, 14)], axis=1)
    one_each = np.ones(6)
    energy = {"latency_weight": 0.0, "energy_weight": 1.0}
    return {
        "serial": random_problem(3, segments=14, slots=3, regime="serial", memory=0.7),
        "chain": random_problem(
            16, segments=14, slots=3, regime="serial", memory=0.7, edges=steps, edge_bytes=np.full(13, 10.0)
        ),
        "pipelined": random_problem(6, segments=14, slots=3, regime="pipelined", memory=0.7),
        "contiguous": random_problem(7, segments=14, slots=3, regime="pipelined", memory=0.6, contiguous=True),
        "offload": random_problem(9, segments=14, slots=3, regime="offload", memory=0.6),
        "assignment": random_problem(
            11,
            segments=14,
            slots=3,
            regime="pipelined",
            memory=0.8,
            edges=np.zeros((0, 2), int),
            edge_bytes=np.zeros(0),
            **energy,
        ),
        "permutation": random_problem(
            12,
            segments=6,
            slots=6,
            regime="pipelined",
            resident_bytes=one_each,
            workspace_bytes=0 * one_each,
            capacity_bytes=one_each,
            allowed=np.ones((6, 6), bool),
            compute_ms=np.zeros((6, 6)),
            energy_mj=np.zeros((6, 6)),
            route_mj_per_byte=np.abs(np.arange(6.0)[:, None] - np.arange(6.0)),
            **energy,
        ),
    }


def test_a_deadline_of_work_gives_the_same_answer_whatever_the_clock_says(name, random_problem, monkeypatch):
    problems = {kind: problem for kind, problem in kinds(random_problem).items() if able(name, problem)}
    assert problems

    def answers():
        found = {}
        for kind, problem in problems.items():
            answer = solve_mapping(problem, name, deadline_s=0.1, seed=5, deterministic=True)
            modes, order = answer.assignment.tolist(), answer.order.tolist()
            found[kind] = modes, order, answer.objective, answer.lower_bound, answer.status, answer.infeasibility
        return found

    first = answers()
    began = perf_counter()
    for module in [module for name, module in sys.modules.items() if name.startswith("solvers.")]:
        if hasattr(module, "perf_counter"):
            monkeypatch.setattr(module, "perf_counter", lambda: began + 1000 * (perf_counter() - began))
    assert answers() == first


def test_same_seed_same_answer(name, random_problem):
    problem = suited(name, random_problem, 5, segments=8, slots=3, memory=0.5)
    first, second = (solve_mapping(problem, name, deadline_s=20, seed=5) for _ in range(2))
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
