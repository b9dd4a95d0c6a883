"""The processes of a mapped model, seen from their parent: started, fed, watched, and ended whatever happens."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor

from dse.errors import DseError
from dse.mapped_model.cut import Piece
from dse.mapped_model.memory import Memory, as_bytes
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
    """One process for each piece; see `started`."""

    def __init__(self, members: Sequence[Member], end_s: float) -> None:
        self._members = members
        self._of_control = {id(member.control): member for member in members}
        self._end_s = end_s

    def load(self, program: LayerProgram) -> None:
        """Give each process its piece and the bytes that it is given, no more than it reads."""
        for member in self._members:
            self._answers([member])
            piece = member.piece
            self._tell(member, piece)
            for number in piece.given:
                base, (first, end) = program.base[number], piece.spans[number]
                whole = Memory({number: (0, program.extents[number])})
                whole.put(base, program.given[number])
                everything = whole.tensor(base).untyped_storage()
                content = torch.empty(0, dtype=torch.uint8).set_(everything, first, (end - first,), (1,))
                try:
                    member.control.send_bytes(content.numpy())
                except OSError:
                    self._fail(member)
        self._answers(self._members)

    def run(self) -> tuple[dict[int, Tensor], list[Report]]:
        """Let all run; return the model's outputs by their number, and each process's report."""
        for member in self._members:
            self._tell(member, None)
        outputs: dict[int, Tensor] = {}
        reports: list[Report] = []
        for member, report in self._answers(self._members).items():
            reports.append(report)
            for number, part in self._members[member].piece.outputs:
                content = torch.frombuffer(bytearray(self._members[member].control.recv_bytes()), dtype=torch.uint8)
                outputs[number] = content.view(part.view.dtype).reshape(part.view.shape)
        return outputs, reports

    def _tell(self, member: Member, message: Any) -> None:
        try:
            member.control.send(message)
        except OSError:
            self._fail(member)

    def _answers(self, members: Sequence[Member]) -> dict[int, Any]:
        """Return one message of each of these, by its place among all.

        Raises DseError where one of all processes fails or ends meanwhile, or the deadline passes.
        """
        waiting = {id(member.control): member for member in members}
        answers: dict[int, Any] = {}
        while waiting:
            ready = wait([member.control for member in waiting.values()], self._end_s - time.monotonic())
            if not ready:
                slots = ", ".join(str(member.piece.slot) for member in waiting.values())
                raise DseError(f"the processes of slots {slots} have not answered by the deadline", "a longer deadline")
            for control in ready:
                member = waiting.pop(id(control))
                try:
                    message = member.control.recv()
                except (EOFError, OSError):
                    self._fail(member)
                if isinstance(message, Failure):
                    raise DseError(f"slot {message.slot} failed in {message.segment}: {message.message}")
                answers[self._members.index(member)] = message
        return answers

    def _fail(self, member: Member) -> None:
        member.process.join(1.0)
        names = ", ".join(step.name or str(step.segment) for step in member.piece.steps[:3])
        raise DseError(
            f"the process of slot {member.piece.slot} ({names}, ...) ended with code {member.process.exitcode}",
            "code -9: the system killed it, as a rule for want of memory; map fewer slots or a smaller input",
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
            yield Processes(members, time.monotonic() + deadline_s)
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


def modules_of(operators: Mapping[str, int] | Sequence[str], candidates: Sequence[str]) -> tuple[str, ...]:
    """Return the modules that a process imports: those of the model, where operators are not all of torch."""
    foreign = any(not name.startswith(("aten::", "prims::", "prim::")) for name in operators)
    return tuple(candidates) if foreign else ()
