"""The bound by parts never exceeds brute force, and sees what ports cost where bounds by load do not."""

from time import perf_counter

import numpy as np
import pytest

from solvers.mapping._parts_bound import PartsBound
from solvers.mapping.bounds import lower_bound
from solvers.mapping.solver import Request


def within(deadline_s):
    return Request(started=perf_counter(), deadline_s=deadline_s, seed=0, warm_start=None)


@pytest.mark.parametrize("block", range(3))
def test_it_never_exceeds_brute_force(block, rich_problem, brute_force):
    met = 0
    for seed in range(200 * block, 200 * block + 200):
        problem = rich_problem(seed, regime="pipelined", latency_weight=1.0, energy_weight=0.0)
        if not PartsBound.applies(problem):
            continue
        every = brute_force(problem)[2]
        if not every.feasible.any():
            continue
        met += 1
        least = every.latency_ms[every.feasible].min()
        bound = PartsBound(problem, 0.0).prove(2 * least + 1, request=within(5))
        assert bound <= least
    assert met > 10


def test_a_chain_pays_for_each_end_of_a_part(random_problem, brute_force):
    """Six segments of 1 ms on two slots: 3 ms each, and 1 ms out of the one, 1 ms into the other."""
    problem = random_problem(
        0,
        segments=6,
        slots=2,
        regime="pipelined",
        memory=0.1,
        compute_ms=np.ones((6, 2)),
        allowed=np.ones((6, 2), dtype=bool),
        energy_mj=np.zeros((6, 2)),
        edges=np.array([[k, k + 1] for k in range(5)]),
        edge_bytes=np.full(5, 100.0),
        route_ms_per_byte=np.zeros((2, 2)),
        port_in_ms_per_byte=np.full(2, 0.01),
        port_out_ms_per_byte=np.full(2, 0.01),
        latency_weight=1.0,
        energy_weight=0.0,
    )
    assert brute_force(problem)[0] == 4.0
    assert lower_bound(problem) < 3.1
    bound = PartsBound(problem, 0.0).prove(4.0, request=within(20))
    assert bound == pytest.approx(4.0, rel=1e-3)
    assert bound <= 4.0
