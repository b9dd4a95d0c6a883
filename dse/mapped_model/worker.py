"""One process of a mapped model: it holds its own weights, runs its segments, and exchanges tensors with the others."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dse.errors import DseError
from dse.mapped_model.cut import Held, Piece, Share, Step
from dse.mapped_model.exchange import Exchange, PeerGone
from dse.mapped_model.memory import Memory, Part, as_bytes, buffer
from dse.mapped_model.regions import Region
from dse.mapped_model.slot_team import SlotTeam
from workloads.errors import WorkloadError
from workloads.layer_program import LayerCall, View
from workloads.operators import registered
from workloads.sharding import ChannelPermute
from workloads.values import tensors_in


@dataclass(slots=True, kw_only=True)
class Report:
    """What one process did. `sent` and `received` are payload bytes at the socket by edge of the segment graph."""

    slot: int
    given_bytes: int
    sent: dict[int, int] = field(default_factory=dict)
    received: dict[int, int] = field(default_factory=dict)
    messages: int = 0
    segment_s: dict[int, float] = field(default_factory=dict)  # time in the calls of each segment
    collectives: dict[int, int] = field(default_factory=dict)  # bytes sent within the team of each split segment


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong in a process, and in which of its segments."""

    slot: int
    segment: str
    message: str
    hint: str = ""


def work(slot: int, folder: str, control: Connection, modules: Sequence[str]) -> None:
    """Run the piece that comes over `control`, with the bytes of what it is given; report, and send the outputs back.

    `modules` are imported first, as they may register operators. Where the other end of `control` goes away, this
    process ends at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    torch.set_num_threads(1)
    doing = "its start"
    try:
        registered()
        for module in modules:
            with contextlib.suppress(ImportError):  # what is missing then is an operator, which is named below
                importlib.import_module(module)
        with Exchange(Path(folder), slot) as exchange:
            control.send(None)
            piece: Piece = control.recv()
            memory = Memory(piece.spans)
            report = Report(slot=slot, given_bytes=0)
            for number in piece.given:
                content = bytearray(control.recv_bytes())
                report.given_bytes += len(content)
                memory.load(number, content)
            control.send(None)
            control.recv()
            threading.Thread(target=_end_with, args=(control,), daemon=True).start()
            with torch.no_grad():
                for step in piece.steps:
                    doing = f"segment {step.segment} ({step.name})"
                    _run(step, memory, exchange, report)
            doing = "its outputs"
            control.send(report)
            for _, view in piece.outputs:
                control.send_bytes(buffer(as_bytes(memory.tensor(view).resolve_conj().resolve_neg())))
            for region in piece.laid:
                control.send_bytes(buffer(region.gather(memory)))
    except PeerGone:  # the parent hears of it from that process itself, and ends this one
        threading.Event().wait()
    except (EOFError, ConnectionError):  # the parent has gone away, or has ended the run
        return
    except Exception as error:  # whatever an operator raises
        if isinstance(error, DseError | WorkloadError):
            control.send(Failure(slot, doing, error.message, error.hint))
        else:
            control.send(Failure(slot, doing, f"{type(error).__name__}: {error}"))


def _end_with(control: Connection) -> None:
    """End this process when its parent goes away: nobody is left who would read its answer."""
    try:
        control.recv()
    except (EOFError, OSError):
        os._exit(1)


def _run(step: Step, memory: Memory, exchange: Exchange, report: Report) -> None:
    for transfer in step.receives:
        for part in transfer.parts:
            payload = exchange.receive(transfer.source, transfer.edge)
            report.received[transfer.edge] = report.received.get(transfer.edge, 0) + len(payload)
            _put(part, memory, payload)
    begin = time.perf_counter()
    if step.share is not None:
        report.collectives[step.segment] = _run_share(step.share, memory, exchange)
    for call, done_with in zip(step.calls, step.frees[:-1], strict=True):
        _call(call, memory)
        for storage in done_with:
            memory.free(storage)
    report.segment_s[step.segment] = time.perf_counter() - begin
    for transfer in step.sends:
        for part in transfer.parts:
            before = exchange.sent_bytes
            taken = part.gather(memory, as_made=True) if isinstance(part, Region) else memory.gather(part)
            exchange.send(transfer.target, transfer.edge, buffer(taken))
            report.sent[transfer.edge] = report.sent.get(transfer.edge, 0) + exchange.sent_bytes - before
            report.messages += 1
    if step.share is not None:
        _put_in_order(step.share, memory)
    for storage in step.frees[-1]:
        memory.free(storage)


def _put(part: Part | Region, memory: Memory, payload: bytearray) -> None:
    content = torch.frombuffer(payload, dtype=torch.uint8)
    if isinstance(part, Region):
        part.scatter(memory, content)
    else:
        memory.scatter(part, content)


def _run_share(share: Share, memory: Memory, exchange: Exchange) -> int:
    """Run a member of a split segment; return the bytes that it sent to the others."""
    before, slot = exchange.sent_bytes, share.slots[share.member]
    for relay in share.relays:
        if relay.source == slot:
            exchange.send(relay.target, share.tag, buffer(relay.region.gather(memory)))
    for relay in share.relays:
        if relay.target == slot:
            _put(relay.region, memory, exchange.receive(relay.source, share.tag))
    team = SlotTeam(exchange, share.slots, share.member, share.tag)
    program = pickle.loads(share.program)
    inputs = [_held(held, memory) for held in share.inputs]
    made = program(team, *inputs, *(memory.tensor(view) for view in share.weights))
    for held, piece in zip(share.outputs, made, strict=True):
        whole = memory.tensor(held.view)
        if held.dim is None or held.indices is None:
            whole.copy_(piece)
        else:
            whole.index_copy_(held.dim, torch.from_numpy(held.indices), piece)
    return exchange.sent_bytes - before


def _put_in_order(share: Share, memory: Memory) -> None:
    """Undo the permutation of what a member made, for readers in this process."""
    for held in share.outputs:
        if held.perm is not None and held.dim is not None:
            whole = memory.tensor(held.view)
            whole.copy_(ChannelPermute(torch.from_numpy(np.argsort(held.perm)), held.dim)(whole))


def _held(held: Held, memory: Memory) -> torch.Tensor:
    whole = memory.tensor(held.view)
    if held.dim is None or held.indices is None:
        return whole
    return whole.index_select(held.dim, torch.from_numpy(held.indices))


def _call(call: LayerCall, memory: Memory) -> None:
    operator = _operator(call.operator)
    args, kwargs = _filled(call.args, memory), _filled(call.kwargs, memory)
    context: AbstractContextManager[Any] = nullcontext()
    if call.autocast:
        device, dtype, enabled = call.autocast
        context = torch.autocast(device, dtype=dtype, enabled=enabled)
    with context:
        made = operator(*args, **kwargs)
    for view, tensor in zip(call.outputs, tensors_in(made), strict=bool(call.outputs)):
        memory.put(view, tensor)


def _operator(name: str) -> Any:
    namespace, _, rest = name.partition("::")
    packet, _, overload = rest.partition(".")
    try:
        return getattr(getattr(getattr(torch.ops, namespace), packet), overload)
    except AttributeError:
        hint = (
            "register it in a package with the entry point chipfront.operators, or in the module of the model's class"
        )
        raise DseError(f"the operator {name} is not known in the process that runs it", hint) from None


def _filled(argument: Any, memory: Memory) -> Any:
    """Put tensors in the place of views."""
    if isinstance(argument, View):
        return memory.tensor(argument)
    if isinstance(argument, list | tuple):
        return [_filled(item, memory) for item in argument]
    if isinstance(argument, dict):
        return {key: _filled(item, memory) for key, item in argument.items()}
    return argument
