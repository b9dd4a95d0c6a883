"""What is computed: traced workload graphs, their segments, and the models of the catalogue."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workloads.advice import Advice, advise
    from workloads.calls import Call, Count
    from workloads.catalog import Entry, Reference, entry, load, names
    from workloads.describe import describe, describe_entry
    from workloads.eager import eager_memory
    from workloads.errors import WorkloadError
    from workloads.factory import trace_factory
    from workloads.files import trace_file
    from workloads.graph import Layer, OperatorKind, WorkloadGraph
    from workloads.growth import GrowthPoint, growth
    from workloads.memory import PeakMemory, peak_memory
    from workloads.onnx_route import load_onnx
    from workloads.operators import count_operator
    from workloads.precision import at_precision
    from workloads.run_mode import Training
    from workloads.scaling import Family, family
    from workloads.segments import Segment, SegmentGraph, build_segments, mark_fine_splittable_segments
    from workloads.streaming import OLA, FrameCutter, StreamingSeparator
    from workloads.trace import trace
    from workloads.training_step import trace_training
    from workloads.workload_program import exported

_HOME = {
    "Advice": "advice",
    "Call": "calls",
    "Count": "calls",
    "Entry": "catalog",
    "Family": "scaling",
    "FrameCutter": "streaming",
    "GrowthPoint": "growth",
    "Layer": "graph",
    "OLA": "streaming",
    "OperatorKind": "graph",
    "PeakMemory": "memory",
    "Reference": "catalog",
    "Segment": "segments",
    "SegmentGraph": "segments",
    "StreamingSeparator": "streaming",
    "Training": "run_mode",
    "WorkloadError": "errors",
    "WorkloadGraph": "graph",
    "advise": "advice",
    "at_precision": "precision",
    "build_segments": "segments",
    "count_operator": "operators",
    "describe": "describe",
    "describe_entry": "describe",
    "eager_memory": "eager",
    "entry": "catalog",
    "exported": "workload_program",
    "family": "scaling",
    "growth": "growth",
    "load": "catalog",
    "load_onnx": "onnx_route",
    "mark_fine_splittable_segments": "segments",
    "names": "catalog",
    "peak_memory": "memory",
    "trace": "trace",
    "trace_factory": "factory",
    "trace_training": "training_step",
    "trace_file": "files",
}

__all__ = [
    "OLA",
    "Advice",
    "Call",
    "Count",
    "Entry",
    "Family",
    "FrameCutter",
    "GrowthPoint",
    "Layer",
    "OperatorKind",
    "PeakMemory",
    "Reference",
    "Segment",
    "SegmentGraph",
    "StreamingSeparator",
    "Training",
    "WorkloadError",
    "WorkloadGraph",
    "advise",
    "at_precision",
    "build_segments",
    "count_operator",
    "describe",
    "describe_entry",
    "eager_memory",
    "entry",
    "exported",
    "family",
    "growth",
    "load",
    "load_onnx",
    "mark_fine_splittable_segments",
    "names",
    "peak_memory",
    "trace",
    "trace_factory",
    "trace_file",
    "trace_training",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


class _Package(ModuleType):
    """Keeps `workloads.trace` the function when Python binds the file of the same name to the package."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOME.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
