"""Rules: which layers a chip refuses, and why."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiplib import ChipError, Rule, broken_rules, load_library
from chiplib.chip import MEASURES, OPERATORS, NetworkRule
from chiplib.rules import broken_network_rules, layer_shapes, network_measures
from workloads.graph import OperatorKind

MAX78000 = load_library("reference").chip("max78000")
MAX78002 = load_library("reference").chip("max78002")
PLAIN = load_library("chiplets").chip("small_core")

CONV = {
    "axes": 2,
    "dilation_h": 1,
    "dilation_w": 1,
    "in_h": 32,
    "in_w": 32,
    "in_channels": 64,
    "out_channels": 64,
    "groups": 1,
    "kernel_h": 3,
    "kernel_w": 3,
    "transposed": 0,
}
CONV |= {"stride_h": 1, "stride_w": 1, "padding_h": 1, "padding_w": 1}


def test_rules_know_the_kinds_of_workload_graphs() -> None:
    assert tuple(OperatorKind) == OPERATORS


def test_a_conforming_layer_breaks_nothing() -> None:
    assert broken_rules(MAX78000, ["conv", "elementwise"], [CONV, {}]) == []


def test_conv_tasnet_layers_that_the_max78000_refuses() -> None:
    """Depthwise is missing, the encoder has kernel 32 and stride 16, normalisation is no operator."""
    encoder = {
        "axes": 1,
        "in_channels": 1,
        "out_channels": 512,
        "groups": 1,
        "kernel_w": 32,
        "stride_w": 16,
        "padding_w": 0,
    }
    depthwise = {
        "axes": 1,
        "in_channels": 512,
        "out_channels": 512,
        "groups": 512,
        "kernel_w": 3,
        "stride_w": 1,
        "padding_w": 64,
    }
    shapes = [encoder | {"transposed": 0}, {"channels": 512}, depthwise | {"transposed": 0}]
    found = broken_rules(MAX78000, ["conv", "norm", "conv"], shapes)
    assert [(b.layer, b.demand, b.limit) for b in found] == [
        (0, "kernel_w 32", "at most 9"),
        (0, "stride_w 16", "one of 1"),
        (1, "norm", "no such operator"),
        (2, "groups 512", "one of 1"),
        (2, "padding_w 64", "at most 2"),
    ]
    assert all("MAX78000" in b.source for b in found if b.demand != "norm")
    assert [b.demand for b in broken_rules(MAX78002, ["conv"], shapes[2:])] == ["padding_w 64"]  # depthwise allowed


def test_stride_depends_on_transposition() -> None:
    transposed = CONV | {"transposed": 1, "stride_h": 2, "stride_w": 2}
    assert broken_rules(MAX78000, ["conv"], [transposed]) == []
    assert {b.demand for b in broken_rules(MAX78000, ["conv"], [CONV | {"stride_h": 2}])} == {"stride_h 2"}
    assert {b.demand for b in broken_rules(MAX78000, ["conv"], [CONV | {"transposed": 1}])} == {
        "stride_h 1",
        "stride_w 1",
    }


def test_a_parameter_means_its_parts_but_not_longer_words() -> None:
    chip = replace(PLAIN, rules=(Rule(operator="*", parameter="in", limit=4),))
    shapes = [{"in_w": 5}, {"in": 5}, {"inner": 5}, {"in_w": 4}, {"in_channels": 5}]
    assert [b.layer for b in broken_rules(chip, ["conv", "pool", "conv", "norm", "conv"], shapes)] == [0, 1]


def conv(**changes: int) -> dict[str, int]:
    one = {"axes": 1, "groups": 1, "kernel_w": 3, "stride_w": 1, "padding_w": 0, "dilation_w": 1, "transposed": 0}
    return (CONV if changes.get("axes", 2) == 2 else one) | changes


@pytest.mark.parametrize(
    ("shape", "on_max78000", "on_max78002"),  # what is refused, by the vendor's list of limitations
    [
        (conv(kernel_h=1, kernel_w=1), [], []),
        (conv(kernel_h=3, kernel_w=9), ["kernel_w 9"], ["kernel_w 9"]),  # nine taps in one dimension only
        (conv(kernel_h=1, kernel_w=3), ["kernel_w 3"], ["kernel_w 3"]),
        (conv(dilation_h=4, dilation_w=4), ["dilation_h 4", "dilation_w 4"], []),
        (conv(dilation_h=17, dilation_w=1), ["dilation_h 17"], ["dilation_h 17"]),
        (conv(in_h=1024, in_w=1023), ["in_h 1024"], []),
        (conv(axes=1, kernel_w=9), [], []),
        (conv(axes=1, kernel_w=3, dilation_w=512), [], []),
        (conv(axes=1, kernel_w=5, dilation_w=2), ["dilation_w 2"], ["dilation_w 2"]),
        (conv(axes=1, transposed=1, stride_w=2), ["transposed 1"], ["transposed 1"]),
        (conv(axes=3), ["axes 3"], ["axes 3"]),
    ],
)
def test_convolutions_that_the_microcontrollers_take(
    shape: dict[str, int], on_max78000: list[str], on_max78002: list[str]
) -> None:
    for chip, expected in ((MAX78000, on_max78000), (MAX78002, on_max78002)):
        assert [broken.demand for broken in broken_rules(chip, ["conv"], [shape])] == expected


@given(
    st.lists(st.tuples(st.sampled_from(["conv", "linear", "norm"]), st.integers(1, 12), st.integers(1, 3)), max_size=30)
)
def test_equals_a_plain_loop(layers: list[tuple[str, int, int]]) -> None:
    rules = (Rule(operator="conv", parameter="kernel", limit=7), Rule(operator="*", parameter="groups", allowed=(1, 3)))
    chip = replace(PLAIN, rules=rules, missing_operators=("norm",))
    kinds = [kind for kind, _, _ in layers]
    shapes = [{"kernel_w": kernel, "groups": groups} for _, kernel, groups in layers]
    expected = []
    for index, (kind, kernel, groups) in enumerate(layers):
        expected += [index] * ((kind == "norm") + (kind == "conv" and kernel > 7) + (groups == 2))
    found = [b.layer for b in broken_rules(chip, kinds, shapes)]
    assert found == expected
    assert found == [b.layer for b in broken_rules(chip, kinds, layer_shapes(shapes))]


def test_a_rule_names_what_a_kind_of_layer_may_compute() -> None:
    kinds, operations = ["elementwise", "elementwise", "pool", "copy"], ["relu", "prelu", "max_pool2d", "pad"]
    found = broken_rules(MAX78000, kinds, [{}] * 4, operations)
    assert [(b.layer, b.demand) for b in found] == [(1, "operation prelu"), (3, "operation pad")]
    assert "relu, abs" in found[0].limit and "README" in found[0].source
    assert broken_rules(MAX78000, kinds, [{}] * 4) == []  # nothing is said of what is not told


@given(
    st.lists(st.tuples(st.sampled_from(["conv", "pool"]), st.integers(0, 300_000), st.integers(0, 900)), max_size=50)
)
def test_network_rules_name_the_layer_that_is_one_too_many(layers: list[tuple[str, int, int]]) -> None:
    kinds = [kind for kind, _, _ in layers]
    weights, biases = (np.array([layer[part] for layer in layers], float) for part in (1, 2))
    measures = network_measures(MAX78000, weight_bytes=weights, bias_bytes=biases, pixels=np.zeros(len(layers)))
    expected = []
    for measure, limit, counted in (
        ("layers", 32, [kind == "conv" for kind in kinds]),
        ("weight_bytes", 442_368, weights),
        ("bias_bytes", 2_048, biases),
    ):
        total = 0
        for index, amount in enumerate(counted):
            total += amount
            if total > limit:
                expected.append((index, f"network: {measure} <= {limit:g}"))
                break
    assert [(b.layer, b.rule) for b in broken_network_rules(MAX78000, kinds, measures)] == expected


def test_images_that_need_streaming_are_counted() -> None:
    pixels = np.array([8192.0] * 20 + [8193.0] * 9)
    zeros = np.zeros(29)
    measures = network_measures(MAX78000, weight_bytes=zeros, bias_bytes=zeros, pixels=pixels)
    (found,) = broken_network_rules(MAX78000, ["conv"] * 29, measures)
    assert (found.layer, found.demand) == (28, "9 streaming_layers of conv, linear on one chip")
    assert found.limit == "at most 8" and set(measures) == set(MEASURES)


def test_rules_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ChipError, match="did you mean 'layers'"):
        NetworkRule(measure="layer", limit=3)
    with pytest.raises(ChipError, match="did you mean 'conv'"):
        NetworkRule(measure="layers", limit=3, operators=("conf",))
    with pytest.raises(ChipError, match="names go with the parameter `operation`"):
        Rule(operator="conv", parameter="kernel", names=("relu",))
    with pytest.raises(ChipError, match="clock_hz of cycle_rules is 0"):
        replace(MAX78000.cycle_rules, clock_hz=0)
