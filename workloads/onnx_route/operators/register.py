"""The register of operators: a function each, and which of its inputs it needs as numbers at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from workloads.errors import WorkloadError


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node of the file's graph."""

    name: str
    operator: str
    opset: int
    scope: str = ""  # dotted path of the module that it came from
    inputs: tuple[str, ...] = ()  # names of values; "" for an optional one that is absent
    outputs: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What an operator's function sees of its node beside the inputs."""

    node: Node
    device: torch.device
    training: bool = False
    weights: frozenset[int] = frozenset()  # positions of the inputs that are parameters

    @property
    def opset(self) -> int:
        """Version of the operator set that the file was written for."""
        return self.node.opset

    def get(self, attribute: str, default: Any = None) -> Any:
        """Return an attribute, `default` where the node has none."""
        return self.node.attributes.get(attribute, default)

    def need(self, attribute: str) -> Any:
        """Return an attribute that the standard requires."""
        if attribute not in self.node.attributes:
            raise WorkloadError(f"its attribute {attribute!r} is missing", "onnx.checker.check_model finds such faults")
        return self.node.attributes[attribute]

    def wants(self, output: int) -> bool:
        """Whether something asks for the output at this position."""
        return output < len(self.node.outputs) and bool(self.node.outputs[output])

    def only(self, attribute: str, accepted: Sequence[Any]) -> None:
        """Raise WorkloadError unless the attribute is absent or one of the accepted values."""
        value = self.get(attribute)
        if value is not None and value not in accepted:
            raise WorkloadError(f"{attribute} = {value!r} is not supported", f"one of {list(accepted)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A function (call, *inputs) -> output or tuple of outputs, and what its inputs are.

    Inputs come as tensors; those at `known` positions, and all from `known_from` on, as numpy arrays (their values have
    to be known without data); where others at the positions `numbers` are tensors, single known values there come as
    Python numbers. Initialisers at the positions `weights` are parameters even when they hold one element; those at
    `state` never are.
    """

    run: Callable[..., Any]
    known: frozenset[int] = frozenset()
    known_from: int = 1 << 30
    state: frozenset[int] = frozenset()
    weights: frozenset[int] = frozenset()
    numbers: frozenset[int] = frozenset()
    pure: bool = True  # the same inputs give the same outputs, so known inputs are folded

    def is_known(self, position: int) -> bool:
        """Whether the input at `position` has to be known."""
        return position in self.known or position >= self.known_from


OPERATORS: dict[str, Operator] = {}
"""Name in the standard's default domain -> operator."""

FOLDED = frozenset({"NonZero", "Unique", "Compress", "MelWeightMatrix", "StringConcat", "Det"})
"""Operators that are understood only where all their inputs are known: the size of what they return depends on data."""


def operator(
    *names: str,
    known: Sequence[int] | Literal["rest"] = (),
    state: Sequence[int] = (),
    weights: Sequence[int] = (),
    numbers: Sequence[int] = (),
    pure: bool = True,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function under these names; `known="rest"` means all inputs but the first."""

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        positions = frozenset() if known == "rest" else frozenset(known)
        for name in names:
            OPERATORS[name] = Operator(
                run=run,
                known=positions,
                known_from=1 if known == "rest" else 1 << 30,
                state=frozenset(state),
                weights=frozenset(weights),
                numbers=frozenset(numbers),
                pure=pure,
            )
        return run

    return register


def integers(values: Any) -> list[int]:
    """Return numbers, an array or one number as a list of Python integers."""
    if values is None:
        return []
    items = values.reshape(-1).tolist() if hasattr(values, "reshape") else values
    return [int(item) for item in (items if isinstance(items, list | tuple) else [items])]
