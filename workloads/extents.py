"""Extents of the operators that work on any shape: rows, columns, what is repeated, and how tensors lie in memory.

Every tensor is told by at most three extents, row-major: [batch, rows, cols] for element-wise operators,
[rows, length, inner] for what runs along one axis, [rows, cols, inner] for copies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from workloads.calls import Call, TensorSpec
from workloads.graph import OperatorKind

DENSE, GAPS, TRANSPOSED = 0, 1, 2
"""Codes of `layout`: row-major without gaps; rows with gaps between them; neighbours lie apart."""

REPEATED = {"batch": 1, "rows": 2, "cols": 4}
"""Bits of `broadcast`: the extents along which the smaller operand of an element-wise operator is repeated."""

JOINS = frozenset(["cat", "concat", "concatenate", "stack", "_stack", "hstack", "vstack", "dstack"])


def elementwise_extents(call: Call) -> dict[str, int]:
    """Return batch, rows and cols of the output, how many tensors are read, and where one of them is repeated."""
    out, operands = call.output, call.tensors
    shape = {"operands": len(operands)}
    if call.operator == "glu":  # the two halves lie one after the other along `dim`
        dim = int(call.arguments["dim"])
        inner = math.prod(out.shape[dim % len(out.shape) :])
        return {"batch": 1, "rows": out.numel // max(inner, 1), "cols": inner, **shape, "broadcast": 0}
    smaller = [t for t in operands if t.numel < out.numel]
    cols = out.shape[-1] if out.shape else 1
    plain = {"batch": 1, "rows": out.numel // max(cols, 1), "cols": cols, **shape}
    if not smaller or len(operands) == 1:
        return plain | {"broadcast": 0}
    small = max(smaller, key=lambda t: t.numel)
    if small.numel == 1:
        return plain | {"broadcast": sum(REPEATED.values())}
    sizes = small.shape
    if call.operator == "prelu" and len(out.shape) > 1:  # one weight a channel
        sizes = (1, *small.shape, *(1 for _ in out.shape[2:]))
    return _grouped(out.shape, sizes) | shape


def _grouped(full: Sequence[int], small: Sequence[int]) -> dict[str, int]:
    """Join neighbouring axes that are all repeated, or all not; more than three groups are joined from the left."""
    groups: list[tuple[bool, int]] = []  # repeated, extent
    for size, own in zip(full, (*(1 for _ in range(len(full) - len(small))), *small), strict=True):
        if size == 1:
            continue
        repeated = own == 1
        if groups and groups[-1][0] == repeated:
            groups[-1] = (repeated, groups[-1][1] * size)
        else:
            groups.append((repeated, size))
    while len(groups) > 3:
        (_, first), (repeated, second), *rest = groups
        groups = [(repeated, first * second), *rest]
    groups = [(False, 1)] * (3 - len(groups)) + groups
    extents = {name: size for name, (_, size) in zip(REPEATED, groups, strict=True)}
    bits = sum(bit for bit, (repeated, _) in zip(REPEATED.values(), groups, strict=True) if repeated)
    return extents | {"broadcast": bits}


def reduced(call: Call) -> dict[str, int]:
    """Return rows (results), length (elements of each) and inner (elements between two of one result)."""
    x = call.tensors[0]
    dims = call.arguments.get("dim")
    chosen = {dims} if isinstance(dims, int) else {d for d in dims or () if isinstance(d, int)}
    if not x.shape or not chosen:
        return {"rows": 1, "length": x.numel, "inner": 1}
    chosen = {dim % len(x.shape) for dim in chosen}
    length = math.prod(x.shape[dim] for dim in chosen)
    return {"rows": x.numel // max(length, 1), "length": length, "inner": math.prod(x.shape[max(chosen) + 1 :])}


def planes(call: Call) -> dict[str, int]:
    """Return batch (of all channels) and the sizes before and after of what works on planes: pools, resampling, pads.

    A sequence is a plane of one row.
    """
    x, out = call.tensors[0], call.output
    before, after = ((1, 1, *tensor.shape)[-2:] for tensor in (x, out))
    names = ("in_h", "in_w", "out_h", "out_w")
    return {"batch": out.numel // max(math.prod(after), 1)} | dict(zip(names, (*before, *after), strict=True))


def copied(call: Call) -> dict[str, int]:
    """Return rows, cols and inner of what moves data, and how many tensors it reads.

    Of tensors that are joined each row holds one part of each; of other copies `inner` elements at a time are
    neighbours in the source, and `cols` of these, neighbours in the result, lie apart there.
    """
    out, operands = call.output, call.tensors
    if call.operator.endswith("pad") or "_pad" in call.operator:
        return planes(call) | {"operands": len(operands)}
    if call.operator in JOINS:
        dim = int(call.arguments.get("dim", 0)) % max(len(out.shape), 1)
        cols = math.prod(out.shape[dim:])
        return {"rows": out.numel // max(cols, 1), "cols": cols, "inner": 1, "operands": len(operands)}
    if len(operands) != 1 or operands[0].numel != out.numel:
        cols = out.shape[-1] if out.shape else 1
        return {"rows": out.numel // max(cols, 1), "cols": cols, "inner": 1, "operands": len(operands)}
    runs = _runs(operands[0])
    if runs and runs[-1][1] == 1:
        inner, cols = runs[-1][0], math.prod(size for size, _ in runs[-2:-1])
    else:
        nearest = min(range(len(runs)), key=lambda axis: runs[axis][1], default=0)
        inner, cols = 1, math.prod(size for size, _ in runs[nearest + 1 :])
    return {"rows": out.numel // max(cols * inner, 1), "cols": cols, "inner": inner, "operands": 1}


def _runs(tensor: TensorSpec) -> list[tuple[int, int]]:
    """Extent and stride of the axes, those joined that lie one after the other."""
    runs: list[tuple[int, int]] = []
    for size, stride in zip(tensor.shape, tensor.strides or _row_major(tensor.shape), strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == size * stride:
            runs[-1] = (runs[-1][0] * size, stride)
        else:
            runs.append((size, stride))
    return runs


def _row_major(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def layout(call: Call, kind: OperatorKind) -> int:
    """Return how the activations lie that the call reads, of the worst of them: DENSE, GAPS or TRANSPOSED.

    Element-wise operators walk their operands in the order of the output's memory, so that a transposed operand is
    dense for them where the output is transposed as well. Repeated operands do not count.
    """
    worst = DENSE
    for tensor in call.tensors:
        if tensor.weight or not tensor.strides or 0 in tensor.strides or tensor.numel <= 1:
            continue
        order = list(range(len(tensor.shape)))
        if kind is OperatorKind.ELEMENTWISE:
            if tensor.shape != call.output.shape:
                continue
            order.sort(key=lambda axis: -call.output.strides[axis])
        runs = _runs(TensorSpec(tuple(tensor.shape[a] for a in order), strides=tuple(tensor.strides[a] for a in order)))
        if runs and runs[-1][1] != 1:
            return TRANSPOSED
        if len(runs) > 1:
            worst = GAPS
    return worst
