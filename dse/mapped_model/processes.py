"""The processes of a mapped model, seen from their parent: started, fed, watched, and ended whatever happens."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor

from dse.errors import DseError
from dse.mapped_model.cut import Piece
from dse.mapped_model.memory import Memory, buffer
from dse.mapped_model.worker import Failure, Report, work
from workloads.layer_program import LayerProgram

LONGEST_FOLDER = 80
"""Characters: the address of a local socket has room for about a hundred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One process and the pipe to it."""

    piece: Piece
    process: BaseProcess
    control: Connection


class Processes:
    """One process for each piece; see `started`. Every method raises DseError where one of them fails or ends, or the
    deadline passes."""

    def __init__(self, members: Sequence[Member], deadline_s: float) -> None:
        self._members = members
        self._deadline_s = deadline_s
        self._end = time.monotonic() + deadline_s

    def load(self, program: LayerProgram) -> None:
        """Give each process its piece and the bytes that it is given, no more than it reads."""
        self._answers()
        for member in self._members:
            self._send(member, member.piece)
            for number in member.piece.given:
                base, (first, end) = program.base[number], member.piece.spans[number]
                whole = Memory({number: (0, program.extents[number])})
                whole.put(base, program.given[number])
                everything = whole.tensor(base).untyped_storage()
                content = torch.empty(0, dtype=torch.uint8).set_(everything, first, (end - first,), (1,))
                self._send(member, buffer(content))
        self._answers()

    def run(self, extents: Sequence[int]) -> tuple[dict[int, Tensor], Memory, list[Report]]:
        """Let all run; return the model's outputs by their number, those tensors of which slots have pieces, and a
        report of each process. `extents` are the storages' bytes."""
        for member in self._members:
            self._send(member, None)
        outputs: dict[int, Tensor] = {}
        reports: list[Report] = self._answers()
        regions = [region for member in self._members for region in member.piece.laid]
        joined = Memory({region.base.storage: (0, extents[region.base.storage]) for region in regions})
        for member in self._members:
            for number, view in member.piece.outputs:
                content = self._content(member)
                flat = torch.frombuffer(content, dtype=view.dtype) if content else torch.empty(0, dtype=view.dtype)
                outputs[number] = flat.reshape(view.shape)
            for region in member.piece.laid:
                region.scatter(joined, torch.frombuffer(self._content(member), dtype=torch.uint8))
        return outputs, joined, reports

    def _content(self, member: Member) -> bytearray:
        try:
            return bytearray(member.control.recv_bytes())
        except (EOFError, OSError):
            raise _ended(member) from None

    def _send(self, member: Member, message: Any) -> None:
        try:
            if isinstance(message, memoryview):
                member.control.send_bytes(message)
            else:
                member.control.send(message)
        except OSError:
            raise _ended(member) from None

    def _answers(self) -> list[Any]:
        """Return one message of each process, in the order of the pieces."""
        waiting: dict[Any, int] = {member.control: place for place, member in enumerate(self._members)}
        answers: dict[int, Any] = {}
        while waiting:
            ready = wait(list(waiting), max(0.0, self._end - time.monotonic()))
            if not ready:
                slots = ", ".join(str(self._members[place].piece.slot) for place in waiting.values())
                raise DseError(f"slots {slots} have not answered within {self._deadline_s:g} s", "a longer deadline")
            for control in ready:
                place = waiting.pop(control)
                try:
                    message = self._members[place].control.recv()
                except (EOFError, OSError):
                    raise _ended(self._members[place]) from None
                if isinstance(message, Failure):
                    raise DseError(f"slot {message.slot} failed in {message.segment}: {message.message}", message.hint)
                answers[place] = message
        return [answers[place] for place in range(len(self._members))]


def _ended(member: Member) -> DseError:
    """Return the error of a process that went away."""
    member.process.join(1.0)
    steps = member.piece.steps
    names = steps[0].name if len(steps) == 1 else f"{steps[0].name} to {steps[-1].name}"
    return DseError(
        f"the process of slot {member.piece.slot} ({names}) ended with code {member.process.exitcode}",
        "code -9: the system killed it, as a rule for want of memory; a smaller input or fewer slots need less",
    )


@contextmanager
def started(pieces: Sequence[Piece], deadline_s: float, modules: Sequence[str]) -> Iterator[Processes]:
    """Start a process for each piece; all are gone at the end, also after an error or Ctrl-C."""
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(["dse.mapped_model.worker"])  # torch is loaded once for all
    members: list[Member] = []
    roomy = len(tempfile.gettempdir()) < LONGEST_FOLDER
    with tempfile.TemporaryDirectory(prefix="chipfront-", dir=None if roomy else "/tmp") as folder:
        try:
            for piece in pieces:
                control, theirs = context.Pipe()
                name = f"slot {piece.slot}"
                process = context.Process(
                    target=work, args=(piece.slot, folder, theirs, tuple(modules)), name=name, daemon=True
                )
                process.start()
                theirs.close()
                members.append(Member(piece=piece, process=process, control=control))
            yield Processes(members, deadline_s)
        finally:
            for member in members:
                member.control.close()
            for member in members:
                member.process.terminate()
            for member in members:
                member.process.join(5.0)
                if member.process.is_alive():
                    member.process.kill()
                    member.process.join()


def modules_of(operators: Iterable[str], candidates: Sequence[str]) -> tuple[str, ...]:
    """Return the modules that a process imports: those of the model, where operators are not all of torch."""
    foreign = any(not name.startswith(("aten::", "prims::", "prim::")) for name in operators)
    return tuple(candidates) if foreign else ()
