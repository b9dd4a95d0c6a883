"""Record what eager PyTorch runs below autograd, operator by operator, as layers; and when each piece of memory lives.

Nothing is computed: the step runs on fake tensors (shapes, strides and storages without data), so that the operators,
their order and the lifetimes of tensors are those of eager PyTorch on a processor: what Python drops and what autograd
keeps for the backward pass is really dropped and kept.
"""

from __future__ import annotations

import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from workloads.dataflow import Walker, without_layout
from workloads.errors import WorkloadError
from workloads.fake_kernels import run_fake
from workloads.graph import Phase, Role
from workloads.values import Storage, Value, tensors_in, values_in, view_of
from workloads.workspace import workspace_bytes

Scope = tuple[str, str]
"""Path and class name of a module."""

HOST_NAMESPACES = ("prim", "profiler")
"""Operators that ask for metadata or mark a profile: nothing runs."""


@dataclass(slots=True, eq=False)
class RecordedCall:
    """What `Walker` reads of an fx.Node, for an operator that was met as it ran."""

    name: str
    target: torch._ops.OpOverload
    meta: dict[str, Any]
    all_input_nodes: tuple[RecordedCall, ...] = ()
    op: str = "call_function"


class StepWalker(Walker):
    """Names the line of the model's source that called an operator which is refused in the forward pass."""

    def _refuse(self, node: Any, name: str, inputs: list[Value], scope: Scope) -> Any:
        if self.phase == "forward":
            node.meta["stack_trace"] = "".join(traceback.format_stack())
        return super()._refuse(node, name, inputs, scope)


class StepRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, every operator below autograd becomes a layer of `walker`.

    `phase` is the part of the step that runs; nothing is recorded while `paused`. Tensors with data, such as labels
    that a loss holds, are taken as fake ones of `fake`. `workspaces` are those of a processor's kernels.
    """

    def __init__(self, fake: FakeTensorMode, *, workspaces: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._workspaces = workspaces
        self.fake = fake
        self._given: dict[int, FakeTensor] = {}  # stand-ins of tensors with data, which outlive the step
        self.walker = StepWalker()
        self._paused = False
        self._storages: dict[int, Storage] = {}  # by address, while it lives
        self._allocations: list[list[int]] = []  # first layer, last layer (-1 while it lives), bytes, role
        self._allocation_of: dict[int, int] = {}  # by address
        self._modules: list[Scope] = [("", "")]  # those that run now
        self._made_by: list[Scope] = []  # module of each autograd node, by sequence number from the first one on
        self._first_node = torch._C._autograd._get_sequence_nr()
        self._owner: dict[str, Scope] = {}  # module of each weight and optimiser state, by its name
        self._owner_of_parameter: dict[int, Scope] = {}
        self._last_owner: Scope = ("", "")
        self._names: Counter[str] = Counter()

    # --- what the step is told ------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """Part of the step that runs."""
        return self.walker.phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._attribute_nodes()
        self.walker.phase = phase

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Run without recording; what is made inside is an input of the step, once it is used."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def hold(self, tensor: torch.Tensor, role: Role, name: str = "", owner: Scope = ("", "")) -> None:
        """Declare a tensor that lives before and after the step. With a name it is a weight (or optimiser's state)."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address not in self._storages:
            trainable = isinstance(tensor, nn.Parameter)
            self._storages[address] = Storage(storage.nbytes(), weight=name, trainable=trainable)
            self._allocate(storage, 0, role)
        if name:
            self._owner[name] = owner
        if isinstance(tensor, nn.Parameter):
            self._owner_of_parameter.setdefault(id(tensor), owner)

    def mark_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give the memory of the parameters' gradients its role."""
        for parameter in parameters:
            if parameter.grad is not None:
                address = parameter.grad.untyped_storage()._cdata
                if address in self._allocation_of:
                    self._allocations[self._allocation_of[address]][3] = Role.GRADIENT

    def watch(self, call: Callable[..., Any], scope: Scope) -> Callable[..., Any]:
        """Return a module's call that attributes what runs inside to the module."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            self._attribute_nodes()
            self._modules.append(scope)
            try:
                return call(*args, **kwargs)
            finally:
                self._attribute_nodes()
                self._modules.pop()

        return watched

    def allocations(self) -> NDArray[np.int64]:
        """Memory [A, 4]: first layer, last layer, bytes, role (see WorkloadGraph); the rest of the step stays alive."""
        rows = np.array(self._allocations, np.int64).reshape(-1, 4)
        end = max(len(self.walker.layers) - 1, 0)
        rows[:, 1] = np.where(rows[:, 1] < 0, end, np.maximum(rows[:, 1], rows[:, 0]))
        return rows[rows[:, 2] > 0]

    # --- what is met ----------------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map_only(torch.Tensor, self._without_data, (args, kwargs or {}))
        if func is torch.ops.aten._local_scalar_dense.default and self.phase == "optimizer":
            return 1.0  # the number of the step
        if func is torch.ops.aten.equal.default and self._is_check(args[0]):
            return False
        out = _distinct(run_fake(func, args, kwargs))
        if torch.Tag.inplace_view in func.tags:  # only how the storage is read changes
            self.walker.aliases[str(func)] += not self._paused
        elif not self._paused and func.namespace not in HOST_NAMESPACES:
            self._record(func, args, kwargs, out)
        return out

    def _without_data(self, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        fake = self.fake.from_tensor(tensor)  # the same one each time, while it is kept
        return self._given.setdefault(id(fake), fake)

    def _is_check(self, truth: torch.Tensor) -> bool:
        """Whether ATen asks for a truth value by comparing it to a new one, as torch.istft does to find zeros.

        Data that are in order have none.
        """
        asked = truth.dtype == torch.bool and truth.dim() == 0 and self.walker.layers
        return bool(asked) and self.walker.layers[-1].operator == "aten.new_ones.default"

    def _record(self, func: torch._ops.OpOverload, args: Any, kwargs: Any, out: Any) -> None:
        read, made = tensors_in([args, kwargs]), tensors_in(out)
        _check_dense(func, [*read, *made])
        inputs = [self._value(tensor) for tensor in read]
        scope = self._scope(inputs)
        name = func._schema.name.rpartition("::")[2]
        self._names[name] += 1
        before: Any = RecordedCall("", func, {"val": read})
        call: Any = RecordedCall(f"{name}_{self._names[name]}", func, {"val": out}, (before,))
        positional, named = tree_map_only(torch.Tensor, self._value, (args, dict(kwargs)))
        index = len(self.walker.layers)
        result = self.walker._operator(call, func, positional, named, {before: inputs}, scope)
        working, kept = workspace_bytes(func, args, kwargs, made) if self._workspaces else (0, 0)
        self._allocations.append([index, index, working, Role.ACTIVATION])
        for tensor, value in zip(made, values_in(result), strict=False):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._storages:
                self._storages[storage._cdata] = value.storage
                self._allocate(storage, index, Role.ACTIVATION, kept if tensor is made[-1] else 0)

    def _value(self, tensor: torch.Tensor) -> Value:
        """Return a tensor as a view of its storage; one never seen before is an input of the step."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._storages:
            self._storages[storage._cdata] = Storage(storage.nbytes())
            self._allocate(storage, 0, Role.ACTIVATION)
        return view_of(tensor, self._storages[storage._cdata])

    def _allocate(self, storage: torch.UntypedStorage, layer: int, role: Role, kept: int = 0) -> None:
        address, row = storage._cdata, len(self._allocations)
        self._allocations.append([layer, -1, storage.nbytes() + kept, role])
        self._allocation_of[address] = row
        weakref.finalize(storage, self._free, address, row).atexit = False

    def _free(self, address: int, row: int) -> None:
        self._allocations[row][1] = max(len(self.walker.layers) - 1, 0)
        self._storages.pop(address, None)
        self._allocation_of.pop(address, None)

    def _attribute_nodes(self) -> None:
        """Give all autograd nodes made since the last time to the module that runs now."""
        made = torch._C._autograd._get_sequence_nr() - self._first_node
        self._made_by.extend([self._modules[-1]] * (made - len(self._made_by)))

    def _scope(self, inputs: Sequence[Value]) -> Scope:
        """Return the module that an operator belongs to.

        Where a module runs, that one (recomputation included); of a backward operator the module whose forward made
        the autograd node; of the optimiser's, and of gradients that are added up, the parameter's.
        """
        if self.phase == "optimizer":
            named = (value.storage.weight for value in inputs if value.storage.weight)
            self._last_owner = self._owner.get(next(named, ""), self._last_owner)
            return self._last_owner
        self._attribute_nodes()
        if len(self._modules) > 1:
            return self._modules[-1]
        node: Any = torch._C._current_autograd_node()
        if node is None:
            return self._modules[-1]
        if (parameter := getattr(node, "variable", None)) is not None:  # adds up a gradient
            return self._owner_of_parameter.get(id(parameter), ("", ""))
        number = node._sequence_nr() - self._first_node
        return self._made_by[number] if 0 <= number < len(self._made_by) else ("", "")


def _distinct(out: Any) -> Any:
    """Return the outputs without one that stands twice: a fake kernel's shortcut (the biases of an LSTM's gradient)."""
    if not isinstance(out, tuple) or len({id(item) for item in out}) == len(out):
        return out
    seen: set[int] = set()
    made = []
    for item in out:
        again = isinstance(item, torch.Tensor) and id(item) in seen
        made.append(torch.empty_like(item) if again else item)
        seen.add(id(item))
    return tuple(made)


def _check_dense(func: torch._ops.OpOverload, tensors: Sequence[torch.Tensor]) -> None:
    for tensor in tensors:
        if kind := without_layout(tensor):
            raise WorkloadError(
                f"{func} has a tensor {kind}, whose work and bytes cannot be counted",
                "train with dense tensors: embeddings without sparse=True, padding instead of nesting",
            )
