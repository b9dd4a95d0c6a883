"""Memory of an inference as eager PyTorch runs it: what Python holds on to counts, not what is read last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from workloads.errors import WorkloadError
from workloads.graph import Role
from workloads.memory import PeakMemory
from workloads.trace import check_arguments, explain, quiet
from workloads.training_step import recorded_copy


def eager_memory(
    module: nn.Module,
    example_inputs: Sequence[Any] | torch.Tensor,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    workspaces: bool = True,
) -> PeakMemory:
    """Return the peak of one forward pass in evaluation mode without gradients, as eager PyTorch runs it.

    All parameters and buffers and the inputs are there from the start; an activation lives until Python drops it, which
    may be long after it was last read: the input of a residual block is held by whoever called the block. The copies
    that a processor's kernels make are counted as in a training step (workloads.workspace), unless `workspaces` is
    false. `peak_memory` of a traced graph is the least that a schedule of these operators needs; this is what is
    allocated. Nothing is computed.

    Raises WorkloadError where the model does not run on fake tensors.
    """
    args, kwargs = check_arguments(module, example_inputs, example_kwargs)
    model = module
    with quiet(), torch.inference_mode(False), torch.no_grad():
        try:
            recorder, model, args, kwargs = recorded_copy(module, args, kwargs, training=False, workspaces=workspaces)
            with recorder.fake, recorder:
                _held = model(*args, **kwargs)  # to the end, as the variable of a caller
        except WorkloadError:
            raise
        except Exception as error:  # whatever the model's own code raises on the way
            raise explain(error, model, type(module).__name__) from None
        allocations = recorder.allocations()
    layers = recorder.walker.layers
    change = np.zeros((max(len(layers), 1) + 1, len(Role)), np.int64)
    first, last, size, role = allocations.T
    np.add.at(change, (first, role), size)
    np.subtract.at(change, (last + 1, role), size)
    live = change.cumsum(axis=0)[:-1]
    peak = int(live.sum(axis=1).argmax())
    return PeakMemory(
        weight_bytes=int(live[peak, Role.WEIGHT]),
        activation_bytes=int(live[peak, Role.ACTIVATION]),
        layer=layers[peak].name if layers else "",
    )
