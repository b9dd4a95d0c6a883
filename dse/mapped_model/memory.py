"""Memory of one process: the storages that it holds, views of them as tensors, and parts of them as raw bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads.layer_program import View


@dataclass(frozen=True, slots=True)
class Part:
    """What crosses of a storage: a view; or with `rest`, all of the storage (its `base`) that is not in the view."""

    view: View
    base: View
    rest: bool = False


class Memory:
    """Flat pieces of memory by number of the storage; each holds the bytes `spans[number]` (first, end) of it.

    A storage is taken when it is first used, and is there until `free`.
    """

    def __init__(self, spans: Mapping[int, tuple[int, int]]) -> None:
        self._spans = spans
        self._held: dict[int, Tensor] = {}

    def load(self, number: int, content: bytearray) -> None:
        """Fill a storage's span with these bytes, which are kept, not copied."""
        self._held[number] = torch.frombuffer(content, dtype=torch.uint8) if content else self._empty(number)

    def free(self, number: int) -> None:
        """Drop a storage."""
        self._held.pop(number, None)

    def tensor(self, view: View) -> Tensor:
        """Return a view as a tensor, which shares the storage."""
        found = self._plain(view)
        found = found.conj() if view.conjugate else found
        return torch._neg_view(found) if view.negative else found

    def put(self, view: View, made: Tensor) -> None:
        """Write what an operator made where it lies in the trace, whatever strides it came with."""
        once, source = each_once(view), made
        for axis, (size, kept) in enumerate(zip(view.shape, once.shape, strict=True)):
            source = source if size == kept else source.narrow(axis, 0, kept)
        self._plain(once).copy_(source)

    def gather(self, part: Part) -> Tensor:
        """Return the bytes of a part [n] of uint8, each element once, in order."""
        once = each_once(part.view)
        if not part.rest and is_simple(once):
            return as_bytes(self._plain(once))
        return self._bytes(part.view.storage)[self._mask(part)]

    def scatter(self, part: Part, content: Tensor) -> None:
        """Write the bytes [n] of uint8 that `gather` gave elsewhere."""
        once = each_once(part.view)
        if not part.rest and is_simple(once):
            self._plain(once).copy_(from_bytes(content, once))
        else:
            self._bytes(part.view.storage)[self._mask(part)] = content

    def bytes_of(self, view: View) -> Tensor:
        """Return the bytes [*shape, itemsize] of uint8 of a view whose storage is held whole, which share it."""
        return _of_bytes(self._bytes(view.storage), view)

    def mask(self, part: Part, view: View) -> Tensor:
        """Return which bytes [*shape, itemsize] of a view are in a part of its storage, which is held whole."""
        return _of_bytes(self._mask(part), view)

    def _plain(self, view: View) -> Tensor:
        first = self._spans[view.storage][0]
        flat = self._bytes(view.storage).untyped_storage()
        empty = torch.empty(0, dtype=view.dtype)
        return empty.set_(flat, view.offset - first // view.dtype.itemsize, view.shape, view.stride)

    def _bytes(self, number: int) -> Tensor:
        if number not in self._held:
            self._held[number] = self._empty(number)
        return self._held[number]

    def _empty(self, number: int) -> Tensor:
        first, end = self._spans[number]
        return torch.zeros(end - first, dtype=torch.uint8)

    def _mask(self, part: Part) -> Tensor:
        """Return which bytes of the storage's span a part is [n] of bool."""
        marks = torch.zeros_like(self._bytes(part.view.storage), dtype=torch.bool)
        first = self._spans[part.view.storage][0]

        def mark(view: View, value: bool) -> None:
            once, size = each_once(view), view.dtype.itemsize
            strides = (*(stride * size for stride in once.stride), 1)
            marks.as_strided((*once.shape, size), strides, view.offset * size - first).fill_(value)

        mark(part.base if part.rest else part.view, True)
        if part.rest:
            mark(part.view, False)
        return marks


def _of_bytes(flat: Tensor, view: View) -> Tensor:
    size = view.dtype.itemsize
    strides = (*(stride * size for stride in view.stride), 1)
    return flat.as_strided((*view.shape, size), strides, view.offset * size)


def as_bytes(tensor: Tensor) -> Tensor:
    """Return the elements of a tensor in order as bytes [n] of uint8."""
    dense = tensor.contiguous()
    first, size = dense.storage_offset() * dense.itemsize, dense.numel() * dense.itemsize
    return torch.empty(0, dtype=torch.uint8).set_(dense.untyped_storage(), first, (size,), (1,))


def buffer(tensor: Tensor) -> memoryview:
    """Return the memory of bytes [n] of uint8, not copied."""
    array: NDArray[np.uint8] = tensor.numpy()
    return array.data


def from_bytes(content: Tensor, view: View) -> Tensor:
    """Return the elements of a view from bytes [n] of uint8 in order, as a dense tensor of its shape."""
    return content.view(view.dtype).reshape(view.shape)


def each_once(view: View) -> View:
    """Return the view without the axes along which it repeats itself."""
    if 0 not in view.stride:
        return view
    shape = tuple(min(size, 1) if stride == 0 else size for size, stride in zip(view.shape, view.stride, strict=True))
    return replace(view, shape=shape)


def is_simple(view: View) -> bool:
    """Whether no two elements of a view lie in one place; false also where that is hard to tell."""
    reach = 0
    for stride, size in sorted(zip(view.stride, view.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return False
            reach += (size - 1) * stride
    return True
