"""What complex operators cost, against the kernels that PyTorch really dispatches for them on a CPU."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tests.workloads.tracing_help import Call, fvcore_total, matrix_macs, only, trace
from workloads import describe
from workloads.describe import quantity
from workloads.models.complex_layers import ComplexConv2d, ComplexConvTranspose2d
from workloads.training_step import trace_training


class Kernels(TorchDispatchMode):
    """Names and dtypes of the products and convolutions that run."""

    def __init__(self):
        super().__init__()
        self.ran = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if any(name in str(function) for name in ("convolution", "mm", "dot", "trilinear")):
            self.ran.append((str(function).split(".")[1], out.dtype))
        return out


def what_runs(module, *inputs):
    """Return kernels, and MACs by torch's counter, for which a complex product of a kernel is one."""
    with torch.no_grad(), Kernels() as kernels:
        module(*inputs)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return kernels.ran, counter.get_total_flops() // 2


def drawn(*shape):
    return torch.randn(shape, dtype=torch.complex64)


X, W = drawn(2, 3, 8), drawn(4, 3, 3)
CONVOLUTIONS = {
    "conv1d": lambda x: F.conv1d(x, W, drawn(4)),
    "same": lambda x: F.conv1d(x, W, padding="same"),
    "strided": lambda x: F.conv1d(x, W, stride=2, dilation=2, padding=1),
    "grouped": lambda x: F.conv1d(x, drawn(6, 1, 3), groups=3),
    "conv2d": lambda x: F.conv2d(x[:, :, None], W[:, :, None]),
    "conv3d": lambda x: F.conv3d(x[:, :, None, None], W[:, :, None, None]),
    "transposed": lambda x: F.conv_transpose1d(x, drawn(3, 4, 3), stride=2),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_complex_convolution_runs_as_three_real_ones(name):
    module = Call(CONVOLUTIONS[name])
    kernels, macs = what_runs(module, X)
    assert kernels == [("convolution", torch.float32)] * 3
    graph = trace(module, X)
    (conv,) = [layer for layer in graph.layers if layer.kind == "conv"]
    assert conv.macs == macs
    assert "3 real" in conv.formula
    if name != "same":  # padding by name hides the convolution from fvcore
        assert fvcore_total(module, (X,)) == macs


PRODUCTS = {
    "linear": lambda x: F.linear(x, drawn(5, 8), drawn(5)),
    "matmul": lambda x: x @ x.mT,
    "einsum": lambda x: torch.einsum("bij,bkj->bik", x, x),
    "baddbmm": lambda x: torch.baddbmm(drawn(2, 3, 3), x, x.mT),
    "mm": lambda x: torch.mm(x[0], x[1].mT),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_complex_matrix_product_runs_as_complex_gemm_of_four_real_products(name):
    module = Call(PRODUCTS[name])
    kernels, products = what_runs(module, X)
    assert {dtype for _, dtype in kernels} == {torch.complex64}
    graph = trace(module, X)
    assert matrix_macs(graph) == 4 * products
    assert quantity(graph, "macs.complex_as_one") == products
    assert all("4 real" in layer.formula for layer in graph.layers if layer.macs)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers_of_complex_numbers_run_complex_gemms_too(kind):
    module, x = kind(3, 4, dtype=torch.complex64), drawn(5, 1, 3)
    kernels, products = what_runs(module, x)
    assert {dtype for _, dtype in kernels} == {torch.complex64}
    assert matrix_macs(trace(module, x)) == 4 * products


@pytest.mark.parametrize("kind", [ComplexConv2d, ComplexConvTranspose2d])
def test_a_complex_convolution_of_two_real_ones_counts_four(kind):
    """Beside one of complex dtype, which runs three."""
    module, parts = kind(3, 4, (5, 2)), (torch.randn(1, 3, 9, 7), torch.randn(1, 3, 9, 7))
    theirs = (nn.Conv2d if kind is ComplexConv2d else nn.ConvTranspose2d)(3, 4, (5, 2), dtype=torch.complex64)
    graph, native = trace(module, parts), trace(theirs, torch.complex(*parts))
    assert [layer.kind for layer in graph.layers].count("conv") == 4
    assert matrix_macs(graph) == what_runs(module, parts)[1]
    assert 3 * matrix_macs(graph) == 4 * matrix_macs(native)


def test_elements_of_complex_numbers_are_counted_in_real_operations_and_bytes():
    graph = trace(Call(lambda x: (x * x, x + x, x.abs())), drawn(3, 5))
    assert [only(graph, f"aten.{name}").flops for name in ("mul", "add", "abs")] == [6 * 15, 2 * 15, 4 * 15]
    graph = trace(nn.Linear(5, 4, dtype=torch.complex64), drawn(3, 5))
    linear = only(graph, "aten.linear")
    assert (linear.parameters, linear.weight_bytes) == (24, 24 * 8)
    assert (linear.input_bytes, linear.output_bytes, linear.float_bytes) == (15 * 8, 12 * 8, 4)
    rows = {row["operator"]: row for row in describe(graph)["layers"]}
    assert rows["aten.linear.default"]["counting"] == "handle"


class TwoLayers(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x):
        return self.second(self.first(x)).abs()


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (TwoLayers(nn.Conv1d(3, 4, 3, dtype=torch.complex64), nn.Conv1d(4, 3, 3, dtype=torch.complex64)), (2, 3, 8),
         (3 * 2 * 6 * 4 * 3 * 3, 3 * 2 * 4 * 3 * 4 * 3)),
        (TwoLayers(nn.Linear(5, 4, dtype=torch.complex64), nn.Linear(4, 3, dtype=torch.complex64)), (6, 5),
         (4 * 6 * 5 * 4, 4 * 6 * 4 * 3)),
    ],
)  # fmt: skip
def test_a_training_step_counts_as_many_real_products_forward_and_twice_as_many_backward(module, shape, macs):
    """But for the first layer, whose input needs no gradient; the recorder sees the kernels themselves."""
    graph = trace_training(module, (drawn(*shape),), cache=False)
    by_phase = {phase: sum(x.macs for x in graph.layers if x.phase == phase) for phase in ("forward", "backward")}
    first, second = macs
    assert not graph.refused
    assert by_phase == {"forward": first + second, "backward": first + 2 * second}
    assert matrix_macs(trace(module, drawn(*shape))) == by_phase["forward"]
