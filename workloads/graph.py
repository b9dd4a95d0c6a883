"""Layer and WorkloadGraph: what is computed, and the arrays that cost models read from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import IntEnum, StrEnum
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from workloads.errors import WorkloadError
from workloads.gemms import GEMMS, gemms, transforms
from workloads.images import IMAGE_FEATURES, image_features
from workloads.traffic import Parts, parts_of_edges

WEIGHT_PART = np.dtype([("layer", "i8"), ("weight", "i8"), ("first", "i8"), ("end", "i8")])
"""Index of the layer, number of the weight, and the bytes from `first` to before `end` of it."""

EDGE_PART = np.dtype(
    [
        ("producer", "i8"),
        ("consumer", "i8"),
        ("tensor", "i8"),
        ("part", "i8"),
        ("bytes", "i8"),
        ("tensor_bytes", "i8"),
    ]
)
"""What a layer reads of another: see workloads.traffic.Parts."""

SCHEMA = 5
"""Version of the JSON that `WorkloadGraph.to_json` writes."""


class OperatorKind(StrEnum):
    """What class of kernel a layer is. The order is stable (one-hot index of the proxy): append only."""

    CONV = "conv"
    LINEAR = "linear"  # matrix product with a weight
    MATMUL = "matmul"  # matrix product of two activations
    ATTENTION = "attention"  # fused scaled dot-product attention
    RECURRENT = "recurrent"
    NORM = "norm"
    SOFTMAX = "softmax"
    ELEMENTWISE = "elementwise"
    REDUCTION = "reduction"
    POOL = "pool"
    FFT = "fft"
    EMBEDDING = "embedding"
    COPY = "copy"  # moves data, computes nothing: cat, pad, contiguous, index
    OTHER = "other"


KIND_CODES: Mapping[OperatorKind, int] = {kind: code for code, kind in enumerate(OperatorKind)}

MATRIX_KINDS = frozenset(
    {OperatorKind.CONV, OperatorKind.LINEAR, OperatorKind.MATMUL, OperatorKind.ATTENTION, OperatorKind.RECURRENT}
)
"""Kinds that run on matrix units; the others run on vector units."""

Counting = Literal["fvcore", "handle", "estimated", "moved", "refused"]
"""Where a layer's count comes from: fvcore's own handle; an exact handle of ours; a named formula of ours;
nothing to count because it only moves data; or not understood (reported by name, never silently zero)."""

Phase = Literal["forward", "backward", "optimizer"]
"""Which part of a training step a layer belongs to; all layers of an inference are forward."""

Mode = Literal["inference", "train"]
"""What a graph is of: a forward pass, or one training step (forward, backward, optimiser)."""


class Role(IntEnum):
    """What a piece of memory holds in a training step (column `role` of WorkloadGraph.allocations)."""

    WEIGHT = 0  # parameters and buffers
    GRADIENT = 1  # of parameters, from the backward layer that makes them to the end of the step
    OPTIMIZER = 2  # the optimiser's state
    ACTIVATION = 3  # all else: inputs, targets, activations, their gradients, temporaries of the optimiser


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One operator call of the traced model. Views (zero-byte aliases) are not layers.

    `macs` are multiply-accumulates as fvcore counts them (it counts 4 or 5 per element for norms); `flops` are
    2 x `macs` where `macs` is not zero, else the operations of the estimate named in `formula`.
    Bytes are at the traced dtype: numel x itemsize. `float_bytes` is the size of one real number of the floating
    values (4 for float32 and complex64; 0 where all values are integers), by which cost models rescale to another
    precision.

    Traffic and memory of weights differ: `weight_bytes` is what the layer reads of them, of a table only the rows that
    are looked up; `weights` is what has to lie in memory for that, as the first byte and the end of the part in use of
    each parameter or buffer, by its first name in the model (layers that share one name it alike).
    """

    name: str  # unique in the graph
    operator: str  # such as "aten.convolution.default"
    kind: OperatorKind
    module: str = ""  # dotted module path in the model
    module_type: str = ""
    shape: Mapping[str, int] = field(default_factory=dict)  # kernel sizes, channels, groups, m, n, k, ...
    output_shape: tuple[int, ...] = ()
    dtype: str = "float32"
    macs: int = 0
    flops: int = 0
    parameters: int = 0
    weight_bytes: int = 0
    weights: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # name -> first byte and end of what is used
    input_bytes: int = 0  # activations read
    output_bytes: int = 0  # activations written
    float_bytes: int = 4
    counting: Counting = "fvcore"
    formula: str = ""
    phase: Phase = "forward"
    source: str = ""  # of a refused operator: file, line and code that called it
    seq_len: int = 0
    embed_dim: int = 0
    num_heads: int = 0
    mlp_ratio: float = 0.0

    @property
    def operation(self) -> str:
        """What it computes, in place or not, without name space and overload: "add" of "aten.add_.Tensor"."""
        parts = self.operator.split(".")
        name = parts[1] if len(parts) > 1 else self.operator
        return name if name.endswith("__") else name.rstrip("_")

    @property
    def bytes(self) -> int:
        """All bytes that the layer must move once: weights, inputs and outputs."""
        return self.weight_bytes + self.input_bytes + self.output_bytes

    @property
    def resident_bytes(self) -> int:
        """Bytes of weights that have to lie in memory while the layer runs: of a table all rows."""
        return sum(end - first for first, end in self.weights.values())


LAYER_FEATURES = np.dtype(
    [
        ("kind", "i8"),  # KIND_CODES
        ("matrix", "?"),  # runs on matrix units
        ("macs", "f8"),
        ("flops", "f8"),
        ("weight_bytes", "f8"),
        ("input_bytes", "f8"),
        ("output_bytes", "f8"),
        ("float_bytes", "f8"),
        ("seq_len", "f8"),
        ("embed_dim", "f8"),
        ("num_heads", "f8"),
        ("mlp_ratio", "f8"),
        ("gemm_batch", "f8", (GEMMS,)),  # the layer's matrix products: see workloads/gemms.py
        ("gemm_steps", "f8", (GEMMS,)),
        ("gemm_m", "f8", (GEMMS,)),
        ("gemm_n", "f8", (GEMMS,)),
        ("gemm_k", "f8", (GEMMS,)),
        ("fft_length", "f8"),  # points of a Fourier transform
        ("transforms", "f8"),
        *((name, "f8") for name in IMAGE_FEATURES),  # channels and pixels: see workloads/images.py
    ]
)
"""The seam workloads -> dse: one record a layer, at the traced dtype and batch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WorkloadGraph:
    """DAG of layers in a topological order (every edge goes from a lower to a higher index).

    `edges` [E, 2] are pairs (producer, consumer) of layer indices; `edge_bytes` [E] is what the consumer reads of the
    producer's output (a slice counts as the slice; what a partial in-place update leaves unchanged flows through it).
    `edge_parts` [R] are EDGE_PARTs, by which several readers of one slice of a tensor are told from readers of several
    slices; where they are left out, each edge reads a part of its own.
    `parameters` and `weight_bytes` (of all parameters and buffers that a layer uses, whole) count a tied weight once.
    `aliases` and `refused` count operator calls by name: views that became edges, and operators not understood.
    `allocations` [A, 4] of a training step are (first layer, last layer, bytes, role) of each piece of memory, both
    ends included, as eager execution takes and frees them; an inference has none (its layers free what is read last).
    """

    name: str
    layers: tuple[Layer, ...]
    edges: NDArray[np.int64]
    edge_bytes: NDArray[np.int64]
    parameters: int
    weight_bytes: int
    input_shapes: tuple[tuple[int, ...], ...] = ()
    batch: int = 1
    mode: Mode = "inference"
    training: str = ""  # of a training step: its optimiser, and how many modules compute their activations again
    allocations: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    aliases: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    edge_parts: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, EDGE_PART))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all layers, as fvcore counts them."""
        return sum(layer.macs for layer in self.layers)

    @property
    def flops(self) -> int:
        """Floating-point operations of all layers, the estimated ones included."""
        return sum(layer.flops for layer in self.layers)

    @cached_property
    def features(self) -> NDArray[np.void]:
        """Record array [N] of LAYER_FEATURES."""
        rows = np.zeros(len(self.layers), LAYER_FEATURES)
        for name in ("macs", "flops", "weight_bytes", "input_bytes", "output_bytes", "float_bytes"):
            rows[name] = [getattr(layer, name) for layer in self.layers]
        for name in ("seq_len", "embed_dim", "num_heads", "mlp_ratio"):
            rows[name] = [getattr(layer, name) for layer in self.layers]
        rows["kind"] = [KIND_CODES[layer.kind] for layer in self.layers]
        rows["matrix"] = [layer.kind in MATRIX_KINDS for layer in self.layers]
        products = gemms(self.layers)
        for index, name in enumerate(("gemm_batch", "gemm_steps", "gemm_m", "gemm_n", "gemm_k")):
            rows[name] = products[:, :, index]
        rows["fft_length"], rows["transforms"] = transforms(self.layers).T
        images = image_features(self.layers, self.edges)
        for index, name in enumerate(IMAGE_FEATURES):
            rows[name] = images[:, index]
        return rows

    @cached_property
    def parts(self) -> Parts:
        """What each layer reads of each other."""
        if len(self.edge_parts) or not len(self.edges):
            rows = self.edge_parts
            return Parts(
                producer=rows["producer"],
                consumer=rows["consumer"],
                tensor=rows["tensor"],
                part=rows["part"],
                bytes=rows["bytes"].astype(np.float64),
                tensor_bytes=rows["tensor_bytes"].astype(np.float64),
            )
        outputs = np.array([layer.output_bytes for layer in self.layers], np.float64)
        return parts_of_edges(self.edges, self.edge_bytes, outputs)

    @cached_property
    def weight_parts(self) -> NDArray[np.void]:
        """Record array [P] of WEIGHT_PART: each part of a weight that a layer reads."""
        numbers: dict[str, int] = {}
        rows = [
            (index, numbers.setdefault(name, len(numbers)), first, end)
            for index, layer in enumerate(self.layers)
            for name, (first, end) in layer.weights.items()
        ]
        return np.array(rows, WEIGHT_PART)

    def to_json(self) -> str:
        """Return the graph as one JSON object; `from_json` gives back an equal one."""
        record = {f.name: getattr(self, f.name) for f in fields(self)}
        record |= {name: value.tolist() for name, value in record.items() if isinstance(value, np.ndarray)}
        record["schema"] = SCHEMA
        record["layers"] = [
            {f.name: value for f in fields(Layer) if (value := getattr(layer, f.name)) != f.default}
            for layer in self.layers
        ]
        return json.dumps(record, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> WorkloadGraph:
        """Return the graph that `to_json` wrote.

        Raises
        ------
        WorkloadError
            If `text` is not such an object.
        """
        try:
            record = json.loads(text)
            if record.pop("schema") != SCHEMA:
                raise ValueError("another schema")
            layers = tuple(
                Layer(
                    **row
                    | {
                        "kind": OperatorKind(row["kind"]),
                        "output_shape": tuple(row.get("output_shape", ())),
                        "weights": {name: (first, end) for name, (first, end) in row.get("weights", {}).items()},
                    }
                )
                for row in record["layers"]
            )
            return cls(
                **record
                | {
                    "layers": layers,
                    "edges": np.array(record["edges"], dtype=np.int64).reshape(-1, 2),
                    "edge_bytes": np.array(record["edge_bytes"], dtype=np.int64),
                    "allocations": np.array(record.get("allocations", ()), dtype=np.int64).reshape(-1, 4),
                    "edge_parts": np.array([tuple(row) for row in record.get("edge_parts", ())], EDGE_PART),
                    "input_shapes": tuple(tuple(shape) for shape in record["input_shapes"]),
                }
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise WorkloadError(f"not a traced graph: {error}", "trace the model again") from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WorkloadGraph):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, f.name), getattr(other, f.name))
            if isinstance(getattr(self, f.name), np.ndarray)
            else getattr(self, f.name) == getattr(other, f.name)
            for f in fields(self)
        )

    __hash__ = object.__hash__
