"""Operators as torch runs them, built from rows of the tidy table: the tensors that they take, and the call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dse.errors import DseError

TORCH_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp64": "float64"}
"""Names of types in the tidy table -> torch's; all others are called as torch calls them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """A tensor that an operator takes.

    `order` lists its axes from the slowest to the fastest in memory (as they stand if empty); `gap` elements that are
    not read follow each run of the fastest axis; integers are drawn below `high`; of a table at most `read` elements
    are looked up.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    weight: bool = False
    order: tuple[int, ...] = ()
    gap: int = 0
    high: int = 0
    read: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that reading it moves."""
        count = math.prod(self.shape)
        return (count if self.read is None else min(count, self.read)) * self.dtype.itemsize

    @property
    def stored_elements(self) -> int:
        """Elements that it spans in memory."""
        order = self.order or tuple(range(len(self.shape)))
        fastest = self.shape[order[-1]] if order else 1
        return math.prod(self.shape) // max(fastest, 1) * (fastest + self.gap)

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """Return this tensor as a view of `stored_elements` elements that lie one after the other."""
        order = self.order or tuple(range(len(self.shape)))
        sizes = [self.shape[axis] for axis in order]
        if sizes:
            flat = flat.view(*sizes[:-1], sizes[-1] + self.gap)[..., : sizes[-1]]
        return flat.permute([order.index(axis) for axis in range(len(order))]) if self.order else flat

    def empty(self, device: str) -> torch.Tensor:
        """Return such a tensor with arbitrary values (on the meta device with none)."""
        return self.of(torch.empty(self.stored_elements, dtype=self.dtype, device=device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """What is run: `call(*tensors)` of `operands`. `result` is told where torch cannot work it out without data."""

    operands: tuple[Operand, ...]
    call: Callable[..., Any]
    result: Operand | None = None

    @property
    def operand_bytes(self) -> int:
        """Bytes of weights and inputs."""
        return sum(operand.nbytes for operand in self.operands)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights."""
        return sum(operand.nbytes for operand in self.operands if operand.weight)

    def output_bytes(self) -> int:
        """Bytes of the results, which are worked out without computing them."""
        if self.result is not None:
            return self.result.nbytes
        with torch.no_grad():
            made = self.call(*(operand.empty("meta") for operand in self.operands))
        outputs = made if isinstance(made, tuple | list) else [made]
        return sum(t.numel() * t.element_size() for t in outputs if isinstance(t, torch.Tensor))


class Problem:
    """A row as integers by column name; what is not there is refused by name."""

    def __init__(self, row: Mapping[str, Any], device: str) -> None:
        self.device = device
        self.op_type, self.op_name = str(row["op_type"]), str(row["op_name"])
        name = TORCH_TYPES.get(str(row["dtype"]), str(row["dtype"]))
        self.dtype: torch.dtype = getattr(torch, name)
        self.bytes, self.weight_bytes = float(row.get("bytes", 0)), float(row.get("weight_bytes", 0))
        self._row = row
        self.columns = {column for column, value in row.items() if value == value}

    def __getattr__(self, column: str) -> int:
        value = self._row.get(column)
        if value is None or value != value:
            raise DseError(f"an operator {self.op_type} ({self.op_name}) has no {column}", "fill that column")
        return int(value)

    def get(self, column: str, default: int) -> int:
        """Return a column, or what holds where it is not there."""
        value = self._row.get(column)
        return default if value is None or value != value else int(value)

    @property
    def layout(self) -> int:
        """How the activations lie; row-major where the row does not tell."""
        return self.get("layout", 0)

    def refuse(self, reason: str) -> DseError:
        """Return the error that says why this row cannot be run."""
        return DseError(f"{self.op_type} ({self.op_name}): {reason}", "this kind of row is not measured")


def operator(row: Mapping[str, Any], device: str = "cpu") -> Operator:
    """Return the operator of a row of the tidy table; what takes no tensor makes its result on `device`.

    Optional tensors (bias, affine weights, window, mask) are there if the row's bytes say so.

    Raises
    ------
    DseError
        If the row is of a kind that is not built here, or lacks a column that its kind needs.
    """
    from dse.proxy.measure.matrix_operators import MATRIX_BUILDERS
    from dse.proxy.measure.vector_operators import VECTOR_BUILDERS

    problem = Problem(row, device)
    builders = {**MATRIX_BUILDERS, **VECTOR_BUILDERS}
    if problem.op_type not in builders:
        raise problem.refuse("no operator of that type is known here")
    return builders[problem.op_type](problem)


def with_optional(problem: Problem, operands: Sequence[Operand], outputs: float, optional: Sequence[Operand]) -> int:
    """Return how many of the `optional` operands, in order, the row's bytes hold beside operands and outputs.

    Bytes of weights decide where the optional tensors are weights, else all bytes.
    """
    if any(operand.weight for operand in (*operands, *optional)):
        spare = problem.weight_bytes - sum(operand.nbytes for operand in operands if operand.weight)
    else:
        spare = problem.bytes - sum(operand.nbytes for operand in operands) - outputs
    count = 0
    for operand in optional:
        spare -= operand.nbytes
        if spare < 0:
            break
        count += 1
    return count
