"""Workers: evaluate designs in other processes, in order, with the same answers for any number of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Any

from dse.evaluate import Evaluator
from dse.space import DesignPoint

_evaluator: Evaluator | None = None


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(evaluator: Evaluator) -> None:
    global _evaluator
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    _evaluator = evaluator


def _evaluate(params: DesignPoint) -> dict[str, Any]:
    assert _evaluator is not None
    return _evaluator.row(params)


class Workers:
    """A pool of processes that hold one Evaluator each; with one worker, this process does the work."""

    def __init__(self, evaluator: Evaluator, workers: int) -> None:
        self._evaluator = evaluator
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def rows(self, designs: Sequence[DesignPoint]) -> Iterator[dict[str, Any]]:
        """Yield the result row of each design, in the given order."""
        if self._workers == 1 or len(designs) < 2:
            yield from map(self._evaluator.row, designs)
            return
        if self._pool is None:
            # the first design here: compiled kernels are then in numba's cache, and no worker compiles them again
            yield self._evaluator.row(designs[0])
            designs = designs[1:]
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),  # torch's threads do not survive a fork
                initializer=_start,
                initargs=(self._evaluator,),
            )
        yield from self._pool.map(_evaluate, designs, chunksize=max(1, min(16, len(designs) // (4 * self._workers))))

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
