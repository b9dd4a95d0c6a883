"""Rules: which layers a chip refuses, and why."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from chiplib import Rule, broken_rules, load_library
from chiplib.rules import layer_shapes

MAX78000 = load_library("reference").chip("max78000")
MAX78002 = load_library("reference").chip("max78002")
PLAIN = load_library("chiplets").chip("small_core")

CONV = {"in_channels": 64, "out_channels": 64, "groups": 1, "kernel_h": 3, "kernel_w": 3, "transposed": 0}
CONV |= {"stride_h": 1, "stride_w": 1, "padding_h": 1, "padding_w": 1}


def test_a_conforming_layer_breaks_nothing() -> None:
    assert broken_rules(MAX78000, ["conv", "elementwise"], [CONV, {}]) == []


def test_conv_tasnet_layers_that_the_max78000_refuses() -> None:
    """Depthwise is missing, the encoder has kernel 32 and stride 16, normalisation is no operator."""
    encoder = {"in_channels": 1, "out_channels": 512, "groups": 1, "kernel_w": 32, "stride_w": 16, "padding_w": 0}
    depthwise = {"in_channels": 512, "out_channels": 512, "groups": 512, "kernel_w": 3, "stride_w": 1, "padding_w": 64}
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
    shapes = [{"in_w": 5}, {"in": 5}, {"inner": 5}, {"in_w": 4}]
    assert [b.layer for b in broken_rules(chip, ["conv", "pool", "conv", "norm"], shapes)] == [0, 1]


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
