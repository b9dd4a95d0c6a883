"""Every operator against the test cases that the ONNX standard comes with: inputs and the outputs they must give."""

import warnings
from collections import Counter

import numpy as np
import pytest
import torch

from workloads import WorkloadError, load_onnx

onnx = pytest.importorskip("onnx")

from onnx import numpy_helper  # noqa: E402

from workloads.onnx_route.operators import OPERATORS  # noqa: E402
from workloads.onnx_route.types import tensor_of  # noqa: E402

REFUSED = (
    "cannot be traced",  # strings, types of less than a byte
    "is not supported",  # each says what would be
    "are not supported",
    "is asked for",
    "is not a tensor",  # sequences and optionals as inputs of the model
    "not implemented for 'UInt",  # torch has no kernel
    "it resizes the batch or the channels",
    "non-zero size",  # the largest of nothing
    "negative",
)
"""What an error has to say for a case that is refused instead of computed."""

DIFFERENT = {
    "negative_indices": "indices from the end: torch's gather and scatter take none, and no exporter writes them",
    "test_top_k_same_values": "which of equal values stand first",
    "test_bernoulli": "random",
    "test_l2normalization_axis_0": "0 / 0",
    "test_resize_": "coordinate rules and scales that torch's kernels of the same cost do not have",
    "FLOAT8": "rounding and saturation of eight-bit floats",
    "expanded": "written out in other operators",
    "training": "of a training graph",
}
"""Parts of the names of cases whose values differ, and why."""


def run(case, folder):
    """Return the outputs of a case's model, the inputs that have to be known in its file."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    (node,) = model.graph.node
    given = []
    for value, data in zip(case.model.graph.input, case.data_sets[0][0], strict=True):
        array = numpy_helper.to_array(data) if isinstance(data, onnx.TensorProto) else data
        if not isinstance(array, list) and OPERATORS[node.op_type].is_known(list(node.input).index(value.name)):
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), value.name))
        else:
            given.append(array)
    path = folder / "case.onnx"
    onnx.save(model, str(path))
    module, _ = load_onnx(path, weights=True)
    with torch.no_grad():
        found = module(*(tensor_of(np.asarray(array)) for array in given))
    return found if isinstance(found, tuple) else (found,)


def agrees(found, wanted):
    wanted = numpy_helper.to_array(wanted) if isinstance(wanted, onnx.TensorProto) else np.asarray(wanted)
    if tuple(found.shape) != wanted.shape or found.dtype != tensor_of(wanted).dtype:
        return False
    loose = found.dtype.is_floating_point and found.dtype.itemsize < 4
    tolerance = {"rtol": 3e-2, "atol": 1e-2} if loose else {"rtol": 1e-3, "atol": 1e-5}
    return torch.allclose(found.double(), tensor_of(wanted).double(), equal_nan=True, **tolerance)


def test_operators_give_what_the_standard_says(tmp_path):
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        cases = [case for case in collect_testcases(None) if case.model is not None]
    right, wrong = Counter(), {}
    met = set()
    for case in cases:
        nodes = case.model.graph.node
        if len(nodes) != 1 or nodes[0].domain or nodes[0].op_type not in OPERATORS:
            continue
        if any(part in case.name for part in DIFFERENT):
            continue
        if any(isinstance(data, list) for data in [*case.data_sets[0][0], *case.data_sets[0][1]]):
            continue
        met.add(nodes[0].op_type)
        try:
            found = run(case, tmp_path)
        except WorkloadError as error:
            if not any(part in error.message for part in REFUSED):
                wrong[case.name] = error.message
            continue
        if all(agrees(*pair) for pair in zip(found, case.data_sets[0][1], strict=False)):
            right[nodes[0].op_type] += 1
        else:
            wrong[case.name] = "other values"
    assert wrong == {}
    assert met - set(right) == {"GRU"}  # all its cases have the gate order of before PyTorch: test_onnx_route has ours
    assert len(right) > 140
