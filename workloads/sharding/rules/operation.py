"""An operator call of a segment, and the options for running it on a team."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from workloads.sharding.flow import Flow
from workloads.sharding.held import Each, Held
from workloads.sharding.layout import FULL, Cut, Placement, Shard, even_cut, parts_cut


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Operation:
    """A call with tensors in place of nodes: `operands` are those among the `arguments` (by name), in order."""

    node: fx.Node
    name: str  # without name space and overload
    arguments: Mapping[str, Any]
    operands: tuple[Held, ...]
    outputs: tuple[Tensor, ...]  # on no device
    layer: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first output."""
        return tuple(int(size) for size in self.outputs[0].shape)

    def held(self, name: str) -> Held:
        """The tensor that an argument is."""
        value = self.arguments[name]
        assert isinstance(value, Held), (self.name, name)
        return value


Run = Callable[[Flow, Operation, Sequence[Each]], Each]
"""Calls the operator on pieces of its operands; returns those of the first output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A way to run a call: where each operand has to lie, and how the outputs lie then.

    `changes` replace arguments by name; `run` calls something else instead, and takes the operands itself where `wants`
    leaves them out (None). `preferred` is how an output that is a sum had best be cut. `extra_bytes` is what a member
    sends inside.
    """

    wants: tuple[Placement | None, ...]
    out: Placement
    changes: Mapping[str, Any] = field(default_factory=dict)
    run: Run | None = None
    preferred: Shard | None = None
    extra_bytes: int = 0
    reason: str = ""  # of running whole on every member


Rule = Callable[[Flow, Operation], list[Option]]


def whole(flow: Flow, call: Operation, reason: str = "") -> Option:
    """Every member runs all of it."""
    return Option(wants=(FULL,) * len(call.operands), out=FULL, reason=reason or f"no rule cuts {call.name}")


def call_local(flow: Flow, call: Operation, pieces: Sequence[Each], changes: Mapping[str, Any] | None = None) -> Each:
    """Call the operator on the pieces of its operands, in order, other arguments changed by name."""
    remaining = iter(pieces)

    def local(value: Any) -> Any:
        if isinstance(value, Held):
            return next(remaining)
        return [local(item) for item in value] if isinstance(value, list | tuple) else value

    target = call.node.target
    assert isinstance(target, torch._ops.OpOverload)
    bound = {name: local(value) for name, value in call.arguments.items()} | dict(changes or {})
    schema = target._schema.arguments
    args = [bound[a.name] for a in schema if not a.kwarg_only]
    kwargs = {a.name: bound[a.name] for a in schema if a.kwarg_only}
    return flow.emit(target, args, kwargs, layer=call.layer)


def shards_of(flow: Flow, held: Held) -> list[Shard]:
    """How a tensor is cut already, or had best be where it is a sum still to be done."""
    found = [form for form in held.forms() if isinstance(form, Shard)]
    preferred = preferred_of(held)
    return [*found, *([preferred] if preferred is not None and not found else [])]


def preferred_of(held: Held) -> Shard | None:
    """How a sum had best be cut, seen through views."""
    if held.preferred is not None:
        return held.preferred
    if held.source is None or held.view is None:
        return None
    before = preferred_of(held.source)
    return before and held.view.forward(before)


def channel_cut(flow: Flow, call: Operation, dim: int, granule: int = 1, *, dealt: bool = True) -> Cut | None:
    """How to cut the channels `dim` that the call makes, so that its readers can take the pieces; None where no way."""
    size, members = call.shape[dim], flow.members
    fate = flow.lookahead.fate(call.node, dim)
    seed = flow.policy.seed if dealt else None
    if fate is not None:
        together = max(fate.granule, granule)
        same = len(set(fate.parts)) == 1
        cut = parts_cut(fate.parts, members, together, seed if same else None)
        if cut is not None:
            return cut
    return parts_cut((size,), members, granule)


def seeds(flow: Flow, call: Operation, dims: Sequence[int]) -> list[Shard]:
    """How to begin to cut the result of a call along one of `dims` where its operands are whole."""
    if not flow.policy.eager and flow.policy.way != "sequence":
        return []
    if all(held.root.kind == "weight" for held in call.operands):
        return []
    wanted = "sequence" if flow.policy.way == "sequence" else "channel"
    roles = {}
    for dim in dims:
        fate = flow.lookahead.fate(call.node, dim)
        roles[dim] = fate.role if fate is not None else "none"
    chosen = [dim for dim in dims if roles[dim] == wanted]
    if wanted == "sequence":
        chosen.sort(reverse=flow.policy.axis == 1)
    if not chosen and not any(role in ("channel", "sequence") for role in roles.values()):
        chosen = sorted((dim for dim in dims if roles[dim] != "none"), key=lambda dim: -call.shape[dim])
    found = []
    for dim in chosen:
        if wanted == "sequence":
            cut = even_cut(call.shape[dim], flow.members)
        else:
            cut = channel_cut(flow, call, dim, dealt=False)
        if cut is not None:
            found.append(Shard(dim, cut))
    return found
