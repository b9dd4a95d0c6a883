"""Mapped runs of small models under random mappings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

import workloads
from dse.mapped_model import MappedRun, run_mapped
from workloads.segments import SegmentGraph


class Call(nn.Module):
    """A function of this module and its inputs, with what it is given as submodules, parameters and buffers."""

    def __init__(self, function: Callable[..., Any], **held: Any) -> None:
        super().__init__()
        self.function = function
        for name, value in held.items():
            if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def segmented(module: nn.Module, inputs: tuple[Any, ...], size: int) -> SegmentGraph:
    graph = workloads.trace(module.eval(), inputs, cache=False)
    return workloads.build_segments(graph, segment_size=size)


def proven(module: nn.Module | str, segments: SegmentGraph, slots: Any, inputs: Any = None, seed: int = 0) -> MappedRun:
    """Run, and check all that a run promises: outputs, every edge's bytes, at both ends, and their total."""
    run = run_mapped(module, segments, slots, inputs=inputs, seed=seed)
    assert run.outputs_equal, str(run)
    assert run.max_rel_error <= run.tolerance
    crossing = np.asarray(slots)[segments.edges].T
    charged = np.where(crossing[0] != crossing[1], segments.at(run.float_bytes or 4).edge_bytes, 0)
    assert run.sent_bytes.tolist() == run.received_bytes.tolist() == run.charged_bytes.tolist()
    assert run.proven
    if {layer.float_bytes for layer in segments.graph.layers} <= {0, run.float_bytes}:  # of one precision
        assert run.charged_bytes.tolist() == charged.tolist()
    assert run.processes == len(set(np.asarray(slots).tolist()))
    return run


def random_slots(segments: SegmentGraph, slots: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, slots, len(segments))
