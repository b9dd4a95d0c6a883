"""Quadratic assignment in the layout of QAPLIB (Burkard, Karisch, Rendl; coral.ise.lehigh.edu/data-sets/qaplib)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solvers.errors import SolverError
from solvers.formats.instance import Instance, InstanceFormat, Reading, Source
from solvers.mapping.problem import MappingProblem


class QuadraticAssignment(InstanceFormat):
    """One facility a location at the least sum of flow x distance: flow is traffic, distance the energy of a byte.

    The file holds n and the matrices A and B; the objective of a permutation p is sum_ij A[i, j] B[p(i), p(j)], and p
    is the assignment of rows of A to rows of B. Which of the two is the flow does not matter: swapping them inverts p.
    Here the one of fewer pairs is (A of equals), so that the problem has few edges; the answer is turned back. An edge
    is charged once for both directions, so its bytes are f_ij + f_ji and its distance the mean of d_kl and d_lk: exact
    where one of the matrices is symmetric, refused elsewhere.
    """

    name = "quadratic_assignment"
    layout = "numbers: n, matrix A n x n, matrix B n x n"

    def recognises(self, source: Source) -> bool:
        """Whether there are exactly as many numbers as the first asks for."""
        return _expected(source.numbers) == len(source.numbers) > 1

    def read(self, source: Source, reading: Reading) -> Instance:
        """Return the instance; facilities and locations are numbered from 0."""
        path, numbers = source.path, source.numbers
        if not numbers or _expected(numbers) != len(numbers):
            raise SolverError(
                f"{path}: holds {len(numbers)} numbers, expected {_expected(numbers) or 'more than one'}", self.layout
            )
        n = int(numbers[0])
        first, second = np.array(numbers[1:]).reshape(2, n, n)
        for name, matrix in (("A", first), ("B", second)):
            wrong = np.argwhere(~(np.isfinite(matrix) & (matrix >= 0)))
            if len(wrong):
                i, j = wrong[0].tolist()
                raise SolverError(f"{path}: {name}[{i}, {j}] is {matrix[i, j]:g}", "zero or more")
        if not ((first == first.T).all() or (second == second.T).all()):
            raise SolverError(
                f"{path}: neither A nor B is symmetric", "one of the two: then the other may be what it is"
            )
        inverted = _pairs(second) < _pairs(first)
        flow, distance = (second, first) if inverted else (first, second)
        traffic, between = flow + flow.T, (distance + distance.T) / 2
        np.fill_diagonal(between, 0.0)
        edges = np.argwhere(np.triu(traffic, 1) > 0)
        nothing = np.zeros((n, n))
        return Instance(
            name=path.stem,
            path=path,
            format=self.name,
            unit="",
            inverted=inverted,
            ids=tuple(range(n)),
            devices=tuple(f"location {s}" for s in range(n)),
            problem=MappingProblem(
                compute_ms=nothing,
                energy_mj=np.outer(flow.diagonal(), distance.diagonal()),
                edges=edges,
                edge_bytes=traffic[edges[:, 0], edges[:, 1]],
                route_latency_ms=nothing,
                route_ms_per_byte=nothing,
                route_mj_per_byte=between,
                route_links=np.zeros((n, n, 0)),
                resident_bytes=np.ones(n),
                workspace_bytes=np.zeros(n),
                capacity_bytes=np.ones(n),
                allowed=np.ones((n, n), dtype=np.bool_),
                regime="pipelined",
                latency_weight=0.0,
                energy_weight=1.0,
                contiguous=bool(reading.contiguous),
            ),
        )


def _pairs(matrix: NDArray[np.float64]) -> int:
    """Pairs of facilities between which anything flows."""
    return int((np.triu(matrix + matrix.T, 1) > 0).sum())


def _expected(numbers: list[float]) -> int:
    """Return how many numbers a file has that begins with this one; 0 where it is no count."""
    if not numbers or numbers[0] < 1 or numbers[0] % 1:
        return 0
    return 1 + 2 * int(numbers[0]) ** 2
