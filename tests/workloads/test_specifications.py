"""Specifications' own tables beside what is built: every table that ships, and how claims are compared."""

import json

import pytest
from torch import nn

import workloads
from tests.workloads.tracing_help import on_meta, trace
from workloads import WorkloadError, catalog
from workloads.graph import OperatorKind
from workloads.specification import FOLDER, Part, Rule, Specification, compare_parts, load_specification

MODEL_OF = {workloads.entry(name).specification: name for name in reversed(workloads.names())}


@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.glob("*.yaml")))
def test_every_table_is_a_model_s_and_says_why_what_is_built_differs(name):
    graph = workloads.load(MODEL_OF[name])
    answer = compare_parts(graph, load_specification(name))  # every module of the table has layers
    assert json.loads(json.dumps(answer)) == answer
    for row in answer["rows"]:
        assert row["note"] or not row["differs"], row
        assert row["built"] or row["note"], row  # what is not built says why
    built = [row["built"] for row in answer["rows"] if row["built"]]
    assert sum(row["flops"] for row in built) + answer["unclaimed"]["flops"] == graph.flops  # no layer in two rows
    assert answer["built_total"]["parameters"] == graph.parameters


def test_the_table_of_bcctn_contradicts_itself():
    answer = compare_parts(workloads.load("bcctn-table"), load_specification("bcctn"))
    assert answer["sums"]["flops"] == pytest.approx(7.64e9)
    assert answer["total"]["flops"] == 4.6e9
    convolutions = answer["groups"]["convolutions"]
    assert convolutions["claimed"]["flops"] == pytest.approx(6.702e9)
    assert convolutions["built"]["flops_by_rule"] == 5_443_805_440
    assert convolutions["built"]["flops_of_kinds"] == 2 * 5_443_805_440  # 4 real convolutions for the rule's 2
    assert answer["findings"] == [
        "the rows of the specification add up to 7.64 GFLOPs, its total says 4.60",
        "the rows of convolutions claim 6.70 GFLOPs; by the specification's own rule they have 5.44, and 10.89 run",
    ]


@pytest.mark.parametrize("layer", range(6))
def test_each_convolution_of_the_table_of_bcctn_has_its_size_and_parameters(layer):
    rows = {row["part"]: row for row in load_rows("bcctn")}
    channels, bins = [2, 16, 32, 64, 128, 256, 256], [257, 129, 65, 33, 17, 9, 5]
    weights = 2 * 5 * channels[layer] * channels[layer + 1]
    macs = 157 * bins[layer + 1] * weights  # of two real convolutions
    for name, shape in (
        (f"Enc-{layer + 1}", [channels[layer + 1], bins[layer + 1], 157]),
        (f"Dec-{6 - layer}", [channels[layer], bins[layer], 157]),
    ):
        assert rows[name]["built"]["parameters"] == weights
        assert rows[name]["built"]["flops_by_rule"] == 2 * macs
        assert rows[name]["built"]["output_shape"] == [1, *shape] == [1, *rows[name]["claimed"]["output_shape"]]


def load_rows(name):
    return compare_parts(workloads.load(MODEL_OF[name]), load_specification(name))["rows"]


@pytest.fixture(scope="module")
def graph():
    def make():
        return nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(32, 5)))

    module, inputs = on_meta(make, (1, 2, 8))
    return trace(module, *inputs)


def compared(graph, *parts, **totals):
    return compare_parts(graph, Specification(source="a test", parts=parts, **totals))


def test_a_claim_is_compared_by_the_specification_s_own_rule(graph):
    rule = Rule(kinds=(OperatorKind.CONV,), scale=0.5)
    macs = 8 * 4 * 2 * 3
    part = Part(part="a", modules=("0", "1"), parameters=28, flops=macs, output_shape=(4, 8), rule=rule)
    (row,) = compared(graph, part)["rows"]
    assert row["built"] == {
        "parameters": 28,
        "flops": 2 * macs + 32,
        "flops_of_kinds": 2 * macs,
        "flops_by_rule": macs,
        "output_shape": [1, 4, 8],
    }
    assert row["differs"] == []
    wrong = Part(part="a", modules=("0", "1"), parameters=29, flops=2 * macs, output_shape=(4, 9), rule=rule)
    assert compared(graph, wrong)["rows"][0]["differs"] == ["parameters", "flops", "output_shape"]


def test_claims_agree_up_to_their_printed_digits_and_what_is_not_stated_or_not_built_does_not_differ(graph):
    parts = (
        Part(part="rounded", modules=("2",), parameters=166),  # 165
        Part(part="silent", modules=("0",)),
        Part(part="missing", parameters=1000.0),
    )
    answer = compared(graph, *parts)
    assert [row["differs"] for row in answer["rows"]] == [[], [], []]
    assert [row["built"] is None for row in answer["rows"]] == [False, False, True]
    assert answer["sums"] == {"parameters": 1166.0, "flops": None}
    assert answer["unclaimed"] == {"parameters": 0, "flops": 32}  # the ReLU


def test_groups_add_up_and_contradictions_are_told(graph):
    parts = (
        Part(part="a", group="both", modules=("0",), flops=100e6, parameters=10e6),
        Part(part="b", group="both", modules=("2",), flops=200e6, parameters=20e6),
        Part(part="c", modules=("1",)),
    )
    answer = compared(graph, *parts, flops=0.5e9, parameters=30.3e6)
    both = answer["groups"]["both"]
    assert list(answer["groups"]) == ["both"]
    assert both["claimed"] == {"parameters": 30e6, "flops": 300e6}
    assert both["built"]["flops"] == graph.flops - 32
    assert len(answer["findings"]) == 2
    assert "add up to 0.30 GFLOPs, its total says 0.50" in answer["findings"][0]
    assert "both claim 0.30 GFLOPs" in answer["findings"][1]
    agreeing = compared(graph, Part(part="a", group="g", modules=("0",), flops=384), flops=390)
    assert agreeing["findings"] == []


def test_a_module_that_is_not_there_is_named_with_a_near_one(graph):
    with pytest.raises(WorkloadError) as caught:
        compared(graph, Part(part="the head", modules=("0", "2.2")))
    assert "'2.2'" in caught.value.message
    assert "'the head'" in caught.value.message
    assert "'2.1'" in caught.value.hint


def test_an_unknown_specification_is_answered_with_those_there_are():
    with pytest.raises(WorkloadError) as caught:
        load_specification("nonesuch")
    assert "bcctn" in caught.value.hint
    assert {catalog.entry(name).specification for name in workloads.names()} - {""} == set(MODEL_OF) - {""}
