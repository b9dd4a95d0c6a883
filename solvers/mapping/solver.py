"""What every mapping solver is: one class in one file of this folder, found by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping as Dict
from dataclasses import dataclass, replace
from functools import cache
from time import perf_counter
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from solvers.errors import SolverError
from solvers.mapping.evaluate import as_batch
from solvers.mapping.problem import Mapping, MappingProblem, Regime
from solvers.registry import NamedSolver, check_limits, create, discover

Role = Literal["construct", "improve", "exact", "apart"]
"""What a solver is to a portfolio: it makes a mapping quickly, improves one, proves one, or is no part of it."""

WEIGHTS: Dict[Role, float] = {"construct": 1.0, "improve": 4.0, "exact": 20.0, "apart": 0.0}
"""Of a solver in a portfolio, unless it knows better for a problem: shares of the time that is left."""

WIDEST = "local_search"
"""A solver that refuses nothing, for messages."""


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """How an answer is asked for, checked.

    Time is the clock's, or where `deterministic` the work that the solver says it has done: then the same problem, seed
    and deadline give the same answer on every machine, however long that takes.
    """

    started: float  # perf_counter() when the solver was called
    deadline_s: float  # after that
    seed: int  # 0 to 2**32 - 1
    warm_start: NDArray[np.int64] | None  # [K] a mapping to start from, legal or not
    deterministic: bool = False
    lower_bound: float = 0.0  # on the objective, proven before
    prepared: bool = False  # warm_start is what the fast solvers made: an exact one need not ask them again
    spent_s: float = 0.0  # of work, in seconds of a common core

    def spend(self, work_s: float) -> None:
        """Tell of work done: how many seconds it takes on a common core, by a count that no clock enters."""
        self.spent_s += work_s

    @property
    def left_s(self) -> float:
        """Time left, negative once it is over."""
        if self.deterministic:
            return self.deadline_s - self.spent_s
        return self.started + self.deadline_s - perf_counter()


def part_of(request: Request, deadline_s: float, warm_start: NDArray[np.int64] | None = None) -> Request:
    """Return a request for a part of the work, `deadline_s` from now; the caller spends its `spent_s` in turn."""
    return replace(request, started=perf_counter(), deadline_s=deadline_s, warm_start=warm_start, spent_s=0.0)


class MappingSolver(NamedSolver, ABC):
    """A way to solve a MappingProblem.

    A solver states what it does not do, and what it proves. It never answers worse than a legal warm start, never loses
    its incumbent at the deadline, and with the same seed gives the same answer unless the deadline cuts it short.
    """

    role: ClassVar[Role] = "improve"
    regimes: ClassVar[tuple[Regime, ...]] = ("serial", "pipelined", "offload")

    def solve(
        self,
        problem: MappingProblem,
        *,
        deadline_s: float = 10.0,
        seed: int = 0,
        warm_start: NDArray[np.int64] | None = None,
        deterministic: bool = False,
    ) -> Mapping:
        """Return the best mapping found until the deadline, with a lower bound on the objective.

        `deterministic` counts the deadline in work instead of time: see Request.

        Raises SolverError for a problem that the solver does not do (see `refusal`), a deadline that is not positive,
        a seed that is not a whole number from 0 to 2**32 - 1, and a warm start that names slots that do not exist.
        """
        started = perf_counter()
        if refusal := self.refusal(problem):
            raise SolverError(f"solver {self.name!r} does not do {refusal}", f"one that does: {WIDEST}")
        check_limits(deadline_s, seed)
        as_batch(problem, warm_start)
        request = Request(
            started=started,
            deadline_s=deadline_s,
            seed=int(seed),
            warm_start=warm_start,
            deterministic=deterministic,
        )
        return self.search(problem, request)

    @classmethod
    def refusal(cls, problem: MappingProblem) -> str:
        """Return what of the problem the solver does not do, in a few words; empty where it does it all."""
        return "" if problem.regime in cls.regimes else f"the {problem.regime} regime"

    @classmethod
    def proves(cls, problem: MappingProblem) -> bool:
        """Whether it proves the optimum of small problems of that kind, given time."""
        return False

    @classmethod
    def weight(cls, problem: MappingProblem) -> float:
        """Return how much of its time a portfolio gives it, beside the others' weights; 0.0 where it is of no use."""
        return WEIGHTS[cls.role]

    @abstractmethod
    def search(self, problem: MappingProblem, request: Request) -> Mapping:
        """Find the answer of `solve`; `evaluate.finish` makes it, and checks it."""


@cache
def mapping_solvers() -> Dict[str, type[MappingSolver]]:
    """Every mapping solver by name: those in this folder, then those of the entry points `chipfront.solvers`."""
    return discover(MappingSolver, "solvers.mapping")  # type: ignore[type-abstract]


def mapping_solver(name: str) -> MappingSolver:
    """Return the solver of that name.

    Raises SolverError where there is none, or where a module that it needs is not installed.
    """
    return create(mapping_solvers(), name, "mapping")
