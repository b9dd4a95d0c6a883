"""Instance: a problem as a file states it, with the file's own names; and what every format of such files is."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from solvers.errors import SolverError
from solvers.mapping.problem import MappingProblem
from solvers.registry import NamedSolver

Goal = Literal["throughput", "latency"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Instance:
    """A problem that a file states."""

    name: str
    path: Path
    format: str
    problem: MappingProblem
    ids: tuple[int | str, ...]  # [K] what the file calls the segments
    devices: tuple[str, ...]  # [S] what the slots are
    unit: str = "ms"  # of the objective; empty where the file gives a bare number
    best_known: float | None = None  # objective of the best solution that was published, where one is given
    inverted: bool = False  # the problem assigns the file's devices to its ids, one each

    def assignment_of(self, modes: NDArray[np.int64]) -> dict[str, int | list[int]]:
        """Return the answer `modes` [K] in the file's terms: id -> number of its device, or those of a team."""
        if self.inverted:
            modes = np.argsort(modes)
        return {str(self.ids[k]): devices_of(self.problem, m) for k, m in enumerate(modes.tolist())}


def devices_of(problem: MappingProblem, mode: int) -> int | list[int]:
    """Return the slot of a mode, or the slots of one that is a team."""
    return mode if mode < problem.slots else np.flatnonzero(problem.members[mode]).tolist()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a file leaves open, and its reader is told. None: what the format takes where nothing is said."""

    goal: Goal | None = None
    contiguous: bool | None = None
    devices: int | None = None
    bandwidth_gb_s: float | None = None  # of one device to all others together
    memory_gb: float | None = None  # of one device
    replicas: int | None = None  # most devices that one stage of a training pipeline may have


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file's text, parsed when it is first asked for as what it might be."""

    path: Path
    text: str

    @classmethod
    def of(cls, path: Path) -> Source:
        """Read a file. Raises SolverError where it does not exist, or is no text."""
        try:
            return cls(path=path, text=path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise SolverError(f"{path}: byte {error.start} is no UTF-8 text", "a text file") from None
        except OSError as error:
            raise SolverError(f"{path}: {error.strerror}", "check the path") from None

    @cached_property
    def document(self) -> Any:
        """What the text says as JSON, None where it is none."""
        if self.text.lstrip()[:1] not in ("{", "["):
            return None
        try:
            return json.loads(self.text)
        except json.JSONDecodeError:
            return None

    @cached_property
    def numbers(self) -> list[float]:
        """The text as numbers in a row; empty where anything in it is none."""
        try:
            return [float(word) for word in self.text.split()]
        except ValueError:
            return []

    def json_error(self) -> str:
        """Say where the text stops to be JSON; empty where it is JSON, or does not begin like it."""
        if self.document is not None or self.text.lstrip()[:1] not in ("{", "["):
            return ""
        try:
            json.loads(self.text)
        except json.JSONDecodeError as error:
            return f"line {error.lineno}, column {error.colno}: {error.msg}"
        return ""


class InstanceFormat(NamedSolver, ABC):
    """A format: one class in one file of this folder, or of the entry points `chipfront.solvers`, found by its name."""

    layout: ClassVar[str]  # what a file of it holds, in a few words
    takes: ClassVar[tuple[str, ...]] = ()  # fields of Reading that it heeds, beside `contiguous`

    @abstractmethod
    def recognises(self, source: Source) -> bool:
        """Whether the content looks like this format; a look, no proof that it is whole."""

    @abstractmethod
    def read(self, source: Source, reading: Reading) -> Instance:
        """Return the instance, named by its path without suffix.

        Raises SolverError for what is wrong in the file: its key, its value, and what would be right.
        """


def topological_order(ids: Sequence[int | str], edges: Sequence[tuple[int, int]], path: Path) -> list[int]:
    """Return the nodes 0 to n - 1 so that every edge goes forward, earlier ones of the file first.

    Raises SolverError that names the ids of a circle.
    """
    import heapq

    after: list[list[int]] = [[] for _ in ids]
    waiting = [0] * len(ids)
    for i, j in edges:
        after[i].append(j)
        waiting[j] += 1
    ready = [node for node, count in enumerate(waiting) if not count]
    order = []
    while ready:
        node = heapq.heappop(ready)
        order.append(node)
        for target in after[node]:
            waiting[target] -= 1
            if not waiting[target]:
                heapq.heappush(ready, target)
    if len(order) < len(ids):
        left = [str(ids[node]) for node, count in enumerate(waiting) if count]
        shown = ", ".join(left[:6]) + (", ..." if len(left) > 6 else "")
        raise SolverError(f"{path}: edges: nodes {shown} feed each other in a circle", "a directed graph without one")
    return order
