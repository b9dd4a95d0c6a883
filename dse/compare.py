"""compare: mapping solvers side by side on the same problems, every answer checked again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, isfinite
from statistics import median
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dse.errors import DseError
from dse.solver_processes import Outcome, Task, solve_apart
from solvers.errors import SolverError
from solvers.mapping.check import TOLERANCE, checked
from solvers.mapping.problem import Incumbent, MappingProblem

AnswerStatus = Literal["optimal", "feasible", "infeasible", "unknown", "refused", "missing", "error"]
ORDER: tuple[AnswerStatus, ...] = ("optimal", "feasible", "infeasible", "unknown", "refused", "missing", "error")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """One solver's answer to one problem with one seed; numbers are None where it has none.

    `status` is the solver's own (optimal, feasible, infeasible, unknown), or: refused, it does not do such problems;
    missing, there is no such solver or it lacks a module; error, it crashed, hung, or its answer failed the check.
    """

    instance: str
    solver: str
    seed: int
    status: AnswerStatus
    objective: float | None = None
    lower_bound: float | None = None
    gap: float | None = None
    wall_s: float
    cpu_s: float | None = None
    latency_ms: float | None = None
    energy_mj: float | None = None
    reason: str = ""  # of what is no mapping
    assignment: NDArray[np.int64] | None = None  # [K]
    order: NDArray[np.int64] | None = None  # [K], where the problem leaves it free
    history: tuple[Incumbent, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One solver's answers to one problem over all seeds."""

    instance: str
    solver: str
    status: AnswerStatus  # the best of them
    runs: int
    solved: int
    best: float | None
    median: float | None
    worst: float | None
    spread: float | None  # (worst - best) / best
    lower_bound: float | None
    gap: float | None  # of the best objective, to the largest bound of this solver
    to_best_met: float | None  # best / least objective of any solver - 1
    to_best_known: float | None  # best / published - 1
    wall_s: float  # median
    reason: str

    @property
    def is_best(self) -> bool:
        """Whether no solver has less, rounding aside."""
        return self.to_best_met is not None and self.to_best_met <= TOLERANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One solver over all problems; shares are of the problems that it solved."""

    solver: str
    problems: int
    solved: int
    best: int  # problems on which no solver has less
    proven: int
    mean_to_best_met: float | None
    worst_to_best_known: float | None
    wall_s: float  # of all runs together


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """All answers, in the order of problems, solvers and seeds."""

    answers: tuple[Answer, ...]
    problems: Mapping[str, MappingProblem]
    best_known: Mapping[str, float]
    solvers: tuple[str, ...]
    seeds: tuple[int, ...]
    deadline_s: float
    interrupted: bool = False

    @cached_property
    def _of_instance(self) -> dict[str, list[Answer]]:
        found: dict[str, list[Answer]] = {}
        for answer in self.answers:
            found.setdefault(answer.instance, []).append(answer)
        return found

    @cached_property
    def _best(self) -> dict[str, float]:
        values = {
            name: [a.objective for a in own if a.objective is not None] for name, own in self._of_instance.items()
        }
        return {name: min(reached) for name, reached in values.items() if reached}

    def best(self, instance: str) -> float | None:
        """Return the least objective that any solver reached."""
        return self._best.get(instance)

    def bound(self, instance: str) -> float | None:
        """Return the largest lower bound that no solver's objective refutes."""
        best = self.best(instance)
        bounds = [a.lower_bound for a in self._of_instance.get(instance, ()) if a.lower_bound is not None]
        held = [bound for bound in bounds if best is None or bound <= best * (1 + TOLERANCE)]
        return max(held, default=None)

    def contradictions(self) -> list[str]:
        """Say which solvers claim a bound, or that there is no mapping, which the mapping of another refutes."""
        said = []
        for a in self.answers:
            best = self.best(a.instance)
            claims = inf if a.status == "infeasible" else a.lower_bound
            if best is not None and claims is not None and claims > best * (1 + TOLERANCE):
                claim = "that there is no mapping" if a.status == "infeasible" else f"a lower bound of {claims:.9g}"
                winner = next(b.solver for b in self._of_instance[a.instance] if b.objective == best)
                said.append(f"{a.solver} claims {claim} of {a.instance}, and {winner} has a mapping of {best:.9g}")
        return said

    def summaries(self) -> list[Summary]:
        """Return a row for each problem and solver that ran."""
        groups: dict[tuple[str, str], list[Answer]] = {}
        for answer in self.answers:
            groups.setdefault((answer.instance, answer.solver), []).append(answer)
        return [self._summary(answers) for answers in groups.values()]

    def reasons(self) -> dict[tuple[str, AnswerStatus, str], list[str]]:
        """Return (solver, status, reason) -> the problems that it has no mapping of for that reason."""
        found: dict[tuple[str, AnswerStatus, str], list[str]] = {}
        for summary in self.summaries():
            if summary.reason:
                found.setdefault((summary.solver, summary.status, summary.reason), []).append(summary.instance)
        return found

    def standings(self) -> list[Standing]:
        """Return a row for each solver."""
        own: dict[str, list[Summary]] = {solver: [] for solver in self.solvers}
        for summary in self.summaries():
            own[summary.solver].append(summary)
        return [_standing(solver, summaries, self.answers) for solver, summaries in own.items()]

    def _summary(self, answers: Sequence[Answer]) -> Summary:
        first = answers[0]
        values = sorted(a.objective for a in answers if a.objective is not None)
        bound = max((a.lower_bound for a in answers if a.lower_bound is not None), default=None)
        best = values[0] if values else None
        return Summary(
            instance=first.instance,
            solver=first.solver,
            status=min((a.status for a in answers), key=ORDER.index),
            runs=len(answers),
            solved=len(values),
            best=best,
            median=median(values) if values else None,
            worst=values[-1] if values else None,
            spread=excess(values[-1], values[0]) if values else None,
            lower_bound=bound,
            gap=None if best is None or bound is None else max(0.0, (best - bound) / best) if best else 0.0,
            to_best_met=excess(best, self.best(first.instance)),
            to_best_known=excess(best, self.best_known.get(first.instance)),
            wall_s=median(a.wall_s for a in answers),
            reason=next((a.reason for a in answers if a.reason), ""),
        )


def _standing(solver: str, own: Sequence[Summary], answers: Sequence[Answer]) -> Standing:
    met = [s.to_best_met for s in own if s.to_best_met is not None]
    known = [s.to_best_known for s in own if s.to_best_known is not None]
    return Standing(
        solver=solver,
        problems=len(own),
        solved=sum(s.best is not None for s in own),
        best=sum(s.is_best for s in own),
        proven=sum(s.status == "optimal" for s in own),
        mean_to_best_met=sum(met) / len(met) if met else None,
        worst_to_best_known=max(known, default=None),
        wall_s=sum(a.wall_s for a in answers if a.solver == solver),
    )


def excess(value: float | None, least: float | None) -> float | None:
    """Return value / least - 1: how much worse a value is, None where that is unknown or least is 0 and it is not."""
    if value is None or least is None or (least == 0 and value != 0):
        return None
    return 0.0 if value == least else value / least - 1


def compare(
    problems: Mapping[str, MappingProblem],
    solvers: Sequence[str] | None = None,
    *,
    deadline_s: float = 10.0,
    seeds: Sequence[int] = (0,),
    deterministic: bool = False,
    workers: int = 1,
    best_known: Mapping[str, float] | None = None,
    report: Callable[[int, str], None] = lambda done, doing: None,
) -> Comparison:
    """Run every solver on every problem with every seed, and check every mapping again by the independent checker.

    Parameters
    ----------
    problems
        Problems by name.
    solvers
        Names; all there are unless given.
    deadline_s, seeds
        What each solver is given. A solver that is over its deadline by a minute, or by the deadline where that is
        more, is stopped.
    deterministic
        Count deadlines in work instead of time: the same answers on every machine.
    workers
        Processes that solve at the same time; the times of more than one are those of a shared machine.
    best_known
        Published objectives by problem.
    report
        Called with the number of answers so far, and what runs; twice a second or more often.

    A solver that crashes, hangs or does not exist is an answer with its reason, and the others' stand. Ctrl-C ends the
    comparison with the answers until then, `interrupted` set.

    Raises DseError where there is nothing to do, and SolverError for a deadline or seed that solvers do not take.
    """
    from solvers.mapping.solver import mapping_solvers
    from solvers.registry import check_limits

    names = tuple(dict.fromkeys(mapping_solvers() if solvers is None else solvers))
    if not (problems and names and seeds and workers > 0):
        raise DseError(
            f"{len(problems)} problems, {len(names)} solvers, {len(seeds)} seeds, {workers} workers",
            "at least one of each",
        )
    for seed in seeds:
        check_limits(deadline_s, seed)
    tasks = [
        Task(
            instance=instance,
            solver=solver,
            seed=seed,
            deadline_s=deadline_s,
            deterministic=deterministic,
            problem=problem,
        )
        for instance, problem in problems.items()
        for solver in names
        for seed in seeds
    ]
    place = {(task.instance, task.solver, task.seed): n for n, task in enumerate(tasks)}
    found: dict[int, Answer] = {}

    def tick(running: Sequence[Task]) -> None:
        doing = ", ".join(f"{task.solver} on {task.instance}" for task in running)
        report(len(found), doing)

    interrupted = False
    try:
        with closing(solve_apart(tasks, workers=workers, tick=tick)) as outcomes:
            for task, outcome in outcomes:
                found[place[task.instance, task.solver, task.seed]] = _answer(task, outcome)
                report(len(found), f"{task.solver} on {task.instance}")
    except KeyboardInterrupt:
        interrupted = True
    return Comparison(
        answers=tuple(found[n] for n in sorted(found)),
        problems=dict(problems),
        best_known=dict(best_known or {}),
        solvers=names,
        seeds=tuple(seeds),
        deadline_s=deadline_s,
        interrupted=interrupted,
    )


def _answer(task: Task, outcome: Outcome) -> Answer:
    """Check what came back; an answer that does not hold is an error with its reason."""
    plain = Answer(
        instance=task.instance,
        solver=task.solver,
        seed=task.seed,
        status="error" if outcome.kind == "done" else outcome.kind,
        wall_s=outcome.wall_s,
        cpu_s=outcome.cpu_s,
        reason=outcome.reason,
    )
    mapping = outcome.mapping
    if mapping is None:
        return plain
    bound = float(mapping.lower_bound)
    plain = replace(
        plain,
        status=mapping.status,
        wall_s=float(mapping.wall_s),
        lower_bound=bound if isfinite(bound) else None,
        history=tuple(mapping.history),
        reason="; ".join(map(str, mapping.infeasibility)),
    )
    if not len(mapping.assignment):
        reason = plain.reason or ("found none until its deadline" if mapping.status == "unknown" else "")
        return replace(plain, reason=reason)
    try:
        values = checked(task.problem, mapping.assignment, order=mapping.order, objective=float(mapping.objective))
    except SolverError as error:
        return replace(plain, status="error", lower_bound=None, reason=str(error))
    return replace(
        plain,
        objective=values.objective,
        gap=float(mapping.gap),
        latency_ms=values.latency_ms,
        energy_mj=values.energy_mj,
        assignment=mapping.assignment,
        order=mapping.order if len(mapping.order) else None,
    )
