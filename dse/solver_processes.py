"""Run mapping solvers in processes of their own: one that crashes, hangs or prints takes nothing else along."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Generator, Sequence
from collections.abc import Mapping as Dict
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import numpy as np

from solvers.errors import SolverError
from solvers.mapping.problem import Mapping, MappingProblem
from solvers.mapping.solver import MappingSolver, mapping_solver

OVERRUN_S = 60.0  # a solver that is this long over its deadline (or as long as the deadline) is stopped
SLOWER = 10.0  # than a common core, a machine may be: by so much a deadline of work may take longer on the clock
LOAD_S = 600.0  # at most, for loading and compiling a solver; the first time on a machine takes minutes
TICK_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """One solver on one problem with one seed."""

    instance: str
    solver: str
    seed: int
    deadline_s: float
    deterministic: bool  # the deadline is one of work
    problem: MappingProblem

    @property
    def limit_s(self) -> float:
        """Seconds on the clock after which its solver is stopped."""
        expected_s = self.deadline_s * (SLOWER if self.deterministic else 1.0)
        return expected_s + max(OVERRUN_S, expected_s)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What became of a task. `mapping` is None unless it is done; `reason` says why."""

    kind: Literal["done", "refused", "missing", "error"]
    reason: str = ""
    mapping: Mapping | None = None
    wall_s: float = 0.0
    cpu_s: float | None = None  # of the process, all its threads; None where it did not live to tell


def solve_apart(
    tasks: Sequence[Task], *, workers: int = 1, tick: Callable[[Sequence[Task]], None] = lambda running: None
) -> Generator[tuple[Task, Outcome]]:
    """Yield each task with its outcome, as they end; `tick` is told what runs, twice a second or more often.

    A process solves one task after the other (what is loaded and compiled stays), and is replaced when it dies. Closing
    the iterator, as any exception in its consumer does, stops all processes.
    """
    waiting = list(reversed(tasks))
    processes: list[_Process] = []
    try:
        while waiting or processes:
            while waiting and len(busy := [p for p in processes if p.task is not None]) < workers:
                idle = next((p for p in processes if p not in busy), None)
                if idle is None:
                    processes.append(idle := _Process())
                idle.give(waiting.pop())
            running = [process for process in processes if process.task is not None]
            if not running:
                break
            tick([process.task for process in running if process.task is not None])
            ready = wait([process.pipe for process in running], timeout=TICK_S)
            for process in running:
                task = process.task
                assert task is not None
                outcome = process.outcome(process.pipe in ready)
                if outcome is not None:
                    if not process.alive:
                        processes.remove(process)
                    yield task, outcome
    finally:
        for process in processes:
            process.kill()


class _Process:
    """One solver process, and what it works on."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # threads of this process do not survive a fork
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,))
        self._process.start()
        other.close()  # so that its death is the end of the pipe
        self.task: Task | None = None
        self.alive = True
        self._problem: MappingProblem | None = None
        self._since = 0.0  # monotonic, since it was given the task, or since it was loaded for it
        self._loaded = False

    def give(self, task: Task) -> None:
        """Send a task; the problem only where it is another than before."""
        self.task, self._since, self._loaded = task, time.monotonic(), False
        same = self._problem is task.problem
        self._problem = task.problem
        with suppress(BrokenPipeError):  # it died: `outcome` finds out
            words = {"seed": task.seed, "deadline_s": task.deadline_s, "deterministic": task.deterministic}
            self.pipe.send((task.solver, words, None if same else task.problem))

    def outcome(self, ready: bool) -> Outcome | None:
        """Return the outcome of the task where it has one by now."""
        assert self.task is not None
        wall_s = time.monotonic() - self._since
        if ready:
            try:
                found = self.pipe.recv()
            except EOFError:
                return Outcome(kind="error", reason=self._died(), wall_s=wall_s)
            except Exception as error:  # an answer that does not unpickle is its sender's fault
                self.kill()
                return Outcome(kind="error", reason=f"its answer cannot be read: {error}", wall_s=wall_s)
            if found is None:  # it is loaded: its time begins
                self._since, self._loaded = time.monotonic(), True
                return None
            assert isinstance(found, Outcome)
            self.task = None
            return found
        if wall_s > (self.task.limit_s if self._loaded else LOAD_S):
            self.kill()
            what = (
                f"its deadline was {self.task.deadline_s:g} s"
                if self._loaded
                else "it could not be tried on three segments"
            )
            return Outcome(kind="error", reason=f"stopped after {wall_s:.0f} s: {what}", wall_s=wall_s)
        return None

    def _died(self) -> str:
        self._process.join(timeout=5)
        code = self._process.exitcode
        self.kill()
        if code is not None and code < 0:
            return f"its process died of {signal.Signals(-code).name}"
        return f"its process ended with exit code {code}"

    def kill(self) -> None:
        """End the process."""
        self.alive = False
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _serve(pipe: Connection) -> None:
    """Solve what comes through the pipe until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    os.dup2(2, 1)  # stdout is the parent's answer: what solvers print goes to stderr
    problem: MappingProblem | None = None
    with suppress(EOFError, BrokenPipeError):
        while True:
            name, words, given = pipe.recv()
            problem = given if given is not None else problem
            assert problem is not None
            try:
                solver = mapping_solver(name)
            except SolverError as error:
                pipe.send(Outcome(kind="missing", reason=str(error)))
                continue
            if refusal := solver.refusal(problem):
                pipe.send(Outcome(kind="refused", reason=f"it does not do {refusal}"))
                continue
            _warm_up(solver, problem)
            pipe.send(None)
            pipe.send(_solve(solver, problem, words))


def _solve(solver: MappingSolver, problem: MappingProblem, words: Dict[str, Any]) -> Outcome:
    wall, cpu = time.perf_counter(), time.process_time()
    mapping, reason = None, ""
    try:
        mapping = solver.solve(problem, **words)
    except Exception as error:
        reason = str(error) if isinstance(error, SolverError) else f"{type(error).__name__}: {error}"
    times = time.perf_counter() - wall, time.process_time() - cpu
    kind: Literal["done", "error"] = "error" if mapping is None else "done"
    return Outcome(kind=kind, reason=reason, mapping=mapping, wall_s=times[0], cpu_s=times[1])


def _warm_up(solver: MappingSolver, problem: MappingProblem) -> None:
    """Solve three segments of the same kind, so that loading and compiling takes nothing of the deadline."""
    kind = type(solver).__name__, problem.regime, problem.contiguous, problem.free_order
    if kind in _warm:
        return
    _warm.add(kind)
    between = 1.0 - np.eye(2)
    small = MappingProblem(
        compute_ms=np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]]),
        energy_mj=np.ones((3, 2)),
        edges=np.array([[0, 1], [1, 2]]),
        edge_bytes=np.ones(2),
        route_latency_ms=0.1 * between,
        route_ms_per_byte=0.1 * between,
        route_mj_per_byte=0.1 * between,
        route_links=np.zeros((2, 2, 0)),
        resident_bytes=np.ones(3),
        workspace_bytes=np.zeros(3),
        capacity_bytes=np.full(2, 3.0),
        allowed=np.ones((3, 2), dtype=np.bool_),
        regime=problem.regime,
        contiguous=problem.contiguous,
        free_order=problem.free_order,
    )
    with suppress(Exception):  # what is wrong with the solver shows, and is told, on the real problem
        solver.solve(small, deadline_s=1.0)


_warm: set[tuple[object, ...]] = set()
