"""Tensors of a trace: which storage they lie in, who wrote it last, and what reading them moves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workloads.calls import TensorSpec


@dataclass(slots=True, eq=False)
class Storage:
    """A piece of memory: who wrote it last (a layer's index), or which weight it is, or neither (a model input)."""

    nbytes: int
    producer: int | None = None
    weight: str = ""
    trainable: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor as a consumer sees it: a view of a storage, and the bytes that reading it moves."""

    storage: Storage
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    where: tuple[Any, ...]  # offset, shape and strides: equal for equal views of a storage

    @property
    def spec(self) -> TensorSpec:
        """What the counting rules see."""
        return TensorSpec(self.shape, self.dtype, bool(self.storage.weight), self.where[2])


def itemsize(spec: TensorSpec) -> int:
    """Return the bytes of one element."""
    return int(getattr(torch, spec.dtype).itemsize)


def spec_of(tensor: torch.Tensor) -> TensorSpec:
    """Return shape, dtype and strides of a tensor."""
    shape, dtype = tuple(int(s) for s in tensor.shape), str(tensor.dtype).removeprefix("torch.")
    return TensorSpec(shape, dtype, strides=tuple(int(s) for s in tensor.stride()))


def view_of(tensor: torch.Tensor, storage: Storage, limit: int | None = None) -> Value:
    """Return `tensor` as a view of `storage`; an expanded one reads no more than the `limit` bytes it came from."""
    spec = spec_of(tensor)
    where = (tensor.storage_offset(), spec.shape, tensor.stride())
    nbytes = min(places(spec.shape, spec.strides) * tensor.element_size(), storage.nbytes if limit is None else limit)
    return Value(storage, spec.shape, spec.dtype, nbytes, where)


def places(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return how many places in memory the elements of a view lie in: fewer than elements where it repeats some.

    The places are regular runs within regular runs: from the smallest stride on, an axis either makes the outermost run
    longer (windows that overlap or touch), or repeats all of it where it does not reach. Of an axis that does neither,
    every element counts as a place of its own.

    >>> places((100, 4), (2, 1)), places((3, 5), (0, 1))  # windows of 4 with hop 2; an expanded row
    (202, 5)
    """
    count, step, length = 1, 1, 1  # places, all runs together; stride, length of the outermost
    for stride, size in sorted((s, n) for n, s in zip(shape, strides, strict=True) if s and n != 1):
        hop, uneven = divmod(stride, step)
        if not uneven and hop <= length:
            count = count // length * (length + (size - 1) * hop)
            length += (size - 1) * hop
        else:
            count, step, length = count * size, stride, size
    return count if 0 not in shape else 0


def flatten(value: Any) -> Iterator[Any]:
    """Yield what lists, tuples and mappings hold, in order."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from flatten(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from flatten(item)
    else:
        yield value


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return the tensors among the items."""
    return [item for item in flatten(value) if isinstance(item, torch.Tensor)]


def values_in(value: Any) -> list[Value]:
    """Return the values among the items."""
    return [item for item in flatten(value) if isinstance(item, Value)]


def specs_in(value: Any) -> Any:
    """Replace the values in an argument by what the counting rules see of them."""
    if isinstance(value, Value):
        return value.spec
    return [specs_in(item) for item in value] if isinstance(value, list | tuple) else value


def what_is_read(inputs: Sequence[Value]) -> tuple[list[Value], dict[Storage, int]]:
    """Split what is read into distinct views of weights, and activation bytes by storage (no more than it holds)."""
    distinct = {(id(v.storage), v.where): v for v in inputs}.values()
    activations: dict[Storage, int] = {}
    for value in distinct:
        if not value.storage.weight:
            activations[value.storage] = min(activations.get(value.storage, 0) + value.nbytes, value.storage.nbytes)
    return [v for v in distinct if v.storage.weight], activations


def spans(weights: Sequence[Value]) -> dict[str, tuple[int, int]]:
    """Return the first byte and the end of the part of each weight that these views lie in, by its name."""
    held: dict[str, tuple[int, int]] = {}
    for value in weights:
        offset, shape, strides = value.where
        if 0 in shape:
            continue
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        first, end = offset * itemsize(value.spec), (last + 1) * itemsize(value.spec)
        known = held.get(value.storage.weight, (first, end))
        held[value.storage.weight] = min(first, known[0]), max(end, known[1])
    return held


def weight_traffic(weights: Sequence[Value], table: Value | None, elements: int) -> int:
    """Bytes that reading these views moves; of the `table` of a lookup no more than so many `elements`."""
    looked_up = table.storage if table is not None else None
    return sum(min(v.nbytes, elements * itemsize(v.spec)) if v.storage is looked_up else v.nbytes for v in weights)


def float_bytes(specs: Sequence[TensorSpec]) -> int:
    """Size of one real number of the first floating (or complex) tensor; 0 where there is none."""
    for spec in specs:
        if spec.is_complex:
            return itemsize(spec) // 2
        if spec.is_floating:
            return itemsize(spec)
    return 0


def identity(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Equal for two names of one tensor: same storage, same view of it."""
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
