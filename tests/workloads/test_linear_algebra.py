"""Estimates of matrix factorisations against counting the operations of the textbook algorithms, loop by loop."""

import pytest
import torch

from tests.workloads.tracing_help import Call, trace


def lu(n):
    """Gaussian elimination: below each pivot a division a row, then a product and a subtraction an element."""
    return sum((n - k - 1) * (1 + 2 * (n - k - 1)) for k in range(n))


def cholesky(n):
    """Each element of the lower triangle: a product and a subtraction a column before it, then a division or root."""
    return sum(2 * column + 1 for row in range(n) for column in range(row + 1))


def substitution(n):
    """Each unknown: a product and a subtraction an unknown before it, then a division."""
    return sum(2 * row + 1 for row in range(n))


def householder(m, n):
    """R and the reduced Q: each reflection takes 4 operations an element of what is left of the matrix, and of Q."""
    return 2 * sum(4 * (m - k) * (n - k) for k in range(n))


N, M, SIDES = 80, 120, 7
CASES = {
    "cholesky": (lambda a, b: torch.linalg.cholesky(a), cholesky(N)),
    "det": (lambda a, b: torch.linalg.det(a), lu(N)),
    "slogdet": (lambda a, b: torch.linalg.slogdet(a), lu(N)),
    "lu": (lambda a, b: torch.linalg.lu_factor(a)[0], lu(N)),
    "inv": (lambda a, b: torch.linalg.inv(a), lu(N) + N * (substitution(N) * 4 / 3)),  # unit columns start with zeros
    "solve": (lambda a, b: torch.linalg.solve(a, b), lu(N) + SIDES * 2 * substitution(N)),
    "triangular": (lambda a, b: torch.linalg.solve_triangular(a, b, upper=True), SIDES * substitution(N)),
    "cholesky_solve": (lambda a, b: torch.cholesky_solve(b, a), SIDES * 2 * substitution(N)),
    "qr": (lambda a, b: torch.linalg.qr(a), householder(N, N)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch", [1, 3])
def test_leading_terms_are_those_of_the_textbook(name, batch):
    function, operations = CASES[name]
    with torch.device("meta"):
        graph = trace(Call(function), torch.empty(batch, N, N), torch.empty(batch, N, SIDES))
    assert not graph.refused
    assert graph.flops == pytest.approx(batch * operations, rel=0.03)


def test_tall_matrices_and_complex_numbers():
    with torch.device("meta"):
        tall = trace(Call(torch.linalg.qr), torch.empty(M, N)).flops
        plain, twice = (
            trace(Call(torch.linalg.inv), torch.empty(N, N, dtype=kind)).flops for kind in (None, torch.cfloat)
        )
    assert tall == pytest.approx(householder(M, N), rel=0.03)
    assert twice == 4 * plain


@pytest.mark.parametrize(
    ("order", "flops"),
    [(None, 2 * 24), ("fro", 2 * 24), (2, 4 * 6 * 16 - 4 * 64 / 3), ("nuc", 4 * 6 * 16 - 4 * 64 / 3)],
)
def test_a_norm_costs_singular_values_where_it_is_made_of_them(order, flops):
    graph = trace(Call(lambda x: torch.linalg.norm(x, order)), torch.randn(6, 4))
    assert (graph.flops, graph.refused) == (round(flops), {})
