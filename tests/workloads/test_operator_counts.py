"""Rules of single operators, on random shapes, against torch's counter and against counting one by one."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from workloads.calls import Call, TensorSpec
from workloads.estimates import ESTIMATES, transform_flops
from workloads.flops import RULES, count, einsum_macs
from workloads.graph import OperatorKind

sizes = st.integers(1, 7)


def torch_macs(function):
    with FlopCounterMode(display=False) as counter:
        out = function()
    return counter.get_total_flops() // 2, tuple(out.shape)


def meta(*shape):
    return torch.empty(shape, device="meta")


def call(operator, outputs, **arguments):
    specs = {k: TensorSpec(v) if isinstance(v, torch.Size) else v for k, v in arguments.items()}
    return Call(operator=operator, arguments=specs, outputs=[TensorSpec(tuple(o)) for o in outputs])


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_two_operand_einsum_agrees_with_torch(data):
    letters = "abcde"
    size = {letter: data.draw(sizes) for letter in letters}
    left, right = (data.draw(st.permutations(letters).map(lambda p: "".join(p[:3]))) for _ in range(2))
    held = sorted(set(left + right))
    result = "".join(data.draw(st.lists(st.sampled_from(held), unique=True)))
    equation = f"{left},{right}->{result}"
    shapes = [tuple(size[i] for i in term) for term in (left, right)]
    expected, _ = torch_macs(lambda: torch.einsum(equation, *(meta(*s) for s in shapes)))
    summed = set(left) & set(right) - set(result)
    if all(size[i] > 1 for i in summed):  # torch drops a sum over one element
        assert einsum_macs(equation, shapes) == expected


def test_chained_einsum_contracts_from_the_left():
    assert einsum_macs("ab,bc,cd->ad", [(2, 3), (3, 4), (4, 5)]) == 2 * 3 * 4 + 2 * 4 * 5
    assert einsum_macs("...ij,...jk", [(5, 2, 3), (5, 3, 4)]) == 5 * 2 * 3 * 4
    assert einsum_macs("ab,ab->ab", [(2, 3), (2, 3)]) == 0


@given(st.lists(sizes, max_size=2), sizes, sizes, sizes, st.booleans(), st.booleans())
@settings(deadline=None, max_examples=60)
def test_broadcast_matmul_agrees_with_torch(batch, m, k, n, left_one, right_one):
    left = [1] * len(batch) if left_one else batch
    right = [1] * len(batch) if right_one else batch
    expected, shape = torch_macs(lambda: meta(*left, m, k) @ meta(*right, k, n))
    found = count(call("matmul", [shape], self=torch.Size([*left, m, k]), other=torch.Size([*right, k, n])))
    assert found.macs == expected == math.prod(shape) * k
    assert found.flops == 2 * found.macs


@given(
    st.integers(1, 3), st.integers(1, 2), sizes, sizes, st.integers(1, 3), st.integers(1, 3), st.integers(1, 2),
    st.booleans(),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_convolutions_agree_with_torch_and_with_counting_taps(
    batch, groups, a, b, kernel, stride, dilation, transposed
):
    length, channels, filters = 9, a * groups, b * groups
    if transposed:
        x, w = meta(batch, channels, length), meta(channels, b, kernel)
        expected, shape = torch_macs(
            lambda: torch.conv_transpose1d(x, w, stride=stride, groups=groups, dilation=dilation)
        )
        taps = batch * length * channels * b * kernel  # each input meets each tap of its group's filters
        operator = "conv_transpose1d"
    else:
        x, w = meta(batch, channels, length), meta(filters, a, kernel)
        expected, shape = torch_macs(lambda: torch.conv1d(x, w, stride=stride, groups=groups, dilation=dilation))
        taps = math.prod(shape) * a * kernel  # each output sums the taps of its group
        operator = "conv1d"
    found = count(call(operator, [shape], input=x.shape, weight=w.shape, padding=[0], groups=groups))
    assert found.macs == expected == taps
    assert found.counting == "fvcore"


@pytest.mark.parametrize("length", [2, 8, 64, 1024])
def test_transform_estimate_is_the_radix_2_count_with_real_operations(length):
    butterflies = length // 2 * int(math.log2(length))
    assert transform_flops(length) == butterflies * (6 + 2 + 2)  # one complex product, two complex sums


def test_two_dimensional_transform_is_its_rows_and_columns():
    found = count(call("fft_fft2", [(3, 8, 16)], self=torch.Size([3, 8, 16]), dim=[-2, -1]))
    assert found.flops == 3 * (8 * transform_flops(16) + 16 * transform_flops(8))


def test_pooling_reads_its_window():
    found = count(call("max_pool2d", [(1, 2, 4, 4)], self=torch.Size([1, 2, 8, 8]), kernel_size=[3, 2]))
    assert (found.flops, found.macs, found.kind) == (32 * 6, 0, OperatorKind.POOL)
    assert count(call("avg_pool3d", [(1, 1, 2, 2, 2)], self=torch.Size([1, 1, 4, 4, 4]), kernel_size=[2])).flops == 64


def test_a_resampling_filter_has_more_taps_where_the_image_shrinks():
    """As Pillow and torch: columns first, of all rows; a triangle covers two pixels of the coarser grid."""
    found = count(call("_upsample_bilinear2d_aa", [(1, 3, 4, 8)], input=torch.Size([1, 3, 16, 4])))
    assert found.flops == 2 * 3 * 8 * (16 * 2 + 4 * 2 * 4)


def test_sorting_along_no_dimension_sorts_all():
    shape = torch.Size([4, 16])
    assert count(call("median", [()], self=shape)).flops == 64 * 6
    assert count(call("sort", [shape], self=shape, dim=-1)).flops == 64 * 4


def test_norm_of_six_dimensions_falls_back_to_an_estimate():
    shape = torch.Size([1, 2, 2, 2, 2, 3])
    found = count(call("layer_norm", [shape], input=shape, normalized_shape=[3], weight=torch.Size([3])))
    assert (found.counting, found.flops) == ("estimated", 5 * 48)


def test_unknown_operators_are_refused_and_element_wise_ones_estimated():
    shape = torch.Size([2, 3])
    assert count(call("never_heard_of", [shape], self=shape)).counting == "refused"
    tagged = Call(operator="new", arguments={"self": TensorSpec((2, 3))}, outputs=[TensorSpec((2, 3))], pointwise=True)
    assert (count(tagged).counting, count(tagged).flops) == ("estimated", 6)


def test_the_register_names_operators_that_torch_has():
    missing = [name for name in RULES if "::" not in name and not hasattr(torch.ops.aten, name)]
    assert missing == []
    assert all(name in RULES for name in ESTIMATES)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_linear_counts_each_product(lead, k, n):
    found = count(call("linear", [(*lead, n)], input=torch.Size([*lead, k]), weight=torch.Size([n, k]), bias=None))
    products = sum(1 for _ in itertools.product(*map(range, (*lead, n, k))))
    assert (found.macs, found.counting) == (products, "fvcore")
