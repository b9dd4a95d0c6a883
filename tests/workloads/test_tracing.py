"""The dataflow of a traced model against hand counts: views, updates, weights, signatures; and what is refused."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import workloads
from tests.workloads.tracing_help import Call, producers, trace
from workloads import OperatorKind, WorkloadError


class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        y = self.linear(x)  # [2, 6, 8], 384 bytes
        half = F.relu(y[:, :3].transpose(1, 2).unsqueeze(0))
        wide = F.tanh(y[:, :1].expand(2, 50, 8))
        first, second = y.reshape(-1, 8).chunk(2)
        return half, wide, first * second, y * y


def test_views_are_edges_with_the_bytes_that_are_read():
    graph = trace(Views(), torch.randn(2, 6, 8))
    assert [layer.operator for layer in graph.layers] == [
        "aten.linear.default",
        "aten.relu.default",
        "aten.tanh.default",
        "aten.mul.Tensor",
        "aten.mul.Tensor",
    ]
    assert producers(graph, "relu") == {"linear": 192}
    assert producers(graph, "tanh") == {"linear": 64}  # what the expanded view holds, not what it shows
    assert producers(graph, "mul") == {"linear": 384}
    assert producers(graph, "mul_1") == {"linear": 384}  # read once, though twice an argument
    assert graph.layers[2].output_bytes == 2 * 50 * 8 * 4
    assert not graph.refused


class Reshaped(nn.Module):
    def forward(self, x):
        y = x.exp()
        return y.transpose(0, 1).reshape(-1) + 1, y.reshape(-1) + 1, y.transpose(0, 1).contiguous() + y.contiguous().mT


def test_a_reshape_is_a_layer_only_where_it_copies():
    graph = trace(Reshaped(), torch.randn(4, 6))
    moved = [layer.operator for layer in graph.layers if layer.counting == "moved"]
    assert moved == ["aten.reshape.default", "aten.contiguous.default"]


class Updated(nn.Module):
    def forward(self, x):
        y = x * 2  # [4, 8], 128 bytes
        y[:1] = x[:1].exp()
        y.relu_()
        z = y.clone()
        y += 1
        return z, y


def test_updates_in_place_are_ordered():
    graph = trace(Updated(), torch.randn(4, 8))
    names = [layer.name for layer in graph.layers]
    assert names == ["mul", "exp", "copy_", "relu_", "clone", "add_"]
    assert [layer.operation for layer in graph.layers] == ["mul", "exp", "copy", "relu", "clone", "add"]
    assert producers(graph, "copy_") == {"exp": 32, "mul": 96}
    assert producers(graph, "relu_") == {"copy_": 128}
    assert producers(graph, "clone") == producers(graph, "add_") == {"relu_": 128}
    assert graph.layers[2].input_bytes == 32


@pytest.mark.parametrize(
    ("operator", "operation"),
    [
        ("aten.add_.Tensor", "add"),
        ("aten._softmax.default", "_softmax"),
        ("aten.__and__.Tensor", "__and__"),
        ("aten.any", "any"),
        ("mine", "mine"),
    ],
)
def test_an_operation_has_no_name_space_and_no_overload_and_is_the_same_in_place(operator: str, operation: str):
    layer = trace(nn.ReLU(), torch.randn(2)).layers[0]
    assert replace(layer, operator=operator).operation == operation


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head, self.block = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False), nn.Linear(8, 8)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.block(self.block(self.embed(ids)))
        return self.head(x) + x @ self.embed.weight.t()


def test_tied_weights_and_modules_called_twice_count_their_parameters_once():
    module = Tied()
    graph = trace(module, torch.zeros(2, 3, dtype=torch.int64))
    assert graph.parameters == sum(p.numel() for p in module.parameters()) == 50 * 8 + 72
    assert graph.weight_bytes == 4 * graph.parameters
    by_name = {layer.name: layer for layer in graph.layers}
    assert by_name["linear"].module == by_name["linear_1"].module == "block"
    assert by_name["linear"].weights == by_name["linear_1"].weights
    assert set(by_name["linear_2"].weights) == set(by_name["embedding"].weights) == set(by_name["matmul"].weights)
    assert by_name["matmul"].kind == OperatorKind.LINEAR
    assert by_name["matmul"].weight_bytes == 1600
    assert by_name["embedding"].float_bytes == 4
    assert by_name["embedding"].weight_bytes == 6 * 8 * 4  # the rows of six tokens are read ...
    assert by_name["embedding"].resident_bytes == 1600  # ... of a table that has to be there whole


class Packed(nn.Module):
    """Queries, keys and values of different inputs: each reads its third of one weight."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, q, k, v):
        return self.attention(q, k, v, need_weights=False)[0]


def test_parts_of_a_packed_weight_are_kept_side_by_side():
    graph = trace(Packed(), *torch.randn(3, 2, 4, 8))
    thirds = [layer for layer in graph.layers if "attention.in_proj_weight" in layer.weights]
    assert [layer.weights["attention.in_proj_weight"] for layer in thirds] == [(0, 256), (256, 512), (512, 768)]
    assert [layer.weight_bytes for layer in thirds] == [256 + 32] * 3
    (all_in_one,) = workloads.build_segments(graph, segment_size=100)
    assert all_in_one.weight_bytes == graph.weight_bytes == 4 * graph.parameters


LOOKUPS = {  # bytes read of the table [50, 8], operations
    "bag": (lambda t, ids: F.embedding_bag(ids, t), 6 * 32, 6 * 8),
    "index": (lambda t, ids: t[ids], 6 * 32, 0),
    "index_select": (lambda t, ids: t.index_select(0, ids[0]), 3 * 32, 0),
    "more rows than there are": (lambda t, ids: F.embedding(ids.repeat(1, 40), t), 50 * 32, 0),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_a_lookup_reads_rows_and_keeps_the_table(name):
    function, read, flops = LOOKUPS[name]

    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(50, 8))

        def forward(self, ids):
            return function(self.table, ids)

    graph = trace(Table(), torch.zeros(2, 3, dtype=torch.int64))
    (layer,) = [layer for layer in graph.layers if layer.weights]
    assert (layer.weight_bytes, layer.flops) == (read, flops)
    assert layer.resident_bytes == graph.weight_bytes == 1600


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("state", torch.zeros(4, 8))

    def forward(self, x):
        self.state += x
        return self.state * 2


def test_a_buffer_that_is_updated_keeps_its_name():
    graph = trace(Counting(), torch.randn(4, 8))
    assert graph.layers[0].weights == {"state": (0, 128)}
    assert graph.weight_bytes == 128
    assert producers(graph, "mul") == {"add_": 128}


class Guarded(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        with torch.no_grad():
            y = self.linear(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = self.linear(y)
        return z + x


def test_bodies_of_no_grad_and_autocast_are_walked():
    graph = trace(Guarded(), torch.randn(2, 4))
    assert [layer.module for layer in graph.layers if layer.kind == OperatorKind.LINEAR] == ["linear", "linear"]
    assert producers(graph, "linear_1") == {"linear": 32}
    assert producers(graph, "add") == {"linear_1": 16}
    assert graph.layers[1].dtype == "bfloat16"


CHAIN = {
    "neg": lambda x: -x,
    "transpose": lambda x: x.t(),
    "half": lambda x: x[: max(1, x.shape[0] // 2)],
    "split": lambda x: x.chunk(2, dim=1)[0],
    "flat": lambda x: x.view(-1).view(x.shape) if x.is_contiguous() else x,
    "add_": lambda x: x.add_(1),
    "detach": lambda x: F.dropout(x, training=False).detach().unsqueeze(0).squeeze(0),
}


@given(st.lists(st.sampled_from(sorted(CHAIN)), max_size=8))
@settings(deadline=None, max_examples=20)
def test_a_chain_of_views_and_updates_is_a_chain_of_layers(steps):
    def run(x):
        x = x.exp()
        for step in steps:
            x = CHAIN[step](x)
        return x

    x, stored, reads = torch.empty(8, 6), 8 * 6, []  # elements of the storage that x lies in
    for step in steps:
        if step == "neg":
            reads.append(x.numel())
            stored = x.numel()
        elif step == "add_":
            reads.append(stored)  # what it updates, and the rest that flows through
        x = CHAIN[step](x)
    graph = trace(Call(run), torch.randn(8, 6))
    assert graph.edges.tolist() == [[i, i + 1] for i in range(len(reads))]
    assert graph.edge_bytes.tolist() == [4 * elements for elements in reads]
    assert graph.layers[-1].output_shape == tuple(x.shape) or steps[-1] not in ("neg", "add_")


# --- signatures ---


def test_the_module_is_left_as_found_and_keywords_are_inputs():
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train()
    module[0].eval()
    trace(module, torch.randn(2, 4))
    assert (module.training, module[0].training, module[1].training) == (True, False, True)

    class Scaled(nn.Module):
        def forward(self, x, *, scale, times=1):
            return x * scale * times

    graph = trace(Scaled(), torch.randn(2, 4), example_kwargs={"scale": torch.randn(4), "times": 3})
    assert graph.input_shapes == ((2, 4), (4,))
    assert (graph.batch, graph.name) == (2, "Scaled")


AWKWARD = {  # inputs, keywords, what is computed; layers that should be found
    "a dict in": ((lambda d: d["x"] + d["y"]), ({"x": torch.ones(2, 3), "y": torch.ones(2, 3)},), {}, ["add"]),
    "nested in and out": ((lambda t: {"a": t[0][0].exp(), "b": [None, 3]}), (((torch.ones(2),),),), {}, ["exp"]),
    "none and numbers": ((lambda x, mask, n, p=None: x.repeat(n, 1)), (torch.ones(2, 3), None, 3), {}, ["repeat"]),
    "keyword none": ((lambda x, mask=None: x.exp()), (torch.ones(2, 3),), {"mask": None}, ["exp"]),
    "integers": ((lambda x: x * 2), (torch.arange(4),), {}, ["mul"]),
    "a loop": ((lambda x: sum((x.exp() for _ in range(2)), x)), (torch.ones(2),), {}, ["exp", "add", "exp_1", "add_1"]),
    "a scalar of data": ((lambda x: x * (x.sum().item() * 2)), (torch.ones(2),), {}, ["sum_1", "mul_1"]),
    "dropout always": ((lambda x: F.dropout(x, 0.5)), (torch.ones(2, 3),), {}, ["dropout"]),
    "the input updated": ((lambda x: x.add_(1).relu_()), (torch.ones(2, 3),), {}, ["add_", "relu_"]),
    "nothing": ((lambda x: x.view(3, 2)), (torch.ones(2, 3),), {}, []),
    "no input": ((lambda: torch.ones(3) * 2), (), {}, ["ones", "mul"]),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_signatures_give_the_layers_that_run(name):
    function, inputs, keywords, layers = AWKWARD[name]
    graph = trace(Call(function), *inputs, example_kwargs=keywords)
    assert [layer.name for layer in graph.layers] == layers
    assert not graph.refused


def test_what_a_model_prints_stays_off_stdout(capsys):
    trace(Call(lambda x: print("hello") or x.exp()), torch.ones(2))
    assert capsys.readouterr() == ("", "hello\n")


# --- refusals ---


class Branch(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x * 2
        return x


class Asserting(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Branch()

    def forward(self, x):
        return self.inner(x + 1)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_data_dependent_control_flow_is_refused_with_place_module_and_hint(device):
    with pytest.raises(WorkloadError) as caught:
        trace(Asserting().to(device), torch.randn(4, device=device))
    assert f"{__file__}" in caught.value.message
    assert "if x.sum() > 0" in caught.value.message
    assert "in module inner" in caught.value.message
    assert "torch.cond" in caught.value.hint
    assert caught.value.__cause__ is None


def test_a_model_that_does_not_run_says_where():
    with pytest.raises(WorkloadError, match=r"in module 1.*\(.*check their shapes"):
        trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4)), torch.randn(2, 3))


class Selected(nn.Module):
    def forward(self, x):
        return x[x > 0] * 2


def test_sizes_that_depend_on_data_are_refused_by_operator():
    with pytest.raises(WorkloadError, match=r"aten\.index.*depends on the data"):
        trace(nn.Sequential(Selected()), torch.randn(4))


def test_unknown_operators_are_refused_by_name():
    library = torch.library.Library("chipfront_test", "DEF")
    library.define("mystery(Tensor x) -> Tensor")
    library.impl("mystery", lambda x: x.clone(), "CompositeExplicitAutograd")
    torch.library.register_fake("chipfront_test::mystery", lambda x: torch.empty_like(x), lib=library)

    class Mystery(nn.Module):
        def forward(self, x):
            return torch.ops.chipfront_test.mystery(x + 1).relu()

    graph = trace(Mystery(), torch.randn(3))
    assert graph.refused == {"chipfront_test.mystery.default": 1}
    assert [layer.counting for layer in graph.layers] == ["estimated", "refused", "estimated"]
    assert producers(graph, "relu") == {"mystery": 12}
    (row,) = workloads.describe(graph)["uncounted_operators"]
    assert (row["name"], row["count"]) == ("chipfront_test.mystery.default", 1)
    (source,) = row["sources"]
    assert source == graph.layers[1].source
    assert source.startswith(f"{__file__}:")
    assert source.endswith("`return torch.ops.chipfront_test.mystery(x + 1).relu()`")
    assert 'workloads.count_operator("chipfront_test::mystery", rule)' in row["hint"]


def test_what_is_not_a_module_is_refused():
    with pytest.raises(WorkloadError, match="function cannot be traced"):
        trace(lambda x: x, torch.randn(2))
    with pytest.raises(WorkloadError, match="example_kwargs"):
        workloads.trace(nn.ReLU(), {"x": torch.randn(2)})
    for wrong in (None, 5, "text"):
        with pytest.raises(WorkloadError, match=r"example_inputs is a .*tuple"):
            workloads.trace(nn.ReLU(), wrong)
    with pytest.raises(WorkloadError, match=r"shape \(0, 2\).*at least 1"):
        trace(nn.ReLU(), torch.randn(0, 2))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.func.vmap(torch.sin)(x), "_add_batch_dim in module inner .*vmap"),
        (lambda x: torch.sparse.mm(x.to_sparse(), x), "to_sparse.* in module inner .*sparse"),
    ],
)
def test_tensors_without_a_layout_are_refused_by_operator_and_place(function, message):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Call(function)

        def forward(self, x):
            return self.inner(x)

    with pytest.raises(WorkloadError, match=message) as caught:
        trace(Outer(), torch.randn(4, 4))
    assert "dense" in caught.value.hint
