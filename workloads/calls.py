"""What the counting rules see of an operator call, and what they answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workloads.graph import Counting, OperatorKind


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and dtype of a tensor. The camel-case methods are those that fvcore calls on a jit value."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    weight: bool = False  # a parameter or buffer, or a view of one
    strides: tuple[int, ...] = ()  # in elements; empty where not known

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_complex(self) -> bool:
        """Whether each element holds two real numbers."""
        return self.dtype.startswith("complex")

    @property
    def is_floating(self) -> bool:
        """Whether the elements are real floating-point numbers."""
        return "float" in self.dtype

    def isCompleteTensor(self) -> bool:
        """Return True: the shape is known."""
        return True

    def type(self) -> TensorSpec:
        """Return self, which has `sizes`."""
        return self

    def sizes(self) -> list[int]:
        """Return the shape."""
        return list(self.shape)


@dataclass(frozen=True, slots=True)
class Constant:
    """An argument that is not a tensor, as fvcore's handles see it."""

    value: Any

    def isCompleteTensor(self) -> bool:
        """Return False: not a tensor."""
        return False

    def toIValue(self) -> Any:
        """Return the value."""
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One operator call: arguments by schema name in schema order, defaults filled in, tensors as TensorSpec."""

    operator: str  # such as "conv2d", without namespace, overload and in-place underscore
    arguments: Mapping[str, Any]
    outputs: Sequence[TensorSpec]
    pointwise: bool = False  # torch tags the operator as element-wise

    def tensor(self, name: str) -> TensorSpec:
        """Return the tensor argument called `name`."""
        value = self.arguments[name]
        assert isinstance(value, TensorSpec), (self.operator, name)
        return value

    @property
    def tensors(self) -> list[TensorSpec]:
        """All tensor arguments in order, those inside lists included."""
        found: list[TensorSpec] = []
        for value in self.arguments.values():
            items = value if isinstance(value, list | tuple) else [value]
            found.extend(item for item in items if isinstance(item, TensorSpec))
        return found

    @property
    def output(self) -> TensorSpec:
        """The first output."""
        return self.outputs[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What a call costs, and where the figure comes from."""

    kind: OperatorKind
    counting: Counting
    macs: int = 0
    flops: int = 0
    formula: str = ""


Rule = Callable[[Call], Count]
"""Counts one call of an operator."""


def named(names: str, rule: Rule) -> dict[str, Rule]:
    """Return the register entries that give each of the space-separated `names` the same rule."""
    return dict.fromkeys(names.split(), rule)
