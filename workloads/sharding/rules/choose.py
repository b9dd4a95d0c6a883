"""Run a call of the segment on the team by the option that costs the least."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from workloads.graph import MATRIX_KINDS, OperatorKind
from workloads.sharding.flow import Flow
from workloads.sharding.held import Each, Held
from workloads.sharding.layout import FULL, Full, Partial, Placement
from workloads.sharding.rules import elementwise, matrix, norms, padding, reductions
from workloads.sharding.rules.operation import Operation, Option, Rule, call_local, whole
from workloads.sharding.views import arguments

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **matrix.RULES,
    **norms.RULES,
    **reductions.RULES,
    **padding.RULES,
}
"""Operator name -> how it may run on pieces. An operator without one that torch tags as element-wise needs no entry."""


def run(
    flow: Flow, node: fx.Node, values: dict[fx.Node, Any], layer: int, kind: OperatorKind | None
) -> tuple[Any, str]:
    """Run a call on the members; return what it makes, and why every member runs all of it where that is so."""
    call = _operation(node, values, layer)
    rule = RULES.get(call.name)
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    if rule is None and torch.Tag.pointwise in target.tags:
        rule = elementwise.pointwise
    options = rule(flow, call) if rule is not None and len(call.outputs) == 1 else []
    options.append(whole(flow, call, _why(flow, call, options) if rule is not None else ""))
    apart = kind in MATRIX_KINDS  # what computes most is cut wherever it can be

    def price(option: Option) -> tuple[bool, float]:
        sent = option.extra_bytes
        for held, want in zip(call.operands, option.wants, strict=True):
            if want is not None:
                sent += flow.cost(held, want)
        if isinstance(option.out, Partial):
            sent += call.outputs[0].nbytes * (flow.members - 1) // flow.members
        return apart and isinstance(option.out, Full), sent

    best = min(options, key=price)
    pieces = [
        Each() if want is None else flow.place(held, want) for held, want in zip(call.operands, best.wants, strict=True)
    ]
    made = best.run(flow, call, pieces) if best.run is not None else call_local(flow, call, pieces, best.changes)
    if len(call.outputs) > 1:
        return _several(flow, call, made), best.reason
    held = Held(shape=call.shape, dtype=call.outputs[0].dtype, preferred=best.preferred)
    held.own[best.out] = made
    _check(flow, call, made, best.out)
    return held, best.reason


def _operation(node: fx.Node, values: dict[fx.Node, Any], layer: int) -> Operation:
    operands: list[Held] = []

    def bound(value: Any) -> Any:
        if isinstance(value, fx.Node):
            operands.append(values[value])
            return values[value]
        return [bound(item) for item in value] if isinstance(value, list | tuple) else value

    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    given = {name: bound(value) for name, value in arguments(node).items()}
    made = node.meta["val"]
    outputs = [item for item in (made if isinstance(made, list | tuple) else [made]) if isinstance(item, Tensor)]
    name = target._schema.name.removeprefix("aten::")
    return Operation(
        node=node, name=name, arguments=given, operands=tuple(operands), outputs=tuple(outputs), layer=layer
    )


def _why(flow: Flow, call: Operation, options: list[Option]) -> str:
    """Why a call runs whole on every member although there is a rule."""
    if options:
        return f"{call.name} runs whole, which sends less than to cut it"
    sizes = "x".join(map(str, call.shape))
    return f"{flow.members} does not divide what {flow.policy.way} would cut of {call.name} to {sizes}"


def _several(flow: Flow, call: Operation, made: Each) -> list[Held]:
    """The results of a call that makes several tensors, whole on every member."""
    import operator

    held = []
    for index, output in enumerate(call.outputs):
        item = flow.emit(operator.getitem, [made, index])
        shape = tuple(int(size) for size in output.shape)
        held.append(Held(shape=shape, dtype=output.dtype, own={FULL: item}))
    return held


def _check(flow: Flow, call: Operation, made: Each, placement: Placement) -> None:
    """A piece has the shape that its placement says, else a rule is wrong."""
    for node, shape in zip(made, flow.shapes(call.shape, placement), strict=True):
        found = tuple(node.meta["val"].shape)
        if found != tuple(shape):
            raise AssertionError(f"{call.node.name}: a piece of shape {found}, placed as one of {tuple(shape)}")
