"""Traced figures against fvcore, torch's counter, published figures and formulas; the dataflow against hand counts."""

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import workloads
from workloads import OperatorKind, WorkloadError, WorkloadGraph
from workloads.graph import MATRIX_KINDS
from workloads.models.htdemucs import HTDemucs


def trace(module, *inputs, **options) -> WorkloadGraph:
    return workloads.trace(module, inputs, cache=False, **options)


def on_meta(factory, *shapes):
    with torch.device("meta"):
        return factory().eval(), tuple(torch.empty(shape) for shape in shapes)


def matrix_macs(graph, *kinds):
    return sum(layer.macs for layer in graph.layers if layer.kind in (kinds or MATRIX_KINDS))


def fvcore_total(module, inputs):
    analysis = FlopCountAnalysis(module, inputs).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return analysis.total()


def torch_total(module, inputs):
    """MACs of matrix products and convolutions by torch's own counter; on meta it also sees attention."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return counter.get_total_flops() // 2


def producers(graph, consumer):
    """Bytes by name of the layers that the one called `consumer` reads."""
    index = [layer.name for layer in graph.layers].index(consumer)
    rows = zip(graph.edges.tolist(), graph.edge_bytes.tolist(), strict=True)
    return {graph.layers[p].name: size for (p, c), size in rows if c == index}


def only(graph, operator):
    (layer,) = [layer for layer in graph.layers if layer.operator.startswith(operator)]
    return layer


class Mix(nn.Module):
    """Convolutions of every sort, norms and a linear layer, all of which fvcore counts."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Conv1d(3, 8, 5, stride=2, padding=2)
        self.depthwise = nn.Conv1d(8, 8, 3, groups=8, dilation=2, padding=2)
        self.norm = nn.GroupNorm(2, 8)
        self.decode = nn.ConvTranspose1d(8, 6, 4, stride=2, groups=2)
        self.image = nn.Conv2d(1, 4, (3, 2), stride=(2, 1))
        self.up = nn.ConvTranspose2d(4, 2, 3, stride=2, output_padding=1)
        self.batch = nn.BatchNorm2d(2)
        self.volume = nn.Conv3d(1, 2, 2)
        self.layer = nn.LayerNorm(11)
        self.head = nn.Linear(11, 5)

    def forward(self, x):
        x = self.decode(self.norm(self.depthwise(self.encode(x))))
        x = self.batch(self.up(self.image(x[:, None])))
        x = self.volume(x[:, None]).mean((1, 2, 3))
        return self.head(self.layer(x[:, :11]))


def test_equals_fvcore_and_torch_on_convolutions_and_norms():
    module, inputs = Mix().eval(), (torch.randn(2, 3, 20),)
    graph = trace(module, *inputs)
    assert {layer.counting for layer in graph.layers} <= {"fvcore", "estimated", "moved"}
    assert graph.macs == fvcore_total(module, inputs)
    assert matrix_macs(graph) == torch_total(module, inputs)
    assert graph.parameters == sum(p.numel() for p in module.parameters())
    assert all(layer.flops == 2 * layer.macs for layer in graph.layers if layer.macs)
    shape = only(graph, "aten.conv_transpose1d").shape
    assert (shape["in_channels"], shape["out_channels"], shape["groups"], shape["transposed"]) == (8, 6, 2, 1)
    assert (shape["kernel_w"], shape["stride_w"], shape["in_w"], shape["out_w"]) == (4, 2, 10, 22)


def test_padding_by_name_is_counted_though_fvcore_misses_it():
    module, inputs = nn.Conv1d(3, 8, 5, dilation=2, padding="same").eval(), (torch.randn(2, 3, 20),)
    layer = only(trace(module, *inputs), "aten.conv1d")
    assert layer.macs == torch_total(module, inputs) == 2 * 8 * 20 * 3 * 5
    assert fvcore_total(module, inputs) == 0
    assert (layer.counting, layer.shape["padding_w"]) == ("handle", 4)


def test_resnet50_reaches_the_published_figures():
    graph = workloads.load("resnet50", cache=False)
    assert graph.macs == 4_111_512_576  # FlopCountAnalysis.total()
    assert round(matrix_macs(graph) / 1e9, 3) == 4.089  # torchvision weight metadata
    assert graph.parameters == 25_557_032


@pytest.mark.parametrize(
    ("model", "gmacs", "attention", "parameters"),
    [("vit", 17.564, 0.715, 86_567_656), ("swin", 4.491, None, 28_288_354), ("convnext", 4.456, None, 28_589_128)],
)
def test_transformers_models_reach_the_published_figures(model, gmacs, attention, parameters):
    transformers = pytest.importorskip("transformers", reason="transformers is a test extra")
    sizes = {"num_labels": 1000, "image_size": 224}
    config, kind = {
        "vit": (transformers.ViTConfig, transformers.ViTForImageClassification),
        "swin": (transformers.SwinConfig, transformers.SwinForImageClassification),
        "convnext": (transformers.ConvNextConfig, transformers.ConvNextForImageClassification),
    }[model]
    module, inputs = on_meta(lambda: kind(config(**sizes)), (1, 3, 224, 224))
    graph = trace(module, *inputs)
    assert round(matrix_macs(graph) / 1e9, 3) == gmacs
    assert attention is None or round(matrix_macs(graph, OperatorKind.ATTENTION) / 1e9, 3) == attention
    assert graph.parameters == parameters
    assert not graph.refused
    assert matrix_macs(graph) == torch_total(module, inputs)


def test_language_models_reach_the_published_figures():
    transformers = pytest.importorskip("transformers", reason="transformers is a test extra")
    with torch.device("meta"):
        module = transformers.GPT2LMHeadModel(transformers.GPT2Config(use_cache=False))
        tokens = torch.zeros(1, 1024, dtype=torch.int64)
    graph = trace(module, tokens)
    assert round(matrix_macs(graph) / 1e9, 1) == 145.8
    assert round(matrix_macs(graph, OperatorKind.ATTENTION) / 1e9, 1) == 19.3
    assert graph.parameters == 124_439_808  # the head is the embedding
    assert not graph.refused


def test_a_small_htdemucs_equals_fvcore_and_torch():
    sizes = {"channels": 8, "nfft": 2048, "depth": 3, "t_layers": 2, "t_heads": 2, "samplerate": 8000, "segment_s": 1.0}
    module, inputs = HTDemucs(**sizes).eval(), (torch.randn(1, 2, 8000),)
    graph = trace(module, *inputs)
    assert sum(layer.macs for layer in graph.layers if layer.counting == "fvcore") == fvcore_total(module, inputs)
    assert matrix_macs(graph, OperatorKind.CONV, OperatorKind.LINEAR) == torch_total(module, inputs)  # on a CPU


# --- the nine silent miscounts ---


class Attention(nn.Module):
    def __init__(self, causal=False, kv_heads=4):
        super().__init__()
        self.causal, self.kv_heads = causal, kv_heads

    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=self.kv_heads != 4)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_counted_and_causal_masks_are_not_halved(causal):
    shapes = (2, 4, 10, 8), (2, 4, 10, 8), (2, 4, 10, 6)
    module, inputs = on_meta(lambda: Attention(causal), *shapes)
    layer = only(trace(module, *inputs), "aten.scaled_dot_product_attention")
    assert layer.macs == 2 * 4 * 10 * 10 * (8 + 6)
    assert (layer.counting, layer.kind, layer.num_heads, layer.seq_len) == ("handle", "attention", 4, 10)
    assert fvcore_total(Attention(causal), tuple(torch.randn(s) for s in shapes)) == 0


def test_grouped_query_attention_counts_every_query_head():
    module, inputs = on_meta(lambda: Attention(kv_heads=2), (1, 4, 10, 8), (1, 2, 12, 8), (1, 2, 12, 8))
    layer = only(trace(module, *inputs), "aten.scaled_dot_product_attention")
    assert layer.macs == 4 * 10 * 12 * 16
    assert layer.shape["kv_heads"] == 2


@pytest.mark.parametrize("frozen", [False, True])
def test_fused_encoder_layer_hides_nothing(frozen):
    module = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval().requires_grad_(not frozen)
    with torch.no_grad():
        graph = trace(module, torch.randn(2, 10, 16))
    tokens = 2 * 10
    linear = tokens * (16 * 48 + 16 * 16 + 2 * 16 * 32)
    assert matrix_macs(graph, OperatorKind.LINEAR) == linear
    assert matrix_macs(graph, OperatorKind.ATTENTION) == 2 * 10 * 10 * 2 * 16
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(("factory", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)], ids=["lstm", "gru", "rnn"])
def test_recurrent_layers_count_each_weight_every_step(factory, gates):
    module = factory(5, 7, num_layers=2, bidirectional=True, batch_first=True)
    graph = trace(module, torch.randn(3, 11, 5))
    (layer,) = [layer for layer in graph.layers if layer.kind == OperatorKind.RECURRENT]
    assert layer.macs == 3 * 11 * 2 * gates * 7 * ((5 + 7) + (14 + 7))
    assert layer.parameters == graph.parameters == sum(p.numel() for p in module.parameters())
    assert layer.shape == {"batch": 3, "steps": 11, "in": 5, "hidden": 7, "layers": 2, "directions": 2}


def test_lstm_with_projection():
    graph = trace(nn.LSTM(5, 7, proj_size=3), torch.randn(11, 2, 5))
    assert graph.macs == 11 * 2 * (4 * 7 * (5 + 3) + 7 * 3)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 16, 32, dtype=torch.bfloat16))

    def forward(self, x, offsets):
        return torch._grouped_mm(x, self.weight, offs=offsets)


def test_mixture_of_experts_counts_each_row_once():
    with torch.device("meta"):
        module, x = Experts(), torch.empty(24, 16, dtype=torch.bfloat16)
        offsets = torch.empty(4, dtype=torch.int32)
    graph = trace(module, x, offsets)
    layer = only(graph, "aten._grouped_mm")
    assert layer.macs == 24 * 16 * 32
    assert layer.kind == OperatorKind.LINEAR
    assert layer.weight_bytes == 4 * 16 * 32 * 2


def test_mixture_of_experts_of_transformers_is_counted():
    transformers = pytest.importorskip("transformers", reason="transformers is a test extra")
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 1, "vocab_size": 50}
    widths = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    with torch.device("meta"):
        module = transformers.MixtralForCausalLM(transformers.MixtralConfig(**experts, **widths, use_cache=False))
        tokens = torch.zeros(1, 6, dtype=torch.int64)
    graph = trace(module, tokens)
    assert not graph.refused
    found = sum(layer.macs for layer in graph.layers if "grouped_mm" in layer.operator)
    assert found == 6 * 2 * 3 * 32 * 48  # tokens, experts of each, three matrices of an expert


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 5, dtype=torch.complex64)
        self.conv = nn.Conv1d(3, 4, 3, dtype=torch.complex64)

    def forward(self, x):
        return self.linear(x), self.conv(x), x @ x.mT, x * x, x.abs()


def test_complex_products_are_four_real_ones():
    graph = trace(Complex(), torch.randn(2, 3, 6, dtype=torch.complex64))
    assert only(graph, "aten.linear").macs == 4 * 2 * 3 * 6 * 5
    assert only(graph, "aten.conv1d").macs == 4 * 2 * 4 * 3 * 3 * 4
    assert only(graph, "aten.matmul").macs == 4 * 2 * 3 * 3 * 6
    assert only(graph, "aten.mul").flops == 6 * 36
    linear = only(graph, "aten.linear")
    assert (linear.input_bytes, linear.output_bytes, linear.float_bytes) == (36 * 8, 30 * 8, 4)
    assert linear.counting == "handle"
    assert "4 real" in linear.formula


class Products(nn.Module):
    def forward(self, a, b, broadcast):
        return torch.einsum("bct,bdt->bcd", a, b), torch.matmul(broadcast, b.transpose(1, 2))


def test_einsum_is_exact_and_broadcast_matmul_right():
    inputs = torch.randn(3, 7, 541), torch.randn(3, 143, 541), torch.randn(1, 2, 541)
    graph = trace(Products(), *inputs)
    assert only(graph, "aten.einsum").macs == 3 * 7 * 143 * 541 == 1_624_623
    assert only(graph, "aten.matmul").macs == 3 * 2 * 541 * 143
    assert matrix_macs(graph) == torch_total(Products(), inputs) != fvcore_total(Products(), inputs)


class DeadCode(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        self.unused(x)
        return self.used(x)


def test_dead_code_runs_and_counts():
    module, x = DeadCode().eval(), torch.randn(2, 4)
    graph = trace(module, x)
    assert graph.macs == 2 * fvcore_total(module, (x,)) == torch_total(module, (x,))
    assert [layer.module for layer in graph.layers] == ["unused", "used"]


class Uncounted(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.register_buffer("window", torch.hann_window(32))

    def forward(self, x):
        x = F.gelu(self.norm(x)).softmax(-1)
        spectrum = torch.stft(x, 32, 8, window=self.window, return_complex=True)
        return torch.istft(spectrum * 2, 32, 8, window=self.window) + torch.fft.rfft(x, n=64).abs().sum()


def test_what_fvcore_leaves_at_zero_is_estimated_by_a_named_formula():
    graph = trace(Uncounted(), torch.randn(3, 64))
    assert only(graph, "aten.layer_norm").macs == 5 * 3 * 64
    assert only(graph, "aten.gelu").flops == 5 * 3 * 64
    assert only(graph, "aten.softmax").flops == 5 * 3 * 64
    frames = 3 * (64 // 8 + 1)
    assert only(graph, "aten.stft").flops == frames * (5 * 32 * 5 + 32)
    assert only(graph, "aten.istft").flops == frames * (5 * 32 * 5 + 3 * 32)
    assert only(graph, "aten.fft_rfft").flops == 3 * 5 * 64 * 6
    assert all(layer.formula for layer in graph.layers if layer.counting == "estimated")
    assert not graph.refused


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


class Chosen(nn.Module):
    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Linear(4, 4), nn.Linear(4, 400)

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: self.small(x), lambda x: self.large(x)[:, :4].clone(), (x,))


def test_of_a_condition_the_costlier_branch_counts():
    graph = trace(Chosen(), torch.randn(2, 4))
    assert graph.macs == 2 * 4 * 400
    assert not graph.refused


# --- dataflow ---


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
    assert producers(graph, "copy_") == {"exp": 32, "mul": 96}
    assert producers(graph, "relu_") == {"copy_": 128}
    assert producers(graph, "clone") == producers(graph, "add_") == {"relu_": 128}
    assert graph.layers[2].input_bytes == 32


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
    assert workloads.describe(graph)["uncounted_operators"] == [{"name": "chipfront_test.mystery.default", "count": 1}]


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


# --- one call of many operators ---


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs, **keywords):
        return self.function(*inputs, **keywords)


PRODUCTS = {
    "mv": (lambda a, b: torch.mv(a, b), (3, 4), (4,)),
    "dot": (lambda a, b: torch.dot(a, b), (4,), (4,)),
    "vec_mat": (lambda a, b: a @ b, (4,), (4, 5)),
    "addmm": (lambda a, b, c: torch.addmm(a, b, c), (5,), (3, 4), (4, 5)),
    "addmv": (lambda a, b, c: torch.addmv(a, b, c), (3,), (3, 4), (4,)),
    "bmm": (lambda a, b: torch.bmm(a, b), (2, 3, 4), (2, 4, 5)),
    "baddbmm": (lambda a, b, c: torch.baddbmm(a, b, c), (2, 3, 5), (2, 3, 4), (2, 4, 5)),
    "addbmm": (lambda a, b, c: torch.addbmm(a, b, c), (3, 5), (2, 3, 4), (2, 4, 5)),
    "tensordot": (lambda a, b: torch.tensordot(a, b, dims=([1, 2], [0, 1])), (2, 3, 4), (3, 4, 5)),
    "inner": (lambda a, b: torch.inner(a, b), (2, 3, 4), (5, 4)),
    "bilinear": (F.bilinear, (6, 3), (6, 4), (5, 3, 4)),
    "conv3d": (F.conv3d, (1, 2, 4, 4, 4), (3, 2, 2, 2, 2)),
    "unbatched conv": (F.conv2d, (2, 5, 5), (3, 2, 3, 3)),
    "cell": (lambda x, h, i, w: torch.rnn_tanh_cell(x, h, i, w), (6, 4), (6, 5), (5, 4), (5, 5)),
}
EXPECTED = {
    "mv": 12, "dot": 4, "vec_mat": 20, "addmm": 60, "addmv": 12, "bmm": 120, "baddbmm": 120, "addbmm": 120,
    "tensordot": 120, "inner": 120, "bilinear": 6 * 60, "conv3d": 27 * 48, "unbatched conv": 27 * 18, "cell": 6 * 45,
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_each_product_counts_its_multiplications(name):
    function, *shapes = PRODUCTS[name]
    graph = trace(Call(function), *(torch.randn(shape) for shape in shapes))
    assert graph.macs == EXPECTED[name]
    assert not graph.refused
    assert all(layer.shape for layer in graph.layers if layer.kind in MATRIX_KINDS)


OTHERS = {
    "pool": lambda x: F.max_pool2d(F.avg_pool2d(x, 2), 2),
    "pool indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "interpolate": lambda x: F.interpolate(F.interpolate(x, scale_factor=2), size=(5, 5), mode="bilinear"),
    "pad": lambda x: F.pad(x, (1, 1), mode="reflect") if x.dim() == 3 else F.pad(x, (1, 1)),
    "norms": lambda x: F.instance_norm(F.rms_norm(x, (8,))),
    "sorting": lambda x: x.topk(2, dim=-1)[0].sum() + x.sort(-1)[0].mean() + x.cumsum(-1).std(),
    "indexing": lambda x: x[:, torch.tensor([0, 1])].gather(-1, torch.zeros(2, 2, 8, 3, dtype=torch.long)).roll(1, -1),
    "activations": lambda x: F.silu(F.gelu(F.softplus(F.mish(F.hardswish(F.elu(x)))))).softmax(1).log_softmax(-1),
    "comparison": lambda x: torch.where(x > 0, x, -x).clamp(max=1).masked_fill(x.isnan(), 0),
    "logic": lambda x: (x > 0) & (x < 1) | ~(x == 0),
    "making": lambda x: x + torch.arange(8.0) * torch.ones_like(x) + torch.full((8,), 2.0) + torch.eye(8),
    "complex": lambda x: torch.fft.ifftn(torch.fft.fftn(x, dim=(-2, -1)) * torch.polar(x.abs(), x), dim=(-2, -1)).real,
    "unfold": lambda x: F.fold(F.unfold(x, 2), (8, 8), 2),
    "stack": lambda x: torch.stack([x.flip(-1), x.repeat(1, 1, 1, 1), x.tril()]).flatten(1, 2),
}


@pytest.mark.parametrize("name", OTHERS)
def test_ordinary_operators_are_estimated_or_moved(name):
    graph = trace(Call(OTHERS[name]), torch.randn(2, 3, 8, 8))
    assert not graph.refused
    assert all(layer.flops > 0 for layer in graph.layers if layer.counting in ("estimated", "fvcore"))
