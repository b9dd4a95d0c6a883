"""Generalised assignment in the layout of the OR-Library (Beasley; people.brunel.ac.uk/~mastjjb/jeb/orlib)."""

from __future__ import annotations

import numpy as np

from solvers.errors import SolverError
from solvers.formats.instance import Instance, InstanceFormat, Reading, Source
from solvers.mapping.problem import MappingProblem


class GeneralisedAssignment(InstanceFormat):
    """Jobs on agents at least cost: cost is energy, an agent's resource its memory; nothing moves between them.

    The file holds the number of agents m and of jobs n, cost [m, n], resource [m, n], and capacity [m].
    """

    name = "generalised_assignment"
    layout = "numbers: agents m, jobs n, cost m x n, resource m x n, capacity m"

    def recognises(self, source: Source) -> bool:
        """Whether there are exactly as many numbers as the first two ask for."""
        return _expected(source.numbers) == len(source.numbers) > 2

    def read(self, source: Source, reading: Reading) -> Instance:
        """Return the instance; jobs and agents are numbered from 0."""
        path, numbers = source.path, source.numbers
        if len(numbers) < 2 or _expected(numbers) != len(numbers):
            raise SolverError(
                f"{path}: holds {len(numbers)} numbers, expected {_expected(numbers) or 'more than two'}", self.layout
            )
        agents, jobs = int(numbers[0]), int(numbers[1])
        size = agents * jobs
        values = np.array(numbers[2:])
        if not (np.isfinite(values).all() and values.min() >= 0):
            place = int(np.flatnonzero(~(np.isfinite(values) & (values >= 0)))[0])
            raise SolverError(f"{path}: number {place + 3} is {values[place]:g}", "zero or more")
        nothing = np.zeros((agents, agents))
        return Instance(
            name=path.name,
            path=path,
            format=self.name,
            unit="",
            ids=tuple(range(jobs)),
            devices=tuple(f"agent {s}" for s in range(agents)),
            problem=MappingProblem(
                compute_ms=np.zeros((jobs, agents)),
                energy_mj=values[:size].reshape(agents, jobs).T.copy(),
                edges=np.zeros((0, 2), dtype=np.int64),
                edge_bytes=np.zeros(0),
                route_latency_ms=nothing,
                route_ms_per_byte=nothing,
                route_mj_per_byte=nothing,
                route_links=np.zeros((agents, agents, 0)),
                resident_bytes=values[size : 2 * size].reshape(agents, jobs).T.copy(),
                workspace_bytes=np.zeros(jobs),
                capacity_bytes=values[2 * size :],
                allowed=np.ones((jobs, agents), dtype=np.bool_),
                regime="pipelined",
                latency_weight=0.0,
                energy_weight=1.0,
                contiguous=bool(reading.contiguous),
            ),
        )


def _expected(numbers: list[float]) -> int:
    """Return how many numbers a file has that begins with these; 0 where they are no counts."""
    if len(numbers) < 2 or min(numbers[:2]) < 1 or any(number % 1 for number in numbers[:2]):
        return 0
    agents, jobs = int(numbers[0]), int(numbers[1])
    return 2 + 2 * agents * jobs + agents
