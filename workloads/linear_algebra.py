"""Estimates: operations of dense matrix factorisations, inverses and functions.

The leading terms of Golub and Van Loan, Matrix Computations, 4th edition, 2013: Cholesky n³/3 (4.2.5), LU 2n³/3 (3.2),
QR 2n²(m - n/3) and as much again for the reduced Q (5.2.2), symmetric eigenvalues 4n³/3 and 9n³ with vectors (8.3.3),
eigenvalues 10n³ and 25n³ with vectors (7.5.6), singular values 4mn² - 4n³/3 and 14mn² + 8n³ with reduced vectors
(8.6.3). A complex operation counts as four real ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from workloads.calls import Call, Count, Rule, named
from workloads.estimates import estimate
from workloads.graph import OperatorKind


def _matrices(call: Call) -> tuple[int, int, int]:
    """Return the number of matrices of the first argument, and their larger and smaller side."""
    *batch, rows, columns = call.tensors[0].shape
    return math.prod(batch), max(rows, columns), min(rows, columns)


def _each(formula: Callable[[int, int], float], words: str) -> Rule:
    """Return the rule of `formula` (larger side m, smaller side n) operations a matrix."""

    def rule(call: Call) -> Count:
        count, m, n = _matrices(call)
        real = 4 if call.tensors[0].is_complex else 1
        note = "; complex: 4 times" if real > 1 else ""
        return estimate(OperatorKind.OTHER, real * count * formula(m, n), f"{words} a matrix{note}")

    return rule


def _solve(factor: float, words: str) -> Rule:
    """Return the rule of a solver: `factor` n³ for the factorisation, and 2n² (n² triangular) a right-hand side."""

    def rule(call: Call) -> Count:
        matrix, right = (call.tensors[0], call.tensors[1])
        if call.operator in ("triangular_solve", "cholesky_solve", "lu_solve"):  # these name the right-hand side first
            matrix, right = right, matrix
        n, real = matrix.shape[-1], 4 if matrix.is_complex else 1
        sides = right.numel // n
        each = n * n if "triangular" in call.operator else 2 * n * n
        matrices = matrix.numel // max(n * n, 1)
        return estimate(OperatorKind.OTHER, real * (matrices * factor * n**3 + sides * each), words)

    return rule


def _norm(call: Call) -> Count:
    """Count the singular values where the norm is defined by them, else a square or absolute value and a sum."""
    order, x = call.arguments.get("ord"), call.tensors[0]
    if len(x.shape) >= 2 and order in (2, -2, "nuc"):
        return SINGULAR_VALUES(call)
    return estimate(OperatorKind.REDUCTION, (4 if x.is_complex else 2) * x.numel, "2 per input element")


SINGULAR_VALUES = _each(lambda m, n: 4 * m * n * n - 4 * n**3 / 3, "4mn² - 4n³/3")

LINEAR_ALGEBRA: dict[str, Rule] = {
    **named("cholesky linalg_cholesky linalg_cholesky_ex", _each(lambda m, n: n**3 / 3, "n³/3")),
    **named("linalg_lu linalg_lu_factor linalg_lu_factor_ex lu_unpack", _each(lambda m, n: 2 * n**3 / 3, "2n³/3")),
    **named("linalg_det _linalg_det det logdet slogdet linalg_slogdet", _each(lambda m, n: 2 * n**3 / 3, "2n³/3")),
    **named("_linalg_slogdet", _each(lambda m, n: 2 * n**3 / 3, "2n³/3")),
    **named("inverse linalg_inv linalg_inv_ex", _each(lambda m, n: 2 * n**3, "2n³")),
    **named("linalg_qr qr", _each(lambda m, n: 4 * n * n * (m - n / 3), "4n²(m - n/3)")),
    **named("linalg_householder_product orgqr", _each(lambda m, n: 2 * n * n * (m - n / 3), "2n²(m - n/3)")),
    **named("linalg_eigh _linalg_eigh", _each(lambda m, n: 9 * n**3, "9n³")),
    **named("linalg_eigvalsh", _each(lambda m, n: 4 * n**3 / 3, "4n³/3")),
    **named("linalg_eig", _each(lambda m, n: 25 * n**3, "25n³")),
    **named("linalg_eigvals", _each(lambda m, n: 10 * n**3, "10n³")),
    **named("linalg_svd _linalg_svd svd", _each(lambda m, n: 14 * m * n * n + 8 * n**3, "14mn² + 8n³")),
    **named("linalg_pinv pinverse", _each(lambda m, n: 16 * m * n * n + 8 * n**3, "14mn² + 8n³, and a product 2mn²")),
    "linalg_svdvals": SINGULAR_VALUES,
    **named("linalg_matrix_norm linalg_norm nuclear_norm", _norm),
    # a Taylor polynomial of degree 18 takes 5 products (Bader, Blanes and Casas, 2019); squarings depend on the data
    **named("matrix_exp linalg_matrix_exp", _each(lambda m, n: 10 * n**3, "10n³, no squarings")),
    **named("linalg_solve linalg_solve_ex _linalg_solve_ex", _solve(2 / 3, "2n³/3 a matrix, 2n² a right-hand side")),
    **named("linalg_solve_triangular triangular_solve", _solve(0, "n² a right-hand side")),
    **named("cholesky_solve lu_solve linalg_lu_solve", _solve(0, "2n² a right-hand side")),
}
"""Operator name -> rule."""
