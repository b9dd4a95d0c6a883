"""Layers as tidy rows: complete, exact, and enough to build the operator again."""

from __future__ import annotations

import math
import warnings

import pandas as pd
import pytest
import torch
from torch import nn

import workloads
from dse.proxy.columns import OPERATORS
from dse.proxy.layer_rows import LAYER_COLUMNS, causal_share, layer_rows
from dse.proxy.measure.operators import operator
from dse.proxy.measure.shapes import traced
from workloads import catalog

UNTOLD = 0.02
"""Share of the distinct layers whose bytes a row does not tell exactly: two views of one tensor, and the like."""


@pytest.fixture(scope="module")
def tables() -> dict[str, tuple[workloads.WorkloadGraph, pd.DataFrame]]:
    graphs = {name: workloads.load(name) for name in catalog.names()}
    return {name: (graph, layer_rows(graph)) for name, graph in graphs.items()}


def test_every_layer_of_the_catalogue_is_a_whole_row(tables) -> None:
    for name, (graph, table) in tables.items():
        assert list(table.columns) == list(LAYER_COLUMNS), name
        assert len(table) == len(graph.layers)
        assert (table["flops"] == [layer.flops for layer in graph.layers]).all()
        assert (table["bytes"] == [layer.bytes for layer in graph.layers]).all()
        assert (table["weight_bytes"] == [layer.weight_bytes for layer in graph.layers]).all()
        for kind, rows in table.groupby("op_type"):
            assert kind in OPERATORS and kind != "other", (name, kind)
            missing = rows[list(OPERATORS[kind])].isna().any()
            assert not missing.any(), (name, kind, list(missing[missing].index))


def test_an_operator_built_from_a_row_moves_the_bytes_of_the_row(tables) -> None:
    """Those that the tracer counted of the layer in its model; what it would count of the operator alone, below."""
    distinct = pd.concat([table for _, table in tables.values()]).drop_duplicates()
    others = []
    for row in distinct.to_dict("records"):
        op = operator(row)
        if (op.operand_bytes + op.output_bytes(), op.weight_bytes) != (row["bytes"], row["weight_bytes"]):
            others.append(f"{row['op_type']} {row['op_name']}")
    assert len(others) <= UNTOLD * len(distinct), others


@pytest.mark.parametrize("name", ["bcctn", "htdemucs", "mossformer2", "resnet18", "videovit-tiny"])
def test_the_tracer_counts_of_an_operator_alone_what_it_counted_in_the_model(tables, name) -> None:
    """One row of each operator name of a model, the largest: its FLOPs, traced anew."""
    _, table = tables[name]
    largest = table.sort_values("bytes").drop_duplicates(["op_type", "op_name"], keep="last")
    for row in largest.to_dict("records"):
        assert traced(operator(row)).flops == row["flops"], row


def test_rows_of_a_training_step(tables) -> None:
    graph = workloads.load("resnet18", mode="train")
    table = layer_rows(graph)
    backward = table[table["op_name"].str.startswith("conv_bwd")]
    forward = table[(table["op_type"] == "conv2d") & (table["op_name"] == "conv")]
    assert len(backward) == len(forward) == 20
    assert (backward["op_name"] == "conv_bwd_filter").sum() == 1  # the images need no gradient
    assert set(table["op_type"]) <= set(OPERATORS)
    updates = table[table["op_name"].isin(["addcdiv", "addcmul", "lerp"])]
    assert len(updates) and (updates["op_type"] == "elementwise").all()
    first = backward[backward["op_name"] == "conv_bwd_data"].iloc[0].to_dict()
    op = operator(first)
    gradients = op.call(*(operand.empty("cpu") for operand in op.operands))
    assert gradients[0].shape == op.operands[1].shape and gradients[1].shape == op.operands[2].shape


def test_causal_attention_counts_the_pairs_that_it_meets() -> None:
    class Causal(nn.Module):
        def forward(self, q, k, v):
            return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    tokens = torch.empty(2, 3, 7, 8)
    (row,) = layer_rows(workloads.trace(Causal(), (tokens, tokens, tokens), cache=False)).to_dict("records")
    assert row["op_type"] == "attn_prefill"
    pairs = sum(1 for query in range(7) for key in range(7) if key <= query)
    assert row["flops"] == pytest.approx(4 * 2 * 3 * 8 * pairs)
    for queries, keys in ((1, 5), (4, 9), (9, 4)):
        met = sum(1 for query in range(queries) for key in range(keys) if key <= query)
        assert causal_share(queries, keys) == pytest.approx(met / (queries * keys))


class Layouts(nn.Module):
    """Adds what lies in four ways to what lies as it should."""

    def forward(self, x, turned, wide, row):
        return x + x, x + turned.transpose(0, 1), x + wide[:, :5], x + row, turned.transpose(0, 1) * 2


def test_layouts_and_repeated_operands_are_told() -> None:
    inputs = (torch.empty(6, 5), torch.empty(5, 6), torch.empty(6, 8), torch.empty(5))
    table = layer_rows(workloads.trace(Layouts(), inputs, cache=False))
    assert list(table["layout"]) == [0, 2, 1, 0, 0]  # the last walks in the order of its own memory
    assert list(table["broadcast"]) == [0, 0, 0, 2, 0]
    same = operator(table.iloc[0].to_dict())
    assert len(same.operands) == 1  # a tensor and itself
    turned = operator(table.iloc[1].to_dict()).operands[1].empty("cpu")
    assert turned.stride(-2) == 1 and turned.shape[1:] == (6, 5)


def test_rows_are_built_with_what_they_lack_told_apart() -> None:
    """Two convolutions that differ in the bias alone, and two norms that differ in their weights."""

    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList([nn.Conv1d(4, 6, 3, bias=bias) for bias in (True, False)])
            self.norms = nn.ModuleList([nn.LayerNorm(10, elementwise_affine=affine) for affine in (True, False)])

        def forward(self, x):
            return [layer(x) for layer in (*self.convs, *self.norms)]

    table = layer_rows(workloads.trace(Pairs(), torch.empty(2, 4, 10), cache=False))
    assert [len(operator(row).operands) for row in table.to_dict("records")] == [3, 2, 3, 1]


def test_results_are_those_of_the_layer() -> None:
    """An operator built from a row, run on the layer's own data, gives what the layer gives."""
    torch.manual_seed(0)
    layers: list[tuple[nn.Module, torch.Tensor]] = [
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2), torch.randn(2, 4, 9, 11)),
        (nn.Conv1d(4, 6, 4, padding="same"), torch.randn(2, 4, 9)),
        (nn.Conv3d(2, 3, 2, stride=(1, 2, 1)), torch.randn(1, 2, 4, 5, 6)),
        (nn.ConvTranspose1d(4, 6, 4, stride=3, padding=1, output_padding=2), torch.randn(2, 4, 9)),
        (nn.ConvTranspose2d(4, 2, (3, 4), stride=(2, 1), padding=(0, 1), bias=False), torch.randn(1, 4, 5, 6)),
        (nn.Linear(5, 7), torch.randn(3, 5)),
        (nn.LayerNorm(6), torch.randn(4, 6)),
        (nn.GroupNorm(2, 6), torch.randn(3, 6, 8)),
        (nn.PReLU(6), torch.randn(3, 6, 8)),
        (nn.GELU(), torch.randn(3, 8)),
        (nn.MaxPool2d(3, stride=2, padding=1), torch.randn(1, 2, 9, 9)),
    ]
    for module, x in layers:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch copies the input of an even "same"
            (row,) = layer_rows(workloads.trace(module, x, cache=False)).to_dict("records")
            op = operator(row)
            values = [x, *module.parameters()]
            tensors = [value.reshape(operand.shape) for value, operand in zip(values, op.operands, strict=True)]
            torch.testing.assert_close(op.call(*tensors).flatten(), module(x).flatten())
        assert math.prod(op.operands[0].shape) == x.numel()
